"""Measures one network for task=profile: the forward pass, and a training step of its recipe."""

import contextlib
import logging
import multiprocessing
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from timeit import default_timer
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.benchmark import timer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from datamodules.batch import Batch, as_float, to_gray
from datamodules.degradations.base import Degradation
from datamodules.degradations.keyed_random import make_key
from experiments.runtime.out_of_memory import shortage
from lightning_modules.host_memory import resident
from lightning_modules.restoration import RestorationModule
from networks.base import RestorationNetwork
from networks.cascade import taken

KERNEL = 25  # side of a blur kernel where the recipe has none
NODES = ("model", "degradation", "loss", "optimizer", "scheduler")
BASIS_KERNELS = 256  # enough for the shape of a kernel code, which is all that its cost depends on


@dataclass
class Phase:
    """What was measured, or why not.

    Attributes:
        median, q1, q3: of the repetitions, in seconds.
        memory: peak in bytes, beyond what the process held before the network was built.
        macs: multiplications of convolutions and matrix products in one forward pass over the whole batch.
        error: one line; the other fields are empty then.
    """

    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    memory: int | None = None
    macs: int | None = None
    error: str | None = None


class PeakMemory:
    """Peak memory since it was made: allocated on the GPU, or resident in this process (None where not told)."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
        self.before = torch.cuda.memory_allocated() if self.cuda else resident("VmRSS")

    def __call__(self) -> int | None:
        now = torch.cuda.max_memory_allocated() if self.cuda else resident("VmHWM")
        return None if now is None or self.before is None else now - self.before


def build(cfg: DictConfig, *, compiled: bool) -> tuple[RestorationModule, Degradation]:
    """The training procedure around the network, and the degradation.

    Of a training in stages there is the last one, in which most is trained.
    """
    parts: list[Any] = [hydra.utils.instantiate(cfg[node], _convert_="all") if cfg[node] else None for node in NODES]
    network, degradation, loss, optimizer, scheduler = parts
    if network.has_basis and not network.basis.fitted:
        network.fit_basis(degradation.kernels(_keys(cfg.seed, BASIS_KERNELS)), cfg.seed)
    procedure: dict[str, Any] = OmegaConf.to_container(cfg.procedure, resolve=True)  # type: ignore[assignment]  # a mapping
    if procedure.get("stages"):
        procedure["stages"] = dict([list(procedure["stages"].items())[-1]])
    module = hydra.utils.instantiate(procedure, _convert_="all")(
        network,
        [],
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        channels_last=cfg.channels_last,
        compile=compiled,
    )
    return module, degradation


def _keys(seed: int, count: int) -> Tensor:
    return torch.tensor([make_key(seed, 0, i) for i in range(count)])


def random_batch(count: int, side: int, seed: int) -> Batch:
    """Sharp 8-bit images [count, 3, side, side], as from the loader."""
    hr = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
    return Batch(hr=hr, name=[""] * count, index=torch.arange(count), key=_keys(seed, count))


def training_batch(cfg: DictConfig, degradation: Degradation, count: int) -> Batch:
    """Random images under the degradation of the recipe, on the device."""
    batch = random_batch(count, cfg.data.patch, cfg.seed)
    if "lr" in degradation.inputs:  # it starts from pairs of files
        step, hr = degradation.file_scale, as_float(batch.hr)
        batch = replace(batch, hr=hr, lr=hr[..., ::step, ::step], scale=step)
    batch = degradation(move_data_to_device(batch, cfg.trainer.accelerator))
    return to_gray(batch) if cfg.data.get("gray") else batch


def forward_batch(cfg: DictConfig, like: Batch) -> Batch:
    """Random images that give `cfg.target`, with the kernel of another batch's first sample if it has one."""
    height, width = (side // cfg.scale for side in cfg.target)
    lr = torch.rand(cfg.batch, 3, height, width, device=cfg.trainer.accelerator)
    kernel = lr.new_full((1, 1, KERNEL, KERNEL), KERNEL**-2) if like.kernel is None else like.kernel[:1]
    kernels, weights = None, None
    if like.kernels is not None:
        count = like.kernels.shape[1]
        kernels, weights = like.kernels[:1].expand(cfg.batch, -1, -1, -1), lr.new_full((1,), 1 / count)
        weights = weights.expand(cfg.batch, count, height * cfg.scale, width * cfg.scale)
    return replace(
        like,
        hr=lr,
        lr=lr,
        lr_sharp=None,
        kernel=kernel.expand(cfg.batch, -1, -1, -1),
        kernels=kernels,
        weights=weights,
        noise_level=lr.new_full((cfg.batch, 1, 1, 1), 0.01),
        scale=cfg.scale,
    )


def count_macs(network: RestorationNetwork, batch: Batch) -> int:
    """Half the floating-point operations that torch counts: those of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(**taken(network, vars(batch)))
    return counter.get_total_flops() // 2


def measured(times: Sequence[float], peak: PeakMemory, macs: int | None = None) -> Phase:
    low, middle, high = (float(time) for time in np.quantile(times, (0.25, 0.5, 0.75)))
    return Phase(middle, low, high, memory=peak(), macs=macs)


def measure_forward(cfg: DictConfig) -> Phase:
    device, half = cfg.trainer.accelerator, cfg.trainer.precision == "bf16-mixed"
    peak = PeakMemory(device)
    module, degradation = build(cfg, compiled=False)
    module.to(device).eval()
    batch = forward_batch(cfg, training_batch(cfg, degradation, 1))
    macs = count_macs(module.network, batch)
    if cfg.compile:
        module.network.compile()
    times, now = [], clock(device)
    for _ in range(cfg.warmup + cfg.repeats):
        start = now()
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            module(batch)
        times.append(now() - start)
    return measured(times[cfg.warmup :], peak, macs)


def one_epoch(cfg: DictConfig, **options: Any) -> pl.Trainer:
    """A trainer that writes nothing by itself, with further arguments of Lightning's Trainer."""
    return pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        precision=cfg.trainer.precision,
        benchmark=bool(cfg.trainer.benchmark),
        max_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def measure_training(cfg: DictConfig) -> Phase:
    """Of a step: forward pass, loss, backward pass, optimiser."""
    peak = PeakMemory(cfg.trainer.accelerator)
    module, degradation = build(cfg, compiled=cfg.compile)
    batches = [training_batch(cfg, degradation, cfg.data.batch_size)] * (cfg.warmup + cfg.repeats)
    starts: list[float] = []
    now = clock(cfg.trainer.accelerator)
    times: list[float] = []
    watch = pl.callbacks.LambdaCallback(
        on_train_batch_start=lambda *_: starts.append(now()),
        on_train_batch_end=lambda *_: times.append(now() - starts[-1]),
    )
    trainer = one_epoch(cfg, callbacks=[watch], logger=False, gradient_clip_val=cfg.trainer.gradient_clip_val)
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]  # a list is a data set
    return measured(times[cfg.warmup :], peak)


MEASURE = {"forward": measure_forward, "train": measure_training}


def measure(cfg: DictConfig, phase: str) -> Phase:
    try:
        load_libraries(cfg)
        return MEASURE[phase](cfg)
    except Exception as error:  # whatever a network does must not take the other rows along
        return Phase(error=failure(error))


def failure(error: Exception) -> str:
    """One line for a table."""
    cause = error.__cause__ or error
    if shortage(cause):
        return "out of memory"
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"


def measure_alone(config: Any, phase: str) -> Phase:
    """What a process does that is there only for this.

    Args:
        config: as composed, as plain values; accelerator, precision and scale are settled.
        phase: "forward" or "train".
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # what Lightning would advise a training
    cfg = OmegaConf.create(config)
    torch.manual_seed(cfg.seed)
    torch.backends.cudnn.benchmark = bool(cfg.trainer.benchmark)
    return measure(cfg, phase)


def end_with_parent() -> None:
    """End this process when the one that started it is gone."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def clock(device: str) -> Callable[[], float]:
    """Seconds, when the device has done what it was told; a CPU needs no GPU beside it to be asked."""
    return default_timer if device == "cpu" else timer


def load_libraries(cfg: DictConfig) -> None:
    """Import and start what is loaded at its first use, which is no cost of the network."""
    recipe = OmegaConf.masked_copy(cfg, ["procedure", *NODES])
    for target in re.findall(r"_target_: (\S+)", OmegaConf.to_yaml(recipe)):
        hydra.utils.get_object(target)
    x = torch.rand(1, 4, 32, 32, device=cfg.trainer.accelerator, requires_grad=True)
    with FlopCounterMode(display=False):
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).to(x.device)(x).square().mean().backward()
