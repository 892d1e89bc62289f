"""How task=profile prints and stores its rows."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

NOTE = (
    "MACs: multiplications of convolutions and matrix products; FFTs and elementwise operations are not counted.\n"
    "Times: median (quartiles). Memory: peak beyond what the process held before, parameters included. A step has the\n"
    "recipe's loss and optimiser (of stages: the last one) on random images; its size is that of the sharp patches."
)
Row = Mapping[str, Any]


def heading(about: Mapping[str, Any]) -> str:
    """What holds for all rows, in one line."""
    precision = {"32-true": "float32", "bf16-mixed": "bfloat16 autocast"}[about["precision"]]
    notes = [
        about["device"],
        f"{about['threads']} CPU thread{'s' * (about['threads'] != 1)}",
        precision + (", convolutions in TF32" if about["tf32_convolutions"] and precision == "float32" else ""),
        *(["channels last"] if about["channels_last"] else []),
        *(["compiled"] if about["compile"] else []),
        f"batch {about['batch']}",
        f"{about['repeats']} repetitions after {about['warmup']}",
        f"torch {about['versions']['torch']}",
    ]
    return ", ".join(notes)


def table(rows: Sequence[Row]) -> str:
    """The rows as text; the reasons of what could not be measured below."""
    titles = ["model", "parameters", "input", "output", "MACs", "forward ms", "memory"]
    cells = [
        [
            row["model"],
            f"{row['parameters'] / 1e6:.3f} M",
            f"{row['input_height']}x{row['input_width']}",
            f"{row['output_height']}x{row['output_width']}",
            shown_count(row["macs"]),
            _time(row, "forward"),
            _memory(row, "forward"),
        ]
        for row in rows
    ]
    if any(row["train_patch"] for row in rows):
        titles += ["step of", "step ms", "memory"]
        for row, line in zip(rows, cells, strict=True):
            stage = f" {row['train_stage']}" if row["train_stage"] else ""
            size = f"{row['train_batch']} x {row['train_patch']}x{row['train_patch']}{stage}"
            line += [size if row["train_patch"] else "", _time(row, "train"), _memory(row, "train")]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()
        for first, *others in [titles, *cells]
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    reasons = [
        f"{row['model']}, {'training step' if phase == 'train' else 'forward pass'}: {row[f'{phase}_error']}"
        for row in rows
        for phase in ("forward", "train")
        if row[f"{phase}_error"]
    ]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def shown_count(macs: int | None) -> str:
    """Four digits and a unit: 63.46 M."""
    if not macs:
        return "" if macs is None else "0"
    unit, name = next((unit, name) for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")) if macs >= unit)
    return f"{macs / unit:.4g}{name}"


def _time(row: Row, phase: str) -> str:
    if row[f"{phase}_error"]:
        return "failed"
    if row[f"{phase}_median"] is None:
        return ""
    median, low, high = (1000 * row[f"{phase}_{key}"] for key in ("median", "q1", "q3"))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _memory(row: Row, phase: str) -> str:
    memory = row[f"{phase}_memory"]
    return "" if memory is None else f"{memory / 2**20:.0f} MiB"


def as_csv(rows: Sequence[Row]) -> str:
    """Times in seconds, memory in bytes, sizes in pixels; empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
