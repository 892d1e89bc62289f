"""A blur kernel from the controls of the page."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.degradations.kernel_files import unreadable
from datamodules.degradations.kernel_spec import given_kernel
from datamodules.errors import InputError
from datamodules.io.decode import IMAGE_SUFFIXES, open_image, opened
from networks.ops.options import LARGEST_KERNEL

KINDS = ("Gaussian", "Motion", "Defocus", "From a file", "No blur")
FILE_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
LARGEST_STACK = 1000  # kernels in a file


@dataclass(frozen=True)
class Blur:
    """Values of the controls; lengths are pixels of the restored picture, angles degrees from right towards down."""

    kind: str | None = None  # one of `KINDS`
    width: float = 1.6  # standard deviation of a Gaussian along `angle`
    second: float = 1.6  # and across it
    angle: float = 0.0  # also of a motion
    length: float = 15.0  # of a motion
    radius: float = 3.0  # of defocus
    file: str | None = None  # an image or .npy
    number: int = 1  # which of several kernels in the file

    def kernel(self) -> Tensor | None:
        """The kernel [k, k], sum 1; None if no kind or no file was given yet.

        Raises:
            InputError: the file holds none.
        """
        if self.kind is None or (self.kind == "From a file" and self.file is None):
            return None
        specs = {
            "Gaussian": f"gaussian:{self.width},{self.second},{self.angle}",
            "Motion": f"motion:{self.length},{self.angle}",
            "Defocus": f"disk:{self.radius}",
            "From a file": f"{self.file}#{self.number or 1}",
            "No blur": "none",
        }
        if self.kind == "From a file":
            _check_file(Path(str(self.file)))
        return given_kernel(specs[self.kind])


def _check_file(path: Path) -> None:
    """Refuse what would unpack to a huge array, before it does; a .mat can do so in many ways."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        with opened(path) as stream:
            open_image(stream, LARGEST_KERNEL * LARGEST_KERNEL)
        return
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: expected a kernel as an image or .npy here: numpy.save makes one of an array")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, "a plain .npy array", error) from error
    shape = getattr(array, "shape", ())  # none: an .npz by another name, of which the reader says so
    if max(shape[-2:], default=0) > LARGEST_KERNEL or max(shape[:-2], default=0) > LARGEST_STACK:
        raise InputError(
            f"{path}: has shape {shape}, expected at most {LARGEST_STACK} blur kernels of at most "
            f"{LARGEST_KERNEL}x{LARGEST_KERNEL} pixels"
        )
