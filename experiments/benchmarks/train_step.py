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
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from PIL import Image

from datamodules.image_datamodule import ImageDataModule
from datamodules.sources.folder import Folder
from experiments.benchmarks.steps import MODES, WARM_UP, compose, measure, overhead


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
    cfg = compose(options.model)
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
