"""Images as callers have them, integer arrays or float tensors, and their way to a network and back."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import InputError
from datamodules.io.write_photo import NotWritten

Image = Tensor | np.ndarray
LINES = 128  # written at a time: of large images a row of tiles is large
MAPPED = 256 * 2**20  # bytes from which on a scratch array is a file
LARGEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def largest(dtype: np.dtype[Any]) -> int:
    """The level that stands for 1, whatever the order of the bytes; 0 where there is none."""
    return LARGEST.get(dtype.newbyteorder("="), 0)


@dataclass
class Restoration:
    """What was made of an image.

    Attributes:
        sr: the restored image, `scale` times as large; an array of the type of the image if that was an array, rounded,
            else a float tensor [C, H, W] clamped to [0, 1].
        deblurred: the deblurred image of the input's size, of the same kind, where the network returns one.
        kernel: the kernel [k, k], sum 1, that was given or estimated.
        scale: of the enlargement.
        notes: what was assumed or approximated, a sentence each.
        engine: what computed the network: "torch", "openvino", "onnxruntime"; of a cascade both, such as
            "openvino+torch".
    """

    sr: Image
    scale: int
    deblurred: Image | None = None
    kernel: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    engine: str = "torch"


class Picture:
    """An image of which parts are read as float tensors, so that a large one never is a float tensor as a whole.

    Args:
        data: float tensor [C, H, W] in [0, 1], or uint8 or uint16 array [H, W] or [H, W, C]; C is 1 or 3.

    Attributes:
        given_size: (H, W).
        size: may be set to more: the image goes on with its last row and column.
        channels: 1 or 3.

    Raises:
        InputError: for anything else, for an image without pixels, and for values that are not finite.
    """

    def __init__(self, data: Image) -> None:
        if not isinstance(data, Tensor | np.ndarray):
            raise InputError(f"an image as {type(data).__name__}, expected a tensor or an array")
        self.data, shape = data, tuple(data.shape)
        if isinstance(data, Tensor):
            expected = "a float tensor [C, H, W] with C = 1 or 3"
            fits = len(shape) == 3 and shape[0] in (1, 3) and data.is_floating_point()
            channels, size = shape[:1], shape[1:]
        else:
            expected = "an array [H, W] or [H, W, C] of uint8 or uint16 with C = 1 or 3"
            fits = len(shape) in (2, 3) and shape[2:] in ((), (1,), (3,)) and largest(data.dtype) > 0
            channels, size = shape[2:], shape[:2]
        if not fits or 0 in size:
            kind = str(data.dtype).removeprefix("torch.")
            raise InputError(f"an image of shape {list(shape)} and type {kind}, expected {expected}, and some pixels")
        self.channels = channels[0] if channels else 1
        if isinstance(data, Tensor) and not data.isfinite().all():
            raise InputError("the image has values that are not finite")
        if isinstance(data, Tensor) and max(-data.min().item(), data.max().item() - 1) > 1:  # some are not clamped
            raise InputError(f"the image has values {data.min():g} to {data.max():g}, expected 0 to 1: divide by 255")
        self.given_size = self.size = (int(size[0]), int(size[1]))

    def part(self, rows: slice, columns: slice) -> Tensor:
        """A part of it [C, h, w], float32 on the CPU, in [0, 1] if the image is.

        Behind its end the image goes on with its last row and column.
        """
        height, width = self.given_size
        beyond = (0, max(0, columns.stop - width), 0, max(0, rows.stop - height))
        rows = slice(min(rows.start, height - 1), min(rows.stop, height))
        columns = slice(min(columns.start, width - 1), min(columns.stop, width))
        if isinstance(self.data, Tensor):
            piece = self.data[:, rows, columns].detach().float().cpu()
        else:
            piece = torch.from_numpy(self.data[rows, columns].astype(np.float32) / largest(self.data.dtype))
            piece = piece[None] if piece.dim() == 2 else piece.permute(2, 0, 1)
        return F.pad(piece, beyond, mode="replicate") if any(beyond) else piece

    def like(self, scale: int) -> Image:
        """Room for a result that is `scale` times as large, of the same kind."""
        height, width = (scale * n for n in self.given_size)
        if isinstance(self.data, Tensor):
            dtype = self.data.dtype if self.data.dtype == torch.float64 else torch.float32
            return torch.zeros(self.channels, height, width, dtype=dtype)
        return np.zeros((height, width, *self.data.shape[2:]), self.data.dtype.newbyteorder("="))

    def check_room(self, out: Any, scale: int) -> None:
        """Whether a result fits `out`; raises InputError if it does not."""
        height, width = (scale * n for n in self.given_size)
        shapes = [(height, width), (height, width, 1)] if self.channels == 1 else [(height, width, 3)]
        if not isinstance(out, np.ndarray) or not largest(out.dtype) or out.shape not in shapes:
            kind = f"{list(out.shape)} {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
            raise InputError(f"out: found {kind}, expected an array {list(shapes[0])} of uint8 or uint16")
        if not out.flags.writeable:
            raise InputError("out: is read-only, expected an array to write into")
        if isinstance(self.data, np.ndarray) and np.shares_memory(self.data, out):  # tiles are read beside results
            raise InputError("out: is the memory of the image, expected another array", key="out")


def write(target: Image, top: int, left: int, values: np.ndarray) -> None:
    """Put values [C, h, w] into an image from row `top` and column `left` on, as far as there are rows and columns.

    Clamped to [0, 1], and rounded where the image holds integers. An array [H, W, C] of floats is no image but what is
    kept between two steps: it takes the values as they are.
    """
    kept = isinstance(target, np.ndarray) and target.dtype == np.float32
    if isinstance(target, Tensor):
        room = target.numpy()
    else:
        room = target.transpose(2, 0, 1) if target.ndim == 3 else target[None]
    room = room[:, top : top + values.shape[1], left : left + values.shape[2]]
    values = values[:, : room.shape[1], : room.shape[2]]
    level = max(1, largest(room.dtype))
    for start in range(0, room.shape[1], LINES):
        rows = slice(start, start + LINES)
        lines = values[:, rows]
        if not kept:
            lines = np.clip(lines * np.float32(level), 0, level)
        if level > 1:
            np.rint(lines, out=lines)
        for channel, plane in zip(room, lines, strict=True):  # sooner done than all of them at once
            channel[rows] = plane


def as_input(images: Tensor, device: torch.device, takes_gray: bool) -> Tensor:
    """Images [B, C, h, w] as a network wants them, which takes gray ones or only colour."""
    images = images.to(device)
    if images.shape[1] == 1 and not takes_gray:
        images = images.expand(-1, 3, -1, -1)
    return images.contiguous(memory_format=torch.channels_last)


def with_channels(values: Tensor, channels: int) -> Tensor:
    """The luma of colour results [B, 3, h, w] where the image was gray."""
    if values.shape[1] == channels:
        return values
    import kornia.color  # with much that nothing else here needs

    return kornia.color.rgb_to_grayscale(values.float())  # weights with sum 1, so that gray stays what it is


@contextmanager
def scratch_array(folder: Path | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """An array; a large one is a nameless file in `folder` (None: that of temporary files).

    Raises:
        NotWritten: where the disk has no room.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if size < MAPPED:
        yield np.empty(shape, dtype)
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            if hasattr(os, "posix_fallocate"):  # a full disk is noticed now; later it would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            array = np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            place, way_out = folder or tempfile.gettempdir(), "" if folder else ", or set TMPDIR to another folder"
            raise NotWritten(
                f"{place}: no room for a file of {size / 2**30:.1f} GiB ({error.strerror}): free disk space{way_out}"
            ) from error
        yield array
