"""One job: check the composed configuration, call the task. `run.py` runs one, a sweep several, also in processes."""

import errno
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from datamodules.errors import ConfigError, InputError, Interrupted, StoppedElsewhere, UserError, worker_death
from experiments.runtime.child_processes import PORT
from experiments.runtime.environment import STOP_FILE, escape_output, prepare_environment
from experiments.runtime.exit_status import status_of
from experiments.runtime.launchers import launched, place

log = logging.getLogger(__name__)


_OF_DISKS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "mend the permissions"),
    **dict.fromkeys((errno.EROFS, errno.EIO, errno.ESTALE), "mend or remount the file system"),
}


class JobFailed(Exception):
    """A job of a sweep has failed and said why; the message is its one line. `status` is what it would exit with."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)  # its status travels with the attributes, where it is pickled
        self.status = status


class JobStopped(JobFailed):
    """A job of a sweep was stopped by a signal, or never begun because of one; the whole sweep ends."""


_stopped: JobStopped | None = None  # what the other jobs of this process are answered with
_busy = False


def begin_sweep() -> None:
    """Forget what happened to earlier sweeps of this process."""
    global _stopped
    _stopped = None


def job(cfg: DictConfig) -> float | None:
    """Check the whole configuration before any data is read, then call the task.

    Raises:
        JobFailed: in a sweep, whose other jobs go on. A single job prints its line and leaves with its status.
    """
    global _stopped, _busy
    prepare_environment()  # a process of joblib's begins here
    escape_output()
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and _stopped is not None:
        raise _stopped
    if STOP_FILE in os.environ:
        _heed(Path(os.environ[STOP_FILE]))
    # Other processes that work on the same job must not wait for this one in the next job of a sweep.
    try:
        rank, _ = place()
        by_itself = sweeping and launched() is None and PORT not in os.environ
    except ConfigError as error:  # said by each process: none of them knows which it is
        print(error, file=sys.stderr)
        sys.exit(status_of(error))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _busy = True
    try:
        return _perform(cfg)
    except JobFailed as error:
        if isinstance(error, JobStopped):
            _stopped = error
        if error.status != 2 or rank == 0:  # all find the same in a config
            print(error, file=sys.stderr)
        if by_itself:
            raise
        # Leaving by SystemExit keeps Hydra from adding lines of its own.
        sys.exit(error.status)
    except Exception as error:
        if not by_itself:
            raise
        traceback.print_exc()
        raise JobFailed(f"{type(error).__name__}: {' '.join(str(error).split())}", 1) from error
    finally:
        _busy = False
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _perform(cfg: DictConfig) -> float | None:
    # These take seconds, which --help and what Hydra refuses do not wait for.
    from experiments.config.check import check
    from experiments.runtime.slurm_requeue import listen

    leave = listen()
    try:
        complete(cfg)
        _announce(cfg)
        check(cfg, HydraConfig.get().runtime.choices)
        from experiments.runtime import distributed  # with torch, for which a refused config need not wait

        with distributed.together():
            return hydra.utils.instantiate(cfg.task)(cfg)
    except Exception as error:
        known = _of_the_system(error, cfg) or error
        status = status_of(known)
        if status is None or isinstance(known, BrokenPipeError):  # nobody is there to be told of that
            raise
        status = leave(known, status, Path(cfg.get("run_dir") or ""))
        interrupted = isinstance(known, Interrupted)
        if isinstance(known, StoppedElsewhere) or (interrupted and status == 0):  # another process speaks for this one
            sys.exit(status)
        raise (JobStopped if interrupted else JobFailed)(str(known), status) from error


def _of_the_system(error: Exception, cfg: DictConfig) -> UserError | None:
    """What to say where a disk is full, memory has run out, a worker of a loader was killed or a key was deleted."""
    deleted = [item[1:].partition("=")[0] for item in HydraConfig.get().overrides.task if item.startswith("~")]
    lacking = error.full_key if isinstance(error, OmegaConfBaseException) else getattr(error, "key", None)
    for key in deleted:
        if f"{lacking}.".startswith(f"{key}."):
            return ConfigError(f"{key}: is missing, deleted on the command line: omit ~{key}")
    if isinstance(error, OSError) and error.errno in _OF_DISKS:
        place = error.filename or cfg.run_dir
        return InputError(
            f"{place}: {error.strerror}: {_OF_DISKS[error.errno]}, then continue with resume=auto", file=place
        )
    if isinstance(error, RuntimeError | MemoryError):
        from experiments.runtime.out_of_memory import explain_shortage

        return worker_death(error) or explain_shortage(error, cfg)
    return None


def _announce(cfg: DictConfig) -> None:
    """Of several jobs each says which one it is; those side by side say so in every line of their logs."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    mark = f"[{HydraConfig.get().job.num}] "
    if STOP_FILE in os.environ:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(f"{mark}%(message)s"))
        mark = ""
    log.info("%s%s", mark, cfg.run_dir)


def complete(cfg: DictConfig) -> None:
    """Fill in what the command line says of a job: its name, and text that Hydra has taken for a number.

    Raises:
        ConfigError: for a name that cannot be.
    """
    from experiments.config.check import take_text
    from experiments.runtime.run_folder import checked_name, run_name
    from lightning_modules.checkpoints.untrusted import escaped

    about: Any = HydraConfig.get()
    with open_dict(cfg):
        take_text(cfg, about.overrides.task)
        name = run_name(about.runtime.choices, list(about.overrides.task)) if cfg.name is None else cfg.name
        cfg.name = escaped(checked_name(str(name)))


def _heed(stop: Path) -> None:
    """In a process that a sweep has started: end as by a signal when the sweep ends or is gone.

    Ctrl-C at the terminal reaches only the sweep, which then asks every job once: at a second signal a job would stop
    without a checkpoint.
    """
    if stop.exists():
        raise JobStopped("not begun: the sweep was stopped", 128 + signal.SIGTERM)
    if signal.getsignal(signal.SIGTERM) is _end:
        return
    signal.signal(signal.SIGTERM, _end)
    if hasattr(os, "getpgrp") and os.getpgrp() != os.getpid():  # Windows has no groups
        os.setpgid(0, 0)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and not stop.exists():
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _end(signum: int, frame: FrameType | None) -> None:
    """Signal handler before and between jobs, where there is nothing to save."""
    if _busy:
        raise JobStopped(f"stopped by {signal.Signals(signum).name}", 128 + signum)
