"""Part (f) of `experiments.benchmarks.gpu`: a training by `run.py` that ends in time, and its figures."""

import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from experiments.benchmarks.gpu.parts import both_precisions, mode_of, photographs, recipe
from experiments.benchmarks.gpu.plan import ROOT, SMOKE_STEP, TRAINING, Item, Settings
from experiments.benchmarks.gpu.report import Value
from experiments.benchmarks.steps import by_trainer, prepare
from experiments.results.records import read_records
from lightning_modules.checkpoints.checkpoint import load_network

RUN = Path("runs") / "training"  # in the folder of the report
# As the quick experiments: a start near bicubic enlargement, a high learning rate, clipped gradients.
RECIPE = (
    *("model.head_gain=0.1", "optimizer.lr=1e-3", "trainer.gradient_clip_val=0.1", "scheduler=cosine_steps"),
    *("data=folder", "data.on_corrupt=skip", "data.on_small=skip", "logger=none", "pictures=none"),
    *("trainer.enable_progress_bar=false", "channels_last=true"),
)
SMALL = ("model.widths=[8,8,8,8]", "data.num_workers=0")
STARTING = 15.0  # seconds in which run.py imports its libraries and finds the images
MEASURING = 15.0  # seconds of the test at its end, and of the measurement in bfloat16 after it
LEAST = 20  # steps


def length(left: float, step: float) -> int:
    """Training steps that fit into the seconds that are left, if one takes `step` seconds.

    Raises:
        TimeoutError: if next to none do.
    """
    # Validations, checkpoints and whatever else is slower than it was in the measurement.
    steps = int(0.8 * (left - STARTING - MEASURING) / step)
    if steps < LEAST:
        raise TimeoutError(f"{left:.0f} s are left, too few for {LEAST} steps of {1e3 * step:.0f} ms, start and test")
    return steps


def training(item: Item, settings: Settings) -> list[Value]:
    """Measure how long a step takes, train as many as fit, read the figures of the test."""
    batch, patch = SMOKE_STEP if settings.smoke else TRAINING
    steps = 4
    if not settings.smoke:
        cfg = recipe(item.model, settings)
        data = photographs(cfg, settings, batch, patch, 30)
        data.setup("fit")
        by_trainer(cfg, data, settings.device, mode_of(item))  # warms up
        step, _ = by_trainer(cfg, data, settings.device, mode_of(item))
        if settings.device == "cuda":
            torch.cuda.empty_cache()
        steps = length(settings.until[item.part] - time.time(), step)
    limit = settings.until[item.part] - time.time()
    command = [sys.executable, str(ROOT / "run.py"), *overrides(item, settings, steps, batch, patch, limit)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=settings.output, env=environment, stdout=sys.stderr, timeout=max(limit, 1.0), check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"run.py ended with status {done.returncode}: log.txt says why")
    return figures(Path(settings.output) / RUN, item.model)


def overrides(item: Item, settings: Settings, steps: int, batch: int, patch: int, limit: float) -> list[str]:
    """The command line of the training, which has `limit` seconds in all."""
    epochs = 4 if steps >= 200 else 1
    return [
        *(f"model={item.model}", *RECIPE, *(SMALL if settings.smoke else ())),
        *(f"data.root={settings.images}", f"data.source.val_root={settings.val}"),
        *(f"data.source.test_root={settings.test}", f"data.cache_dir={settings.cache}"),
        *(f"data.batch_size={batch}", f"data.patch={patch}"),
        *(f"data.samples_per_epoch={batch * (steps // epochs)}", f"trainer.max_epochs={epochs}"),
        # If steps have become slower: the last epoch is cut, and the best checkpoint so far is tested.
        f"+trainer.max_time={clock(limit - MEASURING)}",
        *(f"scheduler.warmup={min(100, steps // 4)}", f"trainer.log_every_n_steps={min(50, max(1, steps // 4))}"),
        f"trainer.precision={'bf16-mixed' if mode_of(item).get('bf16') else '32-true'}",
        f"trainer.accelerator={'gpu' if settings.device == 'cuda' else 'cpu'}",
        *(f"runs_dir={RUN.parent}", f"name={RUN.name}"),
    ]


def clock(seconds: float) -> str:
    """Days, hours, minutes and seconds as Lightning reads them."""
    whole = max(1, int(seconds))
    return f"00:{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def figures(run: Path, label: str) -> list[Value]:
    """What the files of the run say of the best checkpoint, of bicubic enlargement and of the training."""
    records = read_records(run / "results.json")
    of = {record.model: record.means for record in records if record.protocol_name == "y_shave4"}
    network, bicubic = of[label], of["bicubic"]
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    speeds = [float(row["speed/patches_per_second"]) for row in rows if row.get("speed/patches_per_second")]
    return [
        Value("psnr", network["psnr"]),
        Value("bicubic_psnr", bicubic["psnr"]),
        Value("gain", network["psnr"] - bicubic["psnr"]),
        Value("ssim", network["ssim"]),
        Value("bicubic_ssim", bicubic["ssim"]),
        Value("steps", 1 + max(int(row["step"]) for row in rows)),
        Value("minutes", max(float(row["speed/minutes"]) for row in rows if row.get("speed/minutes"))),
        Value("patches_per_second", statistics.median(speeds) if speeds else None),
    ]


def trained(item: Item, settings: Settings) -> list[Value]:
    """bfloat16 against float32 with the weights of the training."""
    cfg = recipe(item.model, settings)
    module, _ = prepare(cfg, settings.device, {"channels_last": True})
    best = Path(settings.output) / RUN / "checkpoints" / "best.ckpt"
    module.network = load_network(best)[0].to(settings.device)
    return both_precisions(module, cfg, settings)
