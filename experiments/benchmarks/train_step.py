"""Patches per second of a training run's parts: degradation, network, optimiser, loader; as shares of a step.

    python -m experiments.benchmarks.train_step [--model ed_dsrn] [--device cuda] [--batch 32] [--patch 256]
    python -m experiments.benchmarks.train_step --rounds 5 --modes float32  # and the trainer against a bare loop

One configuration after the other (float32, bfloat16 autocast, channels_last, compiled), each warmed up, median of the
measured steps with the spread, synchronised at both ends of every part. `wait` is the time the step spends waiting for
the loader, which runs beside it as in training, on random images in a temporary cache.

With --rounds the suite's trainer (Lightning with its callbacks, CSV log every tenth step) and a bare PyTorch loop over
the same network, loader, degradation and loss take turns, the device synchronised only around the measured steps: the
median of the rounds' ratios with the spread, and what the trainer itself says of waiting for data.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from PIL import Image

from datamodules.image_datamodule import ImageDataModule
from datamodules.sources.folder import Folder
from lightning_modules.callbacks.epoch_log import EpochLog
from lightning_modules.callbacks.finite import SkipNonFinite
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.loggers import MetricsCSV
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


def measure(cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool], steps: int) -> dict[str, Any]:
    """Median milliseconds of the parts of a step, patches per second and peak memory in one mode."""
    torch.manual_seed(0)
    network = hydra.utils.instantiate(cfg.model, _convert_="all").to(device)
    if mode.get("channels_last"):
        network.to(memory_format=torch.channels_last)
    if mode.get("compile"):
        network.compile()
    loss = hydra.utils.instantiate(cfg.loss, _convert_="all")
    optimizer = hydra.utils.instantiate(cfg.optimizer, _convert_="all")(network.parameters())
    parts: dict[str, list[float]] = {name: [] for name in ("wait", "degradation", "network", "optimizer")}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = now(device)
    for step, uint8 in enumerate(data.train_dataloader()):
        arrived = now(device)
        batch = uint8
        for field in ("hr", "key", "index"):
            setattr(batch, field, getattr(uint8, field).to(device, non_blocking=True))
        batch = data.on_after_batch_transfer(batch, 0)
        degraded = now(device)
        fields = {name: getattr(batch, name) for name in network.inputs}
        if mode.get("channels_last"):
            fields["lr"] = fields["lr"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=bool(mode.get("bf16"))):
            restored = network(**fields)
        optimizer.zero_grad()
        loss(restored, batch)["total"].backward()
        trained = now(device)
        optimizer.step()
        end = now(device)
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
        "patches_per_second": data.batch_size / statistics.median(total) * 1e3,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


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


def bare_loop(cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool]) -> float:
    """Seconds a step of the loop anybody would write."""
    module, optimizer = prepare(cfg, device, mode)
    start, steps = 0.0, 0
    for step, batch in enumerate(data.train_dataloader()):
        if step == WARM_UP:
            start = now(device)
        for field in ("hr", "key", "index"):
            setattr(batch, field, getattr(batch, field).to(device, non_blocking=True))
        batch = data.on_after_batch_transfer(batch, 0)
        with torch.autocast(device, torch.bfloat16, enabled=bool(mode.get("bf16"))):
            total = module.loss(module(batch), batch)["total"]  # type: ignore[misc]  # there is one
        optimizer.zero_grad()
        total.backward()
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


def by_trainer(cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool]) -> tuple[float, float]:
    """Seconds a step under the suite's trainer, and the percentage that it says it waits for data."""
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
        )
        trainer.fit(module, datamodule=data)
    return watch.end, throughput.speeds({})["wait_percent"]


def overhead(
    cfg: DictConfig, data: ImageDataModule, device: str, mode: dict[str, bool], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of a step by each in every round, and the percentage of waiting."""
    found: dict[str, list[float]] = {"bare_ms": [], "trainer_ms": [], "wait_percent": []}
    for _ in range(rounds):
        found["bare_ms"].append(1e3 * bare_loop(cfg, data, device, mode))
        seconds, wait = by_trainer(cfg, data, device, mode)
        found["trainer_ms"].append(1e3 * seconds)
        found["wait_percent"].append(wait)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ed_dsrn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=0, help="of the trainer against a bare loop")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", [f"model={options.model}", "name=benchmark", "label=benchmark"])
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, torch {torch.__version__}, {options.model}, batch {options.batch}, HR {options.patch}")
    print(f"{'mode':32}{'patches/s':>10}{'step ms':>9}{'(min, max)':>20}{'wait %':>8}{'degrade %':>10}{'peak GiB':>9}")
    result: dict[str, Any] = {"options": {k: str(v) for k, v in vars(options).items()}, "device": name, "modes": {}}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for i in range(8):
            pixels = rng.integers(0, 256, (1356, 2040, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{folder}/{i}.bmp")
        data = ImageDataModule(
            Folder(folder, holdout=False),
            hydra.utils.instantiate(cfg.degradation, _convert_="all"),
            seed=0,
            patch=options.patch,
            batch_size=options.batch,
            samples_per_epoch=options.batch * (options.steps + WARM_UP + 1),
            num_workers=options.workers,
            cache_dir=f"{folder}/cache",
        )
        data.setup("fit")
        for mode in options.modes:
            found = measure(cfg, data, options.device, MODES[mode], options.steps)
            result["modes"][mode] = found
            middle, low, high = found["step_ms"]
            share = {part: 100 * found["ms"][part] / middle for part in found["ms"]}
            peak = f"{found['peak_gib']:.1f}" if found["peak_gib"] else "-"
            print(
                f"{mode:32}{found['patches_per_second']:>10.1f}{middle:>9.1f}{f'({low:.1f}, {high:.1f})':>20}"
                f"{share['wait']:>8.1f}{share['degradation']:>10.1f}{peak:>9}"
            )
            if options.rounds:
                found |= overhead(cfg, data, options.device, MODES[mode], options.rounds)
                pairs = zip(found["trainer_ms"], found["bare_ms"], strict=True)
                ratios = [trainer / bare for trainer, bare in pairs]
                print(
                    f"  trainer {statistics.median(found['trainer_ms']):.1f} ms, bare loop "
                    f"{statistics.median(found['bare_ms']):.1f} ms: ratio {statistics.median(ratios):.3f} "
                    f"({min(ratios):.3f}, {max(ratios):.3f}) in {len(ratios)} rounds, "
                    f"waiting for data {statistics.median(found['wait_percent']):.1f} %"
                )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
