"""Photographs to try: of scikit-image, which may be used and passed on freely, degraded in ways that are said."""

from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.degradations.blur import convolve
from datamodules.degradations.keyed_random import normal
from datamodules.degradations.resample import bicubic_resize, decimate
from datamodules.io.decode import decode_rgb8
from experiments.serve.blur_controls import Blur

NONE = Blur("No blur")


@dataclass(frozen=True)
class Example:
    """A photograph and the settings that undo what was done to it.

    Attributes:
        source: file of scikit-image.
        title: under its thumbnail.
        about: what was done to it.
        scale: by which it was reduced.
        blur: in pixels of the sharp picture.
        noise_level: standard deviation, of values in [0, 1].
        reduction: how it was reduced; `pixels`: every s-th pixel is kept, after the blur.
    """

    source: str
    title: str
    about: str
    scale: int = 1
    blur: Blur = NONE
    noise_level: float = 0.0
    reduction: str = "pixels"


EXAMPLES = (
    Example(
        "astronaut.png",
        "Portrait: small, soft",
        "Portrait of Eileen Collins (NASA, public domain), reduced to a quarter bicubically, then blurred by a "
        "Gaussian of width 1.5 pixels at that size: what ED-DSRN is trained for.",
        4,
        Blur("Gaussian", 6.0, 6.0),
        reduction="bicubic, then blur",
    ),
    Example(
        "chelsea.png",
        "Cat: camera moved",
        "Chelsea the cat (Stefan van der Walt, CC0), blurred by a straight motion of 11 pixels at 30°, every second "
        "pixel kept, noise of level 0.01.",
        2,
        Blur("Motion", length=11.0, angle=30.0),
        0.01,
    ),
    Example(
        "coffee.png",
        "Coffee: soft, smaller",
        "A cup of coffee (Rachel Michetti, CC0), blurred by an elongated Gaussian of widths 3 and 1.5 pixels at 45°, "
        "every third pixel kept, no noise but 8-bit rounding.",
        3,
        Blur("Gaussian", 3.0, 1.5, 45.0),
    ),
    Example(
        "camera.png",
        "Gray: out of focus",
        "Cameraman (Lav Varshney, CC0), gray, blurred by a disk of radius 3 pixels, full size, noise of level 0.01.",
        1,
        Blur("Defocus", radius=3.0),
        0.01,
    ),
    Example("rocket.jpg", "Rocket: untouched", "Rocket on its pad (SpaceX, CC0), as scikit-image ships it: untouched."),
)


def write_examples(folder: Path) -> list[tuple[Example, Path]]:
    """Make the degraded photographs; PNG, but for the one that is left as it is."""
    made = []
    for example in EXAMPLES:
        source = Path(str(package_files("skimage"))) / "data" / example.source
        if example.scale == 1 and example.blur == NONE:
            path = folder / example.source
            path.write_bytes(source.read_bytes())
        else:
            path = folder / f"{source.stem}_degraded.png"
            _save(_degraded(_read(source), example), path, gray=example.source == "camera.png")
        made.append((example, path))
    return made


def _read(path: Path) -> Tensor:
    """[1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(decode_rgb8(path).copy()).permute(2, 0, 1)[None] / 255


def _degraded(sharp: Tensor, example: Example) -> Tensor:
    if example.reduction == "pixels":
        blurred = convolve(sharp, example.blur.kernel()[None, None], boundary="replicate")
        small = decimate(blurred, example.scale)
    else:
        small = bicubic_resize(sharp, example.scale, down=True)
        kernel = Blur(width=example.blur.width / example.scale, second=example.blur.second / example.scale).kernel()
        small = convolve(small, kernel[None, None], boundary="replicate")
    return small + example.noise_level * normal(torch.zeros(1, dtype=torch.int64), "example", tuple(small.shape[1:]))


def _save(image: Tensor, path: Path, gray: bool) -> None:
    pixels = (255 * image[0].clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels)).save(path)
