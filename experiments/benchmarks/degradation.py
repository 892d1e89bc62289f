"""Samples per second: the batched `usrnet_train` pipeline against the per-sample way, and the loader against decoding.

    python -m experiments.benchmarks.degradation [--batch 48]

The per-sample way of the usual code bases: one kernel (of the same distribution), SciPy's convolution of the uint8
patch with wrapped borders, every s-th pixel, noise. On one CPU thread, which is the least disturbed on a shared
machine. The ratio is what matters: absolute figures depend on the machine.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from datamodules.cache import ImageCache
from datamodules.datasets import TrainingCrops, collate
from datamodules.degradations.kernel_samplers import usrnet_mixture
from datamodules.degradations.pipelines import ClassicalDegradation
from datamodules.io.decode import decode_rgb8
from experiments.benchmarks.timing import in_turns, machine, spread
from experiments.profile.worker import random_batch

PATCH = 96
SCALES = (1, 2, 3, 4)
ROUNDS = 10
ROUND = 4 * SCALES  # scales of the samples made one by one in a round
CROPS = 32  # a batch of the loader
Way = tuple[Callable[[], object], int]  # what makes samples, and how many


def degradation_ways(batch_size: int) -> dict[str, Way]:
    """usrnet_train at scales 1 to 4 on the same random uint8 patches."""
    rng = np.random.default_rng(0)
    batch = random_batch(batch_size, PATCH, seed=0)
    patches = batch.hr.permute(0, 2, 3, 1).contiguous().numpy()
    pipeline = ClassicalDegradation(usrnet_mixture, scale=SCALES, noise="usrnet")

    def batched() -> None:
        for i in range(len(SCALES)):
            pipeline(replace(batch, group=i))

    def one_by_one() -> None:
        for patch, key, scale in zip(patches, batch.key, ROUND, strict=False):
            kernel = usrnet_mixture(key[None])[0, 0, ..., None].numpy()
            blurred = ndimage.convolve(patch, kernel, mode="wrap")[::scale, ::scale]
            blurred / 255 + rng.normal(0, rng.integers(0, 25) / 255, blurred.shape)

    return {"batched": (batched, len(SCALES) * batch_size), "per sample": (one_by_one, len(ROUND))}


def loader_ways(folder: Path) -> dict[str, Way]:
    """A batch of crops from the memory-mapped cache, and the same crops from PNG files decoded for every sample."""
    rng = np.random.default_rng(0)
    for i in range(4):  # smooth noise compresses like a photograph
        small = rng.integers(0, 256, (340, 510, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(small).resize((2040, 1356), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    files = sorted(folder.glob("*.png"))
    crops = TrainingCrops(ImageCache.build(files, folder / "cache"), range(len(files)), PATCH, 10**6, 0)

    def cached() -> None:
        first = int(rng.integers(10**5))
        collate([crops[(0, first + i, 0)] for i in range(CROPS)])

    def decoded() -> None:
        for image in map(decode_rgb8, files):
            top, left = rng.integers(image.shape[0] - PATCH), rng.integers(image.shape[1] - PATCH)
            torch.from_numpy(image[top : top + PATCH, left : left + PATCH].transpose(2, 0, 1).copy())

    return {"memory map": (cached, CROPS), "decode PNG": (decoded, len(files))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=48, help="of the pipeline")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        for title, ways in (
            (f"usrnet_train, batch {args.batch}, {PATCH}x{PATCH}, kernels 25x25", degradation_ways(args.batch)),
            (f"crops {PATCH}x{PATCH} of 2040x1356 images, batch {CROPS}", loader_ways(Path(folder))),
        ):
            times = in_turns({name: way for name, (way, _) in ways.items()}, ROUNDS)
            rates = {name: [1e3 * count / ms for ms in times[name]] for name, (_, count) in ways.items()}
            print(f"\n{title}")
            for name, values in rates.items():
                print(f"  {name:12}{spread(values)} samples/s")
            ours, theirs = map(statistics.median, rates.values())
            print(f"  {'ratio':12}{ours / theirs:.0f}")


if __name__ == "__main__":
    main()
