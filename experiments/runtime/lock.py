"""A lock on the folder of a run, or on a measurement in it: one process at a time, on all machines that see it."""

import contextlib
import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from datamodules.errors import InputError
from datamodules.io.flock import lock
from experiments.runtime.run_folder import unwritable

# No link, such as one in a copied folder, to a file that would be overwritten; Windows does not know the flag.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def held(
    file: Path,
    what: str = "another process works in this folder",
    hint: str = "wait for it or stop it, or give this run another name with name=...",
    patience: float = 0.0,
) -> Iterator[None]:
    """Hold a lock until the end; a folder that was made for it and is still empty then goes again.

    The lock (flock) goes with the process, however that ends. The file says who holds it.

    Args:
        patience: seconds to wait for another process.

    Raises:
        InputError: if another process has the lock, or the folder cannot be written or has no locks.
    """
    given, file = file, file.absolute()
    missing = [folder for folder in file.parents if not folder.exists()]
    end = time.monotonic() + patience
    try:
        while (descriptor := _lock(file)) is None:
            if time.monotonic() >= end:
                raise InputError(f"{given.parent}: {what}{_holder(file)}: {hint}", file=given.parent)
            time.sleep(0.5)
    except OSError as error:
        raise unwritable(given, error) from error
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds without
            command = " ".join(" ".join(sys.argv).split())[:200]
            since = datetime.now(UTC).isoformat(timespec="seconds")
            said = f"{platform.node()}, process {os.getpid()}, since {since}: {command}"
            # Closed at once: a file that is open for writing would keep its file system from becoming read-only.
            writer = os.open(file, os.O_WRONLY | os.O_TRUNC | _NO_LINK)
            os.write(writer, said.encode(errors="replace"))
            os.close(writer)
        yield
    finally:
        with contextlib.suppress(OSError):  # as where the folder is gone
            file.unlink()
        with contextlib.suppress(OSError):
            os.close(descriptor)
            for folder in missing:
                folder.rmdir()


def _lock(file: Path) -> int | None:
    """The descriptor of the locked file; None if another process has it."""
    for _ in range(100):
        # Not found: another process has just left, and removed the file or the folder.
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as closing:
            file.parent.mkdir(parents=True, exist_ok=True)
            for mode in (os.O_RDONLY, os.O_RDWR):  # NFS locks only what is open for writing
                descriptor = os.open(file, mode | os.O_CREAT | _NO_LINK, 0o666)
                closing.callback(os.close, descriptor)
                try:
                    lock(descriptor)
                    break
                except BlockingIOError:
                    return None
                except OSError as error:
                    if error.errno != errno.EBADF or mode == os.O_RDWR:
                        raise
            if os.path.samestat(os.fstat(descriptor), file.lstat()):
                closing.pop_all()
                return descriptor
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # no folder can be made there


def _holder(file: Path) -> str:
    for _ in range(20):  # it may have got the lock just now
        with contextlib.suppress(OSError):
            if said := file.read_text(errors="replace"):
                return f" ({said})"
        time.sleep(0.05)
    return ""
