"""From the records of several runs to a `Comparison`: methods, scores, intervals, averages, published figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from datamodules.errors import InputError
from experiments.compare.add_published import add_published
from experiments.compare.bootstrap import FEW_IMAGES, FEW_SEEDS, groups_of
from experiments.compare.match import BICUBIC, Group, Setting, match, shown
from experiments.compare.scores import Values, averages, scored
from experiments.compare.types import Benchmark, Comparison, Method, Run, Table, Timing, median_timing
from experiments.results.published import published
from experiments.results.records import BASELINE, MADE_BY, EvaluationRecord, canonical
from experiments.results.table import count
from experiments.results.tables import cell_folder
from experiments.runtime.run_folder import flat


def compare(
    sources: Sequence[Run],
    name: str,
    *,
    chosen: Mapping[str, Sequence[str]],
    reference: str | None = None,
    mixed_ensemble: bool = False,
) -> Comparison:
    """Compare runs on everything that they were all measured on alike.

    Args:
        sources: the runs; the seeds of one setting become one method.
        name: of the comparison.
        chosen: "suites", "datasets", "protocols": keep records of these only, all where there are none; the suite of
            records outside of any is "none".
        reference: label of the method against which gains are given; None: bicubic, or the first run without it.
        mixed_ensemble: compare results with self-ensemble and results without it.

    Raises:
        InputError: the runs were not measured alike, or the reference is none of the methods.
    """
    groups, notes = match(sources, chosen, mixed_ensemble)
    methods = _methods(groups)
    label = _reference(list(methods.values()), reference)
    tables = [
        _table([group for group in groups if group.table == table], methods, label)
        for table in dict.fromkeys(group.table for group in groups)
    ]
    runs = [run for method in methods.values() for run in method.runs]
    return Comparison(
        name=name,
        methods=list(methods.values()),
        reference=label,
        tables=tables,
        notes=notes,
        newest=max((run.created for run in runs), default=""),
        commits=tuple(dict.fromkeys(run.commit for run in runs if run.commit)),
    )


def _methods(groups: Sequence[Group]) -> dict[Setting, Method]:
    """Methods in the order in which their runs were given, bicubic first; each with a label of its own."""
    runs: dict[Setting, dict[str, Run]] = {}
    made_by: dict[Setting, dict[str, dict[str, Any]]] = {}
    for group in groups:
        for setting, records in group.records.items():
            runs.setdefault(setting, {}).update({source.where: source for source, _ in records})
            of_runs = {source.where: {name: getattr(record, name) for name in MADE_BY} for source, record in records}
            made_by.setdefault(setting, {}).update(of_runs)
    labels = {BICUBIC: BASELINE, **_labels([setting for setting in runs if setting != BICUBIC])}
    return {
        setting: Method(
            label=labels[setting],
            model=setting.model,
            setting=setting.name,
            runs=tuple(runs[setting].values()),
            self_ensemble=setting.self_ensemble,
            parameters=0 if setting == BICUBIC else next(iter(runs[setting].values())).parameters,
            baseline=setting == BICUBIC,
            made_by=made_by[setting],
        )
        for setting in sorted(runs, key=lambda setting: setting != BICUBIC)
    }


def _labels(settings: Sequence[Setting]) -> dict[Setting, str]:
    """The first of some names, from the model's label on, that tells a setting from all others."""
    mixed = len({setting.self_ensemble for setting in settings}) > 1
    names = {s: _names(s, " (self-ensemble)" if mixed and s.self_ensemble else "") for s in settings}
    taken = Counter(name for several in names.values() for name in set(several))
    return {
        setting: next(name for name in several if taken[name] == 1 and name != BASELINE)
        for setting, several in names.items()
    }


def _names(setting: Setting, end: str) -> list[str]:
    both = f"{setting.name} {setting.model}"
    if not setting.checkpoint:
        return [setting.model + end, setting.name + end, both + end]
    file = PurePath(setting.checkpoint).name
    return [f"{setting.model} [{file}]{end}", f"{setting.name} [{file}]{end}", f"{both} [{setting.checkpoint}]{end}"]


def _reference(methods: Sequence[Method], wanted: str | None) -> str:
    """The label of a method that is named by its label, its setting or one of its runs."""
    if wanted is None:
        return methods[0].label
    for method in methods:
        runs = [] if method.baseline else [run.name for run in method.runs]
        if wanted in (method.label, method.setting, *runs):
            return method.label
    raise InputError(f"reference={wanted}: no such method, there is {', '.join(m.label for m in methods)}")


def _table(groups: Sequence[Group], methods: Mapping[Setting, Method], reference: str) -> Table:
    suite, protocol = groups[0].table
    figures = [f for f in published(suite or "") if f.protocol == protocol and f.image is None]
    labels = {method.label: method for method in methods.values()}
    notes: list[str] = []
    benchmarks, values = [], []
    for group, cell in zip(groups, _distinguishing_cells(groups), strict=True):
        group_values = _values(group, methods)
        benchmark = _benchmark(group, cell, group_values, methods, reference)
        notes += add_published(benchmark, [], figures, labels)
        benchmarks.append(benchmark)
        values.append(group_values)
    means = []
    for average, cells in averages(benchmarks, values, reference) if suite is not None else ():
        notes += add_published(average, cells, figures, labels)
        means.append(average)
    fewest, images = min((len({*groups_of(b.images)}), len(b.images)) for b in benchmarks)
    if fewest < FEW_IMAGES:
        over = count(fewest, "image") if fewest == images else f"{count(fewest, 'folder')} of {count(images, 'image')}"
        notes.append(f"intervals over {over} are rough: the bootstrap makes them too narrow")
    trained = [
        len(score.seeds)
        for benchmark in benchmarks
        for scores in benchmark.scores.values()
        for label, score in scores.items()
        if not labels[label].baseline and labels[label].runs[0].seed is not None
    ]
    if trained and min(trained) < FEW_SEEDS:
        notes.append(
            f"of a method with {count(min(trained), 'trained seed')} an interval covers the images, but not or hardly "
            "another training: 'better' is then said of these checkpoints, not of the method"
        )
    about = groups[0].about
    if about.branch != "sr":
        notes.insert(
            0, "the deblurred branch, against the sharp image of the input's size; bicubic is the input itself"
        )
    named = {**about.protocol, "name": protocol}
    return Table(suite, named, benchmarks, means, list(dict.fromkeys(notes)), about.branch)


def _distinguishing_cells(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The cell of each group; of several groups in one place, the keys that differ between them are added."""
    conditions = [flat({**group.about.conditions, "cell": None}) for group in groups]
    cells = []
    for group, values in zip(groups, conditions, strict=True):
        alike = [other for g, other in zip(groups, conditions, strict=True) if g.place == group.place]
        differing = [key for key in values if len({canonical({key: other.get(key)}) for other in alike}) > 1]
        cells.append({**group.about.cell, **{key: values[key] for key in differing}})
    return cells


def _values(group: Group, methods: Mapping[Setting, Method]) -> dict[str, Values]:
    """The values of every image, of the methods in their order.

    Raises:
        InputError: the seeds of a method were not measured by the same metrics.
    """
    images = list(group.about.images)
    values: dict[str, Values] = {}
    for setting, method in methods.items():
        seeds = group.records.get(setting, [])
        if setting == BICUBIC:
            seeds = seeds[:1]  # they are equal, which was checked
        for source, record in seeds[1:]:
            first_source, first = seeds[0]
            if lacking := set(first.metrics) ^ set(record.metrics):
                raise InputError(
                    f"{source.where}: {sorted(lacking)[0]} is there for it or for {first_source.where} only "
                    f"({shown(group.about)}): evaluate the seeds of a method with the same metrics=[...]"
                )
        for metric in seeds[0][1].metrics if seeds else ():
            values.setdefault(metric, {})[method.label] = (
                [source.name for source, _ in seeds],
                np.array([[record.images[image][metric] for image in images] for _, record in seeds], float),
            )
    return values


def _benchmark(
    group: Group, cell: dict[str, Any], values: dict[str, Values], methods: Mapping[Setting, Method], reference: str
) -> Benchmark:
    about = group.about
    scores, best = scored(values, list(about.images), reference)
    timings = {method.label: _timing([r for _, r in group.records.get(s, [])]) for s, method in methods.items()}
    return Benchmark(
        dataset=about.dataset,
        split=about.split,
        scale=about.scale,
        cell=cell,
        degradation=dict(about.degradation),
        suite_seed=about.suite_seed,
        images=tuple(about.images),
        scores=scores,
        timings={label: timing for label, timing in timings.items() if timing},
        best=best,
        published=[],
        folder=f"{about.dataset}/{cell_folder(about.cell)}".rstrip("/"),
    )


def _timing(records: Sequence[EvaluationRecord]) -> Timing | None:
    """Seconds of the first device only."""
    first = [record for record in records if (record.device, record.threads) == (records[0].device, records[0].threads)]
    return median_timing(
        [
            Timing(values["seconds"], record.device or "unknown", record.threads)
            for record in first
            for values in record.images.values()
            if values.get("seconds") is not None
        ]
    )
