"""The sweeper for searches: that of hydra-optuna-sweeper, with the account that all sweeps of the suite keep."""

from typing import Any

import hydra
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Search(Sweeper):
    """An Optuna study for the highest validation PSNR.

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
        from experiments.sweeps.launcher import missing_plugin  # not above: plugins are loaded for `--help` too

        try:
            from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
            from hydra_plugins.hydra_optuna_sweeper.config import Direction
        except ImportError as error:
            raise missing_plugin("hydra/sweeper=optuna", "hydra-optuna-sweeper") from error
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study: Any = OptunaSweeperImpl(
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

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from experiments.sweeps.launcher import ResumableLauncher, prepare

        prepare(config)
        self.study.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.resumable = self.study.launcher = ResumableLauncher(self.study.launcher, config, hydra_context)

    def sweep(self, arguments: list[str]) -> Any:
        from experiments.sweeps.launcher import reported

        self.resumable.folder.mkdir(parents=True, exist_ok=True)
        with reported(self.resumable):
            return self.study.sweep(arguments)
