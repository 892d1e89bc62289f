"""EXIF as bytes: made true of an upright, enlarged copy, taken out of TIFF files and put into them.

Libraries that parse EXIF and write it anew lose what they do not understand: letters outside ASCII, maker notes that
refer to positions. Here the bytes stay, and only the few values that would lie are changed where they are.

Source: CIPA DC-008 (EXIF 2.32), sections 4.5 and 4.6; TIFF 6.0, section 2; the BigTIFF design of libtiff.
"""

import io
import struct
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

PREFIX = b"Exif\0\0"
# Of the first directory: what describes the photograph rather than its storage. Text, resolution, Windows' comments.
DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
ORIENTATION, WIDTH, HEIGHT, RESOLUTION = 274, 256, 257, (282, 283, 296)
EXIF, GPS = 34665, 34853
_INTEROPERABILITY = 40965  # a further directory that says nothing of the photograph, and is not taken along
PIXEL_X, PIXEL_Y = 40962, 40963
_THUMBNAIL, _THUMBNAIL_BYTES = 513, 514
_SHORT, _LONG = 3, 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_ENTRIES, _MOST_BYTES = 1000, 1 << 26


class NoExif(ValueError):
    """The bytes are no EXIF, or damaged."""


@dataclass(frozen=True)
class Entry:
    """A value of a directory: its type, how many, its bytes in the byte order of the file, and where these are."""

    kind: int
    count: int
    value: bytes
    position: int  # of the 2 bytes of the tag


Directory = dict[int, Entry]


@dataclass(frozen=True)
class Layout:
    """How numbers are written: byte order `<` or `>`, and whether positions have 8 bytes (BigTIFF) or 4."""

    order: Literal["<", ">"]
    big: bool = False

    @property
    def inline(self) -> int:
        """Bytes of a value that has no place of its own."""
        return 8 if self.big else 4

    def pack(self, kind: str, *numbers: int) -> bytes:
        kind = kind * len(numbers) if len(kind) == 1 else kind
        return struct.pack(self.order + kind, *numbers)

    def unpack(self, kind: str, data: bytes) -> int:
        try:
            return int(struct.unpack(self.order + kind, data)[0])
        except struct.error as error:
            raise NoExif("ends too early") from error

    @property
    def counting(self) -> str:
        return "Q" if self.big else "H"

    @property
    def pointing(self) -> str:
        return "Q" if self.big else "I"

    def number(self, entry: Entry) -> int:
        """The first value of an entry of integers."""
        kinds = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
        if entry.kind not in kinds:
            raise NoExif(f"has type {entry.kind} where a number is expected")
        return self.unpack(kinds[entry.kind], entry.value[: _SIZES[entry.kind]])


def read_header(stream: BinaryIO) -> tuple[Layout, int]:
    """Layout of a TIFF structure and the position of its first directory."""
    stream.seek(0)
    mark = stream.read(2)
    if mark not in (b"II", b"MM"):
        raise NoExif("is no TIFF structure")
    order: Literal["<", ">"] = "<" if mark == b"II" else ">"
    layout = Layout(order)
    version = layout.unpack("H", stream.read(2))
    if version == 43:
        stream.read(4)
        layout = Layout(order, big=True)
    elif version != 42:
        raise NoExif("is no TIFF structure")
    return layout, layout.unpack(layout.pointing, stream.read(layout.inline))


def read_directory(
    stream: BinaryIO, layout: Layout, position: int, wanted: Container[int] | None = None
) -> tuple[Directory, int]:
    """The entries of a directory, and the position behind them, which holds that of the next one.

    Values of unknown types are left out.

    Args:
        wanted: tags whose values are read; of others, which may be large, there is none. None: all.
    """
    stream.seek(position)
    count = layout.unpack(layout.counting, stream.read(struct.calcsize(layout.order + layout.counting)))
    if count > _MOST_ENTRIES:
        raise NoExif(f"has a directory of {count} entries")
    found: Directory = {}
    room = _MOST_BYTES
    for _ in range(count):
        place = stream.tell()
        head = stream.read(4)
        tag, kind = layout.unpack("H", head[:2]), layout.unpack("H", head[2:])
        values = layout.unpack(layout.pointing, stream.read(layout.inline))
        value = stream.read(layout.inline)
        size = values * _SIZES.get(kind, 0)
        following = stream.tell()
        if wanted is not None and tag not in wanted:
            value = b""
        elif size > layout.inline:
            room -= size  # of all together: they may all be the same bytes
            if room < 0:
                raise NoExif("has values of more than 64 MB")
            stream.seek(layout.unpack(layout.pointing, value))
            value = stream.read(size)
            if len(value) < size:
                raise NoExif("ends too early")
            stream.seek(following)
        if size:
            found[tag] = Entry(kind, values, value[:size], place)
    return found, stream.tell()


def upright(data: bytes) -> bytes:
    """EXIF whose orientation is 1, and without its thumbnail, which shows the photograph as it was.

    Args:
        data: with or without the prefix that JPEG puts before it.

    Raises:
        NoExif: if it is damaged.
    """
    data = data.removeprefix(PREFIX)
    stream, out = io.BytesIO(data), bytearray(data)
    layout, position = read_header(stream)
    first, end = read_directory(stream, layout, position, (ORIENTATION,))
    _set(out, layout, first, ORIENTATION, 1)
    stream.seek(end)
    following = stream.read(layout.inline)
    if len(following) == layout.inline and any(following):
        out[end : end + layout.inline] = bytes(layout.inline)
        _clear_thumbnail(out, layout, layout.unpack(layout.pointing, following))
    for size in (1, 1 << 16):  # what is damaged is found now rather than by the writer or the reader of the result
        parts(with_size(bytes(out), size, size))
    return bytes(out)


def _clear_thumbnail(data: bytearray, layout: Layout, position: int) -> None:
    """Nothing refers to it any more, but its bytes would still be there."""
    try:
        second, _ = read_directory(io.BytesIO(data), layout, position, (_THUMBNAIL, _THUMBNAIL_BYTES))
        start, size = layout.number(second[_THUMBNAIL]), layout.number(second[_THUMBNAIL_BYTES])
    except (NoExif, KeyError):
        return
    if position < start and start + size <= len(data):
        data[start : start + size] = bytes(size)


def _set(data: bytearray, layout: Layout, entries: Directory, tag: int, number: int) -> None:
    """Write a number in place of the one that a directory holds, if any, as 16 or 32 bits."""
    if tag not in entries:
        return
    entry = entries[tag]
    kind = _SHORT if number < 1 << 16 and entry.kind == _SHORT else _LONG
    value = layout.pack("H" if kind == _SHORT else "I", number).ljust(layout.inline, b"\0")
    row = layout.pack("HH", tag, kind) + layout.pack(layout.pointing, 1) + value
    data[entry.position : entry.position + len(row)] = row


def with_size(data: bytes, width: int, height: int) -> bytes:
    """EXIF that says this size where it says a size at all.

    Args:
        data: as `upright` returns it.
    """
    stream, out = io.BytesIO(data), bytearray(data)
    layout, position = read_header(stream)
    first, _ = read_directory(stream, layout, position, (EXIF,))
    inner: Directory = {}
    if EXIF in first:
        inner, _ = read_directory(stream, layout, layout.number(first[EXIF]), ())
    for entries, tags in ((first, (WIDTH, HEIGHT)), (inner, (PIXEL_X, PIXEL_Y))):
        for tag, number in zip(tags, (width, height), strict=True):
            _set(out, layout, entries, tag, number)
    return bytes(out)


def of_tiff(stream: BinaryIO) -> bytes | None:
    """The EXIF of a TIFF file, which spreads it over the file, as a structure of its own; None if there is nothing.

    Without an orientation, which is to say upright.

    Raises:
        NoExif: if the file is damaged.
    """
    layout, position = read_header(stream)
    first, _ = read_directory(stream, layout, position, (*DESCRIPTIVE, *RESOLUTION, EXIF, GPS))
    inner = _inner(stream, layout, first)
    kept = {tag: entry for tag, entry in first.items() if tag in (*DESCRIPTIVE, *RESOLUTION)}
    if not inner and not any(tag in kept for tag in DESCRIPTIVE):
        return None
    small = Layout(layout.order)
    head = (b"II" if layout.order == "<" else b"MM") + small.pack("H", 42) + small.pack("I", 8)
    start = len(head)
    # The inner directories follow the first one, whose size does not depend on where they are.
    places = {tag: 0 for tag in (EXIF, GPS) if tag in inner}
    following = start + len(_written(kept, small, start, places))
    blocks, places = write_inner(inner, small, following)
    return head + _written(kept, small, start, places) + blocks


def _inner(stream: BinaryIO, layout: Layout, first: Directory) -> dict[int, Directory]:
    return {tag: read_directory(stream, layout, layout.number(first[tag]))[0] for tag in (EXIF, GPS) if tag in first}


def parts(data: bytes) -> tuple[Layout, Directory, dict[int, Directory]]:
    """The descriptive entries of EXIF, and its directories `EXIF` and `GPS`, for a TIFF file."""
    stream = io.BytesIO(data)
    layout, position = read_header(stream)
    first, _ = read_directory(stream, layout, position, (*DESCRIPTIVE, EXIF, GPS))
    return layout, {t: e for t, e in first.items() if t in DESCRIPTIVE}, _inner(stream, layout, first)


def write_inner(inner: dict[int, Directory], layout: Layout, start: int) -> tuple[bytes, dict[int, int]]:
    """The inner directories one after the other, the first at `start`, and where each is."""
    written = b""
    places: dict[int, int] = {}
    for tag, entries in inner.items():
        places[tag] = start + len(written)
        written += _written(entries, layout, places[tag], {})
    return written, places


def _written(entries: Directory, layout: Layout, start: int, pointers: dict[int, int]) -> bytes:
    """A directory at an even position `start`, with its values behind it, of even length."""
    rows: dict[int, tuple[int, int, bytes]] = {
        tag: (entry.kind, entry.count, entry.value)
        for tag, entry in entries.items()
        if tag not in (EXIF, GPS, _INTEROPERABILITY) and (layout.big or entry.kind < 16)
    }
    for tag, at in pointers.items():
        rows[tag] = (18 if layout.big else _LONG, 1, layout.pack(layout.pointing, at))
    count = layout.pack(layout.counting, len(rows))
    behind = start + len(count) + len(rows) * (4 + 2 * layout.inline) + layout.inline
    table, values = b"", b""
    for tag, (kind, number, value) in sorted(rows.items()):
        if len(value) > layout.inline:
            place = layout.pack(layout.pointing, behind + len(values))
            values += value + b"\0" * (len(value) % 2)
        else:
            place = value.ljust(layout.inline, b"\0")
        table += layout.pack("HH", tag, kind) + layout.pack(layout.pointing, number) + place
    return count + table + bytes(layout.inline) + values


def add_to_tiff(path: Path, inner: dict[int, Directory]) -> None:
    """Append inner directories to a TIFF file of the same byte order, and a first directory that names them.

    The former first directory stays behind, unused.
    """
    with path.open("r+b") as file:
        layout, position = read_header(file)
        first, end = read_directory(file, layout, position, ())
        rows = {}
        for tag, entry in first.items():
            file.seek(entry.position)
            rows[tag] = file.read(4 + 2 * layout.inline)
        file.seek(end)
        following = file.read(layout.inline)
        start = file.seek(0, io.SEEK_END)
        file.write(b"\0" * (-start % 8))
        blocks, places = write_inner(inner, layout, start + -start % 8)
        for tag, at in places.items():
            kind = 18 if layout.big else _LONG
            rows[tag] = layout.pack("HH", tag, kind) + layout.pack(layout.pointing, 1, at)
        file.write(blocks + b"\0" * (-len(blocks) % 8))
        again = file.tell()
        table = b"".join(row for _, row in sorted(rows.items()))
        file.write(layout.pack(layout.counting, len(rows)) + table + following)
        file.seek(8 if layout.big else 4)
        file.write(layout.pack(layout.pointing, again))
