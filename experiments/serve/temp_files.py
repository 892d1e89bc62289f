"""The one folder that the server writes to: uploads, results, what they are made of; gone when it ends."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from pathlib import Path

from datamodules.errors import InputError

PREFIX = "deblur-sr-serve-"
SWEEPS = 20  # in the time that a file is kept
SECONDS = 10  # between sweeps, at most


class Folder:
    """A temporary folder, also that of gradio and of Python's `tempfile`, whose old files are deleted all the time.

    Make it before gradio is imported, which reads its environment then. It also deletes what servers left that were
    killed: of a living one the file `lock` is locked.

    Args:
        keep_minutes: age at which a file is deleted, > 0.
        max_bytes: of all files of users, of which the oldest are deleted earlier than that.

    Attributes:
        path: of the folder.
        uploads: what users send and what they are shown; the only files that are served.
        lasting: files that are not deleted before the server ends.
    """

    def __init__(self, keep_minutes: float, max_bytes: float) -> None:
        remove_left(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = (self.path / "new").open("w")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.path / "new").rename(self.path / "lock")  # there only once it is locked
        self.uploads, self.lasting = self.path / "files", self.path / "lasting"
        for folder in (self.uploads, self.lasting):
            folder.mkdir()
        self._environment = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE")}
        self._tempdir = tempfile.tempdir
        os.environ.update(dict.fromkeys(self._environment, str(self.uploads)))
        tempfile.tempdir = str(self.uploads)
        self._ended = threading.Event()
        self._keep_minutes, self._keep_seconds, self._max_bytes = keep_minutes, 60 * keep_minutes, max_bytes
        threading.Thread(target=self._sweep_on, daemon=True).start()

    def make(self, name: str) -> Path:
        """A path for a new file of this name, in a folder of its own."""
        return Path(tempfile.mkdtemp(dir=self.uploads)) / name

    def expect(self, path: Path) -> None:
        """That a file of a user is still there.

        Raises:
            InputError: if it was deleted.
        """
        if not path.exists():
            raise InputError(
                f"{path.name}: is no longer here: files are deleted after {self._keep_minutes:g} minutes, or earlier "
                "where there are many: give the photograph again"
            )

    def close(self) -> None:
        """Delete everything."""
        self._ended.set()
        tempfile.tempdir = self._tempdir
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def sweep(self) -> None:
        """Delete files of users that are older than they may be or too much, and folders that were left empty."""
        oldest, total = time.time() - self._keep_seconds, 0
        paths = [Path(place, name) for place, _, names in os.walk(self.uploads) for name in names]
        # The time of the last change of the entry: the time of the content may come with an upload.
        found = sorted(((path.lstat(), path) for path in paths), key=lambda one: one[0].st_ctime, reverse=True)
        for status, path in found:
            total += status.st_blocks * 512
            if status.st_ctime < oldest or total > self._max_bytes:
                path.unlink(missing_ok=True)
        for place, _, _ in os.walk(self.uploads, topdown=False):
            folder = Path(place)
            if folder != self.uploads and folder.lstat().st_ctime < oldest and not any(folder.iterdir()):
                folder.rmdir()

    def _sweep_on(self) -> None:
        while not self._ended.wait(min(self._keep_seconds / SWEEPS, SECONDS)):
            try:
                self.sweep()
            except OSError:  # a file that comes or goes meanwhile: the next sweep sees to it
                continue


def remove_left(place: Path) -> None:
    """Delete folders in `place` of servers of this user that could not do so themselves."""
    for path in place.glob(f"{PREFIX}*/lock"):
        with contextlib.suppress(OSError):  # locked, or another user's
            status = path.parent.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
