"""A Hydra sweeper for ablations: an experiment as it is, then each change of it alone, not all their combinations.

It stands in this namespace because Hydra looks for plugins nowhere else.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override


class OneByOne(BasicSweeper):
    """One job without a change and one for each change; sweeps of the command line (`seed=1,2,3`) multiply all of them.

    What a change sets wins over the command line, which therefore can set the same key for the other jobs.

    Args:
        changes: overrides as on the command line; several that belong together in one string, separated by spaces.
        max_batch_size: jobs that are composed at a time.
    """

    def __init__(self, changes: Sequence[str], max_batch_size: int | None = None) -> None:
        super().__init__(max_batch_size)
        self.changes = [change.split() for change in changes]

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
