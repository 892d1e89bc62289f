"""The parts of `experiments.benchmarks.gpu`: how each measures, and when it has to end."""

import csv
import logging
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
import torch.distributed as dist
from lightning_fabric.utilities import move_data_to_device

from experiments.benchmarks.gpu.plan import SMOKE_STEP, TRAINING, Settings, side
from experiments.benchmarks.gpu.report import Case, Report, Values
from experiments.benchmarks.timing import in_turns
from experiments.benchmarks.train_step import by_trainer, compose, load_data, measure, prepare, warm_up
from experiments.config import CONF
from experiments.profile import task as profile
from experiments.profile import worker
from experiments.results.records import read_records
from experiments.runtime import distributed
from lightning_modules.checkpoints.checkpoint import load_network
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr
from lightning_modules.strategy import DDP

RESERVE = 35.0  # seconds in which the training starts, and at its end is tested and measured in bfloat16
MIB = 2**20


def training_steps(case: Case, settings: Settings) -> Values:
    """Whole steps with loading, degradation, network, loss and optimiser: under the suite's trainer (callbacks, log
    every tenth step), and in a plain PyTorch loop over the same, in turns: median (smallest to largest) of the rounds.
    Shares and peak, of the memory that tensors take, are what the trainer says; wait is for the loader. Start: loader,
    first steps and compiling. SRN gets camera shake, USRNet x4, GFN the inputs of ED-DSRN and all its parts train at
    once; batch and patch are those of the recipes.
    """
    cfg = settings.training(case)
    data = load_data(cfg)
    start = warm_up(cfg, data)
    return {**measure(cfg, data, rounds=2), "start, s": start}


def degradation(case: Case, settings: Settings) -> Values:
    """From 8-bit sharp patches on the device to the input of the network: median (smallest to largest)."""
    scale = ["degradation.scale=4"] if case.model == "usrnet_train" else []
    cfg = compose("ed_dsrn", f"degradation={case.model}", *scale)
    pipeline = hydra.utils.instantiate(cfg.degradation, _convert_="all")
    batch = move_data_to_device(worker.random_batch(case.batch, side(case), seed=0), settings.device)
    times = in_turns({"pipeline": lambda: pipeline(batch)}, 2 if settings.smoke else 20)["pipeline"]
    return {"ms": times, "patches/s": 1e3 * case.batch / statistics.median(times)}


def restoring(case: Case, settings: Settings) -> Values:
    """To 1280x720 pixels (in a smoke run fewer), whole, initial weights, by task=profile: median (quartiles) of the
    forward pass. Peak: beyond what was taken before the network was built. Multiplications: of convolutions and matrix
    products.
    """
    height, width = (104, 104) if settings.smoke else (720, 1280)
    repeats = ["warmup=0", "repeats=1"] if settings.smoke else ["warmup=3", "repeats=7"]
    cfg = settings.recipe(case, "task=profile", f"target=[{height},{width}]", "scale=4", "train=false", *repeats)
    row = profile.subject(cfg)
    phase = worker.measure(cfg, "forward")
    if phase.error or phase.macs is None:
        raise RuntimeError(phase.error)
    return {
        "network input": f"{row['input_width']}x{row['input_height']}",
        "ms": [1e3 * seconds for seconds in (phase.q1, phase.median, phase.q3) if seconds is not None],
        # On the CPU memory that was freed before is used again without being counted.
        "peak, MiB": phase.memory / MIB if phase.memory is not None and settings.device == "cuda" else None,
        "G multiplications": phase.macs / 1e9,
    }


def bfloat16(case: Case, settings: Settings, checkpoint: Path | None = None) -> Values:
    """The same weights on the same inputs by autocast to bfloat16 and in float32: median (smallest to largest) over the
    test images. Signal to noise: of the float32 result's variance to the squared difference, which does not depend on
    the size of the values: results of random weights are no images, and their PSNR to the truth (y_shave4) says
    nothing.
    """
    cfg = settings.recipe(case)
    data, module, device = load_data(cfg, "test"), prepare(cfg), settings.device
    if checkpoint is not None:
        module.network = load_network(checkpoint)[0].to(device)
    module.eval()
    luma = Protocol("y_shave4", "y", 4)
    values = defaultdict(list)
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        with torch.inference_mode():
            full = module(batch).sr.double()
            with torch.autocast(device, torch.bfloat16):
                half = module(batch).sr.double()
        error = (half - full).square().mean().clamp_min(1e-16)  # finite if both are the same
        values["signal to noise, dB"].append(10 * (full.var() / error).log10().item())
        values["float32 to the truth, dB"].append(psnr(full, batch.hr, luma).item())
        values["bfloat16 to the truth, dB"].append(psnr(half, batch.hr, luma).item())
    return values


def group(case: Case, settings: Settings) -> Values:
    """A training step under the trainer without DDP and with it, in a group of one process (NCCL on a GPU, else gloo),
    in turns: median (smallest to largest) of the rounds; and the reduction of as many numbers as the gradients have.
    """
    cfg = settings.training(case)
    data, module = load_data(cfg), prepare(cfg)
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    single: list[float] = []
    ddp: list[float] = []
    with distributed.group_of_one(torch.device("cuda:0" if settings.device == "cuda" else "cpu")) as here:
        warm_up(cfg, data)
        for _ in range(2 if settings.smoke else 3):
            strategy = DDP(find_unused_parameters=module.leaves_parameters_out)
            single.append(by_trainer(cfg, data)["step_ms"])
            ddp.append(by_trainer(cfg, data, strategy=strategy, plugins=[here])["step_ms"])
        gradients = torch.zeros(count, device=settings.device)
        reducing = in_turns({"all-reduce": lambda: dist.all_reduce(gradients)}, 10)
    return {
        "backend": "NCCL" if settings.device == "cuda" else "gloo",
        "without DDP, ms": single,
        "with DDP, ms": ddp,
        "with / without": [several / one for several, one in zip(ddp, single, strict=True)],
        "all-reduce, ms": reducing["all-reduce"],
        "gradients, MiB": 4 * count / MIB,
    }


def training(case: Case, settings: Settings) -> Values:
    """On the training photographs in the time that is left, by the suite's own command line; then the best checkpoint
    and bicubic enlargement on the test images in float32, protocol y_shave4, and the checkpoint in bfloat16. No measure
    of the published system, which trains for days.
    """
    batch, patch = SMOKE_STEP if settings.smoke else TRAINING
    epoch, epochs = (4, 1) if settings.smoke else (100, 10_000)
    left = settings.until - time.time() - RESERVE
    if left < RESERVE:
        raise TimeoutError(f"{left:.0f} s are left, too few for a training")
    overrides = [
        *(f"model={case.model}", *settings.conditions(case)),
        # As the quick experiments: a start near bicubic enlargement, a high learning rate, clipped gradients.
        *("model.head_gain=0.1", "optimizer.lr=1e-3", "trainer.gradient_clip_val=0.1", "scheduler=none"),
        *(f"data.batch_size={batch}", f"data.patch={patch}", f"data.samples_per_epoch={batch * epoch}"),
        *(f"trainer.max_epochs={epochs}", f"+trainer.max_time={{seconds: {left:.0f}}}", "trainer.log_every_n_steps=2"),
        *("+trainer.limit_val_batches=2", "trainer.enable_progress_bar=false"),
        *("logger=none", "pictures=none", "name=training"),
    ]
    command = [sys.executable, str(CONF.with_name("run.py")), *overrides]
    subprocess.run(command, cwd=settings.output, stdout=sys.stderr, check=True)
    run = settings.output / "runs" / "training"
    means = {r.model: r.means for r in read_records(run / "results.json") if r.protocol_name == "y_shave4"}
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        **{f"{metric.upper()}, {name}": mean[metric] for metric in ("psnr", "ssim") for name, mean in means.items()},
        "steps": 1 + max(int(row["step"]) for row in rows),
        **bfloat16(case, settings, run / "checkpoints" / "best.ckpt"),
    }


@dataclass(frozen=True)
class Part:
    """A table of the report, which explains it by the text of `measure`.

    Attributes:
        ends: when its last measurement may begin, as a share of the whole time; what it leaves over is for the next.
    """

    title: str
    measure: Callable[[Case, Settings], Values]
    ends: float


PARTS = {
    "steps": Part("Training steps", training_steps, 0.50),
    "degradation": Part("Degradation of a batch", degradation, 0.54),
    "restoring": Part("Restoring one image", restoring, 0.66),
    "bfloat16": Part("bfloat16 against float32", bfloat16, 0.71),
    "group": Part("One process in a group", group, 0.77),
    "training": Part("A short training", training, 1.0),
}


def work(part: str, settings: Settings, report: Report) -> None:
    """Measure what is left of a part, as long as there is time: what its process does, which is there only for this."""
    os.setsid()  # what it starts can be ended with it
    threading.Thread(target=end_with_parent, daemon=True).start()
    with (report.folder / "log.txt").open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for case in report.left(part):
        if time.time() >= settings.until:
            return
        logging.info("--- %s", case)
        start = time.monotonic()
        try:
            report.add(case, PARTS[part].measure(case, settings))
            outcome = "measured"
        except Exception as error:  # whatever it is, the next one may work
            logging.exception("failed")
            outcome = f"failed: {worker.failure(error)}"
            report.add(case, failed=worker.failure(error))
        print(f"{case}: {outcome}, {time.monotonic() - start:.1f} s", flush=True)
        if settings.device == "cuda":
            torch.cuda.synchronize()  # ends this process where an error has left the GPU unusable: another one goes on
            torch.cuda.empty_cache()
        torch.compiler.reset()


def end_with_parent() -> None:
    """End this process and those it has started when the one that started it is gone."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os.killpg(os.getpgrp(), signal.SIGKILL)
