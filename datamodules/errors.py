"""The one exception that means: the input is at fault, and the message says all a user needs."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path


class InputError(Exception):
    """A mistake outside the code: a file, a value, a download, a disk.

    The message is one line that names the file or key, the value found, what was expected and what to do.
    `run.py` prints it without a traceback and exits with a non-zero status.
    """


class LoaderStuck(InputError):
    """No batch came for so long that none will: the data are on something that no longer answers.

    Another attempt may well succeed, so the exit status is the one for that, and under SLURM the job is requeued.
    """

    exit_status = getattr(os, "EX_TEMPFAIL", 75)


def folder_vanished(folder: Path) -> InputError:
    """The error for a folder that was there and is no more: nobody makes it again, for it may be a mount point."""
    return InputError(
        f"{folder}: is gone: it was removed, renamed or unmounted while the run wrote to it, so the run stops; put it "
        "back and continue with resume=auto, or start anew"
    )


_CAUSES = {
    "SIGBUS": "the cache of decoded images (data.cache_dir) was cut off, its disk failed, or /dev/shm is full",
    "SIGKILL": "the machine ran out of memory",
}


def worker_death(error: BaseException, ended: Mapping[int, int] | None = None) -> InputError | None:
    """What to say of an error that comes of a dead worker of a loader, None for other errors.

    It has many forms: torch's own (in a signal handler, in the midst of whatever the process is doing, or when it next
    looks), and where the worker died while it sent a batch, that of a connection which is closed.

    Args:
        error: raised while a batch was waited for; elsewhere only torch's own form is known for certain.
        ended: workers that are found dead, number of the process to its exit status (below 0: minus the signal).
    """
    torch_says = isinstance(error, RuntimeError) and str(error).startswith(("DataLoader worker", "Pin memory thread"))
    if not ended and not torch_says and not isinstance(error, ConnectionError | EOFError):
        return None
    what = str(error).splitlines()[0].rstrip(". ") if torch_says else "a worker of the loader has died"
    cause = "; or ".join(f"{cause} ({name})" for name, cause in _CAUSES.items())
    for process, status in (ended or {}).items():
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        what, cause = f"a worker of the loader (process {process}) has died by {name}", _CAUSES.get(name, cause)
    return InputError(f"{what}: {cause}: see to that, then continue with resume=auto")
