"""What of a task goes to loggers, besides the curves: names and tags, the final test, a comparison.

A training makes a run of job type `train`. An evaluation and a comparison make one of their own, of job type `evaluate`
or `compare`, where `logger=` is on the command line. Every result is on this disk before it is logged.
"""

import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.config.construct import instantiate
from experiments.results import wandb as of_wandb
from experiments.results.records import EvaluationRecord
from experiments.runtime.run_folder import named_overrides
from lightning_modules.loggers import wandb
from lightning_modules.loggers.agents import agent_trial
from lightning_modules.loggers.recorder import Recorder
from lightning_modules.restoration import RestorationModule

log = logging.getLogger(__name__)

_UNTAGGED = ("experiment", "model", "data", "data.root", "seed")  # overrides that other tags or the group say already


def training_loggers(
    cfg: DictConfig, run_dir: Path, meta: Mapping[str, Any], module: RestorationModule, first_step: int = 0
) -> list[Any]:
    """The loggers besides the CSV, with the names that make seeds and ablations one view.

    Args:
        meta: of the run folder; its `wandb_id` continues a known run of W&B or MLflow.
        module: its best scores and lowest losses stand in W&B's table of runs.
        first_step: that of the checkpoint which the training goes on from.
    """
    setting = cfg.name.removesuffix(f"-{agent_trial() or ''}").replace(f"-seed={cfg.seed}", "")
    config = {**_plain(cfg), "meta": dict(meta)}
    tags = [f"model:{cfg.label}", f"data:{cfg.choices.data}", f"seed:{cfg.seed}"]
    changed = named_overrides(HydraConfig.get().overrides.task)
    tags += [f"{key}={value}" for key, value in changed.items() if key not in _UNTAGGED]
    about = {"run_id": meta["wandb_id"], "name": cfg.name, "job_type": "train", "group": cfg.group or setting}
    loggers = start_loggers(cfg, run_dir, tags, config=config, first_step=first_step, **about)
    scores = [f"val/{metric}/{protocol.name}" for protocol in module.protocols for metric in ("psnr", "ssim")]
    terms = module.loss.terms if module.loss else ()
    for logger in loggers:
        wandb.keep_best(logger, scores, ["train/loss", *(f"train/loss_{branch}" for branch in terms)])
    return loggers


def log_training(
    loggers: Sequence[Any],
    cfg: DictConfig,
    run_dir: Path,
    records: Sequence[EvaluationRecord],
    best: Mapping[str, float],
    step: int,
) -> None:
    """The final test of a training.

    Args:
        best: the best score by its name as a curve.
        step: of the checkpoint that was tested.
    """
    for logger in loggers if wandb.rank_zero() else []:
        _log_records(logger, cfg, run_dir, records, step, {"tested_step": step, **best})


def log_evaluation(cfg: DictConfig, run_dir: Path, records: Sequence[EvaluationRecord]) -> None:
    """An evaluation as a run of its own, if `logger=` is on the command line.

    Args:
        run_dir: folder that holds results.json and the pictures.
        records: of this evaluation; all of one run folder.
    """
    if not records:
        return
    sets = dict.fromkeys(record.dataset for record in records)
    tags = [*(f"model:{model}" for model in of_wandb.model_names(records)), *(f"data:{dataset}" for dataset in sets)]
    group = cfg.group or records[0].suite or "+".join(sets)
    about = {"job_type": "evaluate", "name": f"{run_dir.name} on {group}", "group": group}
    _job(cfg, run_dir, lambda logger: _log_records(logger, cfg, run_dir, records, 0, {}), tags, **about)


def _log_records(
    logger: Any,
    cfg: DictConfig,
    run_dir: Path,
    records: Sequence[EvaluationRecord],
    step: int,
    best: Mapping[str, float],
) -> None:
    if isinstance(logger, Recorder):
        files = {name: run_dir / name for name in of_wandb.RESULTS if (run_dir / name).is_file()}
        logger.log_results(of_wandb.summary(records), files, _plain(cfg), step)
    else:
        of_wandb.log_results(logger.experiment, run_dir, records, best)


def log_comparison(cfg: DictConfig, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A comparison as a run of its own, if `logger=` is on the command line: the table and the folder.

    Args:
        folder: all files in it are logged.
        rows: of the table, long format; keys become columns.
    """

    def log_it(logger: Any) -> None:
        inside = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
        files = {path.as_posix(): folder / path for path in inside if path.parts[0] not in ("wandb", "tensorboard")}
        if isinstance(logger, Recorder):
            logger.log_results({}, files, _plain(cfg), 0)
        else:
            of_wandb.log_table(logger.experiment, folder.name, rows, files)

    _job(cfg, folder, log_it, [], job_type="compare", name=folder.name, group=cfg.group)


def start_loggers(cfg: DictConfig, folder: Path, tags: Sequence[str], **about: Any) -> list[Any]:
    """The loggers that the config asks for, started; the user is told where each is.

    Args:
        about: run_id, name, job_type, group and config of the run.
    """
    loggers = []
    for make in (instantiate(cfg.logger) or {}).values():
        logger = make(folder, **about, tags=[*make.keywords.get("tags", ()), *tags])
        loggers.append(logger)
        if wandb.rank_zero():
            log.info("%s", logger.where() if isinstance(logger, Recorder) else wandb.where_line(logger))
    return loggers


def finish(logger: Any, exit_code: int) -> None:
    """Close a logger, so that the next job of a sweep in this process starts its own. Never raises."""
    if not isinstance(logger, Recorder):
        wandb.finish(logger, exit_code)
    elif wandb.rank_zero():
        try:
            logger.finish(exit_code)
        except Exception as error:  # the training's own result or error matters more
            log.warning("%s could not be closed (%s)", type(logger).__name__, error)


def _job(cfg: DictConfig, folder: Path, log_it: Callable[[Any], None], tags: Sequence[str], **about: Any) -> None:
    """A run that only holds results that are there already."""
    chosen = any(re.match(r"[+~]*logger[.=]", item) for item in HydraConfig.get().overrides.task)
    if not chosen or not wandb.rank_zero():
        return
    loggers = start_loggers(cfg, folder, tags, run_id=secrets.token_hex(4), config=_plain(cfg), **about)
    status = 1
    try:
        for logger in loggers:
            log_it(logger)
        status = 0
    finally:
        for logger in loggers:
            finish(logger, status)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]  # a mapping
