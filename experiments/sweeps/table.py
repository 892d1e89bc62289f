"""What is known of the jobs of a sweep, read from their run folders: whether finished, scores, minutes; as a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from experiments.results.records import read_curves, read_mapping, read_records
from experiments.results.table import EMPTY, ResultTable, TableColumn, metric_cell, metric_column, words
from experiments.results.writers import csv_text, markdown, text
from experiments.runtime.run_folder import FREE_DATA_KEYS, without_new_keys, write_text

# Where and how a run works: may differ from the finished one all the same.
_FREE = {
    "": {"name", "group", "resume", "runs_dir", "run_dir", "data_dir", "label", "choices", "task"}
    | {"logger", "callbacks", "checkpoint", "validation_sheets", "pictures", "keep_memory"},
    "data": FREE_DATA_KEYS,
    "trainer": {"accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar", "log_every_n_steps"},
}


@dataclass
class Row:
    """One line of the table."""

    run: str  # name of the run folder, or of the task where there is none
    overrides: str  # what distinguishes the job from the others
    state: str  # done, failed, or unfinished
    best: float | None = None  # validation PSNR in dB so far
    test: dict[str, dict[str, float]] = field(default_factory=dict)  # protocol -> metric -> mean test score
    minutes: float | None = None  # of training, over all attempts
    message: str = ""  # why it failed


def score_of_finished(cfg: Mapping[str, Any]) -> float | None:
    """The best validation PSNR of a run that has trained and tested with this configuration; None if it has not."""
    folder = Path(cfg["run_dir"])
    meta, before = read_mapping(folder / "meta.json"), read_mapping(folder / "config.yaml")
    before = {key: value for key, value in before.items() if key in cfg}  # older runs have keys of other tasks too
    if "finished" not in meta or _identity(before) != _identity(without_new_keys(cfg, before)):
        return None
    try:
        tested = read_records(folder / "results.json")
    except InputError:  # missing or damaged, which the job itself names
        return None
    return float(meta["finished"]["score"]) if tested else None


def _identity(cfg: Mapping[str, Any]) -> str:
    parts = {key: value for key, value in cfg.items() if key not in _FREE[""]}
    for section in ("data", "trainer"):
        parts[section] = {k: v for k, v in (cfg.get(section) or {}).items() if k not in _FREE[section]}
    parts["metric"] = cfg.get("metric") or {}  # which runs of earlier versions lack
    callbacks = cfg.get("callbacks") or {}
    parts["callbacks"] = {key: callbacks[key] for key in ("ema", "early_stopping") if key in callbacks}
    return json.dumps(parts, sort_keys=True, default=str)


def read_row(
    cfg: Mapping[str, Any], overrides: str, error: str = "", trains: bool = True, completed: bool = False
) -> Row:
    """The row of a job.

    Args:
        error: its line if it has failed in this sweep.
        trains: whether the job is a training, with a folder of its own that tells the rest.
        completed: whether it came to its end in this sweep.
    """
    if not trains:
        state = "failed" if error else "done" if completed else "unfinished"
        return Row(str(cfg["name"]), overrides, state, message=error)
    folder = Path(cfg["run_dir"])
    score = score_of_finished(cfg)
    state = "failed" if error else "unfinished" if score is None else "done"
    curve, minutes = _progress(folder)
    row = Row(folder.name, overrides, state, curve if score is None else score, minutes=minutes, message=error)
    if state == "done":
        finished = read_mapping(folder / "meta.json")["finished"]
        sha = finished.get("checkpoint_sha256")
        for record in read_records(folder / "results.json") if sha and "test" not in finished else ():  # an older run
            if record.checkpoint_sha256 == sha and not (record.suite or record.self_ensemble or record.computed):
                row.test.setdefault(record.protocol_name, dict(record.means))
        row.test |= finished.get("test", {})
    return row


def _progress(folder: Path) -> tuple[float | None, float | None]:
    """Best validation PSNR of the last stage, and minutes."""
    curves = read_curves(folder / "metrics.csv")
    stages = curves.get("train/stage", [])
    last = max((stage for _, stage in stages), default=None)
    begin = min((step for step, stage in stages if stage == last), default=0)
    psnr = next((points for name, points in curves.items() if name.startswith("val/psnr/")), [])
    minutes = [value for _, value in curves.get("speed/minutes", [])]
    return max((value for step, value in psnr if step >= begin), default=None), minutes[-1] if minutes else None


def write_tables(folder: Path, rows: Sequence[Row]) -> None:
    """Print the table; write it as `sweep.csv` (all digits) and `sweep.md` into the folder of the sweep."""
    if not rows:
        return
    tests = list(dict.fromkeys((p, m) for row in rows for p in row.test for m in row.test[p]))
    table = job_table(rows, tests)
    lines = [
        {
            "run": row.run,
            "overrides": row.overrides,
            "best_val_psnr": row.best,
            **{f"test/{m}/{p}": row.test.get(p, {}).get(m) for p, m in tests},
            "minutes": row.minutes,
            "state": row.state,
            "message": row.message,
        }
        for row in rows
    ]
    print(f"\n{text(table)}")
    write_text(folder / "sweep.md", markdown(table) + "\n")
    write_text(folder / "sweep.csv", csv_text(lines))
    print(f"table: {folder / 'sweep.md'}, {folder / 'sweep.csv'}", flush=True)


def job_table(rows: Sequence[Row], tests: Sequence[tuple[str, str]]) -> ResultTable:
    """A row a job, without the columns that no job fills.

    Args:
        tests: protocol and metric of the columns with test scores.
    """
    columns = [
        (TableColumn("overrides", figures=False), words(*(row.overrides or EMPTY for row in rows))),
        (TableColumn("best val dB"), [metric_cell("psnr", row.best) for row in rows]),
        *((metric_column(m, p), [metric_cell(m, row.test.get(p, {}).get(m)) for row in rows]) for p, m in tests),
        (TableColumn("minutes"), words(*(EMPTY if row.minutes is None else f"{row.minutes:.1f}" for row in rows))),
        (TableColumn("state", figures=False), words(*(row.state for row in rows))),
        (TableColumn("run", figures=False), words(*(row.run for row in rows))),
    ]
    filled = [(column, cells) for column, cells in columns if any(cell.text != EMPTY for cell in cells)]
    lines = [list(line) for line in zip(*(cells for _, cells in filled), strict=True)]
    notes = [f"{row.run}: {row.message}" for row in rows if row.message]
    return ResultTable("", [column for column, _ in filled], [lines], notes)
