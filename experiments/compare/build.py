"""From the records of several runs to a `Comparison`: methods, scores, intervals, averages, published figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datamodules.errors import InputError
from experiments.compare.add_published import add_published, add_published_means
from experiments.compare.bootstrap import FEW_IMAGES, FEW_SEEDS
from experiments.compare.group import Group, Setting, flat, measured_on, setting_name, shown
from experiments.compare.match import match
from experiments.compare.read_runs import ComparedRun
from experiments.compare.scores import AllValues, averages, best_against_second, scored
from experiments.compare.types import Benchmark, Comparison, Method, Table, Timing
from experiments.results.published import published
from experiments.results.records import BASELINE, EvaluationRecord, canonical
from experiments.results.tables import cell_folder

# The baseline as if it were a setting, beside those of networks.
_BASELINE = Setting("", BASELINE)


def compare(
    sources: Sequence[ComparedRun],
    name: str,
    *,
    suites: Sequence[str] = (),
    datasets: Sequence[str] = (),
    protocols: Sequence[str] = (),
    reference: str | None = None,
    mixed_ensemble: bool = False,
) -> Comparison:
    """Compare runs on everything that they were all measured on alike.

    Args:
        sources: the runs; the seeds of one setting become one method.
        name: of the comparison.
        suites, datasets, protocols: keep records of these only; the suite of those outside of any is "none".
        reference: label of the method against which gains are given; None: bicubic, or the first run without it.
        mixed_ensemble: compare results with self-ensemble and results without it.

    Raises:
        InputError: the runs were not measured alike, or the reference is none of the methods.
    """
    groups, notes = match(sources, suites, datasets, protocols, mixed_ensemble)
    methods = _methods(groups)
    chosen = _reference(list(methods.values()), reference)
    tables = []
    for key in dict.fromkeys(group.table for group in groups):
        here = [group for group in groups if group.table == key]
        tables.append(_table(here, methods, chosen))
    runs = [run for method in methods.values() for run in method.runs]
    return Comparison(
        name=name,
        methods=list(methods.values()),
        reference=chosen,
        tables=tables,
        notes=notes,
        newest=max((run.created for run in runs), default=""),
        commits=tuple(dict.fromkeys(run.commit for run in runs if run.commit)),
    )


def _methods(groups: Sequence[Group]) -> dict[Setting, Method]:
    """Methods in the order in which their runs were given, bicubic first; each with a label of its own."""
    found: dict[Setting, dict[str, ComparedRun]] = {}
    for group in groups:
        for source, _ in group.baseline_records:
            found.setdefault(_BASELINE, {})[source.where] = source
    for group in groups:
        for setting, items in group.records.items():
            found.setdefault(setting, {}).update({source.where: source for source, _ in items})
    labels = _labels([setting for setting in found if setting != _BASELINE])
    return {
        setting: Method(
            label=labels.get(setting, BASELINE),
            model=setting.model,
            setting=setting.name,
            runs=tuple(source.run for source in of.values()),
            self_ensemble=setting.self_ensemble,
            parameters=0 if setting == _BASELINE else next(iter(of.values())).parameters,
            baseline=setting == _BASELINE,
        )
        for setting, of in found.items()
    }


def _labels(settings: Sequence[Setting]) -> dict[Setting, str]:
    """The model's label, where that is not enough the name of the runs, then what else tells them apart."""
    names: dict[Setting, str] = {}
    mixed = len({setting.self_ensemble for setting in settings}) > 1
    for setting in settings:
        runs = {other.name for other in settings if other.model == setting.model}
        name = setting.name if len(runs) > 1 or setting.model == BASELINE else setting.model
        if len({(o.name, o.model) for o in settings if o.name == setting.name}) > 1 and name == setting.name:
            name = f"{setting.name} {setting.model}"
        files = {o.checkpoint for o in settings if (o.name, o.model) == (setting.name, setting.model)}
        if len(files) > 1:
            last = [file.rsplit("/", 1)[-1] for file in files]
            own = setting.checkpoint.rsplit("/", 1)[-1]
            name += f" [{own if last.count(own) == 1 else setting.checkpoint}]"
        names[setting] = name + (" (self-ensemble)" if mixed and setting.self_ensemble else "")
    return names


def _reference(methods: Sequence[Method], wanted: str | None) -> str:
    if wanted is None:
        return methods[0].label
    for method in methods:
        runs = {run.name for run in method.runs} if not method.baseline else set()
        if wanted in {method.label, method.setting, setting_name(wanted) if wanted in runs else method.label} | runs:
            return method.label
    raise InputError(f"reference={wanted}: no such method, there is {', '.join(m.label for m in methods)}")


def _table(groups: Sequence[Group], methods: Mapping[Setting, Method], reference: str) -> Table:
    suite = groups[0].about.suite
    protocol = groups[0].about.protocol
    figures = [f for f in published(suite or "") if f.protocol == protocol["name"] and f.image is None]
    labels = {method.label: method for method in methods.values()}
    told = _telling(groups)
    notes: list[str] = []
    benchmarks, values = [], []
    for group, cell in zip(groups, told, strict=True):
        benchmark, own = _benchmark(group, cell, methods, reference)
        add_published(benchmark, figures, labels, notes)
        benchmarks.append(benchmark)
        values.append(own)
    table = Table(suite, dict(protocol), benchmarks, notes=notes)
    if suite is not None:
        for average in averages(benchmarks, values, reference):
            table.averages.append(average)
            add_published_means(average, benchmarks, figures, labels, notes)
    fewest = min(len(benchmark.images) for benchmark in benchmarks)
    if fewest < FEW_IMAGES:
        notes.append(
            f"intervals over {fewest} image{'s' * (fewest != 1)} are rough: the bootstrap makes them too narrow"
        )
    few = {
        len(s.seeds)
        for b in benchmarks
        for of in b.scores.values()
        for label, s in of.items()
        if not labels[label].baseline and labels[label].runs[0].seed is not None
    }
    if few and min(few) < FEW_SEEDS:
        notes.append(
            f"of a method with {min(few)} trained seed{'s' * (min(few) != 1)} an interval covers the images, but not "
            "or hardly another training: 'better' is then said of these checkpoints, not of the method"
        )
    return table


def _telling(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The cell of each group; of several groups in one place, the keys that differ between them are added."""
    found = []
    for group in groups:
        same = [flat({**measured_on(g.about), "cell": None}) for g in groups if g.place == group.place]
        own = flat({**measured_on(group.about), "cell": None})
        differing = [key for key in own if len({canonical({key: other.get(key)}) for other in same}) > 1]
        found.append({**group.about.cell, **{key: own[key] for key in differing}})
    return found


def _benchmark(
    group: Group, cell: dict[str, Any], methods: Mapping[Setting, Method], reference: str
) -> tuple[Benchmark, AllValues]:
    about = group.about
    items = dict(group.records)
    if group.baseline_records:
        items = {_BASELINE: group.baseline_records[:1], **items}  # they are equal, which was checked
    ordered = {setting: items[setting] for setting in methods if setting in items}
    images = tuple(next(iter(ordered.values()))[0][1].images)
    values: AllValues = {}
    for setting, found in ordered.items():
        for source, record in found[1:]:
            if lack := set(found[0][1].metrics) ^ set(record.metrics):
                raise InputError(
                    f"{source.where}: {sorted(lack)[0]} is there for it or for {found[0][0].where} alone "
                    f"({shown(about)}): evaluate the seeds of a method with the same metrics=[...]"
                )
        for metric in found[0][1].metrics:
            values.setdefault(metric, {})[methods[setting].label] = (
                [source.run.name for source, _ in found],
                np.array([[record.images[image][metric] for image in images] for _, record in found], float),
            )
    scores = {metric: scored(metric, images, of, reference) for metric, of in values.items()}
    benchmark = Benchmark(
        dataset=about.dataset,
        split=about.split,
        scale=about.scale,
        cell=cell,
        degradation=dict(about.degradation),
        suite_seed=about.suite_seed,
        images=images,
        scores=scores,
        timings={methods[s].label: t for s, found in ordered.items() if (t := _timing([r for _, r in found]))},
        best=best_against_second(values, scores),
        published=[],
        folder=f"{about.dataset}/{cell_folder(about.cell)}".rstrip("/"),
    )
    return benchmark, values


def _timing(records: Sequence[EvaluationRecord]) -> Timing | None:
    """Seconds of the first device alone: those of different devices do not mix."""
    device, threads = records[0].device, records[0].threads
    alike = [r for r in records if (r.device, r.threads) == (device, threads)]
    seconds = [v["seconds"] for r in alike for v in r.images.values() if v.get("seconds") is not None]
    return Timing(statistics.median(seconds), str(device or "unknown"), threads) if seconds else None
