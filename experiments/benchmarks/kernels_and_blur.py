"""Kornia's kernels and its blur beside the suite's own, in one run: milliseconds of each, their ratio, the difference.

    python -m experiments.benchmarks.kernels_and_blur

Kernels: batches of 16, Kornia's isotropic Gaussians beside the outer product of a line with itself, and its motions
beside MATLAB's. Blur: `kornia.filters.filter2d` beside the suite's convolution in space, `fft_conv` (of Kornia 0.9)
beside its FFT, both with behaviour="conv", at sizes of the configs; Kornia computes every pixel and drops those that
are not kept. Float32, one CPU thread, of which the time is taken: what runs beside counts little. A ratio is of two
calls one after the other; below 1 Kornia is faster.
"""

import argparse
import time
from collections.abc import Callable

import kornia.filters
import torch
from torch import Tensor

from datamodules.degradations import convolution
from datamodules.degradations.convolution import Boundary, spatial, spectral
from datamodules.degradations.kernels import kornia_motion, linear_motion
from experiments.benchmarks.timing import in_turns, machine, spread

KERNELS = 16
Pair = tuple[Callable[[], Tensor], Callable[[], Tensor]]  # ours, Kornia's
# What blurs so in space; batch, channels, side of the images; sides of the kernels; boundary.
IN_SPACE: tuple[tuple[str, tuple[int, int, int], tuple[int, int], Boundary], ...] = (
    ("dan_setting1, second_order", (32, 3, 96), (21, 21), "reflect"),
    ("dan_setting1, second_order", (16, 3, 192), (21, 21), "reflect"),
    ("dan_setting1, gray images", (32, 1, 96), (21, 21), "reflect"),
    ("gaussian8, a test image", (1, 3, 512), (21, 21), "reflect"),
    ("cooperative_new", (15, 3, 24), (11, 11), "replicate"),
    ("a small image", (1, 3, 16), (5, 5), "replicate"),
    ("quick_cooperative", (8, 3, 48), (25, 25), "replicate"),
    ("ed_dsrn, a test image: one pass of two", (1, 3, 256), (21, 1), "replicate"),
)
# The same by FFT, and which pixels are kept.
BY_FFT: tuple[tuple[str, tuple[int, int, int], tuple[int, int], Boundary, int], ...] = (
    ("camera_shake", (8, 3, 64), (31, 31), "replicate", 1),
    ("usrnet_train x1", (48, 3, 96), (25, 25), "circular", 1),
    ("usrnet_train x4", (48, 3, 96), (25, 25), "circular", 4),
)


def outer_product(sigma: Tensor, size: int) -> Tensor:
    """Isotropic Gaussians [B, k, k] of odd size."""
    offset = torch.arange(size, dtype=sigma.dtype) - size // 2
    line = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    line = line / line.sum(1, keepdim=True)
    return line[:, :, None] * line[:, None, :]


def kernels(size: int) -> dict[str, Pair]:
    """Kernels of random parameters; the motions differ, as Kornia turns a line and MATLAB measures distances."""
    sigma, angle, speed = torch.rand(KERNELS) + 1, torch.rand(KERNELS) * torch.pi, torch.zeros(KERNELS)
    length = 5 + 2 * torch.randint(0, (size - 3) // 2, (KERNELS,))  # 5, 7, ..., size
    return {
        f"{KERNELS} Gaussians {size}x{size}": (
            lambda: outer_product(sigma, size),
            lambda: kornia.filters.get_gaussian_kernel2d(size, sigma[:, None].expand(-1, 2)),
        ),
        f"{KERNELS} motions {size}x{size}": (
            lambda: linear_motion(length.float(), angle, size),
            lambda: kornia_motion(length, angle, speed, size),
        ),
    }


def random_batch(shape: tuple[int, int, int], kernel: tuple[int, int]) -> tuple[str, Tensor, Tensor]:
    batch, channels, side = shape
    weights = torch.rand(batch, *kernel)
    sizes = f"{batch} x {channels} x {side}x{side}, kernel {kernel[0]}x{kernel[1]}"
    return sizes, torch.rand(batch, channels, side, side), weights / weights.sum((1, 2), keepdim=True)


def in_space(name: str, shape: tuple[int, int, int], kernel: tuple[int, int], boundary: Boundary) -> dict[str, Pair]:
    sizes, images, weights = random_batch(shape, kernel)
    return {
        f"{name}: {sizes}, {boundary}": (
            lambda: spatial(images, weights[:, None], boundary),
            lambda: kornia.filters.filter2d(images, weights, boundary, behaviour="conv"),
        )
    }


def by_fft(
    name: str, shape: tuple[int, int, int], kernel: tuple[int, int], boundary: Boundary, scale: int
) -> dict[str, Pair]:
    sizes, images, weights = random_batch(shape, kernel)
    return {
        f"FFT, {name}: {sizes}, {boundary}": (
            lambda: spectral(images, weights[:, None], boundary, scale),
            lambda: kornia.filters.fft_conv(images, weights, boundary, behaviour="conv")[..., ::scale, ::scale],
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    convolution._BY_KORNIA = 1 << 62  # ours alone
    pairs = kernels(21) | kernels(25)
    for case in IN_SPACE:
        pairs |= in_space(*case)
    for wide in BY_FFT:
        pairs |= by_fft(*wide)
    print(f"{machine('cpu')}, kornia {kornia.__version__}")
    print("\n| what | ours, ms | Kornia, ms | Kornia / ours | largest difference |\n| --- | --- | --- | --- | --- |")
    for name, (ours, theirs) in pairs.items():
        times = in_turns({"ours": ours, "Kornia": theirs}, args.rounds, time.thread_time)
        ratios = [b / a for a, b in zip(times["ours"], times["Kornia"], strict=True)]
        difference = (ours().flatten() - theirs().flatten()).abs().max()
        print(f"| {name} | {' | '.join(map(spread, (*times.values(), ratios)))} | {difference:.1g} |", flush=True)


if __name__ == "__main__":
    main()
