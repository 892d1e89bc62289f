"""The measurements of `experiments.benchmarks.gpu`, one function for every table of the report but the training's."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import hydra
import torch
import torch.distributed as dist
from omegaconf import DictConfig

from datamodules.batch import Batch
from datamodules.degradations.keyed_random import make_key
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources.folder import Folder
from experiments.benchmarks.gpu.plan import Item, Settings
from experiments.benchmarks.gpu.report import Value
from experiments.benchmarks.steps import MODES, WARM_UP, by_trainer, compose, measure, moved, now, overhead, prepare
from experiments.profile import task as profile
from experiments.profile import worker
from experiments.runtime import distributed
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr
from lightning_modules.restoration import RestorationModule
from lightning_modules.strategy import DDP

# Every training makes its inputs of sharp photographs alone. GFN's stages would be three measurements.
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
MIB = 2**20


def recipe(model: str, settings: Settings) -> DictConfig:
    """The config of a model, of few channels in a smoke run."""
    return compose(model, *RECIPES.get(model, ()), *(SMALL.get(model, ()) if settings.smoke else ()))


def photographs(cfg: DictConfig, settings: Settings, batch: int, patch: int, steps: int) -> ImageDataModule:
    """The photographs of the run under a model's degradation, for so many training steps after the warm-up."""
    return ImageDataModule(
        Folder(settings.images, settings.val, settings.test),
        hydra.utils.instantiate(cfg.degradation, _convert_="all"),
        seed=0,
        patch=patch,
        batch_size=batch,
        samples_per_epoch=batch * (WARM_UP + steps),
        num_workers=0 if settings.smoke else None,
        cache_dir=settings.cache,
        on_corrupt="skip",
        on_small="skip",
    )


def for_training(item: Item, settings: Settings, steps: int) -> tuple[DictConfig, ImageDataModule]:
    """Recipe and photographs of an item that is about training steps."""
    cfg = recipe(item.model, settings)
    data = photographs(cfg, settings, item.batch, int(item.input.split("x")[0]), steps)
    data.setup("fit")
    return cfg, data


def spread(what: str, values: list[float]) -> Value:
    return Value(what, statistics.median(values), min(values), max(values))


def mode_of(item: Item) -> dict[str, bool]:
    return MODES[f"{item.dtype} {item.mode}".strip()]


def training_steps(item: Item, settings: Settings) -> list[Value]:
    steps = 3 if settings.smoke else 20
    cfg, data = for_training(item, settings, steps)
    try:
        found = measure(cfg, data, settings.device, mode_of(item), steps)
    finally:
        if mode_of(item).get("compile"):
            torch.compiler.reset()
    step = found["step_ms"][0]
    return [
        Value("patches_per_second", found["patches_per_second"]),
        Value("step", *found["step_ms"]),
        *(Value(f"{part}_share", 100 * ms / step) for part, ms in found["ms"].items()),
        Value("first_step", found["first_step_s"]),
        Value("peak_memory", found["peak_gib"]),
    ]


def trainer(item: Item, settings: Settings) -> list[Value]:
    rounds, steps = (2, 3) if settings.smoke else (3, 30)
    cfg, data = for_training(item, settings, steps)
    found = overhead(cfg, data, settings.device, mode_of(item), rounds)
    pairs = zip(found["trainer_ms"], found["bare_ms"], strict=True)
    return [
        spread("bare_step", found["bare_ms"]),
        spread("trainer_step", found["trainer_ms"]),
        spread("ratio", [trainer / bare for trainer, bare in pairs]),
        spread("wait_share", found["wait_percent"]),
    ]


def timed(work: Callable[[], Any], device: str, warm_up: int, repeats: int) -> list[float]:
    """Milliseconds of every repetition."""
    times = []
    for i in range(warm_up + repeats):
        start = now(device)
        work()
        if i >= warm_up:
            times.append(1e3 * (now(device) - start))
    return times


def degradation(item: Item, settings: Settings) -> list[Value]:
    scale = ["degradation.scale=4"] if item.model == "usrnet_train" else []
    pipeline = hydra.utils.instantiate(
        compose("ed_dsrn", f"degradation={item.model}", *scale).degradation, _convert_="all"
    )
    side, generator = int(item.input.split("x")[0]), torch.Generator().manual_seed(0)
    hr = torch.randint(256, (item.batch, 3, side, side), dtype=torch.uint8, generator=generator)
    index = torch.arange(item.batch)
    keys = torch.tensor([make_key(0, i) for i in range(item.batch)])
    batch = Batch(hr.to(settings.device), [""] * item.batch, index.to(settings.device), keys.to(settings.device))
    times = timed(lambda: pipeline(batch), settings.device, *((1, 2) if settings.smoke else (3, 20)))
    return [spread("time", times), Value("patches_per_second", 1e3 * item.batch / statistics.median(times))]


def restoring(item: Item, settings: Settings) -> tuple[list[Value], dict[str, Any]]:
    """By the functions of task=profile."""
    half = item.dtype == "bfloat16"
    cfg = compose(item.model, "channels_last=true", *(SMALL.get(item.model, ()) if settings.smoke else ()))
    cfg.trainer.accelerator = settings.device
    cfg.trainer.precision = "bf16-mixed" if half else "32-true"
    target, repeats = ([104, 104], 1) if settings.smoke else ([720, 1280], 7)
    options = {"input": target, "scale": 4, "batch": 1, "warmup": 0 if settings.smoke else 3, "repeats": repeats}
    spec = profile.subject(cfg, options, train=False).spec
    worker.load_libraries(spec)
    found = worker.measure(spec, "forward")
    if found.error or found.median is None or found.q1 is None or found.q3 is None:
        raise RuntimeError(found.error)
    return [
        Value("time", 1e3 * found.median, 1e3 * found.q1, 1e3 * found.q3),
        # On the CPU memory that was freed before is used again without being counted.
        Value("peak_memory", found.memory / MIB if found.memory is not None and settings.device == "cuda" else None),
        Value("macs", None if found.macs is None else found.macs / 1e9),
    ], {"input": f"{spec.input[1]}x{spec.input[0]}"}


def random_weights(item: Item, settings: Settings) -> list[Value]:
    cfg = recipe(item.model, settings)
    module, _ = prepare(cfg, settings.device, {"channels_last": True})
    return both_precisions(module, cfg, settings)


def both_precisions(module: RestorationModule, cfg: DictConfig, settings: Settings) -> list[Value]:
    """How far the results in bfloat16 are from those in float32, and each from the truth."""
    data = photographs(cfg, settings, 1, 64, 1)
    data.setup("test")
    module.eval()
    luma = Protocol("y_shave4", "y", 4)
    found: dict[str, list[float]] = {"psnr": [], "snr": [], "float32_psnr": [], "bfloat16_psnr": []}
    for batch in data.test_dataloader():
        batch = moved(batch, data, settings.device)
        results = {}
        for dtype in ("float32", "bfloat16"):
            half = dtype == "bfloat16"
            with torch.inference_mode(), torch.autocast(settings.device, torch.bfloat16, enabled=half):
                results[dtype] = module(batch).sr.double()
            found[f"{dtype}_psnr"].append(psnr(results[dtype], batch.hr, luma).item())
        error = (results["bfloat16"] - results["float32"]).square().mean()
        found["psnr"].append(-10 * error.log10().item())  # infinite if both are the same
        found["snr"].append(10 * (results["float32"].var() / error).log10().item())
    means = {what: statistics.mean(values) for what, values in found.items()}
    return [Value(what, mean if math.isfinite(mean) else None) for what, mean in means.items()]


def group(item: Item, settings: Settings) -> list[Value]:
    rounds, steps = (2, 3) if settings.smoke else (3, 30)
    cfg, data = for_training(item, settings, steps)
    mode = MODES[item.dtype]
    module, _ = prepare(cfg, settings.device, mode)
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    times: dict[str, list[float]] = {"alone": [], "ddp": []}
    with distributed.group_of_one(torch.device("cuda:0" if settings.device == "cuda" else "cpu")) as here:
        by_trainer(cfg, data, settings.device, mode)  # warms up: see `overhead`
        for _ in range(rounds):
            several = {"strategy": DDP(find_unused_parameters=module.leaves_parameters_out), "plugins": [here]}
            times["alone"].append(1e3 * by_trainer(cfg, data, settings.device, mode)[0])
            times["ddp"].append(1e3 * by_trainer(cfg, data, settings.device, mode, **several)[0])
        gradients = torch.zeros(count, device=settings.device)
        reducing = timed(lambda: dist.all_reduce(gradients), settings.device, 2, 3 if settings.smoke else 10)
    return [
        spread("alone_step", times["alone"]),
        spread("ddp_step", times["ddp"]),
        spread("ratio", [ddp / alone for ddp, alone in zip(times["ddp"], times["alone"], strict=True)]),
        spread("all_reduce", reducing),
        Value("gradients", 4 * count / MIB),
    ]
