"""Files that are complete or absent, whenever the process that writes them dies."""

import contextlib
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False, just_before: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """A file to write, beside `path`, whose name it takes when the block is done; if the block fails, it is removed.

    Its name (`part_of`) is the same every time, so that what a killed process leaves behind is replaced.

    Args:
        sync: have it on the disk first. Otherwise a power cut may leave the name without the content.
        just_before: called with `path` when the file is complete and about to get this name.
    """
    part = part_of(path)
    part.unlink(missing_ok=True)  # of a killed process, or a link of somebody else
    try:
        part.touch(exist_ok=False)
        yield part
        if sync:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
        if just_before:
            just_before(path)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """What a file is called until it is complete: hidden, short, and like nobody else's."""
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.deblur_sr.part")


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left of files in a folder, in which no other process may be writing."""
    for part in folder.glob(".*.deblur_sr.part"):
        if re.fullmatch(r"\.[0-9a-f]{8}\.deblur_sr\.part", part.name) and not part.is_dir():
            part.unlink(missing_ok=True)
