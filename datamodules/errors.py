"""Errors whose line says all that a user needs, and what else ends a job in order.

Code decides by their classes and fields, never by the text. Their exit statuses: `experiments.runtime.exit_status`.
"""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

# A person at the keyboard; a machine that wants its place back, or says how long there is to go.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class UserError(Exception):
    """What a user can mend. `run.py` prints its line without a traceback and exits with a non-zero status.

    Args:
        line: the finished line, which names the file or key, the value found, what was expected and what to do; without
            it the line is made of the fields.
        key: of the config, with its full path, or argument of a function.
        file: that is at fault.
        found: the value, as the line spells it.
        expected: in its place.
        hint: what to do.
    """

    def __init__(
        self,
        line: str = "",
        *,
        key: str | None = None,
        file: Path | str | None = None,
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(line)
        self.line, self.key, self.file = line, key, file
        self.found, self.expected, self.hint = found, expected, hint

    def __str__(self) -> str:
        if self.line:
            return self.line
        values = [f"found {self.found}"] if self.found is not None else []
        values += [f"expected {self.expected}"] if self.expected is not None else []
        parts = [self.file, self.key, ", ".join(values) or None, self.hint]
        return ": ".join(str(part) for part in parts if part is not None)


class ConfigError(UserError):
    """A mistake in the config: the key, the value found, what is allowed. Its line may come from other libraries."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class InputError(UserError):
    """A mistake outside the code: a file, a value, a download, a disk."""


class OptionError(UserError, ValueError):
    """An option that a part of an experiment cannot be built with; `key` is its full path in the config."""


class LoaderStuck(InputError):
    """No batch came for so long that none will: the data are on something that no longer answers.

    Another attempt may well succeed: under SLURM the job is requeued.
    """


class Interrupted(Exception):
    """A signal asked the process to stop; `exit_status` is what a shell expects then (128 + signal).

    `saved` says whether it was in a training, whose state is in `last.ckpt`.
    """

    def __init__(self, signum: int, saved: bool = False) -> None:
        super().__init__(signum, saved)
        self.signum, self.saved = signum, saved
        self.exit_status = 128 + signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    """Signal handler for the phases in which there is nothing to save.

    SLURM repeats itself: a process that is leaving because of a signal goes on with that. Who presses Ctrl-C means it.
    """
    if isinstance(sys.exc_info()[1], Interrupted) and signum != signal.SIGINT:
        return
    raise Interrupted(signum)


class StoppedElsewhere(Exception):
    """Another rank has failed and says why; this one has nothing to add."""


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

    Torch's is a plain `RuntimeError`: its text is all that tells it from others.

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
