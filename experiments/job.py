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

# Before any library reads them: tracebacks are ours to print, and no library looks anything up on the network.
os.environ["HYDRA_FULL_ERROR"] = "1"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
# In a job of SLURM that is just starting: it has nothing to save, and by default would die of this and fail.
if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

# Hydra takes plugins from the namespace `hydra_plugins` alone, and looks for them once; ours stand beside the sweeps.
sys.path.append(str(Path(__file__).resolve().parent / "sweeps"))

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config.errors import ConfigError

log = logging.getLogger(__name__)
STOP_FILE = "DEBLUR_SR_STOP_FILE"  # environment variable: jobs in processes beside the sweep end when this file appears


class JobFailed(Exception):
    """A job of a sweep has failed and said why; the message is its one line. `status` is what it would exit with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)  # both, so that it survives the way back from another process
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


class JobStopped(JobFailed):
    """A job of a sweep was stopped by a signal, or never begun because of one; the whole sweep ends."""


_stopped: JobStopped | None = None  # what the other jobs of this process are answered with
_busy = False


def bar_wanted() -> bool:
    """Whether a progress bar has a terminal to itself."""
    return sys.stderr.isatty() and STOP_FILE not in os.environ


OmegaConf.register_new_resolver("stderr_is_terminal", bar_wanted, replace=True)


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
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and _stopped is not None:
        raise _stopped
    if STOP_FILE in os.environ:
        _heed(Path(os.environ[STOP_FILE]))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _busy = True
    try:
        return _perform(cfg)
    except JobFailed as error:
        if isinstance(error, JobStopped):
            _stopped = error
        if error.status != 2 or os.environ.get("SLURM_PROCID", "0") == "0":  # all tasks find the same in a config
            print(error, file=sys.stderr)
        if sweeping and not _one_of_several():
            raise
        # Leaving by SystemExit keeps Hydra from adding lines of its own.
        sys.exit(error.status)
    except Exception as error:
        if not sweeping or _one_of_several():
            raise
        traceback.print_exc()
        raise JobFailed(f"{type(error).__name__}: {' '.join(str(error).split())}", 1) from error
    finally:
        _busy = False
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _one_of_several() -> bool:
    """Whether other processes work on the same job, which must not wait for this one in the next job of a sweep."""
    from experiments.runtime.child_processes import RankProcesses
    from experiments.runtime.launchers import launched

    return launched() is not None or RankProcesses.rendezvous is not None


def _perform(cfg: DictConfig) -> float | None:
    from datamodules.distributed import StoppedElsewhere
    from datamodules.errors import InputError, LoaderStuck, worker_death
    from experiments.config.check import check
    from experiments.runtime import distributed
    from experiments.runtime.out_of_memory import explained
    from experiments.runtime.slurm_requeue import listen
    from lightning_modules.callbacks.interrupt import Interrupted

    leave = listen()
    try:
        complete(cfg)
        _announce(cfg)
        check(cfg, HydraConfig.get().runtime.choices)
        with distributed.together(), explained(cfg):
            return hydra.utils.instantiate(cfg.task)(cfg)
    except ConfigError as error:
        raise JobFailed(str(error), 2) from error
    except LoaderStuck as error:
        raise JobFailed(str(error), leave(error)) from error
    except InputError as error:
        raise JobFailed(str(error), 1) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = error.filename or cfg.run_dir
        line = f"{place}: {error.strerror}: free disk space, then continue with resume=auto"
        raise JobFailed(line, 1) from error
    except Interrupted as error:
        if not (status := leave(error)):
            sys.exit(0)
        raise JobStopped(str(error), status) from error
    except distributed.LostRank as error:
        raise JobFailed(str(error), leave(error)) from error
    except StoppedElsewhere:
        sys.exit(1)
    except RuntimeError as error:
        if death := worker_death(error):
            raise JobFailed(str(death), 1) from error
        raise


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
    """Fill in what the command line says of a job: its name."""
    from experiments.runtime.run_folder import run_name

    about: Any = HydraConfig.get()
    with open_dict(cfg):
        cfg.name = cfg.name or run_name(about.runtime.choices, list(about.overrides.task))


def _heed(stop: Path) -> None:
    """In a process that a sweep has started: end as by a signal when the sweep ends or is gone.

    Ctrl-C at the terminal reaches the sweep alone, which then asks every job once: at a second signal a job would stop
    without a checkpoint.
    """
    if stop.exists():
        raise JobStopped("not begun: the sweep was stopped", 128 + signal.SIGTERM)
    if signal.getsignal(signal.SIGTERM) is _end:
        return
    signal.signal(signal.SIGTERM, _end)
    if os.getpgrp() != os.getpid():
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
