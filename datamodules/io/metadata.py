"""EXIF and XMP of an upright, enlarged photograph: read and written by Pillow.

EXIF is a directory of tags as in a TIFF file, two of which refer to further directories.

Source: CIPA DC-008 (EXIF 2.32), sections 4.5 and 4.6.
"""

import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Directory

PREFIX = b"Exif\0\0"  # in JPEG
# Of the first directory: what describes the photograph rather than its storage. Text, ratings, Windows' comments.
_DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
_RESOLUTION = (Base.XResolution, Base.YResolution, Base.ResolutionUnit)
_INNER = (IFD.Exif, IFD.GPSInfo)  # a third one, interoperability, says nothing of the photograph
_LARGEST_VALUE, _LARGEST = 1 << 20, 1 << 24  # bytes, of a tag and of all together
_UNTRUE = rb"(?:tiff:Orientation|tiff:ImageWidth|tiff:ImageLength|exif:Pixel[XY]Dimension)"


def upright_exif(stream: BinaryIO, notes: list[str]) -> bytes | None:
    """What EXIF says of a photograph, without orientation and thumbnail; None if it says nothing.

    Args:
        stream: a TIFF file, or the EXIF of another one, which is such a file without pixels.
        notes: gets a line if something is left out.

    Returns:
        A TIFF structure in little-endian order.
    """
    try:
        with warnings.catch_warnings(record=True) as damage:
            warnings.simplefilter("always")
            first, inner = _load(_Bounded(stream))
            data = _to_bytes(first, inner)
    except Exception:  # Pillow raises nearly anything: SyntaxError, struct.error, ZeroDivisionError
        notes.append("its EXIF cannot be read, left out")
        return None
    if damage:
        notes.append("some of its tags are damaged or have more than 1 MB: what they say of the photograph is left out")
    return data if inner or any(tag in first for tag in _DESCRIPTIVE) else None


class _Bounded:
    """A file that ends where values get too large: tags may all refer to the same bytes, and each takes memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.seek, self.left = stream, stream.seek, _LARGEST
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size >= _LARGEST_VALUE or size > self.left:
            return b""
        self.left -= size
        return self.stream.read(size)


def _load(stream: Any) -> tuple[Directory, dict[int, Directory]]:
    """The descriptive tags of the first directory, and the further directories."""
    stream.seek(0)
    header = stream.read(8)
    header += stream.read(8) if 43 in header[2:4] else b""  # BigTIFF
    directory = Directory(header)
    stream.seek(directory.next)
    directory.load(stream)
    first = _copy(directory, (*_DESCRIPTIVE, *_RESOLUTION))
    inner: dict[int, Directory] = {}
    for tag in _INNER:
        if tag in directory:
            stream.seek(directory[tag])
            further = Directory(header, group=tag)
            further.load(stream)
            inner[tag] = _copy(further, [key for key in further if key != IFD.Interop])
    return first, inner


def _copy(directory: Directory, tags: Iterable[int]) -> Directory:
    """A directory in little-endian order with some of the tags."""
    copy = Directory()
    for tag in tags:
        if tag in directory:
            value = directory[tag]
            copy.tagtype[tag] = directory.tagtype[tag]
            copy[tag] = value.encode("latin-1") if isinstance(value, str) else value  # Pillow would write ASCII
    return copy


def _to_bytes(first: Directory, inner: dict[int, Directory]) -> bytes:
    blocks = b""
    for tag, directory in inner.items():
        first[tag] = 8 + len(blocks)
        blocks += directory.tobytes(8 + len(blocks))
    position = 8 + len(blocks)
    return b"II*\0" + position.to_bytes(4, "little") + blocks + first.tobytes(position)


def exif_with(data: bytes, width: int, height: int, dpi: tuple[float, float] | None) -> bytes:
    """EXIF as `upright_exif` returns it, with another size where it has one, and the resolution if there is one."""
    first, inner = _load(io.BytesIO(data))
    entries = inner.get(IFD.Exif, Directory())
    for tag, side in ((Base.ExifImageWidth, width), (Base.ExifImageHeight, height)):
        if tag in entries:
            del entries[tag], entries.tagtype[tag]  # the larger number may need another type
            entries[tag] = side
    if dpi:
        first[Base.XResolution], first[Base.YResolution], first[Base.ResolutionUnit] = *dpi, 2
    return _to_bytes(first, inner)


def add_exif_to_tiff(path: Path, data: bytes) -> None:
    """Append EXIF to a little-endian TIFF file of less than 4 GB, and its first directory anew, which refers to it."""
    first, inner = _load(io.BytesIO(data))
    with path.open("r+b") as file:
        directory = Directory(file.read(8))
        file.seek(directory.next)
        directory.load(file)
        directory = _copy(directory, list(directory))
        for tag in first:
            directory.tagtype[tag] = first.tagtype[tag]
            directory[tag] = first[tag]
        position = file.seek(0, io.SEEK_END)
        position += file.write(bytes(position % 2))
        for tag, entries in inner.items():
            directory[tag] = position
            position += file.write(entries.tobytes(position))
        file.write(directory.tobytes(position))
        file.seek(4)
        file.write(position.to_bytes(4, "little"))


def upright_xmp(packet: bytes) -> bytes:
    """XMP without orientation, size and thumbnails, which are not true of an upright, enlarged photograph."""
    first, *rest = packet.split(b"<xmp:Thumbnails>")
    packet = b"".join([first, *(part.partition(b"</xmp:Thumbnails>")[2] for part in rest)])
    packet = re.sub(rb"\b" + _UNTRUE + rb"\s*=\s*[\"']\d*[\"']", b"", packet)
    return re.sub(rb"<(" + _UNTRUE + rb")>[\s\d]*</\1>", b"", packet)  # one repetition: two would be tried in all ways
