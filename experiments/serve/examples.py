"""Photographs to try: of scikit-image, which may be used and passed on freely, degraded in ways that are said."""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from datamodules.degradations.blur import convolve
from datamodules.degradations.keyed_random import normal
from datamodules.degradations.resample import decimate
from datamodules.io.decode import decode_rgb8
from experiments.serve.blur_controls import Blur


class Example(NamedTuple):
    """A photograph of scikit-image, what was done to it, and the settings that undo that."""

    source: str
    about: str
    scale: int = 1  # every s-th pixel is kept, after the blur
    blur: Blur = Blur("No blur")
    noise_level: float = 0.0


EXAMPLES = (
    Example(
        "astronaut.png",
        "Portrait of Eileen Collins (NASA, public domain), blurred by a Gaussian of width 6 pixels, every fourth pixel "
        "kept: what ED-DSRN is trained for.",
        scale=4,
        blur=Blur("Gaussian", 6.0, 6.0),
    ),
    Example(
        "chelsea.png",
        "Chelsea the cat (Stefan van der Walt, CC0), blurred by a straight motion of 11 pixels at 30°, every second "
        "pixel kept, noise of level 0.01.",
        scale=2,
        blur=Blur("Motion", length=11.0, angle=30.0),
        noise_level=0.01,
    ),
    Example(
        "camera.png",
        "Cameraman (Lav Varshney, CC0), gray, blurred by a disk of radius 3 pixels, full size, noise of level 0.01.",
        blur=Blur("Defocus", radius=3.0),
        noise_level=0.01,
    ),
    Example("rocket.jpg", "Rocket on its pad (SpaceX, CC0), as scikit-image ships it: untouched."),
)


def write_examples(folder: Path) -> dict[str, Example]:
    """Make the degraded photographs; the examples by their files."""
    examples = {}
    for example in EXAMPLES:
        source, path = Path(str(files("skimage"))) / "data" / example.source, folder / example.source
        if example.blur.kind == "No blur":
            path.write_bytes(source.read_bytes())
        else:
            sharp = torch.from_numpy(decode_rgb8(source).copy()).permute(2, 0, 1)[None] / 255
            kernel = example.blur.kernel()
            assert kernel is not None
            small = decimate(convolve(sharp, kernel[None, None], boundary="replicate"), example.scale)
            noise = normal(torch.zeros(1, dtype=torch.int64), "example", tuple(small.shape[1:]))
            noisy = (small + example.noise_level * noise)[0].clamp(0, 1)
            pixels = (255 * noisy).round().byte().permute(1, 2, 0).numpy()
            gray = Image.open(source).mode == "L"
            Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels)).save(path)
        examples[str(path)] = example
    return examples
