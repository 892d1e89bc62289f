"""Published figures beside measured ones; a difference only where both are of the same thing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.compare.group import flat
from experiments.compare.types import Average, Benchmark, Method, Score
from experiments.results.published import Published
from experiments.results.records import canonical

Scores = Mapping[str, dict[str, Score]]


def add_published(
    benchmark: Benchmark, figures: Sequence[Published], methods: Mapping[str, Method], notes: list[str]
) -> None:
    """Put the figures of this benchmark beside its scores.

    Args:
        benchmark: gets `published`, its scores too.
        figures: of the suite and protocol.
        methods: by label.
        notes: of the table; gets caveats, and why a difference is not given.
    """
    place = canonical(benchmark.cell)
    benchmark.published = [f for f in figures if f.dataset == benchmark.dataset and canonical(f.cell) == place]
    _compare(benchmark.scores, benchmark.published, benchmark, methods, notes)


def add_published_means(
    average: Average,
    benchmarks: Sequence[Benchmark],
    figures: Sequence[Published],
    methods: Mapping[str, Method],
    notes: list[str],
) -> None:
    """Put published means beside a measured mean: those that were published, and those of complete published rows.

    Args:
        average: gets `published`, its scores too.
        benchmarks: of the table, with their published figures.
        figures, methods, notes: as for `add_published`.
    """
    place = canonical(average.cell)
    cells = [b for b in benchmarks if b.dataset == average.dataset and _without(b, average.over) == place]
    found = [f for f in figures if f.dataset == average.dataset and canonical(f.cell) == place]
    for other in (f for f in found if f.mean_of not in (None, average.count)):
        _note(
            notes, f"{other.method}: published as a mean over {other.mean_of}, measured over {average.count}: left out"
        )
    found = [f for f in found if f.mean_of in (None, average.count)]
    for first in cells[0].published if average.count == len(cells) else []:
        row = [f for b in cells for f in b.published if _row(f) == _row(first)]
        if len(row) == len(cells):
            mean = statistics.fmean(f.value for f in row)
            found.append(replace(first, cell=dict(average.cell), value=mean))
    average.published = found
    _compare(average.scores, found, cells[0], methods, notes)


def _without(benchmark: Benchmark, key: str) -> str:
    return canonical({k: value for k, value in benchmark.cell.items() if k != key})


def _row(figure: Published) -> tuple[str, str, str]:
    return figure.method, figure.source, figure.metric


def _compare(
    scores: Scores, figures: Sequence[Published], of: Benchmark, methods: Mapping[str, Method], notes: list[str]
) -> None:
    """Give each measured method the one comparable figure of its model; where two could be meant, none."""
    comparable = []
    for figure in figures:
        obstacle = _obstacle(figure, of)
        if obstacle is None:
            comparable.append(figure)
        text = obstacle or figure.caveat
        unsure = "" if figure.certain else "not read in the original, hence uncertain"
        if text or unsure:
            _note(notes, f"published figures of {figure.source}: {'; '.join(part for part in (text, unsure) if part)}")
    for metric, measured in scores.items():
        for label in measured:
            method = methods[label]
            meant = [f for f in comparable if f.metric == metric and f.model == method.model]
            if method.self_ensemble or not meant:
                continue
            if len(meant) == 1:
                measured[label] = replace(measured[label], published=meant[0])
            else:
                names = " or ".join(f.method for f in meant)
                _note(notes, f"{label} may be {names} of the published methods: no difference is given")


def _obstacle(figure: Published, benchmark: Benchmark) -> str | None:
    """The first key of the degradation that makes a figure another measurement."""
    degradation = flat(benchmark.degradation)
    for key, value in figure.requires.items():
        found = degradation.get(key)
        if canonical({key: found}) != canonical({key: value}):
            return f"measured with {key}={found}, published with {value}: no difference is given"
    return None


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)
