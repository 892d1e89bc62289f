"""What of a task goes to Weights & Biases, beside the curves: names and tags, the final test, a comparison.

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

import hydra
import requests
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from experiments.results.records import BASELINE, METRICS, EvaluationRecord
from experiments.results.tables import cell_folder, short_keys
from experiments.runtime.run_folder import named_overrides
from lightning_modules.loggers.wandb import agent_trial, finish, keep_best, rank_zero, where_line
from lightning_modules.restoration import RestorationModule

log = logging.getLogger(__name__)

RESULTS = ("results.json", "config.yaml", "meta.json", "metrics.csv")  # of a run folder; what `compare` reads of it
PICTURES = 64  # at most in a table of images
WIDTH = 1024  # pixels of a picture there
_UNTAGGED = ("experiment", "model", "data", "data.root", "seed")  # overrides that other tags or the group say already


def training_loggers(cfg: DictConfig, run_dir: Path, meta: Mapping[str, Any], module: RestorationModule) -> list[Any]:
    """The loggers beside the CSV, none or W&B, with the names that make seeds and ablations one view.

    Args:
        meta: of the run folder; its `wandb_id` continues a known W&B run.
        module: its best scores and lowest losses stand in W&B's table of runs.
    """
    setting = cfg.name.removesuffix(f"-{agent_trial() or ''}").replace(f"-seed={cfg.seed}", "")
    config = {**OmegaConf.to_container(cfg, resolve=True), "meta": dict(meta)}  # type: ignore[dict-item]  # a mapping
    tags = [f"model:{cfg.label}", f"data:{cfg.choices.data}", f"seed:{cfg.seed}"]
    tags += [f"{key}={value}" for key, value in named_overrides(_overrides()).items() if key not in _UNTAGGED]
    made = _start(cfg, run_dir, meta["wandb_id"], cfg.name, "train", cfg.group or setting, tags, config)
    scores = [f"val/{metric}/{protocol.name}" for protocol in module.protocols for metric in ("psnr", "ssim")]
    terms = module.loss.terms if module.loss else ()
    for logger in made:
        keep_best(logger, scores, ["train/loss", *(f"train/loss_{branch}" for branch in terms)])
    return made


def log_training(
    loggers: Sequence[Any], run_dir: Path, found: Sequence[EvaluationRecord], best: Mapping[str, float]
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
            _log_results(run, run_dir, found)


def log_evaluation(cfg: DictConfig, run_dir: Path, found: Sequence[EvaluationRecord]) -> None:
    """An evaluation as a W&B run of its own, if `logger=` is on the command line: tables of images and cells, results.

    Args:
        run_dir: folder that holds results.json and the pictures.
        found: the records of this evaluation; all of one run folder.
    """
    if not found:
        return
    sets = list(dict.fromkeys(r.dataset for r in found))
    models = [m for m in dict.fromkeys(r.model for r in found) if m != BASELINE] or [BASELINE]
    group = cfg.group or found[0].suite or "+".join(sets)
    tags = [*(f"model:{m}" for m in models), *(f"data:{s}" for s in sets)]
    _job(cfg, run_dir, "evaluate", f"{run_dir.name} on {group}", group, tags, lambda r: _log_results(r, run_dir, found))


def log_comparison(cfg: DictConfig, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A comparison as a W&B run of its own, if `logger=` is on the command line: the table and the folder.

    Args:
        folder: all files in it become an artifact of type "comparison".
        rows: of the table, long format; keys become columns.
    """

    def log_it(run: Any) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        _log_table(run, "comparison", columns, [[row.get(key) for key in columns] for row in rows])
        inside = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
        files = {path.as_posix(): folder / path for path in inside if path.parts[0] != "wandb"}
        _log_artifact(run, "comparison", folder.name, files)

    _job(cfg, folder, "compare", folder.name, cfg.group, [], log_it)


def summary(found: Sequence[EvaluationRecord]) -> dict[str, float]:
    """test/DATASET/METRIC/PROTOCOL/MODEL -> the mean; over the cells too, if there is a grid."""
    values: dict[str, list[float]] = {}
    for record in found:
        for metric in METRICS:
            if metric in record.means:
                name = f"test/{record.dataset}/{metric}/{record.protocol_name}/{record.model}"
                values.setdefault(name, []).append(record.means[metric])
    return {name: sum(means) / len(means) for name, means in values.items()}


def image_table(found: Sequence[EvaluationRecord], run_dir: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the images of one data set: scores by protocol, gain over bicubic, picture.

    Args:
        found: records of one data set. Bicubic has no rows of its own beside a network.
        run_dir: the run folder. A picture is the path of its sheet, or of the bare result, or None.
    """
    models = [m for m in dict.fromkeys(r.model for r in found) if m != BASELINE] or [BASELINE]
    shown = [r for r in found if r.model in models]
    cells = short_keys(list(dict.fromkeys(key for r in shown for key in r.cell)))
    bicubic = {_place(r): r.images for r in found if r.model == BASELINE}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in shown:
        protocol, baseline = record.protocol_name, bicubic.get(_place(record), {})
        for name, values in record.images.items():
            key = (record.model, *(record.cell.get(cell) for cell in cells), name)
            row = rows.setdefault(key, {})
            row |= {f"{metric} {protocol}": values[metric] for metric in METRICS if metric in values}
            if record.model != BASELINE and name in baseline:
                row[f"gain {protocol}"] = values["psnr"] - baseline[name]["psnr"]
            if "seconds" in values:
                row["seconds"] = values["seconds"]
            row["picture"] = _picture(run_dir, record, name)
    scores = list(dict.fromkeys(column for row in rows.values() for column in row if column != "picture"))
    columns = [*scores, "picture"]
    table = [[*key, *(row.get(column) for column in columns)] for key, row in rows.items()]
    return ["model", *cells.values(), "image", *columns], table


def cell_table(found: Sequence[EvaluationRecord]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a grid: one row for each model, data set, cell and protocol, with the means."""
    cells = short_keys(list(dict.fromkeys(key for r in found for key in r.cell)))
    metrics = [metric for metric in METRICS if any(metric in r.means for r in found)]
    rows = [
        [
            *(r.model, r.dataset, r.protocol_name),
            *(r.cell.get(key) for key in cells),
            *(r.means.get(metric) for metric in metrics),
        ]
        for r in found
    ]
    return ["model", "dataset", "protocol", *cells.values(), *metrics], rows


def _place(record: EvaluationRecord) -> tuple[Any, ...]:
    return record.dataset, record.protocol_name, tuple(sorted(record.cell.items()))


def _picture(run_dir: Path, record: EvaluationRecord, name: str) -> Path | None:
    folder = run_dir / "images" / record.dataset / cell_folder(record.cell)
    stem = name.replace("/", "_")
    return next((path for path in (folder / f"{stem}.png", folder / f"{stem}_sr.png") if path.is_file()), None)


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task)


def _start(
    cfg: DictConfig,
    folder: Path,
    run_id: str,
    name: str,
    job_type: str,
    group: str | None,
    tags: Sequence[str],
    config: dict[str, Any],
) -> list[Any]:
    """The loggers that the config asks for, started; the user is told where each is."""
    made = []
    for make in (hydra.utils.instantiate(cfg.logger, _convert_="all") or {}).values():
        about = {"run_id": run_id, "name": name, "job_type": job_type, "group": group, "config": config}
        made.append(make(folder, **about, tags=[*make.keywords.get("tags", ()), *tags]))
        log.info("%s", where_line(made[-1]))
    return made


def _job(
    cfg: DictConfig,
    folder: Path,
    job_type: str,
    name: str,
    group: str | None,
    tags: Sequence[str],
    log_it: Callable[[Any], None],
) -> None:
    """A W&B run that only holds results that are there already."""
    chosen = any(re.match(r"[+~]*logger[.=]", item) for item in _overrides())
    if not chosen or not rank_zero():
        return
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a mapping
    for logger in _start(cfg, folder, secrets.token_hex(4), name, job_type, group, tags, config):
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


def _log_results(run: Any, run_dir: Path, found: Sequence[EvaluationRecord]) -> None:
    run.summary.update(summary(found))
    for dataset in dict.fromkeys(r.dataset for r in found):
        _log_table(run, f"test/images/{dataset}", *image_table([r for r in found if r.dataset == dataset], run_dir))
    if any(r.cell for r in found):
        _log_table(run, "test/cells", *cell_table(found))
    _log_artifact(run, "results", run.id, {name: run_dir / name for name in RESULTS if (run_dir / name).is_file()})


def _log_table(run: Any, key: str, columns: list[str], rows: list[list[Any]]) -> None:
    import wandb

    shown = 0
    for row in rows:
        for i, value in enumerate(row):
            if isinstance(value, Path):
                row[i] = wandb.Image(_small(value), file_type="jpg") if shown < PICTURES else None
                shown += 1
    run.log({key: wandb.Table(columns=[*columns], data=rows, allow_mixed_types=True)})


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
