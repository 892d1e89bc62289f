"""Records of evaluations: `results.json`, and the table a person reads.

A file is `{"format": 2, "records": [...]}`: one record for each model, data set, degradation (cell of a suite) and
protocol, with the means and the values of every image.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from datamodules.errors import InputError
from experiments.runtime.run_folder import write_text
from lightning_modules.metrics.protocol import Protocol

FORMAT = 2
# Metrics by name: how tables call them, digits, and whether more (+1) or less (-1) is better.
METRICS: dict[str, tuple[str, int, int]] = {
    "psnr": ("PSNR dB", 2, 1),
    "ssim": ("SSIM", 4, 1),
    "lpips": ("LPIPS", 4, -1),
    "niqe": ("NIQE", 3, -1),
    "kernel_error": ("kernel err.", 5, -1),
}
MADE_OF = ".made_of.json"  # beside pictures: the degradation and the checkpoint that they are of
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # protocol -> image -> metric (or "seconds")
Record = dict[str, Any]
# What makes two records the same measurement; a later one replaces the earlier, as does one of a newer checkpoint.
_KEY = (
    *("model", "checkpoint", "suite", "cell", "dataset", "split", "scale", "degradation", "suite_seed"),
    *("self_ensemble", "protocol"),
)


def records(scores: Scores, protocols: Sequence[Protocol], **facts: Any) -> list[Record]:
    """One record a protocol: the facts that identify the measurement, means over images, and the per-image values."""
    result = []
    for protocol in protocols:
        images = scores.get(protocol.name)
        if not images:
            continue
        means = {}
        for metric in METRICS:
            values = [image[metric] for image in images.values() if metric in image]
            if values:
                means[metric] = math.fsum(values) / len(values)
        result.append(
            {
                **facts,
                "protocol": asdict(protocol),
                **means,
                "images": {name: dict(image) for name, image in images.items()},
            }
        )
    return result


def read_records(path: Path) -> list[Record]:
    """All records of a `results.json`; identical images have a PSNR of `Infinity`, which Python's json reads back.

    Raises:
        InputError: if the file is missing or damaged, or of another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file: measure the run first, by task=evaluate run={path.parent}")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}): move it away and evaluate again") from error
    version = found.get("format") if isinstance(found, dict) else 1
    if version != FORMAT or not isinstance(found.get("records"), list):
        raise InputError(
            f"{path}: results of format {version}, expected format {FORMAT}: move the file away and evaluate again, by "
            f"task=evaluate run={path.parent}"
        )
    return found["records"]


def add_records(path: Path, new: Sequence[Mapping[str, Any]]) -> None:
    """Merge records into a `results.json`; a record of the same measurement is replaced.

    Several evaluations of one run may write at the same time.

    Raises:
        InputError: if the file is there but damaged or of another format, or cannot be written.
    """
    if not path.parent.is_dir():
        write_text(path, json.dumps({"format": FORMAT, "records": []}) + "\n")
    with FileLock(path.with_name(f".{path.name}.lock")):
        old = read_records(path) if path.exists() else []
        before = {key(record): record for record in old}
        keys = {key(record) for record in new}
        kept = [with_earlier_metrics(dict(record), before.get(key(record))) for record in new]
        merged = [record for record in old if key(record) not in keys] + kept
        write_text(path, json.dumps({"format": FORMAT, "records": merged}, indent=2) + "\n")


def with_earlier_metrics(record: Record, earlier: Mapping[str, Any] | None) -> Record:
    """Optional metrics that an earlier measurement of the same files and weights has, and this one does not."""
    if earlier is None or list(earlier["images"]) != list(record["images"]):
        return record
    there, here = earlier.get("files", {}), record.get("files", {})
    same = earlier.get("checkpoint_sha256") == record.get("checkpoint_sha256")
    if not same or any(there.get(name) != value for name, value in here.items()):
        return record
    for metric in METRICS:
        if metric in earlier and metric not in record:
            record[metric] = earlier[metric]
            record["files"] = {**here, **there}
            for name, values in record["images"].items():
                values[metric] = earlier["images"][name][metric]
    return record


def key(record: Mapping[str, Any]) -> str:
    """Equal for two records of the same measurement."""
    return json.dumps(_whole([record.get(name) for name in _KEY]), sort_keys=True)


def _whole(value: Any) -> Any:
    """0.0 and 0, which YAML and a command line tell apart, are the same setting."""
    if isinstance(value, Mapping):
        return {name: _whole(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Plain-text table: a row a model, its metrics under each protocol, and the gain of two rows."""
    protocols = _distinct(record["protocol"]["name"] for record in measured)
    metrics = {p: [m for m in METRICS if any(m in r for r in measured if _protocol(r) == p)] for p in protocols}
    name = row_names(measured)
    rows = _distinct(name(record) for record in measured)
    value = {(name(r), _protocol(r), m): r[m] for r in measured for m in METRICS if m in r}
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


def grid_table(measured: Sequence[Mapping[str, Any]], metric: str = "psnr") -> str:
    """The cells of a suite on one data set under one protocol: the longest axis across, a block of rows a model.

    Args:
        measured: records whose cells have the same keys.
        metric: which mean is printed.
    """
    axes = {axis: _distinct(plain(r["cell"][axis]) for r in measured) for axis in measured[0]["cell"]}
    across = max(axes, key=lambda axis: len(axes[axis]))
    down = [axis for axis in axes if axis != across]
    short = short_keys(list(axes))
    name = row_names(measured)
    models = _distinct(name(record) for record in measured)
    corner = [*(short[axis] for axis in down), short[across]]
    place: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for r in measured:
        place[(name(r), *(plain(r["cell"][axis]) for axis in (*down, across)))] = r
    rows = _distinct(tuple(plain(r["cell"][axis]) for axis in down) for r in measured)
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
            values = [None if r is None else r.get(metric) for r in found]
            known = [v for v in values if v is not None]
            if not known:
                continue
            text = "".join(f"{v:<{w}}" for v, w in zip(row, left, strict=True)) + ("" if down else f"{model:<{label}}")
            text += "".join(f"{'-':>{width}}" if v is None else f"{v:>{width}.{digits}f}" for v in values)
            mean = f"{math.fsum(known) / len(known):>{width + 1}.{digits}f}" if len(known) == len(values) else ""
            lines.append((text + mean).rstrip())
    return "\n".join(lines)


def report(found: Sequence[Record], folders: Iterable[Path]) -> str:
    """What is printed at the end: a table for each data set, or for each model's grid, and where the files are."""
    parts = []
    for dataset in dict.fromkeys(record["dataset"] for record in found):
        here = [record for record in found if record["dataset"] == dataset]
        if len({str(record["cell"]) for record in here}) > 1:
            for protocol in dict.fromkeys(record["protocol"]["name"] for record in here):
                under = [record for record in here if record["protocol"]["name"] == protocol]
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


def _inputs(record: Record) -> str:
    return str((record["degradation"], record["suite_seed"], record["scale"]))


def _heading(found: Sequence[Record]) -> str:
    first = found[0]
    count = len(first["images"])
    scales = list(dict.fromkeys(record["scale"] for record in found))
    shown = "/".join("?" if scale is None else str(scale) for scale in scales)
    target = first["degradation"]["_target_"].rsplit(".", 1)[-1]
    suite = f"{first['suite']}: " if first["suite"] else ""
    return f"{suite}{first['dataset']}, test split, {count} image{'s' * (count != 1)}, x{shown}, {target}"


def cell_line(found: Sequence[Record], seconds: float) -> str:
    """One line for the log when a cell is finished."""
    last = found[-1]
    short = short_keys(list(last["cell"]))
    cell = "".join(f" {short[name]}={plain(value)}" for name, value in last["cell"].items())
    return (
        f"{last['dataset']}{cell}: {row_names(found)(last)} {last['psnr']:.2f} dB "
        f"({last['protocol']['name']}), {seconds:.1f} s"
    )


def row_names(measured: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], str]:
    """How to call the model of a record so that no two of these are called the same: by its run where it has to be."""
    runs: dict[str, set[Any]] = {}
    for r in measured:
        if r["checkpoint"] is not None:
            runs.setdefault(r["model"], set()).add((r.get("run"), r["checkpoint"]))

    def name(record: Mapping[str, Any]) -> str:
        several = runs.get(record["model"], set())
        found = record["model"]
        if record["checkpoint"] is not None and len(several) > 1:
            found = str(record["run"])
            if sum(run == record["run"] for run, _ in several) > 1:
                found += f" {record['checkpoint']}"
        return found + (" (x8)" if record.get("self_ensemble") else "")

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


def _protocol(record: Mapping[str, Any]) -> str:
    return record["protocol"]["name"]


def _number(value: float | None, metric: str, width: int, sign: str = "") -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{sign}{width}.{METRICS[metric][1]}f}"


def _distinct(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
