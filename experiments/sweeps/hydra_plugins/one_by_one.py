"""The sweepers of the suite: Hydra's own that keep account of their jobs, and one for ablations.

They stand in this namespace because Hydra looks for plugins nowhere else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OneByOne(BasicSweeper):
    """One job without a change and one for each change; sweeps of the command line (`seed=1,2,3`) multiply all of them.

    Without changes this is Hydra's basic sweeper: all combinations. What a change sets wins over the command line,
    which therefore can set the same key for the other jobs. See `experiments.sweeps.launcher` for what happens to
    jobs that are finished, fail or are interrupted.

    Args:
        changes: overrides as on the command line; several that belong together in one string, separated by spaces.
        max_batch_size: jobs that are composed and launched at a time.
        params: sweeps by key, as on the command line.
    """

    def __init__(
        self, changes: Sequence[str] = (), max_batch_size: int | None = None, params: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(max_batch_size, dict(params or {}))
        self.changes = [change.split() for change in changes]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from experiments.sweeps.launcher import (  # not above: plugins are loaded for `--help` too
            ResumableLauncher,
            prepare,
        )

        prepare(config)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.resumable = self.launcher = ResumableLauncher(self.launcher, config, hydra_context)

    def sweep(self, arguments: list[str]) -> Any:
        from experiments.sweeps.launcher import reported

        with reported(self.resumable):
            return super().sweep(arguments)

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
