"""A sweep: jobs that are finished are skipped, one that fails leaves the others alone, a table stands at the end.

`ResumableLauncher` goes between any Hydra sweeper and any launcher, so all of this holds for each pair of them.
"""

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from datamodules.errors import ConfigError
from datamodules.installed import PIP_INSTALL
from experiments.config.arguments import in_quotes
from experiments.job import JobFailed, JobStopped, begin_sweep, complete
from experiments.runtime.environment import STOP_FILE
from experiments.runtime.launchers import place
from experiments.runtime.run_folder import named_overrides, run_name
from experiments.sweeps.table import Row, read_row, score_of_finished, write_tables

_HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_BESIDE = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


@dataclass
class Job:
    """One job of a sweep."""

    number: int  # in the sweep
    overrides: list[str]  # of the command line, without those of Hydra
    cfg: dict[str, Any]  # complete and resolved
    error: str = ""  # its one line, if it failed in this sweep
    completed: bool = False  # whether it came to its end in this sweep

    @property
    def trains(self) -> bool:
        return str(self.cfg["task"]["_target_"]) == "experiments.train.run"

    @property
    def key(self) -> Path | int:
        """Equal for jobs that are one: trainings in the same folder. A search may draw the same values twice."""
        return Path(self.cfg["run_dir"]) if self.trains else self.number


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
            JobStopped: at SIGINT or SIGTERM, when the jobs have written their checkpoints; at a second one at once.
        """
        jobs = [self._read(number, list(overrides)) for number, overrides in enumerate(job_overrides, len(self.jobs))]
        first: dict[Path | int, Job] = {}
        for job in [*self.jobs, *jobs]:
            if first.setdefault(job.key, job).cfg != job.cfg:
                raise ConfigError(
                    f"{job.key}: two different jobs of this sweep would train in this folder: its name does not "
                    "tell them apart, sweep over something that does"
                )
        self.jobs += jobs
        results: dict[Path | int, JobReturn] = {}
        fresh: dict[Path | int, Job] = {}
        for job in jobs:
            score = score_of_finished(job.cfg) if job.trains and job.cfg["resume"] == "auto" else None
            if score is None:
                fresh.setdefault(job.key, job)
                continue
            print(f"finished already: {job.key}", flush=True)
            results[job.key] = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=score)
        here = f"hydra.sweep.dir={in_quotes(str(self.folder))}"
        launched = [[*job_overrides[job.number - jobs[0].number], here] for job in fresh.values()]
        try:
            with _signals(str(self.config.hydra.launcher._target_), self.folder):
                returned = self.launcher.launch(launched, initial_job_idx) if launched else []
        except BrokenProcessPool as error:  # joblib's is one too
            raise _said(
                JobFailed(
                    "a process of the sweep was killed, perhaps for its memory (lower hydra.launcher.n_jobs), and the "
                    "others were ended: the same command with resume=auto continues the sweep"
                )
            ) from error
        for job, result in zip(fresh.values(), returned, strict=True):
            results[job.key] = self._account(job, result)
        for job in jobs:
            job.error = fresh[job.key].error if job.key in fresh else ""
        return [results[job.key] for job in jobs]

    def _read(self, number: int, overrides: list[str]) -> Job:
        cfg = self.context.config_loader.load_sweep_config(self.config, overrides)
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(cfg)
        try:
            given = [str(item) for item in cfg.hydra.overrides.task]
            cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            complete(cfg)
            return Job(number, given, OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]  # a mapping
        finally:
            HydraConfig.instance().cfg = before

    def _account(self, job: Job, result: JobReturn) -> JobReturn:
        if result.status == JobStatus.COMPLETED:
            job.completed = True
            return result
        error: Any = result._return_value  # the property would raise it
        if isinstance(error, JobStopped):
            raise error
        if not isinstance(error, JobFailed):
            error = JobFailed(f"{type(error).__name__}: {' '.join(str(error).split())}")
        job.error = str(error)
        self.failed.append(error)
        result.status, result.return_value = JobStatus.COMPLETED, None
        return result

    def rows(self) -> list[Row]:
        """The jobs launched so far, one row for each folder of a training."""
        overrides = [job.overrides for job in self.jobs]
        common = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
        rows: dict[Path | int, Row] = {}
        for job in self.jobs:
            varying = " ".join(item for item in job.overrides if item not in common)
            rows.setdefault(job.key, read_row(job.cfg, varying, job.error, job.trains, job.completed))
        return list(rows.values())


@contextmanager
def _signals(launcher: str, folder: Path) -> Iterator[None]:
    """Signals during a launch. Jobs in other processes are asked to end by a file.

    Raises:
        JobStopped: at the first signal, but with such jobs when the launcher has returned, or at a second signal.
    """
    received: list[JobStopped] = []
    stop = folder.resolve() / f".stop-{os.getpid()}"

    def handle(signum: int, frame: FrameType | None) -> None:
        reason = f"stopped by {signal.Signals(signum).name}"
        if launcher not in (_HERE, _BESIDE):
            reason += " (jobs that were submitted go on)"
        received.append(JobStopped(reason, 128 + signum))
        if launcher != _BESIDE or len(received) > 1:
            raise received[-1]
        print("stopping: the jobs finish their step and write their checkpoints", file=sys.stderr, flush=True)
        stop.touch()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    if launcher == _BESIDE:
        folder.mkdir(parents=True, exist_ok=True)
        stop.unlink(missing_ok=True)  # of a process that had this number and was killed
        os.environ[STOP_FILE] = str(stop)
    try:
        yield
    except JobStopped:
        raise
    except Exception as error:
        if received:
            raise received[0] from error  # what the end of its workers did to the launcher
        raise
    finally:
        os.environ.pop(STOP_FILE, None)
        for number, handler in before.items():
            signal.signal(number, handler)
        with suppress(OSError):
            stop.unlink()
    if received:
        raise received[0]


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
    return ConfigError(f"{choice}: its package {package} is not installed: {PIP_INSTALL} {package}")


def sweep_name(config: DictConfig) -> str:
    """The name of a sweep's folder: the same for the same command."""
    choices = dict(config.hydra.runtime.choices)
    given: Any = OmegaConf.to_container(config.hydra.overrides.task)  # ${hydra:job.num} is not known yet
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
    stopped: JobStopped | None = None
    try:
        yield
    except JobStopped as error:
        stopped = error
    except ValueError:
        if not watched.failed:  # a search without a single score
            raise
    finally:
        if place()[0] == 0:
            write_tables(watched.folder, watched.rows())
    if stopped is not None:
        raise _said(JobFailed(f"{stopped}: the same command with resume=auto continues the sweep", stopped.status))
    if watched.failed:
        status = 2 if all(error.status == 2 for error in watched.failed) else 1
        raise _said(JobFailed(f"{len(watched.failed)} of {len(watched.jobs)} jobs failed", status))


def _said(error: JobFailed) -> JobFailed:
    print(error, file=sys.stderr, flush=True)
    return error
