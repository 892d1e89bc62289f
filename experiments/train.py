"""task=train: train by the recipe, keep the best and the last checkpoint, test one of them, tabulate."""

import logging
import sys
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.degradations.keyed_random import make_key
from datamodules.distributed import on_rank_zero, rank, rank_zero_first
from datamodules.errors import InputError
from experiments.config.slurm import check_tasks
from experiments.config.training import check_training
from experiments.evaluate.measure import Progress, checksum, measure, metric_files, on_data, test_names
from experiments.results.records import EvaluationRecord
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


def run(cfg: DictConfig) -> float:
    """Train, then test the checkpoint of `checkpoint.use` against bicubic; returns the best validation PSNR.

    Raises:
        InputError: for a taken name, unreadable data, a damaged checkpoint, a full disk, a loss that is not a number.
    """
    if restarted_in(Path(cfg.run_dir)):
        cfg.resume = "auto"
    device = distributed.start(cfg)
    settle(cfg)
    if cfg.keep_memory:
        keep_memory()
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a mapping
    run_dir = Path(cfg.run_dir)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)

    network = hydra.utils.instantiate(cfg.model, _convert_="all")
    protocols = list(hydra.utils.instantiate(cfg.protocol, _convert_="all").values())
    module: RestorationModule = hydra.utils.instantiate(cfg.procedure, _convert_="all")(
        network,
        protocols,
        loss=hydra.utils.instantiate(cfg.loss, _convert_="all"),
        optimizer=hydra.utils.instantiate(cfg.optimizer, _convert_="all"),
        scheduler=hydra.utils.instantiate(cfg.scheduler, _convert_="all") if cfg.scheduler else None,
        config=config,
        channels_last=cfg.channels_last,
        compile=cfg.compile,
    )
    module.metrics = build_metrics(cfg.metrics, cfg.lpips_weights, cfg.niqe_model)
    datamodule = hydra.utils.instantiate(cfg.data, _convert_="all")
    # Images are found and decoded before the folder is made: a mistake in the data leaves nothing behind.
    with rank_zero_first():
        datamodule.prepare_data()
        datamodule.setup("fit")
        datamodule.setup("test")

    last = run_dir / "checkpoints" / "last.ckpt"
    resume_from = last if cfg.resume == "auto" and last.exists() else None
    # Read before the folder is touched: a damaged file changes nothing.
    checkpoint = read_checkpoint(resume_from) if resume_from else {}
    if cfg.weights and resume_from is None:
        read_weights(network, Path(cfg.weights))
    meta = on_rank_zero(lambda: open_run(run_dir, config, cfg.resume))
    distributed.log_into(run_dir)
    if resume_from is not None:
        load_weights(network, checkpoint, str(resume_from))  # names the difference better than a failing restore
        log.info("continuing %s after step %d", run_dir, checkpoint["global_step"])
    elif rank() == 0:
        fit_basis(network, datamodule, cfg.seed)  # the others get it with the weights when training starts

    csv = MetricsCSV(run_dir)
    # Lightning numbers the first step 0: what is kept are the rows of the steps the checkpoint has seen.
    csv.rewind(checkpoint["global_step"] - 1 if resume_from else -1)
    active = [csv, *training_loggers(cfg, run_dir, meta, module)]

    checkpointing = LastAndBest(str(last.parent), module.monitor, **config["checkpoint"])
    if cfg.trainer.max_epochs is None:
        cfg.trainer.max_epochs = module.epochs  # of a schedule in stages
    processes = distributed.for_lightning(cfg.trainer, module)
    processes["plugins"].append(AtomicCheckpointIO())
    log.info("%s", distributed.batch_line(cfg))
    throughput = Throughput()
    trainer = hydra.utils.instantiate(
        cfg.trainer,
        _convert_="all",
        logger=active,
        **processes,
        callbacks=[
            throughput,
            SkipNonFinite(**config["nonfinite"]),
            EpochLog(module.monitor, throughput),
            ValidationSheets(protocols[0], cfg.label, **config["validation_sheets"]),
            checkpointing,
            StopOnSignal(checkpointing),
            *hydra.utils.instantiate(cfg.callbacks, _convert_="all").values(),
        ],
    )
    status = 1
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=resume_from, weights_only=True)
        if not checkpointing.best.exists():
            raise InputError(
                f"{checkpointing.best} was never written: trainer.max_epochs or trainer.limit_val_batches left no "
                "validation"
            )
        chosen = checkpointing.chosen
        module.network, loaded = load_network(chosen)
        record = EvaluationRecord(cfg.label, run_dir.name, cfg.seed, str(chosen.relative_to(run_dir)), checksum(chosen))
        progress = Progress(len(test_names(datamodule)), sys.stderr.isatty())
        found = measure(
            module,
            datamodule,
            run_dir,
            on_data(record, datamodule, config["degradation"], device, metric_files(cfg)),
            device=device,
            pictures=cfg.pictures,
            progress=progress,
        )
        progress.close()
        if found:
            print(report(found, [run_dir]), flush=True)
        close_run(
            run_dir,
            score=checkpointing.best_score,
            val_points=datamodule.val_points,
            checkpoint_sha256=record.checkpoint_sha256,
        )
        steps = {"tested_step": loaded["global_step"], module.monitor: checkpointing.best_score}
        log_training(active[1:], run_dir, found, steps)
        status = 0
    finally:
        distributed.leaving()
        for logger in active[1:]:
            finish(logger, status)
    return checkpointing.best_score


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
