"""What a job exits with, by what has ended it."""

from datamodules.errors import ConfigError, InputError, Interrupted, LoaderStuck, OptionError, StoppedElsewhere
from experiments.runtime.child_processes import AGAIN, LostRank

# Of two that fit the first one counts; None: the error knows its own.
STATUSES: dict[type[BaseException], int | None] = {
    ConfigError: 2,
    OptionError: 2,
    LoaderStuck: AGAIN,
    InputError: 1,
    Interrupted: None,  # 128 + the signal
    LostRank: None,  # that of the process which failed first, or `child_processes.LOST`
    StoppedElsewhere: 1,
    KeyboardInterrupt: 130,
    BrokenPipeError: 141,  # `run.py --help | head`: the reader has seen enough
}


def status_of(error: BaseException) -> int | None:
    """The exit status for an error; None for a fault of the program, which ends in a traceback."""
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return error.exit_status if isinstance(error, Interrupted | LostRank) else status
    return None
