"""The one folder that the server writes to: uploads, results, what they are made of; gone when it ends."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "deblur-sr-serve-"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that lasts as long as the context; those of servers that were killed are deleted.

    A living server holds a lock on the file `lock` in its folder.
    """
    remove_left(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / "new").open("w") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / "new").rename(folder / "lock")  # there only once it is locked
            yield folder


def remove_left(place: Path) -> None:
    """Delete folders in `place` of servers that could not do so themselves."""
    for path in place.glob(f"{PREFIX}*/lock"):
        if not path.is_file() or path.lstat().st_uid != os.getuid():
            continue
        with suppress(OSError), path.open("rb") as lock:  # in use, or a link
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent)


def keep_swept(folder: Path, keep_seconds: float, max_bytes: float) -> None:
    """Sweep a folder every ten seconds until it is gone."""
    while folder.exists():
        with suppress(OSError):  # a file that comes or goes meanwhile: the next sweep sees to it
            sweep(folder, keep_seconds, max_bytes)
        time.sleep(10)


def sweep(folder: Path, keep_seconds: float, max_bytes: float) -> None:
    """Delete what is older than `keep_seconds`, and the oldest of what is too much; a result is a folder of its own."""
    oldest, total = time.time() - keep_seconds, 0
    # The time of the last change of the entry: the time of the content may come with an upload.
    for entry in sorted(folder.iterdir(), key=lambda path: path.lstat().st_ctime, reverse=True):
        total += sum(path.lstat().st_blocks * 512 for path in (entry, *entry.rglob("*")))
        if entry.lstat().st_ctime < oldest or total > max_bytes:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
