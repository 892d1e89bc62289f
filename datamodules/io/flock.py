"""Locks on open files between processes. Windows has none of this kind: nothing is locked there, as a line says."""

import logging
from functools import cache
from typing import IO, Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
LOCKS = fcntl is not None


def lock(file: int | IO[Any]) -> None:
    """Lock an open file, for this process alone, until it is closed.

    Raises:
        BlockingIOError: if another process has the lock.
        OSError: if the file system has no locks.
    """
    if LOCKS:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        _warn()


@cache
def _warn() -> None:
    log.warning("this system has no locks of files: see to it that no two processes work in one folder")
