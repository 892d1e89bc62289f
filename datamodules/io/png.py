"""PNG written row by row from an array that may be larger than memory, with 16 bits and metadata.

Pillow writes no 16-bit colour and OpenCV no gray with alpha, and both want the whole image in memory.

Source: Portable Network Graphics (PNG) Specification, third edition, W3C 2025.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL.PngImagePlugin import putchunk

LARGEST_SIDE = 2**31 - 1
_BLOCK = 1 << 21  # bytes of rows that are filtered at once
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PAETH = 4  # of the five filters of rows, the one that makes photographs smallest


def write_png(
    stream: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None = None, before: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Write an image.

    Args:
        pixels: uint8 or uint16 [H, W, 1 or 3], may be memory-mapped.
        alpha: [H, W] in the same dtype.
        before: further chunks, type and content, that stand before the pixels.
    """
    height, width, channels = pixels.shape
    channels += alpha is not None
    depth = 8 * pixels.dtype.itemsize
    stream.write(b"\x89PNG\r\n\x1a\n")
    putchunk(stream, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPES[channels], 0, 0, 0))
    for kind, content in before:
        putchunk(stream, kind, content)
    packer = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
    step = channels * depth // 8
    above = np.zeros(width * step, np.uint8)
    rows = max(1, _BLOCK // (width * step))
    for top in range(0, height, rows):
        block = pixels[top : top + rows]
        if alpha is not None:
            block = np.concatenate([block, alpha[top : top + rows, :, None]], 2)
        lines = np.ascontiguousarray(block, block.dtype.newbyteorder(">")).view(np.uint8).reshape(len(block), -1)
        putchunk(stream, b"IDAT", packer.compress(_filtered(lines, above, step).tobytes()))
        above = lines[-1]
    putchunk(stream, b"IDAT", packer.flush())
    putchunk(stream, b"IEND", b"")


def _filtered(lines: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Each row [rows, bytes] less what is expected of its neighbours, behind the number of the filter.

    Args:
        above: the row above the first one.
        step: bytes of a pixel.
    """
    padded = np.pad(np.concatenate([above[None], lines]), ((0, 0), (step, 0)))
    left, up, corner = (part.astype(np.int16) for part in (padded[1:, :-step], padded[:-1, step:], padded[:-1, :-step]))
    to_left, to_up, to_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    nearest = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
    return np.pad(lines - nearest.astype(np.uint8), ((0, 0), (1, 0)), constant_values=_PAETH)
