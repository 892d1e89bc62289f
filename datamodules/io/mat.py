"""MATLAB files: how large they are unpacked, found out before they are."""

import math
import struct
import zlib
from pathlib import Path

from datamodules.errors import InputError

_COMPRESSED = 15  # the type of an element, of MathWorks' "MAT-File Format"
_AT_A_TIME = 65_536  # bytes, which unpack to 1032 times as many at most


def check_unpacked(path: Path, most: int) -> None:
    """Refuse a file of format 5 to 7 whose variables are larger than `most` bytes; other files are left to the reader.

    Raises:
        InputError: names the file and the limit.
    """
    import scipy.io

    try:
        large = _unpacked(path, most) > most or any(
            math.prod(shape) * 8 > most for _, shape, _ in scipy.io.whosmat(path)
        )
    except Exception:  # scipy lets through whatever a damaged file provokes; who reads it says what is wrong
        return
    if large:
        raise InputError(f"{path}: holds more than {most / 2**20:.0f} MB of values unpacked: not a file of this kind")


def _unpacked(path: Path, most: int) -> int:
    """Bytes, counted until they are more than `most`."""
    total = 0
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        while order and total <= most and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                total += size
                file.seek(size, 1)
                continue
            unpacking = zlib.decompressobj()
            while total <= most and size > 0 and (packed := file.read(min(size, _AT_A_TIME))):
                size -= len(packed)
                total += len(unpacking.decompress(packed))
    return total
