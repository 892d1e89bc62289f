"""task=train: train by the recipe, keep the best and the last checkpoint, test one of them, tabulate."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.degradations.keyed_random import make_key
from datamodules.distributed import gather, on_rank_zero, rank, rank_zero_first
from datamodules.errors import ConfigError, InputError
from experiments.config.construct import build_procedure, construct, instantiate
from experiments.config.processes import check_tasks
from experiments.config.training import check_training, network_step
from experiments.evaluate.measure import Measurement, on_data, progress_bar
from experiments.models import checksum
from experiments.results.loggers import finish, log_training, training_loggers
from experiments.results.records import EvaluationRecord, read_records
from experiments.results.tables import report
from experiments.runtime import distributed
from experiments.runtime.lock import held
from experiments.runtime.run_folder import check_run, close_run, open_run
from experiments.runtime.saved_config import misplaced
from experiments.runtime.slurm_requeue import restarted_in
from experiments.runtime.speed import keep_memory, settle
from experiments.zoo.catalogue import weights_file
from lightning_modules.callbacks.checkpointing import LastAndBest
from lightning_modules.callbacks.epoch_log import EpochLog
from lightning_modules.callbacks.finite import SkipNonFinite
from lightning_modules.callbacks.interrupt import StopOnSignal
from lightning_modules.callbacks.sheets import ValidationSheets
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.checkpoints.atomic_io import AtomicCheckpointIO
from lightning_modules.checkpoints.checkpoint import load_network, load_weights, read_weights
from lightning_modules.checkpoints.resume import find_resumable, restore_last
from lightning_modules.checkpoints.untrusted import defined_in, targets
from lightning_modules.loggers.csv import MetricsCSV
from lightning_modules.metrics.build import build_metrics
from lightning_modules.metrics.psnr_ssim import least_side
from lightning_modules.restoration import RestorationModule

log = logging.getLogger(__name__)

_BASIS_KERNELS = 30_000  # of the degradation, to which the code of a network for kernels is fitted
_NFS = 60  # seconds in which a file that another node has written is seen
_LEASE = 180.0  # seconds until the locks of a node that has died are given up by the server of its files

KEYS: dict[str, Any] = {"compile": bool, "keep_memory": bool, "nonfinite": dict}


def check(cfg: DictConfig) -> None:
    """Verify that the recipe fits together, and the tasks of a job of SLURM.

    Raises:
        ConfigError: one line with the key, what was found and what to do.
    """
    check_tasks(cfg.trainer)
    check_training(cfg)
    for _, target in targets(OmegaConf.to_container(cfg.model, resolve=True), "model"):
        if not defined_in(target, ["networks"]):
            raise ConfigError(
                f"model._target_: found {target}, expected a class in networks/, without _ in front of its name: "
                "checkpoints build no other when they are read; put it there (docs/extending.md)"
            )


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
    requeued = restarted_in(Path(cfg.run_dir))
    if requeued:
        cfg.resume = "auto"
    device = distributed.start(cfg)
    with _alone_in(Path(cfg.run_dir), _LEASE if requeued else 0.0):
        training = set_up(cfg, device)
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


@contextmanager
def _alone_in(run_dir: Path, patience: float) -> Iterator[None]:
    """No other training works in the folder until the end; the first process holds the lock for all."""
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(held(run_dir / ".lock", patience=patience)))
        yield


def set_up(cfg: DictConfig, device: torch.device) -> Training:
    """Build network and data, open the run folder, and put the trainer around them."""
    run_dir = Path(cfg.run_dir)
    raw: Any = OmegaConf.to_container(cfg)
    settle(cfg)
    if cfg.keep_memory:
        keep_memory()
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a mapping
    for line in [line for name in ("data", "degradation", "protocol") for line in misplaced(config[name], name)]:
        if rank() == 0:
            log.warning("%s: task=evaluate run= will need %s= of your own", line, line.partition(".")[0])
    csv = MetricsCSV(run_dir)
    # All that is there already is read before anything is made: a mistake in it, or in the data, changes nothing.
    with rank_zero_first():
        resume_from, checkpoint = _look(csv, config, cfg.resume, raw)
    if len(steps := set(gather(checkpoint["global_step"]))) > 1:
        raise _unseen(run_dir, f"the processes find checkpoints of steps {', '.join(map(str, sorted(steps)))} there")
    module = build_module(cfg, config, resumed=resume_from is not None)
    if device.type == "cpu" and rank() == 0:
        _say_how_long(cfg, module)
    datamodule = load_data(cfg, module)
    _check_parts(cfg.trainer, datamodule)
    meta = _open_folder(cfg, config, module, datamodule, resume_from, checkpoint)
    csv.rewind(checkpoint["global_step"] - 1)  # Lightning numbers the first step 0: what is kept are those made
    loggers = training_loggers(cfg, run_dir, meta, module, checkpoint["global_step"])
    checkpointing = LastAndBest(str(run_dir / "checkpoints"), module.monitor, **config["checkpoint"])
    trainer = _build_trainer(cfg, config, module, [csv, *loggers], checkpointing)
    return Training(cfg, config, run_dir, device, module, datamodule, checkpointing, loggers, trainer, resume_from)


def _look(
    csv: MetricsCSV, config: dict[str, Any], resume: str, raw: dict[str, Any]
) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to continue from and what is in it.

    Raises:
        InputError: if the run folder, or a file in it, is not what this training could go on with.
    """
    run_dir = Path(csv.save_dir)
    meta = check_run(run_dir, config, resume, raw)
    if (run_dir / "results.json").exists():
        read_records(run_dir / "results.json")  # those of the test at the end are added to it
    found, checkpoint = find_resumable(run_dir / "checkpoints")
    epoch = csv.last_epoch()
    if found is None and (epoch > 0 or "finished" in meta):
        raise InputError(
            f"{run_dir}: its checkpoints are gone, though it has trained for an epoch: put checkpoints/ back, or start "
            "a new run with name=..."
        )
    if found is None and epoch == 0 and rank() == 0:
        log.warning("%s: no checkpoint was written yet: the training begins anew", run_dir)
    return found, checkpoint


def build_module(cfg: DictConfig, config: dict[str, Any], *, resumed: bool = False) -> RestorationModule:
    """The training procedure around a new network with the weights to start from, if no checkpoint brings others."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    network, protocols = instantiate(cfg.model), list(instantiate(cfg.protocol).values())
    speed = {"channels_last": cfg.channels_last, "compile": cfg.compile}
    module: RestorationModule = build_procedure(cfg, network, protocols, config=config, **speed)
    if cfg.weights and not resumed:  # before the data, which may take hours
        read_weights(module.network, weights_file(cfg.weights), start=True)
    return module


def load_data(cfg: DictConfig, module: RestorationModule) -> Any:
    """The data of training, validation and test, decoded, in patches that suit the network."""
    datamodule = construct(cfg, "data")
    datamodule.patch_multiple = math.lcm(datamodule.multiple, network_step(module.network, datamodule.degradation))
    datamodule.least = least_side(module.protocols, datamodule.degradation.scales)
    with rank_zero_first():
        datamodule.prepare_data()
        datamodule.setup("test")  # first: copies of its images are looked for in the others
        if (most := cfg.trainer.get("limit_test_batches")) is not None:
            datamodule.numbers["test"] = datamodule.numbers["test"][:most]
        datamodule.setup("fit")
    datamodule.limit_val = cfg.trainer.limit_val_batches
    return datamodule


def _check_parts(trainer: DictConfig, datamodule: Any) -> None:
    """Some of the training, to every process, and of the validation have to be left."""
    part, batches = trainer.limit_train_batches, min(gather(len(datamodule.train_dataloader())))
    if isinstance(part, float) and int(part * batches) == 0:
        raise InputError(
            f"trainer.limit_train_batches: found {part}, which of the {batches} batches of a process leaves none: "
            "set a larger part, or a number of batches"
        )
    if not datamodule.image_names("val"):
        raise InputError(
            f"trainer.limit_val_batches: found {trainer.limit_val_batches}, which leaves no validation image: set a "
            "larger part, or a number of images"
        )


def _say_how_long(cfg: DictConfig, module: RestorationModule) -> None:
    """One line before a recipe made for a GPU begins on a CPU that nobody has asked for."""
    batches = cfg.data.samples_per_epoch // cfg.data.batch_size
    if isinstance(cfg.trainer.limit_train_batches, int):
        batches = min(batches, cfg.trainer.limit_train_batches)
    steps, patch = batches * (cfg.trainer.max_epochs or module.epochs), cfg.data.patch
    if steps > 10_000 and cfg.trainer.accelerator == "auto":
        log.warning(
            "%d steps of %d crops of %dx%d pixels on a CPU: this recipe of %s is one for a GPU; to begin smaller: "
            "python run.py experiment=quickstart, or set trainer.max_epochs= and data.samples_per_epoch=",
            *(steps, cfg.data.batch_size, patch, patch, cfg.label),
        )


def _open_folder(
    cfg: DictConfig,
    config: dict[str, Any],
    module: RestorationModule,
    datamodule: Any,
    resume_from: Path | None,
    checkpoint: dict[str, Any],
) -> dict[str, Any]:
    """Make the run folder, or continue in it with the weights of its network; returns its meta."""
    run_dir = Path(cfg.run_dir)
    images = {split: datamodule.digest(split) for split in ("train", "val")}
    meta = on_rank_zero(lambda: open_run(run_dir, config, cfg.resume, checkpoint["global_step"], images))
    seen, tries = run_dir / "config.yaml", 0
    while not seen.exists() and (tries := tries + 1) < _NFS:
        time.sleep(1)
    if not all(gather(seen.exists())):
        raise _unseen(run_dir, "what the first process has written there is not seen by all")
    distributed.log_into(run_dir)
    if resume_from is not None:
        on_rank_zero(lambda: restore_last(resume_from))
        load_weights(module.network, checkpoint, str(resume_from))  # names the difference better than a failing restore
        log.info("continuing %s after step %d", run_dir, checkpoint["global_step"])
    else:
        fit_basis(module.network, datamodule, cfg.seed)
    return meta


def _unseen(run_dir: Path, why: str) -> InputError:
    return InputError(f"{run_dir}: {why}: runs_dir= has to be a folder of a file system that all nodes share")


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
    processes["limit_val_batches"] = None  # the data module has counted them, over all processes
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
        why = "trainer.max_epochs or trainer.check_val_every_n_epoch left no validation"
        raise InputError(f"{best} was never written: {why}", file=best)


def test(training: Training) -> tuple[list[EvaluationRecord], EvaluationRecord, int]:
    """Measure the chosen checkpoint: the records, what was measured, and the step that it is of."""
    cfg, chosen = training.cfg, training.checkpointing.chosen
    training.module.network, loaded = load_network(chosen)
    run_dir, datamodule = training.run_dir, training.datamodule
    record = EvaluationRecord(cfg.label, run_dir.name, cfg.seed, str(chosen.relative_to(run_dir)), checksum(chosen))
    record = on_data(record, datamodule, cfg, training.device)
    measurement = Measurement(training.module, datamodule, run_dir, record, build_metrics(cfg.metric))
    with progress_bar(len(datamodule.image_names("test")), sys.stderr.isatty()) as progress:
        records = measurement.run(training.device, cfg.pictures, progress)
    return records, record, loaded["global_step"]


def publish(training: Training, records: list[EvaluationRecord], record: EvaluationRecord, step: int) -> None:
    """Print the table of the test, close the run folder, and send the figures to the loggers."""
    score, run_dir = training.checkpointing.best_score, training.run_dir
    if records:
        print(report(records, [run_dir]), flush=True)
    points = training.datamodule.val_points
    tested = {r.protocol_name: dict(r.means) for r in records if not r.is_baseline}
    close_run(run_dir, score=score, val_points=points, checkpoint_sha256=record.checkpoint_sha256, test=tested)
    log_training(training.loggers, training.cfg, run_dir, records, {training.module.monitor: score}, step)


def fit_basis(network: Any, datamodule: Any, seed: int) -> None:
    """Show a new network that describes kernels by a code what kernels there are; others are left alone.

    On the first process: the others get it with the weights when training starts.
    """
    if rank() > 0 or not network.has_basis or network.basis.fitted:
        return
    draw = datamodule.degradation.kernels
    keys = torch.tensor([make_key("kernel_basis", seed, i) for i in range(_BASIS_KERNELS)])
    log.info("fitting the kernel code to %d kernels of the degradation", len(keys))
    network.fit_basis(torch.cat([draw(part) for part in keys.split(1000)]), seed)
