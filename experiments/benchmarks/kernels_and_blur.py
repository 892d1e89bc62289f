"""Kornia's kernels and its blur beside the suite's own, in one run: milliseconds of each, their ratio, the difference.

    python -m experiments.benchmarks.kernels_and_blur [--threads 2]

Kernels: batches of 16, Kornia's isotropic Gaussians beside the outer product of a line with itself, and its motions
beside MATLAB's. Blur: `kornia.filters.filter2d(behaviour="conv")` beside `spatial` of
`datamodules.degradations.convolution`, at the sizes where a config blurs in space and keeps every pixel. What FFT or
strides do faster is not measured. A ratio is of two calls one after the other; below 1 Kornia is faster. Float32.
"""

import argparse
from collections.abc import Callable

import kornia.filters
import torch
from torch import Tensor

from datamodules.degradations.convolution import Boundary, spatial
from datamodules.degradations.kernels import kornia_motion, linear_motion
from experiments.benchmarks.timing import in_turns, machine, spread

KERNELS = 16
Pair = tuple[Callable[[], Tensor], Callable[[], Tensor]]  # ours, Kornia's
# What blurs so, the shape of its images, that of its kernel, its boundary.
BLURS: tuple[tuple[str, tuple[int, int, int, int], tuple[int, int], Boundary], ...] = (
    ("dan_setting1, second_order", (32, 3, 96, 96), (21, 21), "reflect"),
    ("dan_setting1, second_order", (16, 3, 192, 192), (21, 21), "reflect"),
    ("gray images", (32, 1, 96, 96), (21, 21), "reflect"),
    ("gaussian8, a test image", (1, 3, 512, 512), (21, 21), "reflect"),
    ("cooperative_new", (15, 3, 24, 24), (11, 11), "replicate"),
    ("cooperative_old, 25x25", (8, 3, 48, 48), (25, 25), "replicate"),
    ("ed_dsrn, a test image: one pass of two", (1, 3, 256, 256), (21, 1), "replicate"),
)


def outer_product(sigma: Tensor, size: int) -> Tensor:
    """Isotropic Gaussians [B, 1, k, k] of odd size."""
    offset = torch.arange(size, dtype=sigma.dtype) - size // 2
    line = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    line = line / line.sum(1, keepdim=True)
    return (line[:, :, None] * line[:, None, :])[:, None]


def kernels(size: int) -> dict[str, Pair]:
    """Kernels of random parameters; the motions differ, as Kornia turns a line and MATLAB measures distances."""
    sigma, angle, speed = torch.rand(KERNELS) + 1, torch.rand(KERNELS) * torch.pi, torch.zeros(KERNELS)
    length = size // 2 + 2 * torch.randint(0, size // 4, (KERNELS,)) + (size // 2 + 1) % 2  # odd
    return {
        f"{KERNELS} Gaussians {size}x{size}": (
            lambda: outer_product(sigma, size),
            lambda: kornia.filters.get_gaussian_kernel2d(size, sigma[:, None].expand(-1, 2))[:, None],
        ),
        f"{KERNELS} motions {size}x{size}": (
            lambda: linear_motion(length.float(), angle, size),
            lambda: kornia_motion(length, angle, speed, size),
        ),
    }


def blur(shape: tuple[int, int, int, int], kernel: tuple[int, int], boundary: Boundary) -> Pair:
    images, weights = torch.rand(shape), torch.rand(shape[0], 1, *kernel)
    weights = weights / weights.sum((2, 3), keepdim=True)
    return (
        lambda: spatial(images, weights, boundary),
        lambda: kornia.filters.filter2d(images, weights[:, 0], boundary, behaviour="conv"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    pairs = kernels(21) | kernels(25)
    for name, shape, kernel, boundary in BLURS:
        sizes = f"{shape[0]} x {shape[1]} x {shape[2]}x{shape[3]}, kernel {kernel[0]}x{kernel[1]}"
        pairs[f"{name}: {sizes}, {boundary}"] = blur(shape, kernel, boundary)
    print(machine("cpu"))
    print("\n| what | ours, ms | Kornia, ms | Kornia / ours | largest difference |\n| --- | --- | --- | --- | --- |")
    for name, (ours, theirs) in pairs.items():
        times = in_turns({"ours": ours, "Kornia": theirs}, args.rounds)
        ratios = [b / a for a, b in zip(times["ours"], times["Kornia"], strict=True)]
        cells = [*map(spread, times.values()), spread(ratios), f"{(ours() - theirs()).abs().max():.1g}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
