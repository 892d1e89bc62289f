"""The parts of `experiments.benchmarks.gpu`: what each measures, in which order, and when it has to end.

`python -m experiments.benchmarks.gpu.parts NAME SETTINGS` measures what is left of a part, with `Settings` as JSON.
"""

import csv
import inspect
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
import torch.distributed as dist
from omegaconf import DictConfig

from datamodules.batch import Batch
from datamodules.degradations.keyed_random import make_key
from experiments.benchmarks.gpu.report import Case, Report, Value
from experiments.benchmarks.timing import in_turns
from experiments.benchmarks.train_step import (
    MODES,
    by_trainer,
    compose,
    load_data,
    loader,
    measure,
    moved,
    prepare,
    warm_up,
)
from experiments.config import CONF
from experiments.profile import task as profile
from experiments.profile import worker
from experiments.results.records import read_records
from experiments.runtime import distributed
from experiments.runtime.out_of_memory import shortage
from lightning_modules.checkpoints.checkpoint import load_network
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr
from lightning_modules.strategy import DDP

# The networks' training steps: batch and side of the sharp patch, as their recipes have them.
STEPS = {"ed_dsrn": (32, 256), "usrnet_tiny": (48, 96), "srn": (16, 256), "gfn": (16, 256)}
SMOKE_STEP = (2, 64)
SMOKE_COMPILED = "srresnet"  # the quickest to compile
# All of them make their inputs of sharp images.
DEGRADATIONS = (
    *("ed_dsrn", "usrnet_train", "camera_shake", "gaussian8", "gaussian_21", "bicubic", "second_order"),
    "cooperative_old",
)
NOT_LEARNED = ("bicubic", "dark_channel", "richardson_lucy", "wiener")  # last, and without a row in bfloat16
BOTH_PRECISIONS = ("ed_dsrn", "ed_dsrn_base", "usrnet_tiny", "srn", "gfn", "srresnet")
TRAINED, TRAINING = "ed_dsrn_base", (32, 128)  # its batch and patch
# Every training makes its inputs of sharp photographs. GFN's stages would be three measurements.
RECIPES = {
    "usrnet_tiny": ("degradation.scale=4",),
    "srn": ("degradation=camera_shake",),
    "gfn": ("degradation=ed_dsrn", "procedure=supervised", "~procedure.stages", "trainer.max_epochs=1"),
}
SMALL = {
    **dict.fromkeys(("ed_dsrn", "ed_dsrn_base", "ed_srn", "cooperative"), ("model.widths=[8,8,8,8]",)),
    **dict.fromkeys(("srn", "srn_gray", "srn_lstm"), ("model.widths=[4,8,8]", "model.n_blocks=1")),
    **dict.fromkeys(("usrnet", "usrnet_tiny", "usrgan"), ("model.widths=[4,4,4,4]", "model.n_iter=1")),
    "edsr": ("model.width=8",),
    "gfn": ("model.width=8", "model.n_blocks=[1,1]"),
    "srresnet": ("model.width=8", "model.n_blocks=1"),
}
RESERVE = 35.0  # seconds in which the training starts, and at its end is tested and measured in bfloat16
MIB = 2**20
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Settings:
    """What the process of a part is told.

    Attributes:
        output: folder of the report.
        scratch: folder for what is temporary.
        about: what the report says that all is measured on.
        data: overrides that name the photographs, and the folder of the decoded ones.
        until: when the last measurement may begin.
    """

    output: str
    scratch: str
    about: dict[str, Any]
    data: list[str]
    device: str
    smoke: bool
    until: float

    def recipe(self, case: Case, *overrides: str) -> DictConfig:
        """The config of a case, of few channels in a smoke run."""
        given = [f"trainer.accelerator={self.device}", *MODES[f"{case.dtype} {case.mode}".strip()]]
        small = SMALL.get(case.model, ()) if self.smoke else ()
        return compose(case.model, *RECIPES.get(case.model, ()), *small, *self.data, *given, *overrides)

    def training(self, case: Case) -> DictConfig:
        return self.recipe(case, *loader(case.batch, side(case), 3 if self.smoke else 20))

    def report(self) -> Report:
        explained = {name: (part.title, inspect.getdoc(part.measure) or "") for name, part in PARTS.items()}
        return Report(Path(self.output), self.about, explained, plan(self.smoke))


def side(case: Case) -> int:
    return int(case.input.split("x")[0])


def training_steps(case: Case, settings: Settings) -> Values:
    """Whole steps with loading, degradation, network, loss and optimiser: under the suite's trainer (callbacks, log
    every tenth step), and in a plain PyTorch loop over the same, in turns: median (smallest to largest) of the rounds.
    Shares are what the trainer says; wait is for the loader. Start: loader, first steps and compiling. Peak: of the
    memory that tensors take. SRN gets camera shake, USRNet x4, GFN the inputs of ED-DSRN and all its parts train at
    once; batch and patch are those of the recipes.
    """
    cfg = settings.training(case)
    data = load_data(cfg)
    start = warm_up(cfg, data)
    values = measure(cfg, data, rounds=2)
    shares = {f"{part} %": values[f"{part}_percent"] for part in ("wait", "degradation", "network", "optimizer")}
    return {
        "patches/s": values["patches_per_second"],
        "trainer, ms": values["step_ms"],
        "bare loop, ms": values["bare_ms"],
        "trainer / bare loop": values["ratio"],
        **{name: statistics.median(share) for name, share in shares.items()},
        "start, s": start,
        "peak, GiB": max(values["peak_gib"]),
    }


def degradation(case: Case, settings: Settings) -> Values:
    """From 8-bit sharp patches on the device to the input of the network: median (smallest to largest)."""
    scale = ["degradation.scale=4"] if case.model == "usrnet_train" else []
    cfg = compose("ed_dsrn", f"degradation={case.model}", *scale)
    pipeline = hydra.utils.instantiate(cfg.degradation, _convert_="all")
    generator = torch.Generator().manual_seed(0)
    hr = torch.randint(256, (case.batch, 3, side(case), side(case)), dtype=torch.uint8, generator=generator)
    index, keys = torch.arange(case.batch), torch.tensor([make_key(0, i) for i in range(case.batch)])
    batch = Batch(hr.to(settings.device), [""] * case.batch, index.to(settings.device), keys.to(settings.device))
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


def bfloat16(case: Case, settings: Settings) -> Values:
    """The same weights on the same inputs by autocast to bfloat16 and in float32, means over the test images. Signal to
    noise: of the float32 result's variance to the squared difference, which does not depend on the size of the values:
    results of random weights are no images, and their PSNR to the truth (y_shave4) says nothing.
    """
    return both_precisions(settings.recipe(case), None)


def both_precisions(cfg: DictConfig, checkpoint: Path | None) -> Values:
    """How far the results in bfloat16 are from those in float32, and each from the truth."""
    data, module, device = load_data(cfg, "test"), prepare(cfg), cfg.trainer.accelerator
    if checkpoint is not None:
        module.network = load_network(checkpoint)[0].to(device)
    module.eval()
    luma = Protocol("y_shave4", "y", 4)
    rows = []
    for batch in data.test_dataloader():
        batch = moved(batch, data, device)
        with torch.inference_mode():
            full = module(batch).sr.double()
            with torch.autocast(device, torch.bfloat16):
                half = module(batch).sr.double()
        error = (half - full).square().mean()
        rows.append(
            {
                "PSNR between, dB": -10 * error.log10().item(),  # infinite if both are the same
                "signal to noise, dB": 10 * (full.var() / error).log10().item(),
                "float32 to the truth, dB": psnr(full, batch.hr, luma).item(),
                "bfloat16 to the truth, dB": psnr(half, batch.hr, luma).item(),
            }
        )
    means = {what: statistics.mean(row[what] for row in rows) for what in rows[0]}
    return {what: mean if math.isfinite(mean) else None for what, mean in means.items()}


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
        *(f"model={case.model}", *(SMALL[case.model] if settings.smoke else ()), *settings.data),
        # As the quick experiments: a start near bicubic enlargement, a high learning rate, clipped gradients.
        *("model.head_gain=0.1", "optimizer.lr=1e-3", "trainer.gradient_clip_val=0.1", "scheduler=none"),
        *(f"data.batch_size={batch}", f"data.patch={patch}", f"data.samples_per_epoch={batch * epoch}"),
        *(f"trainer.max_epochs={epochs}", f"+trainer.max_time={{seconds: {left:.0f}}}", "trainer.log_every_n_steps=2"),
        "+trainer.limit_val_batches=2",
        *(f"trainer.accelerator={settings.device}", *MODES[f"{case.dtype} {case.mode}"]),
        *("trainer.enable_progress_bar=false", "logger=none", "pictures=none", "name=training"),
    ]
    limit = max(settings.until - time.time(), 1.0)
    command = [sys.executable, str(CONF.with_name("run.py")), *overrides]
    subprocess.run(command, cwd=settings.output, stdout=sys.stderr, timeout=limit, check=True)
    run = Path(settings.output) / "runs" / "training"
    means = {r.model: r.means for r in read_records(run / "results.json") if r.protocol_name == "y_shave4"}
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    speeds = [float(row["speed/patches_per_second"]) for row in rows if row["speed/patches_per_second"]]
    between = both_precisions(settings.recipe(case), run / "checkpoints" / "best.ckpt")
    return {
        **{f"{metric.upper()}, {name}": mean[metric] for metric in ("psnr", "ssim") for name, mean in means.items()},
        "gain, dB": means[case.model]["psnr"] - means["bicubic"]["psnr"],
        "steps": 1 + max(int(row["step"]) for row in rows),
        "minutes": max(float(row["speed/minutes"]) for row in rows if row["speed/minutes"]),
        "patches/s": statistics.median(speeds) if speeds else None,
        **between,
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
    "steps": Part("Training steps", training_steps, 0.40),
    "compiled": Part("Training steps, compiled", training_steps, 0.50),
    "degradation": Part("Degradation of a batch", degradation, 0.54),
    "restoring": Part("Restoring one image", restoring, 0.66),
    "bfloat16": Part("bfloat16 against float32", bfloat16, 0.71),
    "group": Part("One process in a group", group, 0.77),
    "training": Part("A short training", training, 1.0),
}


def models() -> list[str]:
    """All options of conf/model/, those that learn first."""
    names = (file.stem for file in (CONF / "model").glob("*.yaml"))
    return sorted(names, key=lambda name: (name in NOT_LEARNED, name))


def plan(smoke: bool) -> list[Case]:
    """All measurements, the most valuable first.

    A smoke run has every part; only one network is compiled, and one restores in bfloat16.
    """

    def step(part: str, model: str, dtype: str, mode: str = "") -> Case:
        batch, patch = SMOKE_STEP if smoke else STEPS[model]
        return Case(part, model, dtype, mode, batch, f"{patch}x{patch}")

    batch, sides = (2, (32, 64)) if smoke else (32, (256, 96))
    modes = (("float32", ""), ("bfloat16", ""), ("bfloat16", "channels_last"))
    halved = ["ed_dsrn"] if smoke else [name for name in models() if name not in NOT_LEARNED]
    restored = [*((name, "float32") for name in models()), *((name, "bfloat16") for name in halved)]
    return [
        *(step("steps", model, *mode) for mode in modes for model in STEPS),
        *(
            step("compiled", name, "bfloat16", "channels_last compile")
            for name in ([SMOKE_COMPILED] if smoke else STEPS)
        ),
        *(Case("degradation", name, "float32", "", batch, f"{s}x{s}") for s in sides for name in DEGRADATIONS),
        *(Case("restoring", name, dtype, "channels_last", 1, "one image") for name, dtype in restored),
        *(Case("bfloat16", name, "bfloat16", "channels_last", 1, "test images") for name in BOTH_PRECISIONS),
        step("group", "ed_dsrn", "float32"),
        Case("training", TRAINED, "bfloat16", "channels_last", SMOKE_STEP[0] if smoke else TRAINING[0], "test images"),
    ]


def reason(error: Exception) -> str:
    """One line."""
    if short := shortage(error):
        return f"out of memory ({short})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def measure_part(name: str, settings: Settings) -> None:
    """Measure what is left of a part, as long as there is time."""
    report = settings.report()
    for case in report.left(name):
        if time.time() >= settings.until:
            return
        logging.info("--- %s", case)
        start = time.monotonic()
        try:
            report.add(case, PARTS[name].measure(case, settings))
            outcome = "measured"
        except Exception as error:  # whatever it is, the next one may work
            logging.exception("failed")
            outcome = f"failed: {reason(error)}"
            report.add(case, failed=reason(error))
        print(f"{case}: {outcome}, {time.monotonic() - start:.1f} s", flush=True)
        if settings.device == "cuda":
            torch.cuda.synchronize()  # ends this process where an error has left the GPU unusable: another one goes on
            torch.cuda.empty_cache()
        torch.compiler.reset()


def leave_with_the_first() -> None:
    """End this process and those it has started when the one that started it is gone."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    threading.Thread(target=leave_with_the_first, daemon=True).start()
    measure_part(sys.argv[1], Settings(**json.loads(sys.argv[2])))
