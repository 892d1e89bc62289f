"""Results of `experiments.benchmarks.gpu` on disk: a line of JSON each, and the report made of them anew after each."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.gpu.plan import Item
from experiments.runtime.run_folder import write_text


class Value(NamedTuple):
    """A measured quantity: the middle one of several with the smallest and the largest, or one alone."""

    what: str
    value: float | None
    low: float | None = None
    high: float | None = None


class Column(NamedTuple):
    """A quantity of a table: its name in the results, its heading, its unit and digits after the point."""

    what: str
    title: str
    unit: str
    digits: int


@dataclass(frozen=True)
class Table:
    """One table of the report.

    Attributes:
        first, input: headings of the columns `model` and `input`.
        about: what the figures are.
    """

    title: str
    about: str
    columns: tuple[Column, ...]
    first: str = "model"
    input: str = "HR patch"


TABLES = {
    "steps": Table(
        "(a) Training steps",
        "Whole steps with loading, degradation, network, loss and optimiser, the device synchronised after every part: "
        "median (smallest to largest). Wait: for the loader. The first step has the compiling in it. Peak: of the "
        "memory that tensors take. SRN gets camera shake, USRNet x4, GFN the inputs of ED-DSRN and all its parts train "
        "at once; batch and patch are those of the recipes.",
        (
            Column("patches_per_second", "patches/s", "1/s", 1),
            Column("step", "step ms", "ms", 1),
            Column("wait_share", "wait %", "%", 1),
            Column("degradation_share", "degradation %", "%", 1),
            Column("network_share", "network %", "%", 1),
            Column("optimizer_share", "optimiser %", "%", 1),
            Column("first_step", "first step s", "s", 2),
            Column("peak_memory", "peak GiB", "GiB", 2),
        ),
    ),
    "trainer": Table(
        "(a) The trainer beside a bare loop",
        "Milliseconds of a step under the suite's trainer (callbacks, log every tenth step) and in a plain PyTorch "
        "loop over the same network, loader, degradation and loss, in turns, synchronised at both ends alone: median "
        "(smallest to largest) of the rounds.",
        (
            Column("bare_step", "bare loop ms", "ms", 1),
            Column("trainer_step", "trainer ms", "ms", 1),
            Column("ratio", "trainer / bare loop", "1", 3),
            Column("wait_share", "wait %", "%", 1),
        ),
    ),
    "degradation": Table(
        "(b) Degradation of a batch",
        "From 8-bit sharp patches on the device to the input of the network, synchronised: median (smallest to "
        "largest).",
        (Column("time", "ms", "ms", 2), Column("patches_per_second", "patches/s", "1/s", 0)),
        first="degradation",
    ),
    "restoring": Table(
        "(c) Restoring one image",
        "To 1280x720 pixels (in a smoke run fewer), whole, initial weights: the median (quartiles) of the forward "
        "pass. Peak: beyond what was taken before the network was built. Multiplications: of convolutions and matrix "
        "products.",
        (
            Column("time", "ms", "ms", 1),
            Column("peak_memory", "peak MiB", "MiB", 0),
            Column("macs", "G multiplications", "10^9", 2),
        ),
        input="input",
    ),
    "bfloat16": Table(
        "(d) bfloat16 against float32",
        "The same weights on the same inputs by autocast to bfloat16 and in float32, means over the test images. "
        "Signal to noise: of the float32 result's variance to the squared difference, which does not depend on the "
        "size of the values: results of random weights are no images, and their PSNR to the truth says nothing.",
        (
            Column("psnr", "PSNR between the two, dB", "dB", 1),
            Column("snr", "signal to noise, dB", "dB", 1),
            Column("float32_psnr", "float32 to the truth (y_shave4), dB", "dB", 2),
            Column("bfloat16_psnr", "bfloat16 to the truth (y_shave4), dB", "dB", 2),
        ),
        input="test images",
    ),
    "group": Table(
        "(e) One process in a group",
        "A training step under the trainer without DDP and with it, in a group of one process (NCCL on a GPU, else "
        "gloo), in turns: median (smallest to largest) of the rounds; and the reduction of as many numbers as the "
        "gradients have, alone.",
        (
            Column("alone_step", "without DDP ms", "ms", 1),
            Column("ddp_step", "with DDP ms", "ms", 1),
            Column("ratio", "with / without", "1", 3),
            Column("all_reduce", "all-reduce ms", "ms", 2),
            Column("gradients", "gradients MiB", "MiB", 1),
        ),
    ),
    "training": Table(
        "(f) A short training",
        "On the training photographs in the time that was left, by the suite's own command line; then the best "
        "checkpoint and bicubic enlargement on the test images in float32, protocol y_shave4. No measure of the "
        "published system, which trains for days.",
        (
            Column("psnr", "PSNR dB", "dB", 2),
            Column("bicubic_psnr", "bicubic dB", "dB", 2),
            Column("gain", "gain dB", "dB", 2),
            Column("ssim", "SSIM", "1", 4),
            Column("bicubic_ssim", "bicubic SSIM", "1", 4),
            Column("steps", "steps", "1", 0),
            Column("minutes", "minutes of training", "min", 1),
            Column("patches_per_second", "patches/s", "1/s", 0),
        ),
        input="measured on",
    ),
}
Record = Mapping[str, Any]


class Book:
    """The two files of a run, `results.jsonl` and `report.md`; written by one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.results, self.page = folder / "results.jsonl", folder / "report.md"

    def begin(self, about: Mapping[str, Any], plan: Sequence[Item]) -> None:
        """Note what it runs on and what is to come."""
        self._append({"about": dict(about), "plan": [asdict(item) for item in plan]})

    def add(self, item: Item, values: Sequence[Value], **facts: Any) -> None:
        """Keep what was measured.

        Args:
            facts: what replaces or completes the attributes of the item.
        """
        units = {column.what: column.unit for column in TABLES[item.table].columns}
        about = {**asdict(item), **facts, **self._place()}
        self._append(*({**about, **value._asdict(), "unit": units[value.what]} for value in values))

    def fail(self, item: Item, reason: str) -> None:
        """Note in one line why there is no result."""
        self._append({**asdict(item), "failed": reason, **self._place()})

    def skip(self, item: Item) -> None:
        """Note that there was no time for it."""
        self._append({**asdict(item), "skipped": True, **self._place()})

    def _place(self) -> dict[str, str]:
        return {"card": self.read()[0]["card"], "at": datetime.now(UTC).isoformat(timespec="seconds")}

    def left(self) -> list[Item]:
        """Items that are still to be measured; the first one is under way."""
        _, plan, records = self.read()
        return [item for item in plan if not of(item, records)]

    def read(self) -> tuple[dict[str, Any], list[Item], list[Record]]:
        """What it runs on, what was planned, and the results so far."""
        lines = []
        for line in self.results.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # cut off by a kill while it was written
                continue
        return lines[0]["about"], [Item(**item) for item in lines[0]["plan"]], lines[1:]

    def _append(self, *records: Record) -> None:
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        if self.results.exists() and not self.results.read_bytes().endswith(b"\n"):
            text = "\n" + text  # the line before was cut off
        with self.results.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        write_text(self.page, page(*self.read()))


def of(item: Item, records: Sequence[Record]) -> list[Record]:
    """The results of an item."""
    key = ("table", "model", "dtype", "mode")
    same = [r for r in records if all(r[name] == getattr(item, name) for name in key)]
    return [r for r in same if not item.input or r["input"] == item.input]


def page(about: Mapping[str, Any], plan: Sequence[Item], records: Sequence[Record]) -> str:
    """The report as Markdown."""
    found = [of(item, records) for item in plan]
    failed = sum(any("failed" in record for record in one) for one in found)
    missing = sum(not any("failed" in record or "what" in record for record in one) for one in found)
    parts = [f"# deblur-sr on {about['card']}"]
    if about.get("smoke"):
        few = "few channels, small images, few steps, one network compiled"
        parts.append(f"**A smoke run: {few}. No figure below means anything.**")
    counts = f"{len(plan) - failed - missing} made, {failed} failed, {missing} not reached"
    last = f"; the last line is of {records[-1]['at']}" if records else ""
    parts.append(f"{len(plan)} measurements: {counts}{last}.")
    shown = [(name.replace("_", " "), value) for name, value in about.items() if name != "smoke" and value is not None]
    rows = [("", ""), ("---", "---"), *shown]
    parts.append("\n".join(f"| {name} | {_plain(value)} |" for name, value in rows))
    for name, table in TABLES.items():
        pairs = [(item, of(item, records)) for item in plan if item.table == name]
        parts.append(f"## {table.title}\n\n{table.about}\n\n{_table(table, pairs)}")
    return "\n\n".join(parts) + "\n"


def _table(table: Table, pairs: Sequence[tuple[Item, Sequence[Record]]]) -> str:
    head = [table.first, "dtype", "mode", "batch", table.input, *(column.title for column in table.columns)]
    rows, failed, missing = [], [], []
    for item, records in pairs:
        name = " ".join(filter(None, (item.model, item.dtype, item.mode, item.input)))
        if not records or "skipped" in records[0]:
            missing.append(name)
        elif reason := next((record["failed"] for record in records if "failed" in record), None):
            failed.append(f"* failed: {name}: {reason}")
        else:
            values = {record["what"]: record for record in records}
            of_item = [str(records[0][key]) for key in ("model", "dtype", "mode", "batch", "input")]
            rows.append([*of_item, *(_cell(values.get(column.what), column.digits) for column in table.columns)])
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] if rows else ["Nothing yet."]
    lines += ["", *failed] if failed else []
    lines += ["", f"Not reached: {', '.join(missing)}."] if missing else []
    return "\n".join(lines)


def _cell(record: Record | None, digits: int) -> str:
    if record is None or record["value"] is None:
        return ""
    text = f"{record['value']:,.{digits}f}"
    if record["low"] is not None and record["low"] != record["high"]:
        text += f" ({record['low']:,.{digits}f} to {record['high']:,.{digits}f})"
    return text


def _plain(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
