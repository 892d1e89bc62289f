"""Measures one network for task=profile, in a process of its own: `python -m experiments.profile.worker SPEC RESULT`.

A fresh process has the peak of its memory to itself. SPEC is a JSON file of a `Spec`; RESULT becomes a JSON file with
one `Phase` for every phase asked for.
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import hydra
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from datamodules.batch import Batch, as_float, to_gray
from datamodules.degradations.keyed_random import make_key
from experiments.runtime.out_of_memory import shortage
from lightning_modules.host_memory import resident
from lightning_modules.restoration import RestorationModule
from networks.base import RestorationNetwork

KERNEL = 25  # side of a blur kernel where the recipe has none
BASIS_KERNELS = 256  # enough for the shape of a kernel code, which is all that its cost depends on


@dataclass
class Spec:
    """What to measure.

    Attributes:
        config: resolved nodes model, procedure, loss, optimizer, scheduler and degradation of an experiment.
        phases: "forward", "train" or both.
        input: height and width of the degraded image in the forward phase.
        scale: what the forward phase enlarges by, where the network takes that as an input.
        patch: side of the sharp training crop, of which there are `batch_size`, gray or in colour.
    """

    config: dict[str, Any]
    phases: list[Literal["forward", "train"]]
    input: list[int]
    scale: int
    batch: int
    patch: int
    batch_size: int
    gray: bool
    clip: float | None
    seed: int
    device: Literal["cpu", "cuda"]
    precision: Literal["32-true", "bf16-mixed"]
    channels_last: bool
    compile: bool
    benchmark: bool
    warmup: int
    repeats: int


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
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before: int | None = torch.cuda.memory_allocated()
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
        self.before = resident("VmRSS")

    def __call__(self) -> int | None:
        now = torch.cuda.max_memory_allocated() if self.device == "cuda" else resident("VmHWM")
        return None if now is None or self.before is None else now - self.before


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def quartiles(times: list[float]) -> list[float]:
    return statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else 3 * times


def build(spec: Spec) -> tuple[RestorationModule, Any]:
    """The training procedure around the network, and the degradation.

    Of a training in stages there is the last one, in which most is trained.
    """
    procedure = dict(spec.config["procedure"])
    if procedure.get("stages"):
        name, stage = list(procedure["stages"].items())[-1]
        procedure["stages"] = {name: stage}

    def made(node: str) -> Any:
        return hydra.utils.instantiate(spec.config[node], _convert_="all") if spec.config[node] else None

    network, degradation = made("model"), made("degradation")
    if network.has_basis and not network.basis.fitted:
        network.fit_basis(degradation.kernels(_keys(spec.seed, BASIS_KERNELS)), spec.seed)
    module = hydra.utils.instantiate(procedure, _convert_="all")(
        network,
        [],
        **{node: made(node) for node in ("loss", "optimizer", "scheduler")},
        channels_last=spec.channels_last,
        compile=spec.compile,
    )
    return module, degradation


def _keys(seed: int, count: int) -> Tensor:
    return torch.tensor([make_key(seed, 0, i) for i in range(count)])


def training_batch(spec: Spec, degradation: Any, count: int) -> Batch:
    """Random images under the degradation of the recipe, on the device."""
    hr = torch.randint(256, (count, 3, spec.patch, spec.patch), dtype=torch.uint8)
    names = [str(i) for i in range(count)]
    batch = Batch(hr=hr, name=names, index=torch.arange(count), key=_keys(spec.seed, count))
    if "lr" in degradation.inputs:  # it starts from pairs of files
        step = degradation.file_scale
        batch = replace(batch, hr=as_float(hr), lr=as_float(hr[..., ::step, ::step]), scale=step)
    moved: dict[str, Any] = {name: x.to(spec.device) for name, x in vars(batch).items() if isinstance(x, Tensor)}
    batch = degradation(replace(batch, **moved))
    return to_gray(batch) if spec.gray else batch


def forward_batch(spec: Spec, like: Batch) -> Batch:
    """Random images of the size asked for, with the kernel of another batch's first sample if it has one."""
    lr = torch.rand(spec.batch, 3, *spec.input, device=spec.device)
    kernel = lr.new_full((1, 1, KERNEL, KERNEL), KERNEL**-2) if like.kernel is None else like.kernel[:1]
    return replace(
        like,
        hr=lr,
        lr=lr,
        lr_sharp=None,
        kernel=kernel.expand(spec.batch, -1, -1, -1),
        noise_level=lr.new_full((spec.batch, 1, 1, 1), 0.01),
        scale=spec.scale,
    )


def count_macs(network: RestorationNetwork, batch: Batch) -> int:
    """Half the floating-point operations that torch counts: those of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(**{name: getattr(batch, name) for name in network.inputs})
    return counter.get_total_flops() // 2


def measure_forward(spec: Spec) -> Phase:
    peak = PeakMemory(spec.device)
    module, degradation = build(replace(spec, compile=False))
    module.to(spec.device).eval()
    like = training_batch(spec, degradation, 1)
    batch = forward_batch(spec, like)
    macs = count_macs(module.network, batch)
    if spec.compile:
        module.network.compile()
    times = []
    for i in range(spec.warmup + spec.repeats):
        synchronise(spec.device)
        start = time.perf_counter()
        half = spec.precision == "bf16-mixed"
        with torch.inference_mode(), torch.autocast(spec.device, torch.bfloat16, enabled=half):
            module(batch)
        synchronise(spec.device)
        if i >= spec.warmup:
            times.append(time.perf_counter() - start)
    low, middle, high = quartiles(times)
    return Phase(middle, low, high, memory=peak(), macs=macs)


class StepTimer(pl.Callback):
    """Seconds of every training step: forward pass, loss, backward pass, optimiser."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[float] = []
        self.start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        synchronise(self.device)
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        synchronise(self.device)
        self.times.append(time.perf_counter() - self.start)


def measure_training(spec: Spec) -> Phase:
    peak = PeakMemory(spec.device)
    module, degradation = build(spec)
    batch = training_batch(spec, degradation, spec.batch_size)
    timer = StepTimer(spec.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator=spec.device,
            devices=1,
            precision=spec.precision,
            max_epochs=1,
            gradient_clip_val=spec.clip,
            benchmark=spec.benchmark,
            callbacks=[timer],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        batches = [batch] * (spec.warmup + spec.repeats)
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]  # a list is a data set
    low, middle, high = quartiles(timer.times[spec.warmup :])
    return Phase(middle, low, high, memory=peak())


MEASURE: dict[str, Callable[[Spec], Phase]] = {"forward": measure_forward, "train": measure_training}


def measure(spec: Spec, phase: str) -> Phase:
    try:
        return MEASURE[phase](spec)
    except Exception as error:  # whatever a network does must not take the other rows along
        cause = error.__cause__ or error
        if shortage(cause):
            return Phase(error="out of memory")
        return Phase(error=f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}")


def load_libraries(spec: Spec) -> None:
    """Import and start what is loaded at its first use, which is no cost of the network."""

    def load(node: Any) -> None:
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
            load(value)
        if isinstance(node, dict) and "_target_" in node:
            hydra.utils.get_object(node["_target_"])

    load(spec.config)
    x = torch.rand(1, 4, 32, 32, device=spec.device, requires_grad=True)
    with FlopCounterMode(display=False):
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).to(spec.device)(x).square().mean().backward()


def main() -> None:
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    torch.manual_seed(spec.seed)
    torch.backends.cudnn.benchmark = spec.benchmark
    load_libraries(spec)
    found = {phase: asdict(measure(spec, phase)) for phase in spec.phases}
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
