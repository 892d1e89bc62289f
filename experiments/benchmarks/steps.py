"""What a training step costs: its parts one by one, and the suite's trainer beside a bare PyTorch loop.

The functions that `train_step` and `gpu` share.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from datamodules.batch import Batch
from datamodules.image_datamodule import ImageDataModule
from experiments.runtime.environment import prepare_environment
from lightning_modules.callbacks.epoch_log import EpochLog
from lightning_modules.callbacks.finite import SkipNonFinite
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.loggers.csv import MetricsCSV
from lightning_modules.restoration import RestorationModule
from run import CONF

WARM_UP = 3  # steps
MODES: dict[str, dict[str, bool]] = {
    "float32": {},
    "float32 channels_last": {"channels_last": True},
    "bfloat16": {"bf16": True},
    "bfloat16 channels_last": {"bf16": True, "channels_last": True},
    "bfloat16 channels_last compile": {"bf16": True, "channels_last": True, "compile": True},
}


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def compose(model: str, *overrides: str) -> DictConfig:
    """The recipe of a model."""
    prepare_environment()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", [f"model={model}", f"label={model}", "name=benchmark", *overrides])


def prepare(cfg: DictConfig, device: str, mode: dict[str, bool]) -> tuple[RestorationModule, Any]:
    """The training procedure and its optimiser, with the same weights at every call."""
    torch.manual_seed(0)
    module: RestorationModule = hydra.utils.instantiate(cfg.procedure, _convert_="all")(
        hydra.utils.instantiate(cfg.model, _convert_="all"),
        [],
        loss=hydra.utils.instantiate(cfg.loss, _convert_="all"),
        optimizer=hydra.utils.instantiate(cfg.optimizer, _convert_="all"),
        channels_last=bool(mode.get("channels_last")),
        compile=bool(mode.get("compile")),
    ).to(device)
    return module, hydra.utils.instantiate(cfg.optimizer, _convert_="all")(module.network.parameters())


def moved(batch: Batch, data: ImageDataModule, device: str) -> Batch:
    """A batch of the loader on the device, degraded there."""
    for field in ("hr", "key", "index"):
        setattr(batch, field, getattr(batch, field).to(device, non_blocking=True))
    return data.on_after_batch_transfer(batch, 0)


def backward(module: RestorationModule, batch: Batch, device: str, mode: dict[str, bool]) -> None:
    """Forward pass, loss and backward pass."""
    with torch.autocast(device, torch.bfloat16, enabled=bool(mode.get("bf16"))):
        total = module.loss(module(batch), batch)["total"]  # type: ignore[misc]  # there is one
    module.zero_grad()
    total.backward()


def measure(cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool], steps: int) -> dict[str, Any]:
    """Median milliseconds of the parts of a step, patches per second and peak memory in one mode."""
    module, optimizer = prepare(cfg, device, mode)
    parts: dict[str, list[float]] = {name: [] for name in ("wait", "degradation", "network", "optimizer")}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = 0.0
    start = now(device)
    for step, batch in enumerate(data.train_dataloader()):
        arrived = now(device)
        batch = moved(batch, data, device)
        degraded = now(device)
        backward(module, batch, device, mode)
        trained = now(device)
        optimizer.step()
        end = now(device)
        if step == 0:
            first = end - arrived
        if step >= WARM_UP:
            for name, seconds in zip(
                parts, (arrived - start, degraded - arrived, trained - degraded, end - trained), strict=True
            ):
                parts[name].append(seconds * 1e3)
        if step + 1 == WARM_UP + steps:
            break
        start = now(device)
    total = [sum(values) for values in zip(*parts.values(), strict=True)]
    return {
        "ms": {name: statistics.median(values) for name, values in parts.items()},
        "step_ms": [statistics.median(total), min(total), max(total)],
        "first_step_s": first,  # compiling is part of it
        "patches_per_second": data.batch_size / statistics.median(total) * 1e3,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def bare_loop(cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool]) -> float:
    """Seconds a step of the loop anybody would write."""
    module, optimizer = prepare(cfg, device, mode)
    start, steps = 0.0, 0
    for step, batch in enumerate(data.train_dataloader()):
        if step == WARM_UP:
            start = now(device)
        backward(module, moved(batch, data, device), device, mode)
        optimizer.step()
        steps = step + 1 - WARM_UP
    return (now(device) - start) / steps


class Stopwatch(pl.Callback):
    """Seconds a step after the warm-up."""

    def __init__(self, device: str) -> None:
        self.device, self.start, self.end = device, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self.start = now(self.device)
        if trainer.global_step == trainer.num_training_batches:
            self.end = (now(self.device) - self.start) / (trainer.global_step - WARM_UP)


def by_trainer(
    cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool], **processes: Any
) -> tuple[float, float]:
    """Seconds a step under the suite's trainer, and the percentage that it says it waits for data.

    Args:
        processes: arguments of Lightning's Trainer for another strategy than a process alone.
    """
    module, _ = prepare(cfg, device, mode)
    watch, throughput = Stopwatch(device), Throughput()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator=device,
            devices=1,
            precision="bf16-mixed" if mode.get("bf16") else "32-true",
            max_epochs=1,
            limit_val_batches=0,
            log_every_n_steps=10,
            logger=MetricsCSV(Path(folder)),
            callbacks=[throughput, SkipNonFinite(), EpochLog("none", throughput), watch],
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **processes,
        )
        trainer.fit(module, datamodule=data)
    return watch.end, throughput.speeds({})["wait_percent"]


def overhead(
    cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of a step by each in every round, and the percentage of waiting."""
    found: dict[str, list[float]] = {"bare_ms": [], "trainer_ms": [], "wait_percent": []}
    by_trainer(cfg, data, device, mode)  # the first one in a process measures what the device can do: see `Throughput`
    for _ in range(rounds):
        found["bare_ms"].append(1e3 * bare_loop(cfg, data, device, mode))
        seconds, wait = by_trainer(cfg, data, device, mode)
        found["trainer_ms"].append(1e3 * seconds)
        found["wait_percent"].append(wait)
    return found
