"""The sweepers of the suite: Hydra's own that keep account of their jobs, and one for ablations.

They stand in this namespace because Hydra looks for plugins nowhere else. What they need is imported late, as plugins
are loaded for `--help` too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _Accounted(Sweeper):
    """A sweeper whose launcher skips what is finished; see `experiments.sweeps.launcher`."""

    sweeper: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from experiments.sweeps.launcher import ResumableLauncher, prepare

        prepare(config)
        self.sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.sweeper.launcher = ResumableLauncher(self.sweeper.launcher, config, hydra_context)

    def sweep(self, arguments: list[str]) -> Any:
        from experiments.sweeps.launcher import reported

        self.sweeper.launcher.folder.mkdir(parents=True, exist_ok=True)  # Optuna's sweeper writes there, but makes none
        with reported(self.sweeper.launcher):
            return self.sweeper.sweep(arguments)


class OneByOne(_Accounted):
    """One job without a change and one for each change; sweeps of the command line (`seed=1,2,3`) multiply all of them.

    Without changes this is Hydra's basic sweeper: all combinations. What a change sets wins over the command line,
    which therefore can set the same key for the other jobs.

    Args:
        changes: overrides as on the command line; several that belong together in one string, separated by spaces.
        max_batch_size: jobs that are composed and launched at a time.
        params: sweeps by key, as on the command line.
    """

    def __init__(
        self, changes: Sequence[str] = (), max_batch_size: int | None = None, params: Mapping[str, str] | None = None
    ) -> None:
        self.sweeper = _Changes(max_batch_size, dict(params or {}))
        self.sweeper.changes = [change.split() for change in changes]


class _Changes(BasicSweeper):
    changes: list[list[str]]

    # Static in Hydra, which calls it on the object all the same.
    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of every job, in batches."""
        (given,) = BasicSweeper.split_arguments(overrides, None)
        jobs = [with_change(job, change) for change in ([], *self.changes) for job in given]
        return [list(batch) for batch in self.split_overrides_to_chunks(jobs, max_batch_size)]


def with_change(job: Sequence[str], change: Sequence[str]) -> list[str]:
    """The overrides of a job with those of a change in place of its own for the same keys."""
    keys = {item.split("=")[0].lstrip("+~") for item in change}
    return [*(item for item in job if item.split("=")[0].lstrip("+~") not in keys), *change]


class Search(_Accounted):
    """An Optuna study for the highest validation PSNR, by hydra-optuna-sweeper.

    There is no storage: the sampler has a seed, and trials that are finished answer at once. So the same command with
    resume=auto proposes the same trials, goes on where it stopped, and with a larger `n_trials` beyond. `n_jobs` has
    to stay as it was.

    Args:
        sampler: a sampler of Optuna, with a seed.
        n_trials: in all.
        n_jobs: trials that are proposed, and launched, at a time.
        params: what is searched, by key, as on the command line: choice(...), interval(...), tag(log, interval(...)).

    Raises:
        ConfigError: if the plugin is not installed.
    """

    def __init__(self, sampler: DictConfig, n_trials: int, n_jobs: int, params: DictConfig | None = None) -> None:
        from experiments.sweeps.launcher import missing_plugin

        try:
            from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
            from hydra_plugins.hydra_optuna_sweeper.config import Direction
        except ImportError as error:
            raise missing_plugin("hydra/sweeper=optuna", "hydra-optuna-sweeper") from error
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweeper = OptunaSweeperImpl(
            sampler=hydra.utils.instantiate(sampler),
            direction=Direction.maximize,
            storage=None,
            study_name=None,
            n_trials=n_trials,
            n_jobs=n_jobs,
            max_failure_rate=1.0,  # a trial that fails has no score; the search goes on
            search_space=None,
            custom_search_space=None,
            params=params,
        )
