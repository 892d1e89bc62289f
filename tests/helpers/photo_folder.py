"""A folder of photographs of every kind, as people have them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms

from tests.conftest import photograph
from tests.datamodules.io.test_photographs import camera_exif, png16, save_with_metadata

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIDE = (20, 26)


def eight(seed: int = 0, height: int = SIDE[0], width: int = SIDE[1]) -> np.ndarray:
    return photograph(height, width, seed)


def sixteen(channels: int, seed: int = 0) -> np.ndarray:
    smooth = photograph(*SIDE, seed)[:, :, [0, 1, 2, 0][:channels]].astype(np.uint16)
    return smooth * 257 + np.random.default_rng(seed).integers(-100, 100, smooth.shape).astype(np.uint16) * (smooth > 1)


def alpha_of(seed: int, *shape: int) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((x * 9 + y * (3 + seed)) % 256).astype(np.uint8)


def write_mixed(folder: Path) -> tuple[list[str], list[str]]:
    """Thirty photographs and two other files below `folder`.

    Returns:
        The names of those that can be restored, and of those that cannot.
    """
    good: list[str] = []

    def save(name: str, image: Image.Image | bytes, **options: Any) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        good.append(name)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path, **options)

    rgb = [Image.fromarray(eight(seed)) for seed in range(12)]
    save("plain.png", rgb[0])
    save("LOUD.PNG", rgb[1])
    save("a photograph with spaces.jpg", rgb[2], quality=90)
    save("Überblick/日本.jpeg", rgb[3])
    save("Überblick/deep/er/plain.png", rgb[4])
    save("bitmap.bmp", rgb[5])
    save("web.webp", rgb[6])
    save("web_lossless.webp", rgb[7], lossless=True)
    save("packed.tif", rgb[8], compression="tiff_lzw")
    save("jpeg_in.tiff", rgb[9], compression="tiff_deflate")
    save("gray.jpg", rgb[0].convert("L"))
    save("gray.tif", rgb[1].convert("L"))
    save("bits.png", rgb[2].convert("1"))
    save("palette.png", rgb[3].quantize(16))
    save("palette_with_a_hole.png", rgb[4].quantize(16), transparency=3)
    with_alpha = rgb[5].copy()
    with_alpha.putalpha(Image.fromarray(alpha_of(0, *SIDE)))
    save("alpha.png", with_alpha)
    save("alpha.webp.png", with_alpha)
    save("gray_alpha.png", Image.merge("LA", (rgb[6].convert("L"), Image.fromarray(alpha_of(1, *SIDE)))))
    save("print.jpg", rgb[7].convert("CMYK"))
    save("deep.png", png16(sixteen(3), 2))
    save("deep_gray.png", png16(sixteen(1), 0))
    save("deep_alpha.png", png16(sixteen(4), 6))
    stream = io.BytesIO()
    tifffile.imwrite(stream, sixteen(3, 1), photometric="rgb", compression="zlib")
    save("deep.tif", stream.getvalue())
    stream = io.BytesIO()
    tifffile.imwrite(stream, sixteen(1, 2)[:, :, 0], photometric="minisblack")
    save("deep_gray.tif", stream.getvalue())
    save("one.png", Image.fromarray(eight(9, 1, 1)))
    save("long.png", Image.fromarray(eight(10, 30, 1200)))
    (folder / "camera.jpg").parent.mkdir(exist_ok=True)
    save_with_metadata(folder / "camera.jpg", camera_exif(">"))
    good.append("camera.jpg")
    bad = ["text.jpg", "cut.png", "bomb.png"]
    (folder / "text.jpg").write_text("I am no photograph\n")
    (folder / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:-300])
    Image.new("1", (3000, 1000)).save(folder / "bomb.png")
    (folder / "notes.txt").write_text("not a photograph by its name either\n")
    (folder / ".hidden.png").write_bytes((folder / "plain.png").read_bytes())
    assert len(good) + len(bad) == 30
    return good, bad
