"""The one folder that the server writes to: uploads, results, what they are made of; gone when it ends."""

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.errors import InputError

PREFIX = "deblur-sr-serve-"
_ENTRY = 1 << 14  # bytes that a file may take on the disk beyond its length: its folder, and the rest of its last block


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


class Room:
    """The room for the files in a folder: what is there and what is being written never is more than `max_bytes`.

    The oldest files make room for new ones, and those older than `keep_seconds` go in any case.
    """

    def __init__(self, folder: Path, keep_seconds: float, max_bytes: float) -> None:
        self.folder, self.keep_seconds, self.max_bytes = folder, keep_seconds, max_bytes
        self._promised = 0
        self._lock = threading.Lock()

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Files of at most so many bytes may be written within the context.

        Raises:
            InputError: there is no room for them, whatever is deleted.
        """
        size += _ENTRY
        with self._lock:
            if self._promised + size > self.max_bytes:
                raise InputError("There is no room for this file on the server at present: try again later, or less.")
            self._sweep(size)
            self._promised += size
        try:
            yield
        finally:
            with self._lock:
                self._promised -= size

    def keep_swept(self) -> None:
        """Delete what is old every ten seconds until the folder is gone."""
        while self.folder.exists():
            with suppress(OSError), self._lock:
                self._sweep()
            time.sleep(10)

    def _sweep(self, coming: int = 0) -> None:
        states = {}
        for entry in self.folder.iterdir():
            with suppress(OSError):  # it is gone already
                # The time of the last change of the entry: the time of the content may come with an upload.
                states[entry] = (entry.lstat().st_ctime, _disk_use(entry))
        oldest = time.time() - self.keep_seconds
        # What is begun is a file (of gradio) or a hidden folder (of the service), and within what was promised; the
        # rest of it was broken off.
        begun = [entry for entry in states if entry.is_file() or entry.name.startswith(".")]
        done = [entry for entry in states if entry not in begun]
        for entries, most in ((begun, self._promised), (done, self.max_bytes - self._promised - coming)):
            total = 0
            for entry in sorted(entries, key=lambda entry: states[entry], reverse=True):
                changed, size = states[entry]
                total += size
                if changed < oldest or total > most:
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


def _disk_use(entry: Path) -> int:
    """Bytes of a file, or of a folder with all that is in it; a result is a folder of its own."""
    size = 0
    for path in (entry, *entry.rglob("*")):
        with suppress(OSError):
            size += path.lstat().st_blocks * 512
    return size
