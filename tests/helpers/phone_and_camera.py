"""Photographs as phones and cameras write them: HEIC and raw."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile


def heic(pixels: np.ndarray, **options: Any) -> bytes:
    """A HEIC file of uint8 [H, W, C] without loss, or of uint16, of which 10 bits are kept."""
    pillow_heif = pytest.importorskip("pillow_heif")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[2]] + (";16" if pixels.dtype == np.uint16 else "")
    stream = io.BytesIO()
    image = pillow_heif.from_bytes(mode, pixels.shape[1::-1], pixels.tobytes())
    image.save(stream, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return stream.getvalue()


def write_raw(path: Path, levels: tuple[int, int, int], orientation: int = 1) -> np.ndarray:
    """A DNG of 48x64 pixels whose camera sees linear sRGB: `levels` of red, green and blue, half of them on the left.

    Returns:
        The sRGB values [2, 3] of 16 bits that they stand for, by the definition of sRGB: left, right.
    """
    pytest.importorskip("rawpy")  # reads it
    red, green, blue = levels
    mosaic = np.tile(np.array([[red, green], [green, blue]], np.uint16), (24, 32))
    mosaic[:, :32] //= 2
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    matrix = [part for value in np.linalg.inv(np.array(to_xyz)).flat for part in (round(value * 10_000), 10_000)]
    tags = [
        (33421, "H", 2, (2, 2), True),  # a mosaic of 2x2
        (33422, "B", 4, bytes([0, 1, 1, 2]), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),  # the version of DNG
        (50708, "s", 0, "Test Camera", True),
        (50717, "I", 1, 65535, True),  # white
        (50721, "2i", 9, matrix, True),
        (50728, "2I", 3, [1] * 6, True),  # as shot
        (50778, "H", 1, 21, True),  # in daylight
        (271, "s", 0, "Maker", True),
        (274, "H", 1, orientation, True),
    ]
    tifffile.imwrite(path, mosaic, photometric=32803, extratags=tags, metadata=None, software=False)
    linear = np.array([[level // 2 for level in levels], levels]) / 65535
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 65535
