"""Scores of the methods on one benchmark, and averages over the cells of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.compare.bootstrap import differ, groups_of
from experiments.compare.types import Benchmark, Difference, Score, median_timing
from experiments.results.records import METRICS, canonical
from experiments.results.tables import averaged

# Label -> names of the runs (one a seed), and [seeds, images].
Values = dict[str, tuple[list[str], NDArray[np.float64]]]


def scored(
    values: Mapping[str, Values], images: Sequence[str], reference: str
) -> tuple[dict[str, dict[str, Score]], dict[str, Difference]]:
    """By metric the scores of the methods on the same images, and the best method against the next."""
    scores: dict[str, dict[str, Score]] = {}
    best, groups = {}, groups_of(images)
    for metric, of in values.items():
        means = {label: float(seeds.mean()) for label, (_, seeds) in of.items()}
        ranks = _ranks(metric, means)
        baseline = (reference, of[reference][1]) if reference in of else None
        scores[metric] = {
            label: Score(
                mean=means[label],
                images=dict(zip(images, map(float, seeds.mean(0)), strict=True)),
                seeds={run: float(row.mean()) for run, row in zip(runs, seeds, strict=True)},
                rank=ranks.get(label),
                gain=differ(metric, (label, seeds), baseline, groups) if baseline and label != reference else None,
            )
            for label, (runs, seeds) in of.items()
        }
        order = sorted(means, key=lambda label: -METRICS[metric][2] * means[label])
        leaders = [(label, of[label][1]) for label in order[:2]]
        if len(leaders) > 1 and (difference := differ(metric, leaders[0], leaders[1], groups)):
            best[metric] = difference
    return scores, best


def _ranks(metric: str, means: Mapping[str, float]) -> dict[str, Literal["best", "second"]]:
    """Best and second best by the digits that are printed; nothing is best among one."""
    _, digits, sign = METRICS[metric]
    printed = {label: round(mean, digits) if math.isfinite(mean) else mean for label, mean in means.items()}
    steps = sorted(set(printed.values()), key=lambda value: -sign * value)
    if len(steps) < 2:
        return {}
    names: dict[float, Literal["best", "second"]] = {steps[0]: "best", steps[1]: "second"}
    return {label: names[value] for label, value in printed.items() if value in names}


def averages(
    benchmarks: Sequence[Benchmark], values: Sequence[dict[str, Values]], reference: str
) -> Iterator[tuple[Benchmark, list[Benchmark]]]:
    """Means over one key of the grid, for each data set and each row of the other keys, and what each is over.

    Cells that lack a method which another cell of the row has are left out for all methods.
    """
    over = _averaged_key(benchmarks)
    if over is None:
        return
    rows: dict[str, list[tuple[Benchmark, dict[str, Values]]]] = {}
    for benchmark, of in zip(benchmarks, values, strict=True):
        rows.setdefault(canonical([benchmark.dataset, benchmark.cell_without(over)]), []).append((benchmark, of))
    for row in rows.values():
        everyone = {label for benchmark, _ in row for label in _labels(benchmark)}
        row = [(benchmark, of) for benchmark, of in row if _labels(benchmark) == everyone]
        cells, chosen = [benchmark for benchmark, _ in row], [of for _, of in row]
        if len(cells) < 2 or any(benchmark.images != cells[0].images for benchmark in cells):
            continue
        means: dict[str, Values] = {}
        for metric in chosen[0]:
            for label, (runs, _) in chosen[0][metric].items():
                parts = [of[metric][label] for of in chosen if label in of.get(metric, {})]
                if len(parts) == len(chosen) and all(part[0] == runs for part in parts):
                    means.setdefault(metric, {})[label] = (runs, np.mean([part[1] for part in parts], axis=0))
        scores, best = scored(means, cells[0].images, reference)
        timings = {label: median_timing([b.timings[label] for b in cells if label in b.timings]) for label in everyone}
        yield (
            replace(
                cells[0],
                cell=cells[0].cell_without(over),
                scores=scores,
                timings={label: timing for label, timing in timings.items() if timing},
                best=best,
                published=[],
                over=over,
                count=len(cells),
            ),
            cells,
        )


def _averaged_key(benchmarks: Sequence[Benchmark]) -> str | None:
    """The key of the grid over which a mean makes sense: the one with most values, neither scale nor noise."""
    counts = {}
    for key in dict.fromkeys(key for benchmark in benchmarks for key in benchmark.cell):
        if averaged(key):
            counts[key] = len({canonical(benchmark.cell.get(key)) for benchmark in benchmarks})
    best = max(counts, key=lambda key: counts[key], default=None)
    return best if best and counts[best] > 1 else None


def _labels(benchmark: Benchmark) -> set[str]:
    return {label for scores in benchmark.scores.values() for label in scores}
