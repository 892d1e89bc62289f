"""A sweep: jobs that are finished are skipped, one that fails leaves the others alone, a table stands at the end.

`ResumableLauncher` goes between any Hydra sweeper and any launcher, so all of this holds for each pair of them.
"""

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config.errors import ConfigError
from experiments.job import JobFailed, JobStopped, begin_sweep, complete
from experiments.runtime.environment import STOP_FILE
from experiments.runtime.run_folder import named_overrides, run_name
from experiments.sweeps.table import Row, read_row, score_of_finished, write_tables

_HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_BESIDE = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


@dataclass
class Job:
    """One job of a sweep.

    Attributes:
        overrides: of the command line, without those of Hydra.
        cfg: its configuration, complete and resolved.
        error: its one line, if it failed in this sweep.
        completed: whether it came to its end in this sweep.
    """

    overrides: list[str]
    cfg: dict[str, Any]
    error: str = ""
    completed: bool = False

    @property
    def trains(self) -> bool:
        return str(self.cfg["task"]["_target_"]) == "experiments.train.run"

    @property
    def folder(self) -> Path:
        return Path(self.cfg["run_dir"])


class Stopped(Exception):
    """A signal has stopped a sweep; `status` is what it exits with."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason, status)  # both, so that it survives pickling
        self.reason, self.status = reason, status

    def __str__(self) -> str:
        return self.reason


class ResumableLauncher(Launcher):
    """A launcher that has another one launch what is not finished yet, keeps account, and stops at the first signal.

    The sweeper sees the score of a finished job, and None for one that failed.
    """

    def __init__(self, launcher: Launcher, config: DictConfig, context: HydraContext) -> None:
        self.launcher, self.config, self.context = launcher, config, context
        self.folder = Path(config.hydra.sweep.dir)
        self.jobs: list[Job] = []
        self.failed: list[JobFailed] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing to do: the launcher inside is set up already."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What the launcher returns, of finished jobs the score that they have.

        Raises:
            Stopped: at SIGINT or SIGTERM, when the jobs have written their checkpoints; at a second one at once.
        """
        jobs = [self._read(list(overrides)) for overrides in job_overrides]
        for job in jobs:
            others = (other for other in [*self.jobs, *jobs] if job.trains and other.folder == job.folder)
            if any(other.cfg != job.cfg for other in others):
                raise ConfigError(
                    f"{job.folder}: two different jobs of this sweep would train in this folder: its name does not "
                    "tell them apart, sweep over something that does"
                )
        self.jobs += jobs
        scores = [score_of_finished(job.cfg) if job.trains and job.cfg["resume"] == "auto" else None for job in jobs]
        # Two jobs of the same name are one: a search may draw the same values twice.
        fresh: dict[Path | int, int] = {}
        for i, job in enumerate(jobs):
            if scores[i] is None:
                fresh.setdefault(job.folder if job.trains else i, i)
        done = {i: JobReturn(overrides=jobs[i].overrides, status=JobStatus.COMPLETED) for i in range(len(jobs))}
        for i, score in enumerate(scores):
            if score is not None:
                print(f"finished already: {jobs[i].folder}", flush=True)
                done[i].return_value = score
        with _signals(str(self.config.hydra.launcher._target_), self.folder) as check:
            launched = [[*job_overrides[i], f"hydra.sweep.dir={_quoted(self.folder)}"] for i in fresh.values()]
            try:
                returned = self.launcher.launch(launched, initial_job_idx) if launched else []
            except Exception as error:
                check()
                if not isinstance(error, BrokenProcessPool):  # joblib's is one too
                    raise
                raise _said(
                    JobFailed(
                        "a process of the sweep was killed, perhaps for its memory (lower hydra.launcher.n_jobs), and "
                        "the others were ended: the same command with resume=auto continues the sweep",
                        1,
                    )
                ) from error
            check()
        for i, result in zip(fresh.values(), returned, strict=True):
            done[i] = self._account(jobs[i], result)
        for i, job in enumerate(jobs):
            if scores[i] is None and i not in fresh.values():
                first = fresh[job.folder]
                done[i], job.error = done[first], jobs[first].error
        return [done[i] for i in range(len(jobs))]

    def _read(self, overrides: list[str]) -> Job:
        cfg = self.context.config_loader.load_sweep_config(self.config, overrides)
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(cfg)
        try:
            given = [str(item) for item in cfg.hydra.overrides.task]
            cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            complete(cfg)
            return Job(given, OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]  # a mapping
        finally:
            HydraConfig.instance().cfg = before

    def _account(self, job: Job, result: JobReturn) -> JobReturn:
        if result.status == JobStatus.COMPLETED:
            job.completed = True
            return result
        error: Any = result._return_value  # the property would raise it
        if isinstance(error, JobStopped):
            raise Stopped(str(error), error.status) from error
        if not isinstance(error, JobFailed):
            error = JobFailed(f"{type(error).__name__}: {' '.join(str(error).split())}", 1)
        job.error = str(error)
        self.failed.append(error)
        result.status, result.return_value = JobStatus.COMPLETED, None
        return result

    def rows(self) -> list[Row]:
        """The jobs launched so far, one row for each folder of a training."""
        varying = _varying([job.overrides for job in self.jobs])
        rows: dict[Path | int, Row] = {}
        for i, (job, overrides) in enumerate(zip(self.jobs, varying, strict=True)):
            row = read_row(job.cfg, overrides, job.error, job.trains, job.completed)
            rows.setdefault(job.folder if job.trains else i, row)
        return list(rows.values())


@contextmanager
def _signals(launcher: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Signals during a launch. Jobs in processes beside this one are asked to end by a file.

    Yields a function to call when the launcher has returned: it raises `Stopped` if that was because of a signal.
    """
    received: list[Stopped] = []
    stop = folder.resolve() / f".stop-{os.getpid()}"

    def handle(signum: int, frame: FrameType | None) -> None:
        reason = f"stopped by {signal.Signals(signum).name}"
        if launcher not in (_HERE, _BESIDE):
            reason += " (jobs that were submitted go on)"
        received.append(Stopped(reason, 128 + signum))
        if launcher != _BESIDE or len(received) > 1:
            raise received[-1]
        print("stopping: the jobs finish their step and write their checkpoints", file=sys.stderr, flush=True)
        stop.touch()

    def check() -> None:
        if received:
            raise received[0]

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    if launcher == _BESIDE:
        folder.mkdir(parents=True, exist_ok=True)
        stop.unlink(missing_ok=True)  # of a process that had this number and was killed
        os.environ[STOP_FILE] = str(stop)
    try:
        yield check
    except Stopped:
        raise
    except Exception as error:
        if received:
            raise received[0] from error  # what the end of its workers did to the launcher
        raise
    finally:
        os.environ.pop(STOP_FILE, None)
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.unlink(missing_ok=True)


def prepare(config: DictConfig) -> None:
    """What a sweeper does first: forget earlier sweeps, give this one a folder of its own, look for the launcher.

    Raises:
        ConfigError: if the launcher's package is not installed.
    """
    begin_sweep()
    target = str(config.hydra.launcher._target_)
    package = ".".join(target.split(".")[:2])
    if target.startswith("hydra_plugins.") and importlib.util.find_spec(package) is None:
        choice = config.hydra.runtime.choices["hydra/launcher"]
        raise missing_plugin(f"hydra/launcher={choice}", package.removeprefix("hydra_plugins.").replace("_", "-"))
    if not any(item.startswith("hydra.sweep.dir=") for item in config.hydra.overrides.hydra):
        with open_dict(config):
            config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir) / sweep_name(config))


def missing_plugin(choice: str, package: str) -> ConfigError:
    return ConfigError(f"{choice}: its package {package} is not installed: pip install -c constraints.txt {package}")


def sweep_name(config: DictConfig) -> str:
    """The name of a sweep's folder: the same for the same command."""
    choices, given = dict(config.hydra.runtime.choices), list(config.hydra.overrides.task)
    swept = named_overrides(given)
    for group in ("model", "data"):  # of several the choice is only the last one
        choices[group] = swept.get(group, choices[group])
    return re.sub(r"[^A-Za-z0-9._=-]", "_", run_name(choices, given))


@contextmanager
def reported(watched: ResumableLauncher) -> Iterator[None]:
    """Around a sweep: whatever ends it, its table is printed and written, and then it fails if a job did.

    Raises:
        JobFailed: after the others, if one or more jobs failed, or a signal has stopped the sweep.
    """
    begin_sweep()
    stopped: Stopped | None = None
    try:
        yield
    except Stopped as error:
        stopped = error
    except ValueError:
        if not watched.failed:  # a search without a single score
            raise
    finally:
        if not any(int(os.environ.get(key, 0)) for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
            write_tables(watched.folder, watched.rows())
    if stopped is not None:
        raise _said(JobFailed(f"{stopped}: the same command with resume=auto continues the sweep", stopped.status))
    if watched.failed:
        status = 2 if all(error.status == 2 for error in watched.failed) else 1
        raise _said(JobFailed(f"{len(watched.failed)} of {len(watched.jobs)} jobs failed", status))


def _said(error: JobFailed) -> JobFailed:
    print(error, file=sys.stderr, flush=True)
    return error


def _varying(jobs: list[list[str]]) -> list[str]:
    """What distinguishes the jobs: their overrides without those that all of them have."""
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [" ".join(item for item in job if item not in common) for job in jobs]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
