"""Scores of the methods on one benchmark, and averages over the cells of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.compare.bootstrap import differ
from experiments.compare.types import Average, Benchmark, Difference, Score
from experiments.results.records import METRICS, canonical

# Metric -> label -> names of the runs (one a seed), and [seeds, images].
Values = Mapping[str, tuple[list[str], NDArray[np.float64]]]
AllValues = dict[str, dict[str, tuple[list[str], NDArray[np.float64]]]]
# Axes of a grid that are never averaged over: results of different scales and noise levels are different results.
_NEVER_AVERAGED = ("scale", "noise")


def scored(metric: str, images: Sequence[str], values: Values, reference: str) -> dict[str, Score]:
    """Means, ranks and gains of the methods on the same images under one metric."""
    means = {label: float(of.mean()) for label, (_, of) in values.items()}
    ranks = _ranks(metric, means)
    found = {}
    for label, (runs, of) in values.items():
        gain = None
        if label != reference and reference in values:
            gain = _difference(metric, label, values, reference)
        found[label] = Score(
            mean=means[label],
            images=dict(zip(images, map(float, of.mean(0)), strict=True)),
            seeds={run: float(row.mean()) for run, row in zip(runs, of, strict=True)},
            rank=ranks.get(label),
            gain=gain,
        )
    return found


def _difference(metric: str, label: str, values: Values, other: str) -> Difference | None:
    """None where a value is infinite (a result equal to the truth): such differences have no mean."""
    _, digits, sign = METRICS[metric]
    first, second = values[label][1], values[other][1]
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    found = differ((label, first), (other, second), sign)
    return replace(found, better=found.better if round(found.mean, digits) else None)


def _ranks(metric: str, means: Mapping[str, float]) -> dict[str, Literal["best", "second"]]:
    """Best and second best by the digits that are printed; nothing is best among one."""
    _, digits, sign = METRICS[metric]
    printed = {label: round(mean, digits) if math.isfinite(mean) else mean for label, mean in means.items()}
    steps = sorted(set(printed.values()), key=lambda value: -sign * value)
    if len(steps) < 2:
        return {}
    names: dict[float, Literal["best", "second"]] = {steps[0]: "best", steps[1]: "second"}
    return {label: names[value] for label, value in printed.items() if value in names}


def best_against_second(values: AllValues, scores: Mapping[str, Mapping[str, Score]]) -> dict[str, Difference]:
    """For each metric the best measured method against the next."""
    found = {}
    for metric, of in scores.items():
        sign = METRICS[metric][2]
        order = sorted(of, key=lambda label: -sign * of[label].mean)
        if len(order) > 1 and (difference := _difference(metric, order[0], values[metric], order[1])):
            found[metric] = difference
    return found


def averaged_key(benchmarks: Sequence[Benchmark]) -> str | None:
    """The key of the grid over which a mean makes sense: the one with most values, neither scale nor noise."""
    counts = {}
    for key in dict.fromkeys(key for benchmark in benchmarks for key in benchmark.cell):
        if key.rsplit(".", 1)[-1] not in _NEVER_AVERAGED:
            counts[key] = len({canonical(benchmark.cell.get(key)) for benchmark in benchmarks})
    best = max(counts, key=lambda key: counts[key], default=None)
    return best if best and counts[best] > 1 else None


def averages(benchmarks: Sequence[Benchmark], values: Sequence[AllValues], reference: str) -> Iterator[Average]:
    """Means over one key of the grid, for each data set and each row of the other keys.

    Cells that lack a method which another cell of the row has are left out for all methods.
    """
    over = averaged_key(benchmarks)
    if over is None:
        return
    rows: dict[str, list[int]] = {}
    for i, benchmark in enumerate(benchmarks):
        rows.setdefault(canonical({"dataset": benchmark.dataset, "cell": _rest(benchmark, over)}), []).append(i)
    for row in rows.values():
        first = benchmarks[row[0]]
        if any(benchmarks[i].images != first.images for i in row):
            continue
        found: AllValues = {}
        complete = _complete([benchmarks[i] for i in row])
        chosen = [i for i, whole in zip(row, complete, strict=True) if whole]
        if len(chosen) < 2:
            continue
        for metric in values[chosen[0]]:
            for label, (runs, _) in values[chosen[0]][metric].items():
                parts = [values[i][metric].get(label) for i in chosen if metric in values[i]]
                if len(parts) == len(chosen) and all(part is not None and part[0] == runs for part in parts):
                    stacked = np.stack([part[1] for part in parts if part is not None])
                    found.setdefault(metric, {})[label] = (runs, stacked.mean(0))
        scores = {metric: scored(metric, first.images, of, reference) for metric, of in found.items()}
        best = best_against_second(found, scores)
        yield Average(first.dataset, _rest(first, over), over, len(chosen), scores, best)


def _complete(row: Sequence[Benchmark]) -> Iterable[bool]:
    """Whether each cell has every method that any cell of the row has."""
    everyone = {label for benchmark in row for of in benchmark.scores.values() for label in of}
    return [all(any(label in of for of in b.scores.values()) for label in everyone) for b in row]


def _rest(benchmark: Benchmark, over: str) -> dict[str, object]:
    return {key: value for key, value in benchmark.cell.items() if key != over}
