"""Patches per second of a training run's parts: degradation, network, optimiser, loader; as shares of a step.

    python -m experiments.benchmarks.train_step [--model ed_dsrn] [--device cuda] [--batch 32] [--patch 256]

One configuration after the other (float32, bfloat16 autocast, channels_last, compiled), each warmed up, median of the
measured steps with the spread, synchronised at both ends of every part. `wait` is the time the step spends waiting for
the loader, which runs beside it as in training, on random images in a temporary cache.
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
import torch
from omegaconf import DictConfig
from PIL import Image

from datamodules.image_datamodule import ImageDataModule
from datamodules.sources.folder import Folder

CONF = Path(__file__).resolve().parents[2] / "conf"
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
    warm_up = 3
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
        if step >= warm_up:
            for name, seconds in zip(
                parts, (arrived - start, degraded - arrived, trained - degraded, end - trained), strict=True
            ):
                parts[name].append(seconds * 1e3)
        if step + 1 == warm_up + steps:
            break
        start = now(device)
    total = [sum(values) for values in zip(*parts.values(), strict=True)]
    return {
        "ms": {name: statistics.median(values) for name, values in parts.items()},
        "step_ms": [statistics.median(total), min(total), max(total)],
        "patches_per_second": data.batch_size / statistics.median(total) * 1e3,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ed_dsrn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8)
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
            samples_per_epoch=options.batch * (options.steps + 4),
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
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
