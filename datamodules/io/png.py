"""PNG written row by row from an array that may be larger than memory, with 16 bits and metadata.

Pillow writes no 16-bit colour and OpenCV no colour profile, and both want the whole image in memory.

Source: Portable Network Graphics (PNG) Specification, third edition, W3C 2025.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST_SIDE = 2**31 - 1
_BLOCK = 1 << 21  # bytes of rows that are filtered at once
_CHUNK = 1 << 20
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


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
    stream.write(SIGNATURE)
    _write_chunk(stream, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPES[channels], 0, 0, 0))
    for kind, content in before:
        _write_chunk(stream, kind, content)
    packer, waiting = zlib.compressobj(6, strategy=zlib.Z_FILTERED), bytearray()
    step = channels * depth // 8
    previous = np.zeros(width * step, np.uint8)
    rows = max(1, _BLOCK // (width * step))
    for top in range(0, height, rows):
        block = pixels[top : top + rows]
        if alpha is not None:
            block = np.concatenate([block, alpha[top : top + rows, :, None]], 2)
        lines = np.ascontiguousarray(block, block.dtype.newbyteorder(">")).view(np.uint8).reshape(len(block), -1)
        waiting += packer.compress(_filtered(lines, previous, step).tobytes())
        previous = lines[-1]
        while len(waiting) >= _CHUNK:
            _write_chunk(stream, b"IDAT", bytes(waiting[:_CHUNK]))
            del waiting[:_CHUNK]
    waiting += packer.flush()
    _write_chunk(stream, b"IDAT", bytes(waiting))
    _write_chunk(stream, b"IEND", b"")


def _write_chunk(stream: BinaryIO, kind: bytes, content: bytes) -> None:
    stream.write(struct.pack(">I", len(content)) + kind + content)
    stream.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


def _filtered(lines: np.ndarray, previous: np.ndarray, step: int) -> np.ndarray:
    """Each row by the filter whose result has the smallest sum of absolute differences, as the specification advises.

    Args:
        lines: uint8 [rows, bytes].
        previous: the row above the first one.
        step: bytes of a pixel.

    Returns:
        uint8 [rows, 1 + bytes]: the number of the filter and the filtered row.
    """
    above = np.concatenate([previous[None], lines[:-1]])
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], corner[:, step:] = lines[:, :-step], above[:, :-step]
    out = np.empty((len(lines), lines.shape[1] + 1), np.uint8)
    least = np.full(len(lines), np.iinfo(np.int64).max)
    for number, guess in ((0, 0), (1, left), (2, above), (4, _paeth(left, above, corner))):
        difference = lines - guess
        cost = np.minimum(difference, -difference).sum(1, dtype=np.int64)  # of bytes as signed numbers
        better = cost < least
        out[better, 0], out[better, 1:] = number, difference[better]
        least = np.minimum(least, cost)
    return out


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Whichever of the three is nearest to left + above - corner."""
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(
        (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
    )
    return np.asarray(nearest)
