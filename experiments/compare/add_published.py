"""Published figures next to measured ones; a difference only where both are of the same thing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from datamodules.errors import ConfigError
from experiments.compare.types import Benchmark, Method
from experiments.config.compose import compose_model
from experiments.results.published import Published
from experiments.results.records import canonical
from experiments.runtime.run_folder import flat


def add_published(
    benchmark: Benchmark,
    cells: Sequence[Benchmark],
    figures: Sequence[Published],
    methods: Mapping[str, Method],
) -> list[str]:
    """Give a benchmark its figures, and its scores those that are comparable.

    Args:
        benchmark: gets `published`, its scores too.
        cells: the cells of a grid that it is the mean of, with their published figures: their means are given too.
        figures: of the suite and protocol.
        methods: by label.

    Returns:
        Caveats, and why a difference is not given.
    """
    notes = []
    place = canonical(benchmark.cell)
    for figure in figures:
        if figure.dataset != benchmark.dataset or canonical(figure.cell) != place:
            continue
        if figure.mean_of in (None, benchmark.count):
            benchmark.published.append(figure)
        else:
            over = f"published as a mean over {figure.mean_of}, measured over {benchmark.count}"
            notes.append(f"{figure.method}: {over}: left out")
    rows: dict[tuple[str, str, str], list[Published]] = {}
    for figure in (figure for cell in cells for figure in cell.published):
        rows.setdefault((figure.method, figure.source, figure.metric), []).append(figure)
    for row in rows.values():
        if len(row) == len(cells):
            mean = statistics.fmean(figure.value for figure in row)
            benchmark.published.append(replace(row[0], cell=dict(benchmark.cell), value=mean))
    comparable = []
    for figure in benchmark.published:
        obstacle = _obstacle(figure, benchmark)
        if obstacle is None:
            comparable.append(figure)
        unsure = "" if figure.certain else "not read in the original, hence uncertain"
        if texts := [text for text in (obstacle or figure.caveat, unsure) if text]:
            notes.append(f"published figures of {figure.source}: {'; '.join(texts)}")
    for metric, scores in benchmark.scores.items():
        for label, score in scores.items():
            method = methods[label]
            same_model = [] if method.self_ensemble else [f for f in comparable if f.model == method.model]
            meant = [figure for figure in same_model if figure.metric == metric]
            other, doubt = _other_network(method) if meant else (False, "")
            if doubt:
                notes.append(f"{label}: {doubt}")
            if len(meant) == 1 and not other:
                scores[label] = replace(score, published=meant[0])
            elif len(meant) > 1:
                names = " or ".join(figure.method for figure in meant)
                notes.append(f"{label} may be {names} of the published methods: no difference is given")
    return notes


def _obstacle(figure: Published, benchmark: Benchmark) -> str | None:
    """The first key of the degradation that makes a figure another measurement."""
    degradation = flat(benchmark.degradation)
    for key, value in figure.requires.items():
        measured = degradation.get(key)
        if canonical({key: measured}) != canonical({key: value}):
            return f"measured with {key}={measured}, published with {value}: no difference is given"
    return None


def _other_network(method: Method) -> tuple[bool, str]:
    """Whether a method has options of the network that the published one has not, and a note about that."""
    if method.baseline:
        return False, ""
    published = _options_of(method.model)
    for run in method.runs:
        if run.network is None or published is None:
            return (
                False,
                "the options of its network are not known: the difference holds if they are the published ones",
            )
        for key, value in flat({"model": run.network}).items():  # an older config lacks newer keys
            wanted = published.get(key)
            if key != "model.scale" and canonical({key: value}) != canonical({key: wanted}):
                return True, f"measured with {key}={value}, published with {wanted}: no difference is given"
    return False, ""


@cache
def _options_of(label: str) -> dict[str, Any] | None:
    """Of the network in `conf/model/LABEL.yaml`, which is that of the paper; None where there is no such file."""
    try:
        return flat({"model": compose_model(label)})
    except ConfigError:
        return None
