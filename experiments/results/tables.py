"""The tables that a person reads of an evaluation, in plain text."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results.records import METRICS, EvaluationRecord


def table(measured: Sequence[EvaluationRecord]) -> str:
    """Plain-text table: a row a model, its metrics under each protocol, and the gain of two rows."""
    protocols = _distinct(record.protocol_name for record in measured)
    metrics = {
        p: [m for m in METRICS if any(m in r.means for r in measured if r.protocol_name == p)] for p in protocols
    }
    name = row_names(measured)
    rows = _distinct(name(record) for record in measured)
    value = {(name(r), r.protocol_name, m): r.means[m] for r in measured for m in METRICS if m in r.means}
    columns = [(p, m, max(9, len(METRICS[m][0]) + 2)) for p in protocols for m in metrics[p]]
    # The name of a protocol stands over its metrics, at the right.
    first = {p: next(i for i, column in enumerate(columns) if column[0] == p) for p in protocols}
    for p, i in first.items():
        lack = len(p) + 3 - sum(width for q, _, width in columns if q == p)
        columns[i] = (*columns[i][:2], columns[i][2] + max(lack, 2))
    spans = [sum(width for q, _, width in columns if q == p) for p in protocols]
    width = max(len("model"), *map(len, rows))
    lines = [
        " " * width + "".join(f"{p:>{span}}" for p, span in zip(protocols, spans, strict=True)),
        f"{'model':{width}}" + "".join(f"{METRICS[m][0]:>{w}}" for _, m, w in columns),
    ]
    lines.append("-" * len(lines[0]))
    for row in rows:
        cells = [_number(value.get((row, p, m)), m, w) for p, m, w in columns]
        lines.append(f"{row:{width}}" + "".join(cells))
    if len(rows) == 2:
        keys = [[(row, p, m) for row in rows] for p, m, _ in columns]
        gains = [value[b] - value[a] if a in value and b in value else None for a, b in keys]
        cells = [_number(gain, m, w, "+") for gain, (_, m, w) in zip(gains, columns, strict=True)]
        lines.append(f"{'gain':{width}}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def grid_table(measured: Sequence[EvaluationRecord], metric: str = "psnr") -> str:
    """The cells of a suite on one data set under one protocol: the longest axis across, a block of rows a model.

    Args:
        measured: records whose cells have the same keys.
        metric: which mean is printed.
    """
    axes = {axis: _distinct(plain(r.cell[axis]) for r in measured) for axis in measured[0].cell}
    across = max(axes, key=lambda axis: len(axes[axis]))
    down = [axis for axis in axes if axis != across]
    short = short_keys(list(axes))
    name = row_names(measured)
    models = _distinct(name(record) for record in measured)
    corner = [*(short[axis] for axis in down), short[across]]
    place: dict[tuple[str, ...], EvaluationRecord] = {}
    for r in measured:
        place[(name(r), *(plain(r.cell[axis]) for axis in (*down, across)))] = r
    rows = _distinct(tuple(plain(r.cell[axis]) for axis in down) for r in measured)
    digits = METRICS[metric][1]
    width = max(7, *(len(v) + 2 for v in axes[across]))
    left = [max(len(word), *(len(row[i]) for row in rows), 3) + 2 for i, word in enumerate(corner[:-1])]
    label = max(len(m) for m in (*models, corner[-1])) if not down else 0
    head = "".join(f"{word:<{w}}" for word, w in zip(corner[:-1], left, strict=True)) + " " * label
    head += "".join(f"{v:>{width}}" for v in axes[across]) + f"{'mean':>{width + 1}}"
    above = f"{METRICS[metric][0]}, columns: {short[across]}"
    lines = [above, head, "-" * len(head)]
    for model in models:
        if down:
            lines.append(model)
        for row in rows:
            found = [place.get((model, *row, v)) for v in axes[across]]
            values = [None if r is None else r.means.get(metric) for r in found]
            known = [v for v in values if v is not None]
            if not known:
                continue
            text = "".join(f"{v:<{w}}" for v, w in zip(row, left, strict=True)) + ("" if down else f"{model:<{label}}")
            text += "".join(f"{'-':>{width}}" if v is None else f"{v:>{width}.{digits}f}" for v in values)
            mean = f"{math.fsum(known) / len(known):>{width + 1}.{digits}f}" if len(known) == len(values) else ""
            lines.append((text + mean).rstrip())
    return "\n".join(lines)


def report(found: Sequence[EvaluationRecord], folders: Iterable[Path]) -> str:
    """What is printed at the end: a table for each data set, or for each model's grid, and where the files are."""
    parts = []
    for dataset in dict.fromkeys(record.dataset for record in found):
        here = [record for record in found if record.dataset == dataset]
        if len({str(record.cell) for record in here}) > 1:
            for protocol in dict.fromkeys(record.protocol_name for record in here):
                under = [record for record in here if record.protocol_name == protocol]
                parts.append(f"{_heading(under)}, {protocol}\n{grid_table(under)}")
        else:
            # The same inputs under other degradations (runs of different training) are different tables.
            for kind in dict.fromkeys(_inputs(record) for record in here):
                alike = [record for record in here if _inputs(record) == kind]
                parts.append(f"{_heading(alike)}\n{table(alike)}")
    files = []
    for folder in folders:
        files.append(f"results: {folder / 'results.json'}")
        if (folder / "images").is_dir():
            files.append(f"pictures: {folder / 'images'}")
    return "\n" + "\n\n".join([*parts, "\n".join(files)])


def _inputs(record: EvaluationRecord) -> str:
    return str((record.degradation, record.suite_seed, record.scale))


def _heading(found: Sequence[EvaluationRecord]) -> str:
    first = found[0]
    count = len(first.images)
    scales = list(dict.fromkeys(record.scale for record in found))
    shown = "/".join("?" if scale is None else str(scale) for scale in scales)
    target = first.degradation["_target_"].rsplit(".", 1)[-1]
    suite = f"{first.suite}: " if first.suite else ""
    return f"{suite}{first.dataset}, test split, {count} image{'s' * (count != 1)}, x{shown}, {target}"


def cell_line(found: Sequence[EvaluationRecord], seconds: float) -> str:
    """One line for the log when a cell is finished."""
    last = found[-1]
    short = short_keys(list(last.cell))
    cell = "".join(f" {short[name]}={plain(value)}" for name, value in last.cell.items())
    return (
        f"{last.dataset}{cell}: {row_names(found)(last)} {last.means['psnr']:.2f} dB "
        f"({last.protocol_name}), {seconds:.1f} s"
    )


def row_names(measured: Sequence[EvaluationRecord]) -> Callable[[EvaluationRecord], str]:
    """How to call the model of a record so that no two of these are called the same: by its run where it has to be."""
    runs: dict[str, set[Any]] = {}
    for r in measured:
        if r.checkpoint is not None:
            runs.setdefault(r.model, set()).add((r.run, r.checkpoint))

    def name(record: EvaluationRecord) -> str:
        several = runs.get(record.model, set())
        found = record.model
        if record.checkpoint is not None and len(several) > 1:
            found = str(record.run)
            if sum(run == record.run for run, _ in several) > 1:
                found += f" {record.checkpoint}"
        return found + (" (x8)" if record.self_ensemble else "")

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


def _number(value: float | None, metric: str, width: int, sign: str = "") -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{sign}{width}.{METRICS[metric][1]}f}"


def _distinct(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
