"""Blind deblurring of Levin's 32 photographs by the dark channel, by the measure of the paper that introduced them.

    python -m experiments.benchmarks.levin FOLDER [--images 1 2] [--kernels 3]

FOLDER holds imI_kernelK_img.png for I = 1 to 4 and K = 1 to 8, gt/imI.png and gt/kernelK.png. The error ratio is the
sum of squared differences of the restored image over that with the true kernel, both restored by the same non-blind
method, after the best shift by whole pixels and without a border of 20. Below 2 a restoration counts as good.

Source: Levin, Weiss, Durand, Freeman, "Understanding and evaluating blind deconvolution algorithms", CVPR 2009.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from networks.dark_channel import deconvolve, estimate_kernel

BORDER, SHIFT = 20, 10
# Sides given to the estimation, those customary for this set.
SIZES = {1: 19, 2: 17, 3: 15, 4: 27, 5: 13, 6: 21, 7: 23, 8: 23}


def read(path: Path) -> Tensor:
    """Gray [H, W] in [0, 1]."""
    return torch.from_numpy(np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255)


def squared_error(image: Tensor, sharp: Tensor) -> tuple[float, int]:
    """Sum of squared differences at the best shift, and the number of pixels."""
    h, w = sharp.shape
    wanted = sharp[BORDER : h - BORDER, BORDER : w - BORDER]
    shifts = range(-SHIFT, SHIFT + 1)
    moved = (image[BORDER + y : h - BORDER + y, BORDER + x : w - BORDER + x] for y in shifts for x in shifts)
    return min(float((one - wanted).square().sum()) for one in moved), wanted.numel()


def psnr(error: tuple[float, int]) -> float:
    return float(-10 * np.log10(error[0] / error[1]))


def restore(blurry: Tensor, kernel: Tensor) -> Tensor:
    return deconvolve(blurry[None], kernel, 3e-3, 5e-4, 1.0)[0]


def measure(folder: Path, image: int, number: int) -> tuple[float, float, float]:
    """Error ratio, and PSNR in dB of the blurry and of the restored image."""
    blurry, sharp = read(folder / f"im{image}_kernel{number}_img.png"), read(folder / "gt" / f"im{image}.png")
    true = read(folder / "gt" / f"kernel{number}.png").double()
    true = true / true.sum()
    restored = restore(blurry, estimate_kernel(blurry, SIZES[number], 4e-3, 4e-3))
    # The files of the kernels do not say whether they are meant to convolve or to correlate.
    best = min(squared_error(restore(blurry, kernel), sharp) for kernel in (true, true.flip(0, 1)))
    found = squared_error(restored, sharp)
    return found[0] / best[0], psnr(squared_error(blurry, sharp)), psnr(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=range(1, 5))
    parser.add_argument("--kernels", type=int, nargs="+", default=range(1, 9))
    args = parser.parse_args()
    found = []
    for image in args.images:
        for number in args.kernels:
            ratio, before, after = measure(args.folder, image, number)
            found.append((ratio, before, after))
            print(
                f"image {image}, kernel {number}: {before:.2f} -> {after:.2f} dB, error ratio {ratio:.2f}", flush=True
            )
    ratios, before, after = np.array(found).T
    good = int((ratios < 2).sum())
    print(
        f"mean of {len(found)}: {before.mean():.2f} -> {after.mean():.2f} dB, error ratio {ratios.mean():.2f}, "
        f"{good} below 2"
    )


if __name__ == "__main__":
    main()
