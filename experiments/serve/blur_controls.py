"""A blur kernel from the controls of the page, and its picture."""

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.degradations.kernel_files import unreadable
from datamodules.degradations.kernel_spec import LARGEST, given_kernel
from datamodules.errors import InputError
from datamodules.io.decode import IMAGE_SUFFIXES, naming, open_image

KINDS = ("Gaussian", "Motion", "Defocus", "From a file", "No blur")
FILE_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
LARGEST_STACK = 1000  # kernels in a file
_PICTURE = 180  # side in pixels


@dataclass(frozen=True)
class Blur:
    """The controls. Lengths are pixels of the restored picture, angles degrees from right towards down.

    Attributes:
        kind: one of `KINDS`.
        width, second: standard deviations of a Gaussian along and across its direction.
        angle: of a Gaussian or a motion.
        length: of a motion.
        radius: of defocus.
        file: an image or .npy.
        number: which of several kernels in the file, from 1.
    """

    kind: str = "Gaussian"
    width: float = 1.6
    second: float = 1.6
    angle: float = 0.0
    length: float = 15.0
    radius: float = 3.0
    file: str | None = None
    number: int = 1

    def kernel(self) -> torch.Tensor:
        """The kernel [k, k], sum 1.

        Raises:
            InputError: for a file that holds none.
        """
        if self.kind == "From a file":
            return self._from_file()
        return given_kernel(
            {
                "Gaussian": f"gaussian:{self.width},{self.second},{self.angle}",
                "Motion": f"motion:{self.length},{self.angle}",
                "Defocus": f"disk:{self.radius}",
                "No blur": "none",
            }[self.kind]
        )

    def _from_file(self) -> torch.Tensor:
        if self.file is None:
            raise InputError("kernel: no file yet: give an image of it, or a .npy file")
        path = Path(self.file)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            with naming(path), path.open("rb") as stream:
                open_image(stream, LARGEST * LARGEST)  # before a small file becomes a huge array
        elif path.suffix.lower() == ".npy":
            _check_header(path)
        else:  # a small .mat can unpack to a huge array, in many ways
            raise InputError(
                f"{path}: expected a kernel as an image or .npy here: numpy.save makes one of an array, "
                "and task=restore reads .mat files"
            )
        # A number is only for files of several: the first of one is the one.
        return given_kernel(str(path) if self.number == 1 and _holds_one(path) else f"{path}#{self.number}")


def _check_header(path: Path) -> None:
    """Refuses an array that is larger than kernels are, before it is read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, "a plain .npy array", error) from error
    shape = getattr(array, "shape", ())  # none: an .npz by another name, of which the reader says so
    if max(shape[-2:], default=0) > LARGEST or max(shape[:-2], default=0) > LARGEST_STACK:
        raise InputError(
            f"{path}: has shape {shape}, expected blur kernels of at most {LARGEST}x{LARGEST} pixels, "
            f"at most {LARGEST_STACK} of them"
        )


def _holds_one(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def figure(kernel: torch.Tensor | None, caption: str) -> str:
    """A kernel [k, k] as HTML that needs no file: bright where light goes, the largest value white; or what to do."""
    if kernel is None:
        return f"<figure class='kernel'><figcaption>{html.escape(caption)}</figcaption></figure>"
    array = kernel.detach().cpu().float().numpy()
    gray = np.round(255 * array / max(array.max(), 1e-12)).astype(np.uint8)
    times = max(1, _PICTURE // len(gray))
    stream = io.BytesIO()
    Image.fromarray(gray.repeat(times, 0).repeat(times, 1)).save(stream, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    text = f"{caption}, {len(gray)} × {len(gray)} pixels"
    return (
        f"<figure class='kernel'><img src='{source}' alt='{html.escape(text, quote=True)}'>"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
    )
