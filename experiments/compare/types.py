"""The result of `task=compare` as plain records: the tables, the page and the W&B view are made from these only.

A `Comparison` holds methods (rows) and tables; a table is one suite under one protocol and holds benchmarks (columns).
`read_runs` reads what `build` makes these records of, `bootstrap` the intervals; `tables` and `writers` print them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from experiments.results.published import Published
from experiments.results.records import EvaluationRecord


@dataclass(frozen=True)
class Run:
    """One run folder, that is one seed of a method."""

    name: str
    folder: Path | None  # None for a run that was read from W&B
    seed: int | None  # of the training, if there was one
    checkpoint: str | None = None  # of the records, as they name it
    checkpoint_sha256: str | None = None  # first 16 hex digits
    created: str = ""  # ISO date
    commit: str = ""  # of the code; ends in "+" where the working tree had changes
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # of metrics.csv: (step, value), in order
    where: str = ""  # as messages name it
    parameters: int | None = None  # of the network, where it is known
    network: dict[str, Any] | None = None  # node `model` of the config, where that is of the network of the records
    records: list[EvaluationRecord] = field(default_factory=list)


@dataclass
class Method:
    """What is compared: one setting, all its seeds together."""

    label: str  # unique in the comparison, for people
    model: str  # label of the model in the records; published figures are matched by it
    setting: str  # name of the runs without their seed; "" for the baseline
    runs: tuple[Run, ...]  # one a seed; for the baseline all runs that measured it
    self_ensemble: bool = False  # the result is the mean over the eight flips and rotations
    parameters: int | None = None  # of the network, where it is known
    baseline: bool = False  # bicubic enlargement of the same input, measured along with every network
    made_by: dict[str, dict[str, Any]] = field(default_factory=dict)  # `MADE_BY` of its records, by `where` of the run


@dataclass(frozen=True)
class Difference:
    """A paired comparison, `first` - `second`, on the same images, in the unit of the metric."""

    first: str
    second: str
    mean: float  # over images (and seeds)
    low: float  # 95 % interval of the mean: percentile bootstrap over images, by folder, and seeds, if several
    high: float
    wins: int  # images on which `first` is better, ties not counted
    ties: int
    images: int
    better: str | None  # None: the interval holds 0, or the mean is 0 in the digits that are printed


@dataclass(frozen=True)
class Score:
    """One method on one benchmark under one metric."""

    mean: float  # over images and seeds
    images: dict[str, float]  # the mean over seeds
    seeds: dict[str, float]  # name of the run -> mean over images
    rank: Literal["best", "second"] | None = None  # by the value that is printed; equal ones share a rank
    gain: Difference | None = None  # against the reference; None for the reference itself and infinite values
    published: Published | None = None  # for this method, if it is comparable

    @property
    def delta(self) -> float | None:
        """Measured minus published."""
        return None if self.published is None else self.mean - self.published.value


@dataclass(frozen=True)
class Timing:
    """Seconds per image of the forward pass: the median over images and seeds, and what it was measured on."""

    seconds: float
    device: str
    threads: int | None


def median_timing(timings: Sequence[Timing]) -> Timing | None:
    """None where there are none, or of several devices: those do not mix."""
    if len({(timing.device, timing.threads) for timing in timings}) != 1:
        return None
    return replace(timings[0], seconds=statistics.median(timing.seconds for timing in timings))


@dataclass
class Benchmark:
    """One data set under one degradation, measured by one protocol: the smallest thing on which methods compare."""

    dataset: str
    split: str
    scale: int | None
    cell: dict[str, Any]  # of the suite's grid; outside a suite what tells the benchmarks of the table apart
    degradation: dict[str, Any]
    suite_seed: int | None
    images: tuple[str, ...]
    scores: dict[str, dict[str, Score]]  # metric -> label of a method that was measured here
    timings: dict[str, Timing]  # by label
    best: dict[str, Difference]  # metric -> best against second best measured method
    published: list[Published]  # all figures of this data, of methods that were measured and others
    folder: str  # of the pictures, below `images/` of a run folder

    over: str = ""  # of a mean over benchmarks that all methods have: the key of the grid that varies,
    count: int = 1  # and over how many; the value of an image is then its mean, `cell` what all of them share

    @property
    def title(self) -> str:
        """`set5`, `bsd68, scale=2, number=0`, or `bsd68, scale=2, mean over 12 kernels.number`."""
        cell = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in self.cell.items()]
        mean = [f"mean over {self.count} {self.over.removeprefix('degradation.')}"] if self.over else []
        return ", ".join([self.dataset, *cell, *mean])

    def cell_without(self, key: str) -> dict[str, Any]:
        """The row of a grid that this belongs to, where the columns are the values of a key."""
        return {name: value for name, value in self.cell.items() if name != key}


@dataclass
class Table:
    """All that is comparable of one suite under one protocol."""

    suite: str | None  # None for measurements outside a suite
    protocol: dict[str, Any]  # as in the records, the name with the branch if it is not `sr`
    benchmarks: list[Benchmark]  # in the order of the records
    averages: list[Benchmark] = field(default_factory=list)  # over the columns of a grid
    notes: list[str] = field(default_factory=list)  # what a reader has to know: caveats, few images
    branch: str = "sr"  # the one that pictures and seconds are of

    @property
    def title(self) -> str:
        """`usrnet_table1, rgb_shave_s2`."""
        return f"{self.suite or 'no suite'}, {self.protocol['name']}"


@dataclass
class Comparison:
    """The result of `task=compare`."""

    name: str
    methods: list[Method]  # in the order in which the runs were given, the baseline first
    reference: str  # label of the method against which gains are given
    tables: list[Table]  # at least one, each with at least one benchmark
    notes: list[str] = field(default_factory=list)  # about the whole
    newest: str = ""  # ISO date of the newest run
    commits: tuple[str, ...] = ()  # of the code of the runs

    def method(self, label: str) -> Method:
        return next(method for method in self.methods if method.label == label)

    def methods_of(self, table: Table) -> list[Method]:
        """The methods that were measured anywhere in a table."""
        measured = {label for b in table.benchmarks for scores in b.scores.values() for label in scores}
        return [method for method in self.methods if method.label in measured]


def to_json(comparison: Comparison) -> str:
    """Everything but the records as JSON; infinite values become null, folders plain strings."""
    left_out: Any = {
        "methods": {"__all__": {"made_by": True, "runs": {"__all__": {"where", "parameters", "network", "records"}}}}
    }
    return TypeAdapter(Comparison).dump_json(comparison, indent=1, exclude=left_out).decode() + "\n"
