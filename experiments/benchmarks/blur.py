"""Times the blur algorithms: `python -m experiments.benchmarks.blur [--device cuda]`.

Prints a table (milliseconds, best of several rounds) with the algorithm that `datamodules.degradations.blur` picks. The
constants at the top of that module come from here: `load` is the quantity they bound, (kernel pixels x output pixels) /
transform pixels.
"""

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from datamodules.degradations.blur import Boundary, blur_decimate, choose, convolve_separable
from datamodules.degradations.convolution import spectral_size
from experiments.benchmarks.timing import in_turns, machine

BOUNDARIES: tuple[Boundary, ...] = ("replicate", "circular")


def measure(size: int, k: int, scale: int, boundary: Boundary, batch: int, device: str, rounds: int) -> dict[str, Any]:
    """One line of the table: `batch` random RGB images of `size` x `size` with kernels of k x k, float32."""
    images = torch.rand(batch, 3, size, size, device=device)
    kernels = torch.rand(batch, 1, k, k, device=device) / k**2
    lines = torch.rand(batch, k, device=device) / k
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "spatial": lambda: blur_decimate(images, kernels, scale, boundary, algorithm="spatial"),
        "fft": lambda: blur_decimate(images, kernels, scale, boundary, algorithm="fft"),
        "matrices": lambda: convolve_separable(images, lines, boundary, scale, algorithm="matrices"),
        "passes": lambda: convolve_separable(images, lines, boundary, scale, algorithm="passes"),
    }
    pixels = math.ceil(size / scale) ** 2
    return {
        "size": size,
        "kernel": k,
        "scale": scale,
        "boundary": boundary,
        "load": round(k * k * pixels / math.prod(spectral_size(size, size, k, k, boundary, scale))),
        **{name: f"{min(times):.2f}" for name, times in in_turns(ways, rounds).items()},
        "chosen": choose((size, size), (k, k), scale, boundary, device),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 256], help="sides of the images")
    parser.add_argument("--kernels", type=int, nargs="+", default=[5, 9, 13, 17, 21, 25, 33, 49, 65], help="sides")
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{machine(args.device)}, float32, batch {args.batch}, ms")
    cases = itertools.product(BOUNDARIES, args.scales, args.sizes, args.kernels)
    for i, (boundary, scale, size, k) in enumerate(cases):
        row = measure(size, k, scale, boundary, args.batch, args.device, args.rounds)
        if i == 0:
            print("  ".join(f"{title:>9}" for title in row))
        print("  ".join(f"{cell:>9}" for cell in row.values()), flush=True)


if __name__ == "__main__":
    main()
