"""The tables of an evaluation, and how its models and cells are called."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results.records import METRICS, EvaluationRecord
from experiments.results.table import (
    ResultTable,
    TableCell,
    TableColumn,
    count,
    heads,
    metric_cell,
    metric_column,
    words,
)
from experiments.results.writers import text
from experiments.zoo.catalogue import PREFIX

# Axes of a grid that are never averaged over: results of different scales and noise levels are different results.
_NEVER_AVERAGED = ("scale", "noise")


def score_table(measured: Sequence[EvaluationRecord]) -> ResultTable:
    """A row a model, its metrics under each protocol, and the gain of the second of two."""
    name = row_names(measured)
    columns = [
        (protocol, metric)
        for protocol in _distinct(record.protocol_name for record in measured)
        for metric in METRICS
        if any(metric in record.means for record in measured if record.protocol_name == protocol)
    ]
    means = {(name(record), record.protocol_name): record.means for record in measured}
    rows = [
        [TableCell(model), *(metric_cell(metric, means.get((model, p), {}).get(metric)) for p, metric in columns)]
        for model in _distinct(name(record) for record in measured)
    ]
    if len(rows) == 2:
        gains = [TableCell("gain")]
        for (_, metric), first, second in zip(columns, rows[0][1:], rows[1][1:], strict=True):
            gain = None if first.value is None or second.value is None else second.value - first.value
            gains.append(metric_cell(metric, gain, signed=True))
        rows.append(gains)
    return ResultTable("", [*heads(["model"]), *(metric_column(metric, p) for p, metric in columns)], [rows])


def averaged(key: str) -> bool:
    """Whether means over this axis of a grid are given."""
    return key.rsplit(".", 1)[-1] not in _NEVER_AVERAGED


def grid_table(measured: Sequence[EvaluationRecord], metric: str = "psnr") -> ResultTable:
    """The cells of a suite on one data set under one protocol: the longest axis across, the models below each other.

    Of axes of one length it is one that has a mean.

    Args:
        measured: records whose cells have the same keys.
        metric: which mean is shown.
    """
    axes = {axis: _distinct(plain(record.cell[axis]) for record in measured) for axis in measured[0].cell}
    across = max(axes, key=lambda axis: (len(axes[axis]), averaged(axis)))
    down = [axis for axis in axes if axis != across]
    short = short_keys(list(axes))
    name = row_names(measured)
    groups: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}  # place -> model -> value across -> mean
    for record in measured:
        models = groups.setdefault(tuple(plain(record.cell[axis]) for axis in down), {})
        if metric in record.means:
            models.setdefault(name(record), {})[plain(record.cell[across])] = record.means[metric]
    row_groups = []
    for place, models in groups.items():
        rows = []
        for model, means in models.items():
            values = [means.get(value) for value in axes[across]]
            if averaged(across):
                values.append(math.fsum(means.values()) / len(means) if len(means) == len(axes[across]) else None)
            rows.append([*words(*place, model), *(metric_cell(metric, value) for value in values)])
        row_groups.append(rows)
    titles = [*axes[across], *(["mean"] if averaged(across) else [])]
    columns = [*heads([*(short[axis] for axis in down), "model"]), *map(TableColumn, titles)]
    return ResultTable(f"{METRICS[metric][0]}, columns: {short[across]}", columns, row_groups)


def report(records: Sequence[EvaluationRecord], folders: Iterable[Path]) -> str:
    """What is printed at the end: a table for each data set, or for each model's grid, and where the files are."""
    parts = []
    for of_set in _grouped(records, lambda record: record.dataset):
        if len({str(record.cell) for record in of_set}) > 1:
            for grid in _grouped(of_set, lambda record: record.protocol_name):
                parts.append(f"{_heading(grid)}, {grid[0].protocol_name}\n{text(grid_table(grid))}")
        else:
            # Other inputs (runs of different training: other degradations, other folders of one name) are other tables.
            for alike in _grouped(of_set, _inputs):
                parts.append(f"{_heading(alike)}\n{text(score_table(alike))}")
    files = []
    for folder in folders:
        files.append(f"results: {folder / 'results.json'}")
        if (folder / "images").is_dir():
            files.append(f"pictures: {folder / 'images'}")
    return "\n" + "\n\n".join([*parts, "\n".join(files)])


def _inputs(record: EvaluationRecord) -> str:
    return str((record.degradation, record.suite_seed, record.scale, record.files.get("sharp")))


def _grouped(
    records: Iterable[EvaluationRecord], key: Callable[[EvaluationRecord], str]
) -> Iterable[list[EvaluationRecord]]:
    groups: dict[str, list[EvaluationRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups.values()


def _heading(records: Sequence[EvaluationRecord]) -> str:
    first = records[0]
    scales = "/".join("?" if scale is None else str(scale) for scale in _distinct(record.scale for record in records))
    target = first.degradation["_target_"].rsplit(".", 1)[-1]
    suite = f"{first.suite}: " if first.suite else ""
    return f"{suite}{first.dataset}, test split, {count(len(first.images), 'image')}, x{scales}, {target}"


def row_names(measured: Sequence[EvaluationRecord]) -> Callable[[EvaluationRecord], str]:
    """How to call the model of a record so that no two of these are called the same: by its run where it has to be."""
    weights = {(r.model, r.run, r.checkpoint) for r in measured if r.checkpoint is not None}

    def name(record: EvaluationRecord) -> str:
        runs = [run for model, run, _ in weights if model == record.model]
        label = record.model
        if record.checkpoint is not None and len(runs) > 1:
            label = str(record.run) if runs.count(record.run) == 1 else f"{record.run} {record.checkpoint}"
            if record.checkpoint.startswith(PREFIX) and sum(record.checkpoint == file for *_, file in weights) == 1:
                label = record.checkpoint
        return label + (" (x8)" if record.self_ensemble else "") + (f" ({record.computed})" if record.computed else "")

    return name


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or the whole key where that would be ambiguous."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


def plain(value: Any) -> str:
    """A value of a cell as tables and folders show it."""
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def cell_folder(cell: Mapping[str, Any]) -> str:
    """Name of a cell's folder of pictures, "" without a grid."""
    short = short_keys(list(cell))
    return ",".join(f"{short[key]}={plain(value)}" for key, value in cell.items()).replace("/", "_")


def _distinct(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
