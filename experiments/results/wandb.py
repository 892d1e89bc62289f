"""What of a task goes to Weights & Biases, besides the curves: names and tags, the final test, a comparison.

A training makes a run of job type `train`. An evaluation and a comparison make one of their own, of job type `evaluate`
or `compare`, where `logger=wandb` is on the command line. Every result is on this disk before it is logged.
"""

import logging
import re
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from experiments.config.training import instantiate
from experiments.results.records import BASELINE, METRICS, EvaluationRecord, canonical
from experiments.results.tables import cell_folder, short_keys
from experiments.runtime.run_folder import named_overrides
from lightning_modules.loggers.agents import agent_trial
from lightning_modules.loggers.wandb import finish, keep_best, rank_zero, where_line
from lightning_modules.restoration import RestorationModule

log = logging.getLogger(__name__)

RESULTS = ("results.json", "config.yaml", "meta.json", "metrics.csv")  # of a run folder; what `compare` reads of it
PICTURES = 64  # at most in a table of images
WIDTH = 1024  # pixels of a picture there
_UNTAGGED = ("experiment", "model", "data", "data.root", "seed")  # overrides that other tags or the group say already


def training_loggers(cfg: DictConfig, run_dir: Path, meta: Mapping[str, Any], module: RestorationModule) -> list[Any]:
    """The loggers besides the CSV, none or W&B, with the names that make seeds and ablations one view.

    Args:
        meta: of the run folder; its `wandb_id` continues a known W&B run.
        module: its best scores and lowest losses stand in W&B's table of runs.
    """
    setting = cfg.name.removesuffix(f"-{agent_trial() or ''}").replace(f"-seed={cfg.seed}", "")
    config = {**OmegaConf.to_container(cfg, resolve=True), "meta": dict(meta)}  # type: ignore[dict-item]  # a mapping
    tags = [f"model:{cfg.label}", f"data:{cfg.choices.data}", f"seed:{cfg.seed}"]
    changed = named_overrides(HydraConfig.get().overrides.task)
    tags += [f"{key}={value}" for key, value in changed.items() if key not in _UNTAGGED]
    about = {"run_id": meta["wandb_id"], "name": cfg.name, "job_type": "train", "group": cfg.group or setting}
    loggers = _start(cfg, run_dir, tags, config=config, **about)
    scores = [f"val/{metric}/{protocol.name}" for protocol in module.protocols for metric in ("psnr", "ssim")]
    terms = module.loss.terms if module.loss else ()
    for logger in loggers:
        keep_best(logger, scores, ["train/loss", *(f"train/loss_{branch}" for branch in terms)])
    return loggers


def log_training(
    loggers: Sequence[Any], run_dir: Path, records: Sequence[EvaluationRecord], best: Mapping[str, float]
) -> None:
    """The final test of a training: means in the summary, a table of images, the results as an artifact.

    Args:
        best: for the summary: the step of the checkpoint that was tested, and the best score by its name as a curve. In
            a run that was continued, W&B itself goes on with the best of the first part.
    """
    for logger in loggers if rank_zero() else []:
        run = logger.experiment
        with _server_may_be_lost(run):
            run.summary.update(
                {key: {"max": value} if key.startswith("val/") else value for key, value in best.items()}
            )
            _log_results(run, run_dir, records)


def log_evaluation(cfg: DictConfig, run_dir: Path, records: Sequence[EvaluationRecord]) -> None:
    """An evaluation as a W&B run of its own, if `logger=` is on the command line: tables of images and cells, results.

    Args:
        run_dir: folder that holds results.json and the pictures.
        records: of this evaluation; all of one run folder.
    """
    if not records:
        return
    sets = dict.fromkeys(record.dataset for record in records)
    tags = [*(f"model:{model}" for model in _models(records)), *(f"data:{dataset}" for dataset in sets)]
    group = cfg.group or records[0].suite or "+".join(sets)
    about = {"job_type": "evaluate", "name": f"{run_dir.name} on {group}", "group": group}
    _job(cfg, run_dir, lambda run: _log_results(run, run_dir, records), tags, **about)


def log_comparison(cfg: DictConfig, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A comparison as a W&B run of its own, if `logger=` is on the command line: the table and the folder.

    Args:
        folder: all files in it become an artifact of type "comparison".
        rows: of the table, long format; keys become columns.
    """

    def log_it(run: Any) -> None:
        _log_table(run, "comparison", rows)
        inside = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
        files = {path.as_posix(): folder / path for path in inside if path.parts[0] != "wandb"}
        _log_artifact(run, "comparison", folder.name, files)

    _job(cfg, folder, log_it, [], job_type="compare", name=folder.name, group=cfg.group)


def summary(records: Sequence[EvaluationRecord]) -> dict[str, float]:
    """test/DATASET/METRIC/PROTOCOL/MODEL -> the mean; over the cells too, if there is a grid."""
    values: dict[str, list[float]] = {}
    for record in records:
        for metric, mean in record.means.items():
            name = f"test/{record.dataset}/{metric}/{record.protocol_name}/{record.model}"
            values.setdefault(name, []).append(mean)
    return {name: sum(means) / len(means) for name, means in values.items()}


def image_rows(records: Sequence[EvaluationRecord], run_dir: Path) -> list[dict[str, Any]]:
    """The images of one data set: picture, scores by protocol, gain over bicubic.

    Args:
        records: of one data set. Bicubic has no rows where there is a network.
        run_dir: the run folder. A picture is the path of its sheet, or of the bare result, or None.
    """
    models, cells = _models(records), _cells(records)
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


def _models(records: Sequence[EvaluationRecord]) -> list[str]:
    """The networks, or bicubic where there is nothing else."""
    return [model for model in dict.fromkeys(record.model for record in records) if model != BASELINE] or [BASELINE]


def _cells(records: Sequence[EvaluationRecord]) -> dict[str, str]:
    """The keys of all cells, with their short names."""
    return short_keys(list(dict.fromkeys(key for record in records for key in record.cell)))


def _picture(run_dir: Path, record: EvaluationRecord, name: str) -> Path | None:
    folder = run_dir / "images" / record.dataset / cell_folder(record.cell)
    stem = name.replace("/", "_")
    return next((path for path in (folder / f"{stem}.png", folder / f"{stem}_sr.png") if path.is_file()), None)


def _start(cfg: DictConfig, folder: Path, tags: Sequence[str], **about: Any) -> list[Any]:
    """The loggers that the config asks for, started; the user is told where each is.

    Args:
        about: run_id, name, job_type, group and config of the W&B run.
    """
    loggers = []
    for make in (instantiate(cfg.logger) or {}).values():
        loggers.append(make(folder, **about, tags=[*make.keywords.get("tags", ()), *tags]))
        log.info("%s", where_line(loggers[-1]))
    return loggers


def _job(cfg: DictConfig, folder: Path, log_it: Callable[[Any], None], tags: Sequence[str], **about: Any) -> None:
    """A W&B run that only holds results that are there already."""
    chosen = any(re.match(r"[+~]*logger[.=]", item) for item in HydraConfig.get().overrides.task)
    if not chosen or not rank_zero():
        return
    config = OmegaConf.to_container(cfg, resolve=True)
    for logger in _start(cfg, folder, tags, run_id=secrets.token_hex(4), config=config, **about):
        status = 1
        try:
            with _server_may_be_lost(logger.experiment):
                log_it(logger.experiment)
            status = 0
        finally:
            finish(logger, status)


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
