"""Scores of the methods on one benchmark, and averages over the cells of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.compare.bootstrap import differ
from experiments.compare.types import Benchmark, Difference, Score
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
    scores = {}
    for label, (runs, of) in values.items():
        compared = label != reference and reference in values
        scores[label] = Score(
            mean=means[label],
            images=dict(zip(images, map(float, of.mean(0)), strict=True)),
            seeds={run: float(row.mean()) for run, row in zip(runs, of, strict=True)},
            rank=ranks.get(label),
            gain=_difference(metric, label, values, reference) if compared else None,
        )
    return scores


def _difference(metric: str, label: str, values: Values, other: str) -> Difference | None:
    """None where a value is infinite (a result equal to the truth): such differences have no mean."""
    _, digits, sign = METRICS[metric]
    first, second = values[label][1], values[other][1]
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    difference = differ((label, first), (other, second), sign)
    return difference if round(difference.mean, digits) else replace(difference, better=None)


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
    best = {}
    for metric, of in scores.items():
        sign = METRICS[metric][2]
        order = sorted(of, key=lambda label: -sign * of[label].mean)
        if len(order) > 1 and (difference := _difference(metric, order[0], values[metric], order[1])):
            best[metric] = difference
    return best


def averaged_key(benchmarks: Sequence[Benchmark]) -> str | None:
    """The key of the grid over which a mean makes sense: the one with most values, neither scale nor noise."""
    counts = {}
    for key in dict.fromkeys(key for benchmark in benchmarks for key in benchmark.cell):
        if key.rsplit(".", 1)[-1] not in _NEVER_AVERAGED:
            counts[key] = len({canonical(benchmark.cell.get(key)) for benchmark in benchmarks})
    best = max(counts, key=lambda key: counts[key], default=None)
    return best if best and counts[best] > 1 else None


def averages(benchmarks: Sequence[Benchmark], values: Sequence[AllValues], reference: str) -> Iterator[Benchmark]:
    """Means over one key of the grid, for each data set and each row of the other keys.

    Cells that lack a method which another cell of the row has are left out for all methods.
    """
    over = averaged_key(benchmarks)
    if over is None:
        return
    rows: dict[str, list[tuple[Benchmark, AllValues]]] = {}
    for benchmark, of in zip(benchmarks, values, strict=True):
        rows.setdefault(canonical([benchmark.dataset, benchmark.cell_without(over)]), []).append((benchmark, of))
    for row in rows.values():
        first = row[0][0]
        everyone = {label for benchmark, _ in row for label in _labels(benchmark)}
        chosen = [of for benchmark, of in row if _labels(benchmark) == everyone]
        if len(chosen) < 2 or any(benchmark.images != first.images for benchmark, _ in row):
            continue
        means: AllValues = {}
        for metric in chosen[0]:
            for label, (runs, _) in chosen[0][metric].items():
                parts = [of[metric][label] for of in chosen if label in of.get(metric, {})]
                if len(parts) == len(chosen) and all(part[0] == runs for part in parts):
                    means.setdefault(metric, {})[label] = (runs, np.mean([part[1] for part in parts], axis=0))
        scores = {metric: scored(metric, first.images, of, reference) for metric, of in means.items()}
        yield replace(
            first,
            cell=first.cell_without(over),
            scores=scores,
            timings={},
            best=best_against_second(means, scores),
            published=[],
            over=over,
            count=len(chosen),
        )


def _labels(benchmark: Benchmark) -> set[str]:
    return {label for scores in benchmark.scores.values() for label in scores}
