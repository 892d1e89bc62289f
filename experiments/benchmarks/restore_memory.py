"""Peak memory and time of restoring a large photograph.

    python -m experiments.benchmarks.restore_memory [--model ed_dsrn_base] [--size 6000 4000]
    python -m experiments.benchmarks.restore_memory --precision float32 --engine torch   # else bf16 and auto

The image is a photograph of scikit-image, mirrored to the size; the network has random weights, on which
neither memory nor time depends. The result is written into a memory-mapped file, as `task=restore` does, and removed.
Prints the peak of the resident memory of this process (VmHWM), everything included, and of the part before restoring:
Python, its libraries, the network and the image.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from skimage import data
from tqdm import tqdm

from experiments.config.compose import compose_model
from experiments.engines.names import Engine, Precision
from experiments.models import Model
from experiments.restore import Restorer
from lightning_modules.checkpoints.checkpoint import build_network
from lightning_modules.host_memory import resident


def mirrored(width: int, height: int) -> np.ndarray:
    """A photograph continued by its mirror images, uint8 [height, width, 3]."""
    image = data.astronaut()
    below, right = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    return np.pad(image, ((0, below), (0, right), (0, 0)), "symmetric")[:height, :width]


def peak_gib() -> float:
    """Of the resident memory of this process; 0 where the system does not tell."""
    return (resident("VmHWM") or 0) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ed_dsrn_base")
    parser.add_argument("--size", type=int, nargs=2, default=(6000, 4000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--precision", choices=get_args(Precision), default="bf16")
    parser.add_argument("--engine", choices=get_args(Engine), default="auto")
    args = parser.parse_args()
    torch.manual_seed(0)
    network = build_network(compose_model(args.model), args.model).eval()
    model = Model(args.model, lambda _: network, network.scales)
    restorer = Restorer(model, engine=args.engine, precision=args.precision)
    scale, image = restorer.scales[-1], mirrored(*args.size)
    height, width = scale * image.shape[0], scale * image.shape[1]
    before, start = peak_gib(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, tqdm(unit="tile") as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        out = np.lib.format.open_memmap(Path(folder) / "result.npy", "w+", np.uint8, (height, width, 3))
        engine = restorer.restore(image, scale, progress=report, out=out).engine
    print(
        f"{args.model}, {engine}, {args.precision}: "
        f"{args.size[0]}x{args.size[1]} ({image.size / 3e6:.1f} megapixels) x{scale} "
        f"to {width}x{height} in {time.perf_counter() - start:.0f} s ({torch.get_num_threads()} threads), "
        f"peak {peak_gib():.2f} GiB, {before:.2f} GiB of it before the first tile"
    )


if __name__ == "__main__":
    main()
