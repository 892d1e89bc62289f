"""The table of task=profile."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.results.table import ResultTable, TableColumn, words

NOTE = (
    "MACs: multiplications of convolutions and matrix products; FFTs and elementwise operations are not counted.\n"
    "Times: median (quartiles). Memory: peak beyond what the process held before, parameters included. A step has the\n"
    "recipe's loss and optimiser (of stages: the last one) on random images; its size is that of the sharp patches."
)
TITLES = ("model", "parameters", "input", "output", "MACs", "forward ms", "memory", "step of", "step ms", "memory")
PHASES = {"forward": "forward pass", "train": "training step"}
Row = Mapping[str, Any]


def table(conditions: Mapping[str, Any], rows: Sequence[Row]) -> ResultTable:
    """What holds for all rows, the rows, and below them the reasons of what could not be measured."""
    titles = TITLES if any(row["train_patch"] for row in rows) else TITLES[:7]
    columns = [TableColumn(title, figures=title != "model") for title in titles]
    reasons = [
        f"{row['model']}, {name}: {row[f'{phase}_error']}"
        for row in rows
        for phase, name in PHASES.items()
        if row[f"{phase}_error"]
    ]
    cells = [words(*_cells(row)[: len(titles)]) for row in rows]
    caption = ", ".join(f"{name} {value}" for name, value in conditions.items())
    return ResultTable(caption, columns, [cells], ["", *reasons, NOTE])


def _cells(row: Row) -> list[str]:
    step = ""
    if row["train_patch"]:
        stage = f" {row['train_stage']}" if row["train_stage"] else ""
        step = f"{row['train_batch']} x {row['train_patch']}x{row['train_patch']}{stage}"
    return [
        row["model"],
        f"{row['parameters'] / 1e6:.3f} M",
        f"{row['input_height']}x{row['input_width']}",
        f"{row['output_height']}x{row['output_width']}",
        "" if row["macs"] is None else f"{row['macs'] / 1e9:.4g} G",
        *_measured(row, "forward"),
        step,
        *_measured(row, "train"),
    ]


def _measured(row: Row, phase: str) -> tuple[str, str]:
    """Time and memory."""
    if row[f"{phase}_error"]:
        return "failed", ""
    if row[f"{phase}_median"] is None:
        return "", ""
    median, low, high = (f"{1000 * row[f'{phase}_{key}']:.4g}" for key in ("median", "q1", "q3"))
    memory = row[f"{phase}_memory"]
    return f"{median} ({low}-{high})", "" if memory is None else f"{memory / 2**20:.0f} MiB"
