"""What Weights & Biases shows of results: tables of images, cells and comparisons, with pictures, and artifacts."""

import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from experiments.results.pictures import made_of
from experiments.results.records import BASELINE, METRICS, EvaluationRecord, canonical
from experiments.results.tables import averaged, cell_folder, short_keys

log = logging.getLogger(__name__)

RESULTS = ("results.json", "config.yaml", "meta.json", "metrics.csv")  # of a run folder; what `compare` reads of it
PICTURES = 64  # at most in a table of images
WIDTH = 1024  # pixels of a picture there


def log_results(run: Any, run_dir: Path, records: Sequence[EvaluationRecord], best: Mapping[str, float]) -> None:
    """What was measured, in a run of W&B: means in the summary, a table of images, the results as an artifact.

    Args:
        best: for the summary: the step of the checkpoint that was tested, and the best score by its name as a curve. In
            a run that was continued, W&B itself goes on with the best of the first part.
    """
    with _server_may_be_lost(run):
        run.summary.update({key: {"max": value} if key.startswith("val/") else value for key, value in best.items()})
        _log_results(run, run_dir, records)


def log_table(run: Any, name: str, rows: Sequence[Mapping[str, Any]], files: Mapping[str, Path]) -> None:
    """A comparison in a run of W&B: the table, and the files as an artifact."""
    with _server_may_be_lost(run):
        _log_table(run, "comparison", rows)
        _log_artifact(run, "comparison", name, files)


def summary(records: Sequence[EvaluationRecord]) -> dict[str, float]:
    """test/DATASET/METRIC/PROTOCOL/MODEL -> the mean, over cells too: /scale=2,noise=0.01 ends the key if they vary."""
    values: dict[str, list[float]] = {}
    for record in records:
        apart = cell_folder({key: value for key, value in record.cell.items() if not averaged(key)})
        for metric, mean in record.means.items():
            name = f"test/{record.dataset}/{metric}/{record.protocol_name}/{record.model}" + (apart and f"/{apart}")
            values.setdefault(name, []).append(mean)
    return {name: sum(means) / len(means) for name, means in values.items()}


def image_rows(records: Sequence[EvaluationRecord], run_dir: Path) -> list[dict[str, Any]]:
    """The images of one data set: picture, scores by protocol, gain over bicubic.

    Args:
        records: of one data set. Bicubic has no rows where there is a network.
        run_dir: the run folder. A picture is the path of its sheet, or of the bare result, or None.
    """
    models, cells = model_names(records), _cells(records)
    bicubic = {record.key: record.images for record in records if record.is_baseline}
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.model not in models:
            continue
        cell = {name: record.cell.get(key) for key, name in cells.items()}
        baseline = {} if record.is_baseline else bicubic.get(record.of_bicubic().key, {})
        for image, values in record.images.items():
            about = {"model": record.model, **cell, "image": image, "picture": _picture(run_dir, record, image)}
            row = rows.setdefault(canonical([record.model, cell, image]), about)
            row |= {f"{metric} {record.protocol_name}": values[metric] for metric in METRICS if metric in values}
            if image in baseline:
                row[f"gain {record.protocol_name}"] = values["psnr"] - baseline[image]["psnr"]
            if "seconds" in values:
                row["seconds"] = values["seconds"]
    return list(rows.values())


def cell_rows(records: Sequence[EvaluationRecord]) -> list[dict[str, Any]]:
    """A grid: one row for each model, data set, cell and protocol, with the means."""
    cells = _cells(records)
    return [
        {"model": record.model, "dataset": record.dataset, "protocol": record.protocol_name}
        | {name: record.cell.get(key) for key, name in cells.items()}
        | dict(record.means)
        for record in records
    ]


def model_names(records: Sequence[EvaluationRecord]) -> list[str]:
    """The networks, or bicubic where there is nothing else."""
    return [model for model in dict.fromkeys(record.model for record in records) if model != BASELINE] or [BASELINE]


def _cells(records: Sequence[EvaluationRecord]) -> dict[str, str]:
    """The keys of all cells, with their short names."""
    return short_keys(list(dict.fromkeys(key for record in records for key in record.cell)))


def _picture(run_dir: Path, record: EvaluationRecord, name: str) -> Path | None:
    folder = run_dir / "images" / record.dataset / cell_folder(record.cell)
    if not made_of(folder, record.made_of, folders=True):
        return None
    stem = name.replace("/", "_")
    return next((path for path in (folder / f"{stem}.png", folder / f"{stem}_sr.png") if path.is_file()), None)


@contextmanager
def _server_may_be_lost(run: Any) -> Iterator[None]:
    """Measured is measured, and written to the folder of the run: a server that is gone does not make it a failure."""
    import wandb

    try:
        yield
    except (wandb.Error, requests.RequestException, ConnectionError, TimeoutError) as error:
        reason, folder = " ".join(str(error).split()), Path(run.settings.sync_dir).resolve()
        log.warning(
            "W&B did not take all results (%s); they are in the folder of the run.  To upload the rest: %s",
            reason,
            shlex.join(["wandb", "sync", "--include-online", str(folder)]),
        )


def _log_results(run: Any, run_dir: Path, records: Sequence[EvaluationRecord]) -> None:
    run.summary.update(summary(records))
    for dataset in dict.fromkeys(record.dataset for record in records):
        of_set = [record for record in records if record.dataset == dataset]
        _log_table(run, f"test/images/{dataset}", image_rows(of_set, run_dir))
    if any(record.cell for record in records):
        _log_table(run, "test/cells", cell_rows(records))
    _log_artifact(run, "results", run.id, {name: run_dir / name for name in RESULTS if (run_dir / name).is_file()})


def _log_table(run: Any, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows whose keys are the columns; of the paths, pictures, as many as `PICTURES` are sent."""
    import wandb

    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = wandb.Table(columns=[*columns], allow_mixed_types=True)
    shown = 0
    for row in rows:
        values = [row.get(column) for column in columns]
        for i, value in enumerate(values):
            if isinstance(value, Path):
                values[i] = wandb.Image(_small(value), file_type="jpg") if shown < PICTURES else None
                shown += 1
        table.add_data(*values)
    run.log({key: table})


def _small(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.thumbnail((WIDTH, 4 * WIDTH))
        return picture.convert("RGB")


def _log_artifact(run: Any, kind: str, name: str, files: Mapping[str, Path]) -> None:
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9._-]+", "-", f"{kind}-{name}")[:128], type=kind)
    for inside, path in files.items():
        artifact.add_file(str(path), name=inside)
    run.log_artifact(artifact)
