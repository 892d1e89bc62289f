"""What a training step costs: patches per second, the shares of its parts, and the trainer against a bare loop.

    python -m experiments.benchmarks.train_step [--model ed_dsrn] [--device cuda] [--batch 32] [--patch 256]
    python -m experiments.benchmarks.train_step --rounds 5 --modes float32

One mode after the other (float32, bfloat16 autocast, channels_last, compiled) on the photographs of scikit-image. The
suite's trainer (Lightning with its callbacks, CSV log every tenth step) and a bare PyTorch loop over the same network,
loader, degradation and loss take turns; the device is waited for only at both ends of the measured steps. Printed are
the medians of the rounds with the spread; `wait` is for the loader, which runs while the network trains.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from omegaconf import DictConfig
from torch.utils.benchmark import timer

from datamodules.image_datamodule import ImageDataModule
from experiments.benchmarks.timing import machine, spread
from experiments.config import CONF
from experiments.profile.worker import build, one_epoch
from experiments.runtime.environment import prepare_environment
from lightning_modules.callbacks.epoch_log import EpochLog
from lightning_modules.callbacks.finite import SkipNonFinite
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.loggers.csv import MetricsCSV
from lightning_modules.restoration import RestorationModule

WARM_UP = 3  # steps
BFLOAT16, CHANNELS_LAST = "trainer.precision=bf16-mixed", "channels_last=true"
MODES = {
    "float32": [],
    "float32 channels_last": [CHANNELS_LAST],
    "bfloat16": [BFLOAT16],
    "bfloat16 channels_last": [BFLOAT16, CHANNELS_LAST],
    "bfloat16 channels_last compile": [BFLOAT16, CHANNELS_LAST, "compile=true"],
}
PARTS = ("wait", "degradation", "network", "optimizer")


def compose(model: str, *overrides: str) -> DictConfig:
    """The recipe of a model."""
    prepare_environment()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", [f"model={model}", f"label={model}", "name=benchmark", *overrides])


def loader(batch: int, patch: int, steps: int) -> list[str]:
    """Overrides for an epoch of so many steps after the warm-up."""
    epoch = f"data.samples_per_epoch={batch * (WARM_UP + steps)}"
    return [f"data.batch_size={batch}", f"data.patch={patch}", epoch, "data.on_small=skip"]


def load_data(cfg: DictConfig, stage: str = "fit") -> ImageDataModule:
    data: ImageDataModule = hydra.utils.instantiate(cfg.data, _convert_="all")
    data.prepare_data()
    data.setup(stage)
    return data


def prepare(cfg: DictConfig) -> RestorationModule:
    """The training procedure on its device, with the same weights at every call."""
    torch.manual_seed(0)
    module, _ = build(cfg, compiled=cfg.compile)
    return module.to(cfg.trainer.accelerator)


def bare_loop(cfg: DictConfig, data: ImageDataModule) -> float:
    """Milliseconds a step of the loop anybody would write."""
    module, device, half = prepare(cfg), cfg.trainer.accelerator, cfg.trainer.precision == "bf16-mixed"
    optimizer = hydra.utils.instantiate(cfg.optimizer, _convert_="all")(module.network.parameters())
    start, step = 0.0, 0
    for step, batch in enumerate(data.train_dataloader()):
        if step == WARM_UP:
            start = timer()
        batch = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            total = module.loss(module(batch), batch)["total"]  # type: ignore[misc]  # there is one
        module.zero_grad()
        total.backward()
        optimizer.step()
    return 1e3 * (timer() - start) / (step + 1 - WARM_UP)


def by_trainer(cfg: DictConfig, data: ImageDataModule, **options: Any) -> dict[str, float]:
    """Milliseconds a step (`step_ms`) under the suite's trainer, and what its `Throughput` says of the parts.

    Args:
        options: further arguments of Lightning's Trainer.
    """
    throughput = Throughput()
    marks: list[float] = []  # when the warm-up has ended, and when the last step

    def mark(trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in (WARM_UP, trainer.num_training_batches):
            marks.append(timer())

    watch = pl.callbacks.LambdaCallback(on_train_batch_end=mark)
    with tempfile.TemporaryDirectory() as folder:
        trainer = one_epoch(
            cfg,
            limit_val_batches=0,
            log_every_n_steps=10,
            logger=MetricsCSV(Path(folder)),
            callbacks=[throughput, SkipNonFinite(), EpochLog("none", throughput), watch],
            use_distributed_sampler=False,
            **options,
        )
        trainer.fit(prepare(cfg), datamodule=data)
    step_ms = 1e3 * (marks[-1] - marks[0]) / max(trainer.global_step - WARM_UP, 1)
    return {**throughput.speeds({}), "step_ms": step_ms}


def warm_up(cfg: DictConfig, data: ImageDataModule) -> float:
    """Seconds of the first steps, with compiling, and with what `Throughput` measures of the device once."""
    start = time.perf_counter()
    by_trainer(cfg, data, limit_train_batches=2)
    return time.perf_counter() - start


def measure(cfg: DictConfig, data: ImageDataModule, rounds: int) -> dict[str, list[float]]:
    """By quantity its value in every round: under the trainer, in the bare loop, and the ratio of the two."""
    values = defaultdict(list)
    for _ in range(rounds):
        bare_ms = bare_loop(cfg, data)
        speeds = by_trainer(cfg, data)
        of_round = {
            "patches/s": 1e3 * data.batch_size / speeds["step_ms"],
            "trainer, ms": speeds["step_ms"],
            "bare loop, ms": bare_ms,
            "trainer / bare loop": speeds["step_ms"] / bare_ms,
            **{f"{part} %": speeds[f"{part}_percent"] for part in PARTS},
            "peak, GiB": speeds["peak_gib"],
        }
        for name, value in of_round.items():
            values[name].append(value)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ed_dsrn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    args = parser.parse_args()
    print(f"{machine(args.device)}, {args.model}, batch {args.batch}, HR {args.patch}")
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["data=sample", f"data.cache_dir={folder}", f"data.num_workers={args.workers}"]
        overrides += [f"trainer.accelerator={args.device}", *loader(args.batch, args.patch, args.steps)]
        for mode in args.modes:
            cfg = compose(args.model, *overrides, *MODES[mode])
            data = load_data(cfg)
            warm_up(cfg, data)
            print(f"\n{mode}")
            for name, values in measure(cfg, data, args.rounds).items():
                print(f"  {name:22}{spread(values)}", flush=True)


if __name__ == "__main__":
    main()
