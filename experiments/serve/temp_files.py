"""The one folder that the server writes to: uploads, results, what they are made of; gone when it ends."""

import math
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.errors import InputError
from datamodules.io import flock

PREFIX = "deblur-sr-serve-"
OVERHEAD = 1 << 20  # bytes of a request besides the file in it, and of a request without one
OF_UPLOADS = 0.5  # of the room, that uploads may take while they are coming
_ENTRY = 1 << 14  # bytes that a file may take on the disk beyond its length: its folder, and the rest of its last block
_SPARE = 1 / 16  # of the room


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
                flock.lock(lock)
                (folder / "new").rename(folder / "lock")  # there only once it is locked
            yield folder


def remove_left(place: Path) -> None:
    """Delete folders in `place` of servers that could not do so themselves."""
    for path in place.glob(f"{PREFIX}*/lock") if flock.LOCKS else ():  # without them, who knows which are in use
        if not path.is_file() or path.lstat().st_uid != os.getuid():
            continue
        with suppress(OSError), path.open("rb") as lock:  # in use, or a link
            flock.lock(lock)
            shutil.rmtree(path.parent)


def smallest_room(upload: int) -> float:
    """Bytes of a `Room` in which an upload of so many bytes is accepted."""
    return (upload + OVERHEAD + _ENTRY) / OF_UPLOADS


class Room:
    """The room for the files in a folder: what is there and what is being written never is more than `max_bytes`.

    The oldest files make room for new ones, and those older than `keep_seconds` go in any case.
    """

    def __init__(self, folder: Path, keep_seconds: float, max_bytes: float) -> None:
        self.folder, self.keep_seconds, self.max_bytes = folder, keep_seconds, max_bytes
        self._promised = 0
        self._used: float = math.inf  # bytes of files, at most: they are looked at only when that is too many
        self._lock = threading.Lock()

    @contextmanager
    def reserved(self, size: int, share: float = 1.0) -> Iterator[None]:
        """Files of at most so many bytes may be written within the context, which may take as long as a sweep.

        Args:
            share: of the room, that all which is promised may take.

        Raises:
            InputError: there is no room for them, whatever is deleted.
        """
        size += _ENTRY
        with self._lock:
            if self._promised + size > share * self.max_bytes:
                raise InputError("There is no room for this file on the server at present: try again later, or less")
            if self._used + self._promised + size > self.max_bytes:
                self._sweep(size)
            self._promised += size
        try:
            yield
        finally:
            with self._lock:
                self._promised -= size
                self._used += size

    def keep_swept(self) -> None:
        """Sweep every ten seconds until the folder is gone."""
        while self.folder.exists():
            with suppress(OSError):
                self.sweep()
            time.sleep(10)

    def sweep(self) -> None:
        """Delete what is old, broken off, or more than there is room for."""
        with self._lock:
            self._sweep()

    def _sweep(self, coming: int = 0) -> None:
        entries = []
        for entry in self.folder.iterdir():
            with suppress(OSError):  # it has another name by now, and is still promised
                entries.append((*_state(entry), entry))
        entries.sort(key=lambda state: state[0], reverse=True)  # the newest first
        oldest = time.time() - self.keep_seconds
        # Some more than what is coming, so that the next small files are no reason to look at all the others again.
        most = self.max_bytes * (1 - _SPARE) - self._promised - coming
        begun = done = 0
        self._used = 0
        for changed, length, on_disk, entry in entries:
            # What is begun is a file (of gradio) or a hidden folder (of the service), and its length within what was
            # promised; the rest of it was broken off. A file system may take more for it until it is complete.
            if entry.is_file() or entry.name.startswith("."):
                begun += length
                gone = begun > self._promised
            else:
                done += on_disk
                gone = done > most
            if gone or changed < oldest:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
            else:
                self._used += on_disk


def _state(entry: Path) -> tuple[float, int, int]:
    """Of a file, or of a folder with all that is in it: when it was changed, bytes of the files, bytes on the disk."""
    changed, length, on_disk = 0.0, 0, 0
    for path in (entry, *entry.rglob("*")):
        state = path.lstat()
        changed = max(changed, state.st_ctime)  # not the time of the content, which may come with an upload
        length += 0 if stat.S_ISDIR(state.st_mode) else state.st_size
        on_disk += state.st_blocks * 512
    return changed, length, on_disk
