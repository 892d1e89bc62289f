"""Where the numbers of a run go in any case: a CSV file that survives resuming and killing."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from datamodules.errors import InputError, folder_vanished
from datamodules.io.atomic import replacing

log = logging.getLogger(__name__)


class MetricsCSV(Logger):
    """One row per step in `<run_dir>/metrics.csv`, with columns step, epoch and the metrics in order of appearance.

    Lightning's own CSVLogger deletes the file of a run that is resumed; this one continues it. After loading a
    checkpoint call `rewind(global_step)`, so that steps trained again replace what the interrupted attempt wrote.
    """

    def __init__(self, run_dir: Path, flush_every: int = 50) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self._flush_every = flush_every
        self._columns = ["step", "epoch"]
        self._rows: dict[int, dict[str, float]] = {}
        self._unsaved: set[int] = set()
        self._on_disk = (0, -1)  # columns and last step of the file: what extends it is appended
        self._loaded = False

    # Empty names make Lightning put everything else it derives from a logger straight into the run's folder.
    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run's folder already holds the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._load()
        step = max(self._rows, default=-1) + 1 if step is None else int(step)
        row = self._rows.setdefault(step, {})
        row.update({name: float(value) for name, value in metrics.items() if name != "step"})
        self._columns += [name for name in row if name not in self._columns]
        self._unsaved.add(step)
        if len(self._unsaved) >= self._flush_every:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        if not self._unsaved:
            return
        steps, (columns, last) = sorted(self._unsaved), self._on_disk
        if columns != len(self._columns) or steps[0] <= last:
            self._write()
            return
        self._on_disk = (0, -1)  # until it is written whole
        try:
            with self.path.open("r+", encoding="utf-8", newline="") as file:  # "a" would make the file anew
                file.seek(0, io.SEEK_END)
                csv.writer(file, lineterminator="\n").writerows(map(self._cells, steps))
        except FileNotFoundError as error:
            raise folder_vanished(self.path.parent) from error
        self._on_disk = columns, steps[-1]
        self._unsaved.clear()

    def finalize(self, status: str) -> None:
        """Lightning calls this in the handler of whatever has ended the training, which is what is to be told."""
        with contextlib.suppress(*((OSError, InputError) if status == "failed" else ())):
            self.save()

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Forget every row after `step`: training restarts from a checkpoint taken there."""
        self._load()
        kept = {s: row for s, row in self._rows.items() if s <= step}
        if len(kept) < len(self._rows):
            self._rows = kept
            self._write()

    def last_epoch(self) -> int:
        """The last one that has a row, -1 without any; numbered from 0."""
        self._load()
        return int(max((row.get("epoch", 0.0) for row in self._rows.values()), default=-1))

    def _load(self) -> None:
        """Read what an earlier attempt left. Lazy, because ranks other than 0 construct a logger too."""
        if self._loaded:
            return
        self._loaded = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        text, _, torn = content.decode(errors="replace").rpartition("\n")
        header, *lines = list(csv.reader(io.StringIO(text))) or [self._columns]
        if header[:2] != self._columns:
            raise InputError(f"{self.path}: is no metrics file of this suite (first line: {header}): move it away")
        self._columns = header
        if (torn and not text) or {"\0", "\ufffd"} & {*text, *torn}:  # more than a line that a kill cut off
            kept = self.path.with_name("metrics.damaged.csv")
            kept.write_bytes(content)
            log.warning("%s: is damaged: kept as %s, its readable lines go on here.", self.path, kept.name)
        unreadable = bool(torn) + sum(not self._take(cells) for cells in lines)
        if unreadable:
            log.warning("%s: skipped %d unreadable line(s), left by a killed run.", self.path, unreadable)

    def _take(self, cells: list[str]) -> bool:
        """Add a line of the file to the rows; False if it is damaged."""
        if len(cells) != len(self._columns):
            return False
        try:
            row = {name: float(cell) for name, cell in zip(self._columns[1:], cells[1:], strict=True) if cell}
            self._rows.setdefault(int(cells[0]), {}).update(row)
        except ValueError:
            return False
        return True

    def _write(self) -> None:
        """Replace the file in one move, so that a reader or a kill at any time finds the old one or the new one."""
        try:
            with replacing(self.path, sync=True) as part, part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(self._columns)
                writer.writerows(self._cells(step) for step in sorted(self._rows))
        except FileNotFoundError as error:
            raise folder_vanished(self.path.parent) from error
        self._on_disk = len(self._columns), max(self._rows, default=-1)
        self._unsaved.clear()

    def _cells(self, step: int) -> list[str]:
        row = self._rows[step]
        epoch = f"{row['epoch']:g}" if "epoch" in row else ""
        return [str(step), epoch, *(repr(row[name]) if name in row else "" for name in self._columns[2:])]
