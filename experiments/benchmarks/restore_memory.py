"""Peak memory and time of restoring a large photograph.

    python -m experiments.benchmarks.restore_memory [--model ed_dsrn_base] [--size 6000 4000] [--precision bf16]

The image is a photograph of scikit-image, mirrored to the size; the network has random weights, on which neither memory
nor time depends. The result is written into a memory-mapped file, as `task=restore` does, and removed. Prints the peak
of the resident memory of this process (VmHWM), everything included, and of the part before restoring: Python, its
libraries, the network and the image.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from skimage import data

from experiments.config.compose import compose_model
from experiments.models import Model
from experiments.restore import Restorer
from lightning_modules.checkpoints.checkpoint import build_network
from lightning_modules.host_memory import resident

GIB = 2**30


def mirrored(width: int, height: int) -> np.ndarray:
    """A photograph continued by its mirror images, uint8 [height, width, 3]."""
    image = data.astronaut()
    image = np.pad(image, ((0, max(0, height - len(image))), (0, 0), (0, 0)), "symmetric")[:height]
    return np.pad(image, ((0, 0), (0, max(0, width - image.shape[1])), (0, 0)), "symmetric")[:, :width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ed_dsrn_base")
    parser.add_argument("--size", type=int, nargs=2, default=(6000, 4000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--tile", type=int, help="side in pixels of the image; default: chosen by itself")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=("32", "bf16"), default="bf16")
    args = parser.parse_args()

    torch.manual_seed(0)
    network = build_network(compose_model(args.model), args.model).eval()
    restorer = Restorer(Model(args.model, lambda _: network, network.scales), precision=args.precision)
    scale = restorer.scales[-1]
    image = mirrored(*args.size)
    shape = (scale * image.shape[0], scale * image.shape[1], 3)
    before = resident("VmHWM") or 0
    start = last = time.perf_counter()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last > 60 or done == total:
            last = now
            peak = (resident("VmHWM") or 0) / GIB
            print(f"{done} of {total} tiles, {now - start:.0f} s, peak {peak:.2f} GiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        out = np.lib.format.open_memmap(Path(folder) / "result.npy", "w+", np.uint8, shape)
        found = restorer.restore(image, scale, tile=args.tile, batch=args.batch, progress=report, out=out)
        seconds = time.perf_counter() - start
        print(
            f"{args.model}, {args.precision}: {args.size[0]}x{args.size[1]} ({image.size / 3e6:.1f} megapixels) "
            f"x{scale} to {shape[1]}x{shape[0]} in {seconds:.0f} s ({torch.get_num_threads()} threads), "
            f"peak {(resident('VmHWM') or 0) / GIB:.2f} GiB, {before / GIB:.2f} GiB of it before the first tile"
        )
        print(f"mean of the result {np.mean([out[i].mean() for i in range(0, len(out), 100)]):.1f}", *found.notes)


if __name__ == "__main__":
    main()
