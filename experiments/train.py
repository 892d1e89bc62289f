"""task=train: train by the recipe, keep the best and the last checkpoint, test one of them, tabulate."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.degradations.keyed_random import make_key
from datamodules.distributed import on_rank_zero, rank, rank_zero_first
from datamodules.errors import InputError
from experiments.config.processes import check_tasks
from experiments.config.training import build_procedure, check_training, instantiate
from experiments.evaluate.measure import Measurement, on_data, progress_bar, test_names
from experiments.models import checksum
from experiments.results.records import EvaluationRecord, read_records
from experiments.results.tables import report
from experiments.results.wandb import log_training, training_loggers
from experiments.runtime import distributed
from experiments.runtime.run_folder import close_run, open_run
from experiments.runtime.slurm_requeue import restarted_in
from experiments.runtime.speed import keep_memory, settle
from lightning_modules.callbacks.checkpointing import LastAndBest
from lightning_modules.callbacks.epoch_log import EpochLog
from lightning_modules.callbacks.finite import SkipNonFinite
from lightning_modules.callbacks.interrupt import StopOnSignal
from lightning_modules.callbacks.sheets import ValidationSheets
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.checkpoints.checkpoint import (
    AtomicCheckpointIO,
    load_network,
    load_weights,
    read_checkpoint,
    read_weights,
)
from lightning_modules.loggers.csv import MetricsCSV
from lightning_modules.loggers.wandb import finish
from lightning_modules.metrics.build import build_metrics
from lightning_modules.restoration import RestorationModule

log = logging.getLogger(__name__)

KEYS: dict[str, Any] = {"compile": bool, "keep_memory": bool, "nonfinite": dict}


def check(cfg: DictConfig) -> None:
    """Verify that the recipe fits together, and the tasks of a job of SLURM.

    Raises:
        ConfigError: one line with the key, what was found and what to do.
    """
    check_tasks(cfg.trainer)
    check_training(cfg)


@dataclass
class Training:
    """What is made before the first step."""

    cfg: DictConfig
    config: dict[str, Any]  # `cfg` as plain values, as the run folder and the checkpoints keep it
    run_dir: Path
    device: torch.device  # of this process
    module: RestorationModule
    datamodule: Any
    checkpointing: LastAndBest
    loggers: list[Any]  # besides `metrics.csv`
    trainer: pl.Trainer
    resume_from: Path | None  # checkpoint to continue from, None for a new run


def run(cfg: DictConfig) -> float:
    """Train, then test the checkpoint of `checkpoint.use` against bicubic; returns the best validation PSNR.

    Raises:
        InputError: for a taken name, unreadable data, a damaged checkpoint, a full disk, a loss that is not a number.
    """
    training = set_up(cfg)
    status = 1
    try:
        fit(training)
        publish(training, *test(training))
        status = 0
    finally:
        distributed.leaving()
        for logger in training.loggers:
            finish(logger, status)
    return training.checkpointing.best_score


def set_up(cfg: DictConfig) -> Training:
    """Join the processes, build network and data, open the run folder, and put the trainer around them."""
    run_dir = Path(cfg.run_dir)
    if restarted_in(run_dir):
        cfg.resume = "auto"
    device = distributed.start(cfg)
    settle(cfg)
    if cfg.keep_memory:
        keep_memory()
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a mapping
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    module = _build_module(cfg, config)
    datamodule = instantiate(cfg.data)
    # Images are found and decoded before the folder is made: a mistake in the data leaves nothing behind.
    with rank_zero_first():
        datamodule.prepare_data()
        datamodule.setup("fit")
        datamodule.setup("test")
    last = run_dir / "checkpoints" / "last.ckpt"
    resume_from = last if cfg.resume == "auto" and last.exists() else None
    meta, step = _open_folder(cfg, config, module, datamodule, resume_from)
    csv = MetricsCSV(run_dir)
    csv.rewind(step - 1)  # Lightning numbers the first step 0: what is kept are the rows of those that were made
    loggers = training_loggers(cfg, run_dir, meta, module)
    checkpointing = LastAndBest(str(last.parent), module.monitor, **config["checkpoint"])
    trainer = _build_trainer(cfg, config, module, [csv, *loggers], checkpointing)
    return Training(cfg, config, run_dir, device, module, datamodule, checkpointing, loggers, trainer, resume_from)


def _build_module(cfg: DictConfig, config: dict[str, Any]) -> RestorationModule:
    """The training procedure around a new network."""
    network, protocols = instantiate(cfg.model), list(instantiate(cfg.protocol).values())
    speed = {"channels_last": cfg.channels_last, "compile": cfg.compile}
    module: RestorationModule = build_procedure(cfg, network, protocols, config=config, **speed)
    module.metrics = build_metrics(cfg.metrics, cfg.lpips_weights, cfg.niqe_model)
    return module


def _open_folder(
    cfg: DictConfig, config: dict[str, Any], module: RestorationModule, datamodule: Any, resume_from: Path | None
) -> tuple[dict[str, Any], int]:
    """Give the network its weights and make the run folder, or continue in it; returns its meta and the steps made."""
    run_dir = Path(cfg.run_dir)
    # Read before the folder is touched: a damaged file changes nothing.
    checkpoint = read_checkpoint(resume_from) if resume_from else {"global_step": 0}
    if cfg.resume == "auto":
        read_beforehand(run_dir, cfg.checkpoint.use)
    if cfg.weights and resume_from is None:
        read_weights(module.network, Path(cfg.weights))
    meta = on_rank_zero(lambda: open_run(run_dir, config, cfg.resume))
    distributed.log_into(run_dir)
    if resume_from is not None:
        load_weights(module.network, checkpoint, str(resume_from))  # names the difference better than a failing restore
        log.info("continuing %s after step %d", run_dir, checkpoint["global_step"])
    elif rank() == 0:
        fit_basis(module.network, datamodule, cfg.seed)  # the others get it with the weights when training starts
    return meta, checkpoint["global_step"]


def read_beforehand(run_dir: Path, use: str) -> None:
    """Of a run that goes on, read before it does what is read when it ends: the results and the checkpoint to test.

    Raises:
        InputError: if one of them is damaged, with what to do.
    """
    results, chosen = run_dir / "results.json", run_dir / "checkpoints" / f"{use}.ckpt"
    if results.exists():
        read_records(results)
    if chosen.exists():
        read_checkpoint(chosen)


def _build_trainer(
    cfg: DictConfig, config: dict[str, Any], module: RestorationModule, loggers: list[Any], checkpointing: LastAndBest
) -> pl.Trainer:
    if cfg.trainer.max_epochs is None:
        cfg.trainer.max_epochs = module.epochs  # of a schedule in stages
    processes = distributed.for_lightning(cfg.trainer, module)
    processes["plugins"].append(AtomicCheckpointIO())
    log.info("%s", distributed.batch_line(cfg))
    throughput = Throughput()
    callbacks = [
        throughput,
        SkipNonFinite(**config["nonfinite"]),
        EpochLog(module.monitor, throughput),
        ValidationSheets(module.protocols[0], cfg.label, **config["validation_sheets"]),
        checkpointing,
        StopOnSignal(checkpointing),
        *instantiate(cfg.callbacks).values(),
    ]
    trainer: pl.Trainer = instantiate(cfg.trainer, logger=loggers, callbacks=callbacks, **processes)
    return trainer


def fit(training: Training) -> None:
    """Train, from the start or from the last checkpoint.

    Raises:
        InputError: if no validation has written a best checkpoint.
    """
    training.trainer.fit(
        training.module, datamodule=training.datamodule, ckpt_path=training.resume_from, weights_only=True
    )
    best = training.checkpointing.best
    if not best.exists():
        why = "trainer.max_epochs or trainer.limit_val_batches left no validation"
        raise InputError(f"{best} was never written: {why}", file=best)


def test(training: Training) -> tuple[list[EvaluationRecord], EvaluationRecord, int]:
    """Measure the chosen checkpoint: the records, what was measured, and the step that it is of."""
    cfg, chosen = training.cfg, training.checkpointing.chosen
    training.module.network, loaded = load_network(chosen)
    run_dir, datamodule = training.run_dir, training.datamodule
    record = EvaluationRecord(cfg.label, run_dir.name, cfg.seed, str(chosen.relative_to(run_dir)), checksum(chosen))
    record = on_data(record, datamodule, cfg, training.device)
    measurement = Measurement(training.module, datamodule, run_dir, record)
    with progress_bar(len(test_names(datamodule)), sys.stderr.isatty()) as progress:
        records = measurement.run(training.device, cfg.pictures, progress)
    return records, record, loaded["global_step"]


def publish(training: Training, records: list[EvaluationRecord], record: EvaluationRecord, step: int) -> None:
    """Print the table of the test, close the run folder, and send the figures to the loggers."""
    score, run_dir = training.checkpointing.best_score, training.run_dir
    if records:
        print(report(records, [run_dir]), flush=True)
    points = training.datamodule.val_points
    close_run(run_dir, score=score, val_points=points, checkpoint_sha256=record.checkpoint_sha256)
    log_training(training.loggers, run_dir, records, {"tested_step": step, training.module.monitor: score})


def fit_basis(network: Any, datamodule: Any, seed: int, count: int = 30_000) -> None:
    """Show a new network that describes kernels by a code what kernels there are; others are left alone.

    Args:
        count: kernels to draw from the degradation.
    """
    if not network.has_basis or network.basis.fitted:
        return
    draw = datamodule.degradation.kernels
    keys = torch.tensor([make_key("kernel_basis", seed, i) for i in range(count)])
    log.info("fitting the kernel code to %d kernels of the degradation", count)
    network.fit_basis(torch.cat([draw(part) for part in keys.split(1000)]), seed)
