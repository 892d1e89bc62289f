"""Photographs in and out: checked with Pillow, OpenCV and tifffile, each reading what another one wrote."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from datamodules.errors import InputError
from datamodules.io.decode import decode_rgb8
from datamodules.io.photo import Photograph
from datamodules.io.read_photo import read_photograph
from datamodules.io.write_photo import write_photograph
from tests.conftest import photograph

RGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COPYRIGHT = "© José".encode()
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description tiff:Orientation="6" exif:PixelXDimension="48"><exif:PixelYDimension>36</exif:PixelYDimension>
<xmp:Thumbnails>old picture</xmp:Thumbnails></rdf:Description></rdf:RDF></x:xmpmeta>"""


def eight(height: int = 36, width: int = 48, seed: int = 0) -> np.ndarray:
    return photograph(height, width, seed)


def sixteen(height: int = 36, width: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (height, width, channels)).astype(np.uint16)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png16(pixels: np.ndarray, colour_type: int, *more: bytes) -> bytes:
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + body


def camera_exif(order: str = "<", orientation: int = 6, size: tuple[int, int] = (48, 36)) -> bytes:
    """As a camera writes it: text outside ASCII, a maker note, GPS, sizes as 16 bits, a thumbnail in a directory."""
    pack = lambda kinds, *values: struct.pack(order + kinds, *values)  # noqa: E731
    thumbnail = io.BytesIO()
    Image.fromarray(eight(12, 16)).save(thumbnail, "JPEG")

    def directory(at: int, entries: list[tuple[int, int, int, bytes]], following: int) -> bytes:
        head, behind = pack("H", len(entries)), b""
        start = at + 2 + 12 * len(entries) + 4
        for tag, kind, count, value in entries:
            place = value.ljust(4, b"\0") if len(value) <= 4 else pack("I", start + len(behind))
            behind += value if len(value) > 4 else b""
            behind += b"\0" * (len(behind) % 2)
            head += pack("HHI", tag, kind, count) + place
        return head + pack("I", following) + behind

    first = lambda inner, gps: [  # noqa: E731
        (271, 2, 7, b"Camera\0"),
        (274, 3, 1, pack("H", orientation)),
        (282, 5, 1, pack("II", 300, 1)),
        (33432, 2, len(COPYRIGHT) + 1, COPYRIGHT + b"\0"),
        (34665, 4, 1, pack("I", inner)),
        (34853, 4, 1, pack("I", gps)),
    ]
    inner = lambda interoperability: [  # noqa: E731
        (33434, 5, 1, pack("II", 1, 125)),
        (36867, 2, 20, b"2026:01:02 03:04:05\0"),
        (37500, 7, 40, b"MAKER" * 8),
        (40962, 3, 1, pack("H", size[0])),
        (40963, 3, 1, pack("H", size[1])),
        (40965, 4, 1, pack("I", interoperability)),
    ]
    index = [(1, 2, 4, b"R98\0")]
    gps = [(1, 2, 2, b"N\0"), (2, 5, 3, pack("6I", 48, 1, 8, 1, 30, 1))]
    at = [8]
    at.append(at[0] + len(directory(8, first(0, 0), 0)))
    at.append(at[1] + len(directory(at[1], inner(0), 0)))
    at.append(at[2] + len(directory(at[2], gps, 0)))
    at.append(at[3] + len(directory(at[3], index, 0)))
    small = [(513, 4, 1, pack("I", at[4] + 30)), (514, 4, 1, pack("I", len(thumbnail.getvalue())))]
    blocks = [
        directory(at[0], first(at[1], at[2]), at[4]),
        directory(at[1], inner(at[3]), 0),
        directory(at[2], gps, 0),
        directory(at[3], index, 0),
        directory(at[4], small, 0),
    ]
    head = (b"II" if order == "<" else b"MM") + pack("HI", 42, 8)
    return head + b"".join(blocks) + thumbnail.getvalue()


def save_with_metadata(path: Path, exif: bytes) -> None:
    image = Image.fromarray(eight())
    options: dict[str, Any] = {"icc_profile": RGB, "dpi": (300, 300)}
    if path.suffix == ".tif":
        image.save(path, **options, exif=exif, tiffinfo={700: XMP})
    elif path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        image.save(path, **options, exif=exif, pnginfo=info)
    elif path.suffix == ".webp":
        image.save(path, icc_profile=RGB, exif=exif, xmp=XMP, lossless=True)
    else:
        image.save(path, **options, exif=b"Exif\0\0" + exif, xmp=XMP)


def read(tmp_path: Path, data: bytes, name: str = "image") -> Photograph:
    (tmp_path / name).write_bytes(data)
    return read_photograph(tmp_path / name)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("gray", [False, True])
def test_eight_bit_files(tmp_path: Path, kind: str, gray: bool) -> None:
    image = Image.fromarray(eight()).convert("L" if gray else "RGB")
    data = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    found = read(tmp_path, data)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert found.pixels.dtype == np.uint8
    assert found.format == kind
    assert found.alpha is None
    assert np.array_equal(found.pixels.squeeze(), expected)
    assert found.pixels.shape[2] == (1 if gray and kind != "WEBP" else 3)  # WebP knows colour alone


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_come_in_and_go_out(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = sixteen(channels=channels)
    if kind == "PNG":
        (tmp_path / "a").write_bytes(png16(pixels, {1: 0, 2: 4, 3: 2, 4: 6}[channels]))
    else:
        alpha = {} if channels in (1, 3) else {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
        photometric = "rgb" if channels > 2 else "minisblack"
        tifffile.imwrite(tmp_path / "a", pixels.squeeze(), photometric=photometric, compression="zlib", **alpha)
    found = read_photograph(tmp_path / "a")
    colours = 3 if channels > 2 else 1
    for suffix in (".png", ".tif"):
        assert np.array_equal(found.pixels, pixels[:, :, :colours])
        assert (found.alpha is None) == (channels == colours)
        if found.alpha is not None:
            assert np.array_equal(found.alpha, pixels[:, :, -1])
        write_photograph(tmp_path / f"b{suffix}", found)
        found = read_photograph(tmp_path / f"b{suffix}")
    if channels != 2:
        independent = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        assert np.array_equal(independent.reshape(36, 48, -1), pixels[:, :, order])
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif").reshape(pixels.shape), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (300, 1), (257, 300), (513, 260)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_any_size_is_written_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: Any, suffix: str
) -> None:
    monkeypatch.setattr("datamodules.io.write_photo._PNG_BLOCK", 20_000)  # several rows, and several blocks
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, np.iinfo(dtype).max + 1, (*shape, 3)).astype(dtype)
    alpha = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    for transparency in (None, alpha):
        write_photograph(tmp_path / f"a{suffix}", Photograph(pixels, transparency))
        found = read_photograph(tmp_path / f"a{suffix}")
        assert np.array_equal(found.pixels, pixels)
        assert (found.alpha is None) == (transparency is None)
        assert found.alpha is None or np.array_equal(found.alpha, alpha)
    assert [file.name for file in tmp_path.iterdir()] == [f"a{suffix}"]


def test_png_is_about_as_small_as_pillows(tmp_path: Path) -> None:
    from skimage.data import astronaut

    pixels = astronaut()
    write_photograph(tmp_path / "a.png", Photograph(pixels))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
    assert (tmp_path / "a.png").stat().st_size < 1.05 * len(saved(Image.fromarray(pixels), "PNG"))


def test_palette_one_bit_and_transparent_colours(tmp_path: Path) -> None:
    image = Image.fromarray(eight()).quantize(20)
    found = read(tmp_path, saved(image, "PNG"))
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert found.alpha is None
    key = int(np.asarray(image)[3, 4])
    found = read(tmp_path, saved(image, "PNG", transparency=key))
    assert found.alpha is not None
    assert np.array_equal(found.alpha == 0, np.asarray(image) == key)
    bits = Image.fromarray(eight()[:, :, 0] > 100)
    assert np.array_equal(read(tmp_path, saved(bits, "PNG")).pixels[:, :, 0], np.where(eight()[:, :, 0] > 100, 255, 0))
    gray = Image.fromarray(eight()).convert("L")
    level = gray.getpixel((3, 4))
    found = read(tmp_path, saved(gray, "PNG", transparency=level))
    assert found.pixels.shape[2] == 1
    assert found.alpha is not None
    assert np.array_equal(found.alpha == 0, np.asarray(gray) == level)


def test_transparent_colours_of_sixteen_bits(tmp_path: Path) -> None:
    pixels = sixteen()
    key = struct.pack(">3H", *pixels[3, 4])
    found = read(tmp_path, png16(pixels, 2, chunk(b"tRNS", key)))
    assert found.alpha is not None
    assert np.argwhere(found.alpha == 0).tolist() == [[3, 4]]
    gray = pixels[:, :, :1]
    gray[5, 6] = gray[3, 4]
    found = read(tmp_path, png16(gray, 0, chunk(b"tRNS", struct.pack(">H", int(gray[3, 4, 0])))))
    assert found.alpha is not None
    assert {(3, 4), (5, 6)} <= set(map(tuple, np.argwhere(found.alpha == 0).tolist()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".16.tif"])
def test_orientation_is_applied_and_reset(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = eight(33, 47)
    turn: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2),
        6: np.rot90,  # shown turned clockwise
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, 3),
    }
    stored = np.ascontiguousarray(turn[orientation](upright))
    path = tmp_path / f"a{suffix}"
    if suffix == ".16.tif":
        big = stored.astype(np.uint16) * 257
        tifffile.imwrite(path, big, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    found = read_photograph(path)
    pixels = found.pixels if suffix != ".16.tif" else found.pixels / 257
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(float) - upright).mean() < (20 if suffix == ".jpg" else 1e-9)
    write_photograph(tmp_path / "b.png", found)
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (47, 33)
        assert image.getexif().get(274, 1) == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("source", [".png", ".tif", ".jpg", ".webp"])
def test_metadata_is_kept_and_true(tmp_path: Path, source: str, target: str, order: str) -> None:
    if source == ".tif":  # with Pillow, which cannot write text outside ASCII
        first = tmp_path / "first.jpg"
        save_with_metadata(first, camera_exif(order))
        write_photograph(tmp_path / "a.tif", read_photograph(first))
    else:
        save_with_metadata(tmp_path / f"a{source}", camera_exif(order))
    found = read_photograph(tmp_path / f"a{source}")
    assert found.notes == ()
    large = found.with_pixels(found.pixels.repeat(4, 0).repeat(4, 1))
    write_photograph(tmp_path / f"b{target}", large)
    data = (tmp_path / f"b{target}").read_bytes()
    assert b"MAKER" * 8 in data
    assert COPYRIGHT + b"\0" in data
    assert b"old picture" not in data
    with Image.open(tmp_path / f"b{target}") as image:
        assert image.size == (144, 192)  # turned
        exif = image.getexif()
        assert exif[271] == "Camera"
        assert exif.get(274, 1) == 1
        inner, gps = exif.get_ifd(34665), exif.get_ifd(34853)
        assert (inner[40962], inner[40963]) == (144, 192)
        assert float(inner[33434]) == 1 / 125
        assert inner[36867] == "2026:01:02 03:04:05"
        assert gps[1] == "N"
        assert [float(part) for part in gps[2]] == [48, 8, 30]
        assert not exif.get_ifd(1)  # no thumbnail
        assert image.info["icc_profile"] == RGB
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        if source != ".webp" and target != ".webp":
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert b"xmpmeta" in xmp
    assert b"tiff:Orientation" not in xmp  # what would not be true
    assert b"exif:Pixel" not in xmp


def test_exif_of_a_tiff_reads_as_before(tmp_path: Path) -> None:
    """A second reader: the directories are where the entries say, from both byte orders."""
    for order in "<>":
        save_with_metadata(tmp_path / "a.jpg", camera_exif(order))
        write_photograph(tmp_path / "b.tif", read_photograph(tmp_path / "a.jpg"))
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            page = file.pages[0]
            assert page.tags[34665].value["PixelXDimension"] == 36
            assert page.tags[34853].value["GPSLatitudeRef"] == "N"
            assert np.array_equal(page.asarray(), read_photograph(tmp_path / "a.jpg").pixels)


def test_sizes_beyond_sixteen_bits_stay_true(tmp_path: Path) -> None:
    save_with_metadata(tmp_path / "a.jpg", camera_exif(orientation=1))
    found = read_photograph(tmp_path / "a.jpg")
    write_photograph(tmp_path / "b.png", found.with_pixels(np.zeros((2, 70_000, 3), np.uint8)))
    with Image.open(tmp_path / "b.png") as image:
        assert image.getexif().get_ifd(34665)[40962] == 70_000


def test_damaged_exif_is_left_out_and_said(tmp_path: Path) -> None:
    for broken in (b"Exif\0\0nonsense", b"Exif\0\0" + camera_exif()[:60], b"Exif\0\0II*\0\xff\xff\xff\x7f"):
        (tmp_path / "a.jpg").write_bytes(saved(Image.fromarray(eight()), "JPEG", exif=broken))
        found = read_photograph(tmp_path / "a.jpg")
        assert len(found.notes) == 1
        assert found.notes[0].startswith(("its EXIF cannot be read", "some of its tags are damaged"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("broken", [b"junkjunkjunk", b"II*\0"])
def test_pixels_beside_damaged_exif_are_sound(tmp_path: Path, kind: str, broken: bytes) -> None:
    exif = broken if kind == "PNG" else b"Exif\0\0" + broken
    content = saved(Image.fromarray(eight()), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "a").write_bytes(content)
    found = read_photograph(tmp_path / "a")
    assert found.notes
    assert np.array_equal(found.pixels, decode_rgb8(tmp_path / "a"))
    assert kind == "JPEG" or np.array_equal(found.pixels, eight())


def test_profile_for_other_channels_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, saved(Image.fromarray(eight()).convert("L"), "JPEG", icc_profile=RGB))
    assert found.icc is None
    assert found.notes == ("its colour profile is for RGB, left out",)


def test_cmyk_by_its_profile_or_by_formula(tmp_path: Path) -> None:
    image = Image.fromarray(eight()).convert("CMYK")
    found = read(tmp_path, saved(image, "TIFF"))
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert found.notes == ("CMYK converted to sRGB",)
    with pytest.raises(InputError, match="its CMYK profile is damaged"):
        read(tmp_path, saved(image, "TIFF", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200))
    found = read(tmp_path, saved(image, "TIFF", icc_profile=RGB))
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert found.notes == ("CMYK converted to sRGB, its colour profile is for something else",)
    assert found.icc is None


@pytest.mark.parametrize("alpha", ["assocalpha", "unassalpha"])
def test_premultiplied_colours_are_divided(tmp_path: Path, alpha: str) -> None:
    pixels, transparency = sixteen(), sixteen(channels=1) | 0x8000
    stored = pixels
    if alpha == "assocalpha":
        stored = (pixels.astype(np.uint64) * transparency // 65535).astype(np.uint16)
    planes = np.concatenate([stored, transparency], 2)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", extrasamples=[alpha])
    found = read_photograph(tmp_path / "a.tif")
    assert np.array_equal(found.alpha, transparency[:, :, 0])
    assert np.abs(found.pixels.astype(int) - pixels).max() <= 2


def test_arrangements_of_sixteen_bit_tiff(tmp_path: Path) -> None:
    pixels = sixteen()
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_photograph(tmp_path / "a.tif").pixels, pixels)
    tifffile.imwrite(tmp_path / "a.tif", pixels[:, :, 0], photometric="miniswhite")
    assert np.array_equal(read_photograph(tmp_path / "a.tif").pixels, 65535 - pixels[:, :, :1])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", byteorder=">", bigtiff=True, tile=(16, 16))
    assert np.array_equal(read_photograph(tmp_path / "a.tif").pixels, pixels)
    cv2.imwrite(str(tmp_path / "a.tif"), pixels[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])  # LZW
    assert np.array_equal(read_photograph(tmp_path / "a.tif").pixels, pixels)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.png", b"", "is empty"),
        ("text.jpg", b"I am a text\n", "is no PNG, JPEG, BMP, TIFF, WebP or HEIC image"),
        ("cut.png", saved(Image.fromarray(eight()), "PNG")[:-200], "cannot be decoded"),
        ("cut.jpg", saved(Image.fromarray(eight()), "JPEG")[:-200], "cannot be decoded"),
        ("cut.webp", saved(Image.fromarray(eight()), "WEBP")[:-200], "cannot be decoded"),
        ("cut16.png", png16(sixteen(), 2)[:-2000], "cannot be decoded"),
        ("float.tif", saved(Image.fromarray(eight()[:, :, 0].astype(np.float32)), "TIFF"), "float"),
        ("gif.png", saved(Image.fromarray(eight()), "GIF"), "is no PNG"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(tmp_path, data, name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "tile": (16, 16)}])
def test_truncated_sixteen_bit_tiff(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", sixteen(), photometric="rgb", **options)
    data = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(InputError):
        read(tmp_path, data[:-3000], "b.tif")


def test_pixel_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", sixteen(), photometric="rgb")
    with pytest.raises(InputError, match="has 48x36 pixels, more than 1000"):
        read_photograph(tmp_path / "deep.tif", max_pixels=1000)
    (tmp_path / "small.png").write_bytes(saved(Image.fromarray(eight()), "PNG"))
    with pytest.raises(InputError, match="has 48x36 pixels, more than 1000"):
        read_photograph(tmp_path / "small.png", max_pixels=1000)
    # The header alone lies: nothing of this size is ever allocated.
    header = bytearray((tmp_path / "small.png").read_bytes())
    header[16:24] = struct.pack(">II", 40_000, 40_000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    (tmp_path / "lie.png").write_bytes(bytes(header))
    with pytest.raises(InputError, match="has 40000x40000 pixels, more than 1000000000"):
        read_photograph(tmp_path / "lie.png")


@pytest.mark.parametrize(
    ("name", "pixels", "alpha", "says"),
    [
        ("a.jpg", sixteen(), False, "16 bits a channel, JPEG holds 8"),
        ("a.webp", sixteen(), False, "16 bits a channel, WEBP holds 8"),
        ("a.jpg", eight(), True, "has transparency, which JPEG cannot hold"),
        ("a.jpg", np.zeros((1, 65_501, 3), np.uint8), False, "65501x1, more than the 65500 pixels a side that JPEG"),
        ("a.webp", np.zeros((16_384, 1, 3), np.uint8), False, "more than the 16383 pixels a side that WEBP can hold"),
        ("a.bmp", eight(), False, "found '.bmp', expected one of .png"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path: Path, name: str, pixels: np.ndarray, alpha: bool, says: str) -> None:
    transparency = np.zeros(pixels.shape[:2], pixels.dtype) if alpha else None
    with pytest.raises(InputError, match=says):
        write_photograph(tmp_path / name, Photograph(pixels, transparency))
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file or directory") as caught:
        write_photograph(tmp_path / "absent" / "a.png", Photograph(eight()))
    assert str(caught.value).startswith(f"{tmp_path / 'absent' / 'a.png'}: ")


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photograph(tmp_path / "a.png", Photograph(eight()))
    before = (tmp_path / "a.png").read_bytes()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("datamodules.io.write_photo._filtered", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_photograph(tmp_path / "a.png", Photograph(eight(seed=1)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_webp_holds_colours_under_transparency(tmp_path: Path) -> None:
    alpha = np.zeros((36, 48), np.uint8)
    write_photograph(tmp_path / "a.webp", Photograph(eight(), alpha))
    found = read_photograph(tmp_path / "a.webp")
    assert np.array_equal(found.pixels, eight())
    assert np.array_equal(found.alpha, alpha)
