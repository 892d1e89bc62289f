"""Samples per second: the batched `usrnet_train` pipeline against the per-sample way, and the loader against decoding.

    python -m experiments.benchmarks.degradation [--device cpu] [--threads 1] [--json FILE]

Everything runs in this process, one after the other, interleaved over several rounds; the median of the rounds counts,
and their spread is printed. The ratio is what matters: absolute figures depend on the machine.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.batch import Batch
from datamodules.cache import ImageCache
from datamodules.datasets import TrainingCrops, collate
from datamodules.degradations.kernel_samplers import usrnet_mixture
from datamodules.degradations.keyed_random import make_key
from datamodules.degradations.pipelines import ClassicalDegradation
from datamodules.io.decode import decode_rgb8
from experiments.benchmarks import per_sample


def rate(work: Callable[[int], int], seconds: float, device: str) -> float:
    """Samples per second of `work(i)`, which returns how many samples it made; warmed up, at least `seconds` long."""
    work(0)
    if device == "cuda":
        torch.cuda.synchronize()
    made, start = 0, time.perf_counter()
    for i in range(1, 10**9):
        made += work(i)
        if time.perf_counter() - start >= seconds:
            break
    if device == "cuda":
        torch.cuda.synchronize()
    return made / (time.perf_counter() - start)


def compare(ways: dict[str, Callable[[int], int]], rounds: int, seconds: float, device: str) -> dict[str, list[float]]:
    """Measure all ways round after round, so that they share what the machine is doing."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            rates[name].append(rate(work, seconds, device))
    return rates


def degradation_ways(batch_size: int, patch: int, device: str) -> dict[str, Callable[[int], int]]:
    """usrnet_train with scales 1 to 4 in turn on the same random uint8 patches."""
    patches = np.random.default_rng(0).integers(0, 256, (batch_size, patch, patch, 3), dtype=np.uint8)
    images = torch.from_numpy(patches).permute(0, 3, 1, 2).contiguous().to(device)
    pipeline = ClassicalDegradation(usrnet_mixture, scale=(1, 2, 3, 4), noise="usrnet")
    rng = np.random.default_rng(1)

    def batched(i: int) -> int:
        keys = torch.tensor([make_key(i, j) for j in range(batch_size)], device=device)
        pipeline(Batch(hr=images, name=[""] * batch_size, index=keys, key=keys, group=i))
        return batch_size

    def one_by_one(i: int) -> int:
        per_sample.degrade(patches[i % batch_size], 1 + i % 4, rng)
        return 1

    return {"batched": batched, "per sample": one_by_one}


def loader_ways(folder: Path, batch_size: int, patch: int) -> dict[str, Callable[[int], int]]:
    """A batch of crops from the memory-mapped cache, and the same crops from PNG files decoded for every sample."""
    rng = np.random.default_rng(0)
    for i in range(4):  # smooth noise compresses like a photograph
        small = rng.integers(0, 256, (340, 510, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(small).resize((2040, 1356), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    files = sorted(folder.glob("*.png"))
    crops = TrainingCrops(ImageCache.build(files, folder / "cache"), range(4), patch, 10**6, 0)

    def cached(i: int) -> int:
        collate([crops[(0, i * batch_size + j, i)] for j in range(batch_size)])
        return batch_size

    def decoded(i: int) -> int:
        image = decode_rgb8(files[i % len(files)])
        top, left = rng.integers(image.shape[0] - patch), rng.integers(image.shape[1] - patch)
        torch.from_numpy(image[top : top + patch, left : left + patch].transpose(2, 0, 1).copy())
        return 1

    return {"memory map": cached, "decode PNG": decoded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    result: dict[str, Any] = {"options": {k: str(v) for k, v in vars(options).items()}, "torch": torch.__version__}
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {options.threads} thread(s), torch {torch.__version__}, float32")
    with tempfile.TemporaryDirectory() as folder:
        for title, ways, device in (
            (
                f"usrnet_train, batch {options.batch}, {options.patch}x{options.patch}, kernels 25x25",
                degradation_ways(options.batch, options.patch, options.device),
                options.device,
            ),
            (
                f"crops {options.patch}x{options.patch} of 2040x1356 images, batch 32",
                loader_ways(Path(folder), 32, options.patch),
                "cpu",
            ),
        ):
            rates = compare(ways, options.rounds, options.seconds, device)
            middle = {way: statistics.median(values) for way, values in rates.items()}
            ours, theirs = middle.values()
            print(f"\n{title}")
            for way, values in rates.items():
                print(f"  {way:12}{middle[way]:>12,.0f} samples/s   ({min(values):,.0f} to {max(values):,.0f})")
            print(f"  {'ratio':12}{ours / theirs:>12.0f}")
            result[title] = {"rates": rates, "ratio": ours / theirs}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
