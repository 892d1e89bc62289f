"""Where the numbers of a run go: a CSV file that survives resuming and killing, and Weights & Biases.

`MetricsCSV` is always on. W&B is online when the machine has an API key and offline otherwise; either way every number
is on this disk first, so neither a dead server nor a killed job loses a curve.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import netrc
import os
import shlex
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

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
        self._last_step = -1  # of the last line on disk, which starts at byte _last_offset
        self._last_offset = 0
        self._loaded = False
        self._stale = True  # the file differs from the rows in more than its tail: write it anew

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

    @property
    def log_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run's folder already holds the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._load()
        step = max(self._rows, default=-1) + 1 if step is None else int(step)
        row = self._rows.setdefault(step, {})
        for name, value in metrics.items():
            if name == "step":
                continue
            row[name] = float(value)
            if name not in self._columns:
                self._columns.append(name)
                self._stale = True
        self._stale |= step < self._last_step
        self._unsaved.add(step)
        if len(self._unsaved) >= self._flush_every:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        if not self._unsaved:
            return
        if self._stale:
            self._write_all()
        else:
            self._write_tail(sorted(self._unsaved))
        self._unsaved.clear()

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Forget every row after `step`: training restarts from a checkpoint taken there."""
        self._load()
        kept = {s: row for s, row in self._rows.items() if s <= step}
        if len(kept) < len(self._rows):
            self._rows = kept
            self._write_all()
            self._unsaved.clear()

    def _load(self) -> None:
        """Read what an earlier attempt left. Lazy, because ranks other than 0 construct a logger too."""
        if self._loaded:
            return
        self._loaded = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        text, _, torn = self.path.read_bytes().decode(errors="replace").rpartition("\n")
        header, *lines = list(csv.reader(io.StringIO(text))) or [self._columns]
        if header[:2] != self._columns:
            raise ValueError(f"{self.path} is not a metrics file of this suite (first line: {header}). Move it away.")
        self._columns = header
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

    def _write_all(self) -> None:
        """Replace the file in one move, so that a reader or a kill at any time finds the old one or the new one."""
        steps = sorted(self._rows)
        lines = [_csv_line(self._columns), *map(self._line, steps)]
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave the new name with no content
        os.replace(temporary, self.path)
        self._last_step = steps[-1] if steps else -1
        self._last_offset = sum(map(len, lines)) - len(lines[-1])
        self._stale = False

    def _write_tail(self, steps: list[int]) -> None:
        """Append rows; if the first of them extends the last line on disk, write over that line."""
        lines = [self._line(step) for step in steps]
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            start = self._last_offset if steps[0] == self._last_step else end
            file.truncate(start)
            file.seek(start)
            file.write(b"".join(lines))
        self._last_step = steps[-1]
        self._last_offset = start + sum(map(len, lines[:-1]))

    def _line(self, step: int) -> bytes:
        row = self._rows[step]
        epoch = f"{row['epoch']:g}" if "epoch" in row else ""
        return _csv_line([str(step), epoch, *(repr(row[c]) if c in row else "" for c in self._columns[2:])])


def _csv_line(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def wandb_logger(
    run_dir: Path,
    *,
    run_id: str,
    name: str,
    project: str,
    group: str | None,
    job_type: str,
    tags: Sequence[str],
    config: dict[str, Any],
    entity: str | None = None,
) -> WandbLogger:
    """Start (or, for a known `run_id`, continue) a W&B run; without a usable server it is recorded offline.

    It starts here and not at the first number, so that a wrong key or a dead server shows at once.
    """
    folder = Path(run_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    run = None
    if _rank_zero():
        about: dict[str, Any] = {"id": run_id, "name": name, "project": project, "entity": entity}
        about |= {"dir": str(folder), "group": group, "job_type": job_type, "tags": list(tags), "config": config}
        run = _start(_wandb(), about)
    return WandbLogger(experiment=run, id=run_id, name=name, project=project, save_dir=folder)


def _start(wandb: Any, about: dict[str, Any]) -> Any:
    if wandb.run is not None:
        log.warning("W&B run %s was still open and is closed now.", wandb.run.id)
        _close(wandb.run, None)  # wandb.init would continue it
    mode, server = _mode(wandb), wandb.setup().settings.base_url
    try:
        run = wandb.init(**about, resume="allow", mode=mode, settings=_settings(wandb, mode))
    except wandb.Error as error:
        if mode in ("offline", "disabled"):
            raise
        wandb.teardown()  # W&B's service process still holds the run id of the failed attempt
        run = wandb.init(**about, resume="allow", mode="offline", settings=_settings(wandb, "offline"))
        reason = " ".join(str(error).split())
        log.warning("W&B server %s is not usable (%s); recording offline. %s", server, reason, _sync_line(run))
    # W&B's own step counter would restart at 0 in an offline run that is resumed.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def where_line(logger: Logger) -> str:
    """One line that tells the user where a logger's numbers are; empty where there is nothing to tell."""
    if isinstance(logger, MetricsCSV):
        return f"Metrics: {logger.path}"
    if not isinstance(logger, WandbLogger) or not _rank_zero():
        return ""
    run = logger.experiment
    if getattr(run, "disabled", False):
        return "W&B: disabled by WANDB_MODE"
    if not run.offline:
        return f"W&B: {run.url}"
    return _sync_line(run)


def _sync_line(run: Any) -> str:
    # Each resume of an offline run adds a folder; they belong to one run and are uploaded in the order of their names.
    folder = Path(run.settings.sync_dir).resolve()
    pending = [p for p in folder.parent.glob(f"offline-run-*-{run.id}") if not any(p.glob("*.synced"))]
    paths = shlex.join(str(p) for p in sorted({folder, *pending}))
    return f"W&B offline: {folder}  To upload: wandb sync {paths}"


def finish(logger: Logger, exit_code: int) -> None:
    """Close a W&B run, so that the next job of a sweep in this process starts its own. Never raises."""
    if isinstance(logger, WandbLogger) and _rank_zero():
        _close(logger.experiment, exit_code)


def _close(run: Any, exit_code: int | None) -> None:
    try:
        run.finish(exit_code=exit_code)
    except Exception as error:  # the training's own result or error matters more than anything W&B has to say
        log.warning("W&B could not close its run (%s); the data on disk can still be uploaded.", error)
        with contextlib.suppress(Exception):
            _wandb().teardown(exit_code=exit_code)  # makes W&B forget the run, or the next job would log into it


def _rank_zero() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _wandb() -> Any:
    """W&B, imported late because that takes about a second; its crash reports to a third party are switched off."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def _mode(wandb: Any) -> str:
    """An explicit wish wins (environment, or `wandb offline` in this folder); otherwise a key means online."""
    settings = wandb.setup().settings
    if wish := os.environ.get("WANDB_MODE", "").lower() or (settings.mode != "online" and settings.mode):
        return {"dryrun": "offline", "run": "online"}.get(wish, wish)
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    return "online" if _key_in_netrc(urlsplit(settings.base_url).netloc) else "offline"


def _key_in_netrc(server: str) -> bool:
    """Whether `wandb login` left a key for this server."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        machines = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    # The public service moved; a login from before the move is filed under its old name and is still valid.
    return server in machines or (server.endswith(".coreweave.com") and "api.wandb.ai" in machines)


def _settings(wandb: Any, mode: str) -> Any:
    """The choices made for every run; WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT (seconds) change the two limits."""
    choices: dict[str, Any] = {
        "console": "off",  # the log file of the run has it all; capturing would break progress bars
        "quiet": True,  # no sparklines and advertising; errors still show
        "silent": mode == "offline",  # where_line says what W&B would say, in one line
        "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT", 30)),  # a dead server must not hold up the start
    }
    if "finish_timeout" in getattr(wandb.Settings, "model_fields", {}):
        # A server lost during training must not hold the machine; what was not uploaded can be synced from disk.
        choices["finish_timeout"] = float(os.environ.get("WANDB_FINISH_TIMEOUT", 300))
    return wandb.Settings(**choices)
