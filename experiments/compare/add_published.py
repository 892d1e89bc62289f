"""Published figures next to measured ones; a difference only where both are of the same thing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.compare.group import flat
from experiments.compare.types import Benchmark, Method, Score
from experiments.results.published import Published
from experiments.results.records import canonical


def add_published(
    benchmark: Benchmark,
    cells: Sequence[Benchmark],
    figures: Sequence[Published],
    methods: Mapping[str, Method],
    notes: list[str],
) -> None:
    """Give a benchmark its figures, and its scores those that are comparable; a mean also those of complete rows.

    Args:
        benchmark: gets `published`, its scores too.
        cells: the row of a grid that it is the mean of, with their published figures.
        figures: of the suite and protocol.
        methods: by label.
        notes: of the table; gets caveats, and why a difference is not given.
    """
    place = canonical(benchmark.cell)
    for figure in figures:
        if figure.dataset != benchmark.dataset or canonical(figure.cell) != place:
            continue
        if figure.mean_of in (None, benchmark.count):
            benchmark.published.append(figure)
        else:
            over = f"published as a mean over {figure.mean_of}, measured over {benchmark.count}"
            _note(notes, f"{figure.method}: {over}: left out")
    for first in cells[0].published if len(cells) == benchmark.count else []:
        row = [f for cell in cells for f in cell.published if _row(f) == _row(first)]
        if len(row) == len(cells):
            mean = statistics.fmean(figure.value for figure in row)
            benchmark.published.append(replace(first, cell=dict(benchmark.cell), value=mean))
    comparable = []
    for figure in benchmark.published:
        obstacle = _obstacle(figure, benchmark)
        if obstacle is None:
            comparable.append(figure)
        unsure = "" if figure.certain else "not read in the original, hence uncertain"
        if texts := [text for text in (obstacle or figure.caveat, unsure) if text]:
            _note(notes, f"published figures of {figure.source}: {'; '.join(texts)}")
    for metric, scores in benchmark.scores.items():
        for label in scores:
            _give(scores, label, [figure for figure in comparable if figure.metric == metric], methods[label], notes)


def _row(figure: Published) -> tuple[str, str, str]:
    return figure.method, figure.source, figure.metric


def _give(scores: dict[str, Score], label: str, figures: Sequence[Published], method: Method, notes: list[str]) -> None:
    """Give a measured method the one comparable figure of its model; where two could be meant, none."""
    meant = [figure for figure in figures if figure.model == method.model and not method.self_ensemble]
    if len(meant) == 1:
        scores[label] = replace(scores[label], published=meant[0])
    elif meant:
        names = " or ".join(figure.method for figure in meant)
        _note(notes, f"{label} may be {names} of the published methods: no difference is given")


def _obstacle(figure: Published, benchmark: Benchmark) -> str | None:
    """The first key of the degradation that makes a figure another measurement."""
    degradation = flat(benchmark.degradation)
    for key, value in figure.requires.items():
        measured = degradation.get(key)
        if canonical({key: measured}) != canonical({key: value}):
            return f"measured with {key}={measured}, published with {value}: no difference is given"
    return None


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)
