"""What `task=compare` found, as plain records: the tables, the page and the W&B view are made from these alone.

A `Comparison` holds methods (rows) and tables; a table is one suite under one protocol and holds benchmarks (columns),
each one data set under one degradation: the smallest thing on which methods can be compared. `read_runs` makes
these records from run folders, `bootstrap` the intervals, `writers` Markdown, LaTeX and CSV.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from experiments.results.published import Published


@dataclass(frozen=True)
class Run:
    """One run folder, that is one seed of a method.

    Attributes:
        name: name of the folder.
        folder: where it is; None for a run that was read from W&B.
        seed: of the training; None without one.
        checkpoint: of the records, as they name it.
        checkpoint_sha256: first 16 hex digits, None without weights.
        created: ISO date of `meta.json`, or "".
        commit: of the code, or ""; ends in "+" where the working tree had changes.
        curves: of `metrics.csv`: metric ("val/psnr/y_shave4", "train/loss") -> [(step, value), ...] with rising steps.
    """

    name: str
    folder: Path | None
    seed: int | None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    created: str = ""
    commit: str = ""
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


@dataclass
class Method:
    """What is compared: one setting, all its seeds together.

    Attributes:
        label: unique in the comparison, for people.
        model: label of the model in the records; published figures are matched by it.
        setting: name of the runs without their seed; "" for the baseline.
        runs: one a seed; for the baseline (bicubic) all runs that measured it.
        self_ensemble: whether the result is the mean over the eight flips and rotations.
        parameters: of the network, or None where it is not known.
        baseline: bicubic enlargement of the same input, measured along with every network.
    """

    label: str
    model: str
    setting: str
    runs: tuple[Run, ...]
    self_ensemble: bool = False
    parameters: int | None = None
    baseline: bool = False


@dataclass(frozen=True)
class Difference:
    """A paired comparison `first` - `second` on the same images, in the unit of the metric.

    Attributes:
        first, second: labels of the methods.
        mean: mean difference over images (and seeds).
        low, high: 95 % interval of the mean (percentile bootstrap over images, and seeds where there are several).
        wins: images on which `first` is better, ties not counted.
        ties: images with equal values.
        images: how many images.
        better: `first`, `second`, or None where nothing is claimed: the interval holds 0, or the mean difference is 0
            in the digits that are printed.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    wins: int
    ties: int
    images: int
    better: str | None


@dataclass(frozen=True)
class Score:
    """One method on one benchmark under one metric.

    Attributes:
        mean: over images and seeds.
        images: image -> value, the mean over seeds.
        seeds: run name -> mean over images.
        rank: among the measured methods of this benchmark, by the value that is printed; equal ones share a rank.
        gain: against the reference method of the comparison; None for the reference itself and infinite values.
        published: figure of the paper for this method, if it is comparable.
    """

    mean: float
    images: dict[str, float]
    seeds: dict[str, float]
    rank: Literal["best", "second"] | None = None
    gain: Difference | None = None
    published: Published | None = None

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


@dataclass
class Benchmark:
    """One data set under one degradation, measured by one protocol: a column of a table.

    Attributes:
        dataset, split, scale: of the records.
        cell: keys of the suite's grid with their values; outside a suite the keys of the degradation that tell the
            columns of the table apart; {} where there is nothing to tell.
        degradation, suite_seed: equal for all methods; the degradation resolved.
        images: names of the images, in the order of the records.
        scores: metric -> label of the method -> score. Methods that were not measured here are absent.
        timings: label of the method -> timing.
        best: metric -> best against second best measured method; absent where there are not two.
        published: all published figures that belong here, of methods that were measured and others.
        folder: where the pictures of this benchmark are, below `images/` of a run folder.
    """

    dataset: str
    split: str
    scale: int | None
    cell: dict[str, Any]
    degradation: dict[str, Any]
    suite_seed: int | None
    images: tuple[str, ...]
    scores: dict[str, dict[str, Score]]
    timings: dict[str, Timing]
    best: dict[str, Difference]
    published: list[Published]
    folder: str

    @property
    def title(self) -> str:
        """`set5` or `bsd68, scale=2, number=0`."""
        return _title(self.dataset, self.cell)

    def cell_without(self, key: str) -> dict[str, Any]:
        """The row of a grid that this belongs to, where the columns are the values of a key."""
        return {name: value for name, value in self.cell.items() if name != key}


@dataclass
class Average:
    """Mean over benchmarks that all methods of the table have, of one data set: its images, or a row of a grid.

    Attributes:
        dataset: of all of them.
        cell: keys that all of them share.
        over: the key that varies, such as "degradation.kernels.number".
        count: how many benchmarks.
        scores, best: as of a benchmark; the value of an image is its mean over the benchmarks.
        published: as of a benchmark: means of published rows that are complete.
    """

    dataset: str
    cell: dict[str, Any]
    over: str
    count: int
    scores: dict[str, dict[str, Score]]
    best: dict[str, Difference]
    published: list[Published] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`bsd68, scale=2, mean over 12 kernels.number`."""
        return f"{_title(self.dataset, self.cell)}, mean over {self.count} {self.over.removeprefix('degradation.')}"


@dataclass
class Table:
    """All that is comparable of one suite under one protocol.

    Attributes:
        suite: name, or None for measurements outside a suite.
        protocol: as in the records: name, colour, shave, rounding, ssim.
        benchmarks: in the order of the records.
        averages: empty without a grid.
        notes: what has to be known to read it: left-out records, caveats of published figures, few images.
    """

    suite: str | None
    protocol: dict[str, Any]
    benchmarks: list[Benchmark]
    averages: list[Average] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`usrnet_table1, rgb_shave_s2`."""
        return f"{self.suite or 'no suite'}, {self.protocol['name']}"

    @property
    def metrics(self) -> list[str]:
        """Metrics of any benchmark, in order of appearance."""
        return list(dict.fromkeys(metric for benchmark in self.benchmarks for metric in benchmark.scores))

    def has(self, label: str) -> bool:
        """Whether a method was measured anywhere in this table."""
        return any(label in scores for benchmark in self.benchmarks for scores in benchmark.scores.values())


@dataclass
class Comparison:
    """Everything that `task=compare` found.

    Attributes:
        name: of the comparison.
        methods: rows, in the order in which the runs were given; the baseline first.
        reference: label of the method against which gains are given.
        tables: at least one, each with at least one benchmark.
        notes: about the whole, such as runs whose input could not be checked against each other.
        newest: ISO date of the newest run, or "".
        commits: of the code of the runs.
    """

    name: str
    methods: list[Method]
    reference: str
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    newest: str = ""
    commits: tuple[str, ...] = ()

    def method(self, label: str) -> Method:
        """The method of this label."""
        return next(method for method in self.methods if method.label == label)

    def methods_of(self, table: Table) -> list[Method]:
        """The methods that were measured anywhere in a table."""
        return [method for method in self.methods if table.has(method.label)]


def _title(dataset: str, cell: dict[str, Any]) -> str:
    return ", ".join([dataset, *(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in cell.items())])


def to_json(comparison: Comparison) -> str:
    """Everything as JSON; infinite values become null, folders plain strings."""
    return json.dumps(_plain(asdict(comparison)), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
