"""A blur kernel as a person gives it: by formula, as a picture of it, or as an array in a file."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.degradations.kernel_files import READERS, centred, checked
from datamodules.degradations.kernels import anisotropic_gaussian, axis_aligned_gaussian, disk, linear_motion
from datamodules.errors import InputError
from datamodules.io.decode import IMAGE_SUFFIXES
from datamodules.io.read_photo import read_photograph
from networks.ops.options import LARGEST_KERNEL

COLOURED = 0.1  # of the range, between the channels of a pixel; JPEG makes a few levels of a gray picture
FORMULAS = "gaussian:WIDTH, gaussian:WIDTH,WIDTH,DEGREES, motion:LENGTH,DEGREES, disk:RADIUS or none"


def given_kernel(spec: str) -> Tensor:
    """The kernel that `spec` describes, for true convolution, its centre at index floor(k/2).

    - `none`: no blur, a single 1.
    - `gaussian:1.6`: isotropic, standard deviation in pixels. `gaussian:2.0,0.8,30`: standard deviations along and
      across a direction, and its angle in degrees.
    - `motion:15,30`: straight motion, length in pixels and angle in degrees; without an angle to the right.
    - `disk:2.5`: defocus, radius in pixels.
    - A file: an image (PNG, JPEG, BMP, TIFF, WebP: gray, square, bright where light arrives, on black), or a
      .npy or .mat array: [k, k], several of them [n, k, k] or a MATLAB stack or cell array, of which `FILE#3` is the
      third. Values are divided by their sum. Sides may be even, those of an array may differ: it is filled up with
      zeros to a square, index floor(k/2) of both sides kept at the centre.

    Angles turn from right towards down, as in `kernels`: clockwise on the screen. MATLAB's turn the other way. Pixels
    are those of the sharp image: of the enlarged one where the network enlarges.

    Returns:
        [k, k], float32, non-negative, sum 1, k at most `LARGEST_KERNEL`.

    Raises:
        InputError: for a formula or a file that says no kernel; one line that names what was found and expected.
    """
    spec = spec.strip()
    name, colon, values = spec.partition(":")
    if spec.lower() in ("none", "delta"):
        return torch.ones(1, 1)
    if colon and name.lower() in _FORMULAS and not Path(spec).exists():
        return _by_formula(spec, name.lower(), values)
    return _from_file(spec)


def _by_formula(spec: str, name: str, values: str) -> Tensor:
    counts, largest, build, expected = _FORMULAS[name]
    try:
        numbers = [float(value) for value in values.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"kernel={spec}: found {values or 'nothing'!r} after {name}:, expected {expected}")
    sizes = numbers[: 2 if name == "gaussian" else 1]
    if min(sizes) <= 0:
        raise InputError(f"kernel={spec}: found {min(sizes):g}, expected pixels above 0: kernel=none is no blur")
    if max(sizes) > largest:
        raise InputError(f"kernel={spec}: found {max(sizes):g} pixels, expected at most {largest}")
    return build(numbers)[0, 0].float()


def _gaussian(numbers: list[float]) -> Tensor:
    along, across, degrees = numbers if len(numbers) == 3 else (numbers[0], numbers[0], 0.0)
    size = 2 * math.ceil(4 * max(along, across)) + 1
    if degrees == 0:
        return axis_aligned_gaussian(torch.tensor([[across, along]], dtype=torch.float64), size)
    variances = torch.tensor([[along**2, across**2]], dtype=torch.float64)
    return anisotropic_gaussian(variances, torch.tensor([math.radians(degrees)], dtype=torch.float64), size)


def _motion(numbers: list[float]) -> Tensor:
    length, degrees = numbers if len(numbers) == 2 else (numbers[0], 0.0)
    angle = torch.tensor([math.radians(degrees)], dtype=torch.float64)
    return linear_motion(torch.tensor([length], dtype=torch.float64), angle, 2 * math.ceil((length + 1) / 2) + 1)


def _disk(numbers: list[float]) -> Tensor:
    return disk(torch.tensor(numbers, dtype=torch.float64), 2 * math.ceil(numbers[0]) + 1)


# By name: how many numbers it takes, the largest of them in pixels, what makes a kernel [1, 1, k, k] of them, and how
# they are written.
_FORMULAS: dict[str, tuple[tuple[int, ...], int, Callable[[list[float]], Tensor], str]] = {
    "gaussian": ((1, 3), 31, _gaussian, "a width in pixels (gaussian:1.6), or two and degrees (gaussian:2.0,0.8,30)"),
    "motion": ((1, 2), 252, _motion, "a length in pixels and degrees: motion:15,30"),
    "disk": ((1,), 127, _disk, "a radius in pixels: disk:2.5"),
}


def _from_file(spec: str) -> Tensor:
    path, number = Path(spec).expanduser(), None
    if not path.exists() and "#" in spec:
        file, _, digits = spec.rpartition("#")
        path, number = Path(file).expanduser(), int(digits) if digits.isdecimal() else 0
        if number < 1:
            raise InputError(f"kernel={spec}: found {digits!r} after #, expected the number of a kernel, from 1")
    if not path.is_file():
        raise InputError(f"kernel={spec}: no such file, nor a formula: expected {FORMULAS}, or an image, .npy or .mat")
    kernels = _read(path)
    if number is None and len(kernels) > 1:
        raise InputError(f"{path}: holds {len(kernels)} kernels: choose one, for example kernel={path}#1")
    if (number or 1) > len(kernels):
        raise InputError(f"kernel={spec}: there is no kernel {number}, the file holds {len(kernels)}: give 1 to that")
    label, array = kernels[(number or 1) - 1]
    if array.ndim == 2:  # else `checked` refuses it
        height, width = array.shape
        if max(height, width) > LARGEST_KERNEL:
            raise InputError(
                f"{label}: is {width}x{height}, expected a blur kernel of at most "
                f"{LARGEST_KERNEL}x{LARGEST_KERNEL} pixels"
            )
        array = centred(array, max(height, width))
    return torch.from_numpy(checked(label, array, normalise=True)).float()


def _read(path: Path) -> list[tuple[str, np.ndarray]]:
    suffix = path.suffix.lower()
    if suffix in (".mat", ".npy"):
        kernels = READERS[suffix](path)
        if not kernels:
            raise InputError(f"{path}: holds no kernel, expected a matrix (k, k)")
        return kernels
    if suffix not in IMAGE_SUFFIXES:
        raise InputError(f"kernel={path}: is no .npy, .mat or image ({', '.join(IMAGE_SUFFIXES)}): save it as one")
    pixels = read_photograph(path).pixels
    picture = pixels.mean(2, dtype=np.float64)
    height, width = picture.shape
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    problem = ""
    if height != width:
        problem = (
            f"is {width}x{height}, expected a square picture of a blur kernel: cut it out, or fill it up with black"
        )
    elif np.ptp(pixels, axis=2).max() > COLOURED * np.iinfo(pixels.dtype).max:
        problem = "is coloured, expected a gray picture of a blur kernel: save it in gray"
    elif min(picture.shape) > 4 and border.mean() >= picture.mean():
        problem = "its border is as bright as its inside, expected a bright kernel on black: invert it"
    if problem:
        raise InputError(f"{path}: {problem}")
    return [(str(path), picture)]
