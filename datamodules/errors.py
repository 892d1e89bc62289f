"""The one exception that means: the input is at fault, and the message says all a user needs."""

from pathlib import Path


class InputError(Exception):
    """A mistake outside the code: a file, a value, a download, a disk.

    The message is one line that names the file or key, the value found, what was expected and what to do.
    `run.py` prints it without a traceback and exits with a non-zero status.
    """


def gone(folder: Path) -> InputError:
    """The error for a folder that was there and is no more: nobody makes it again, for it may be a mount point."""
    return InputError(
        f"{folder}: is gone: it was removed, renamed or unmounted while the run wrote to it, so the run stops; put it "
        "back and continue with resume=auto, or start anew"
    )


def worker_death(error: BaseException) -> InputError | None:
    """What to say of torch's error about a worker that died, None for other errors.

    Torch raises it in a signal handler: in the midst of whatever the training process is doing.
    """
    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")):
        return None
    reason = str(error).splitlines()[0].rstrip(". ")
    return InputError(
        f"{reason}: the cache of decoded images (data.cache_dir) was cut off or its disk failed (bus error), "
        "or the machine ran out of memory (killed): see to that, then continue with resume=auto"
    )
