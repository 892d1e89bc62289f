"""Files that are complete or absent, whenever the process that writes them dies."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A file to write, beside `path`, whose name it takes when the block is done; if the block fails, it is removed.

    Its name starts with a dot, which listings of images skip, and ends in `.part`.

    Args:
        sync: have it on the disk first. Otherwise a power cut may leave the name without the content.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        if sync:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
