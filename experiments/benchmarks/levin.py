"""Deblurring of Levin's 32 photographs: PSNR before and after, by kernel; blind, or with the kernels known.

    python -m experiments.benchmarks.levin FOLDER
    python -m experiments.benchmarks.levin FOLDER --model usrnet_tiny --weights FILE [--noise-level 0.01]
    python -m experiments.benchmarks.levin FOLDER --weights runs/NAME

FOLDER holds imI_kernelK_img.png for I = 1 to 4 and K = 1 to 8, gt/imI.png and gt/kernelK.png. Every image is compared
with the sharp one at its best shift by whole pixels, as the kernels lie off centre, without a border of 20 pixels.

Without a model, the dark channel estimates the kernel, and the error ratio is printed too: the sum of squared
differences of the restored image over that with the true kernel, both restored by the same non-blind method. Below 2 a
restoration counts as good. Any other model has to restore at scale 1; one that takes no kernel is measured blind. Gray
photographs go through networks for colours as three equal channels.

Source: Levin, Weiss, Durand, Freeman, "Understanding and evaluating blind deconvolution algorithms", CVPR 2009.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.restore import Restorer
from networks.dark_channel import deconvolve, estimate_kernel

BORDER, SHIFT = 20, 10
# The pictures of six kernels have to be turned by 180 degrees to convolve the sharp images to the blurred ones. So it
# is for every one of the four images, but for the third kernel, which is nearly symmetric.
TURNED = (1, 2, 3, 5, 6, 7)
CAMERA_NOISE = 2 / 255  # what USRNet's authors set for photographs that are clean to the eye


def read(path: Path) -> Tensor:
    """Gray [H, W] in [0, 1]."""
    return torch.from_numpy(np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255)


def mean_squared_error(image: Tensor, sharp: Tensor) -> float:
    """At the best shift."""
    h, w = sharp.shape
    target = sharp[BORDER : h - BORDER, BORDER : w - BORDER]
    shifts = range(-SHIFT, SHIFT + 1)
    moved = (image[BORDER + y : h - BORDER + y, BORDER + x : w - BORDER + x] for y in shifts for x in shifts)
    return min(float((shifted - target).square().mean()) for shifted in moved)


def psnr(image: Tensor, sharp: Tensor) -> float:
    return float(-10 * np.log10(mean_squared_error(image, sharp)))


def true_kernel(folder: Path, number: int) -> Tensor:
    """[k, k] for true convolution, sum 1."""
    kernel = read(folder / "gt" / f"kernel{number}.png")
    kernel = kernel.flip(0, 1) if number in TURNED else kernel
    return kernel / kernel.sum()


def by_dark_channel(blurred: Tensor, sharp: Tensor, true: Tensor) -> tuple[Tensor, float]:
    """The restored image and its error ratio; the estimation is told the side of the true kernel."""

    def deblurred(kernel: Tensor) -> Tensor:
        return deconvolve(blurred[None], kernel, 3e-3, 5e-4, 1.0)[0]

    restored = deblurred(estimate_kernel(blurred, len(true), 4e-3, 4e-3))
    # The third kernel is turned in some images.
    best = min(mean_squared_error(deblurred(kernel.double()), sharp) for kernel in (true, true.flip(0, 1)))
    return restored, mean_squared_error(restored, sharp) / best


def by_model(restorer: Restorer, blurred: Tensor, kernel: Tensor, noise_level: float) -> Tensor:
    """The restored image as a file of 8 bit holds it."""
    result = restorer.restore(
        blurred[None],
        scale=1,
        kernel=kernel if restorer.needs_kernel else None,
        noise_level=noise_level if "noise_level" in restorer.inputs else None,
    )
    return (torch.as_tensor(result.sr)[0] * 255).round() / 255


def row(number: str, side: str, before: np.ndarray, after: np.ndarray) -> str:
    gains = after - before
    cells = [number, side, f"{before.mean():.2f}", f"{after.mean():.2f}"]
    cells += [f"{value:+.2f}" for value in (gains.mean(), gains.min(), gains.max())]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="option of conf/model/")
    parser.add_argument("--weights", type=Path, help="run folder, checkpoint, or weights of --model")
    parser.add_argument("--override", nargs="+", default=[], help="of --model, such as model.boundary=wrap")
    parser.add_argument("--noise-level", type=float, default=CAMERA_NOISE, help="on the [0, 1] scale; %(default).4f")
    args = parser.parse_args()
    blind = args.model is None and args.weights is None
    restorer = None if blind else Restorer.load(args.weights, model=args.model, overrides=args.override)
    print("| kernel | side | blurred | restored | gain | least | most |\n| --- | --- | --- | --- | --- | --- | --- |")
    scores, ratios = [], []
    for number in range(1, 9):
        kernel = true_kernel(args.folder, number)
        for image in range(1, 5):
            blurred = read(args.folder / f"im{image}_kernel{number}_img.png")
            sharp = read(args.folder / "gt" / f"im{image}.png")
            if restorer is None:
                restored, ratio = by_dark_channel(blurred, sharp, kernel)
                ratios.append(ratio)
            else:
                restored = by_model(restorer, blurred, kernel, args.noise_level)
            scores.append((psnr(blurred, sharp), psnr(restored, sharp)))
        of_kernel = np.array(scores[-4:])
        print(row(str(number), str(len(kernel)), *of_kernel.T), flush=True)
    print(row("mean", "", *np.array(scores).T))
    if ratios:
        below = sum(ratio < 2 for ratio in ratios)
        print(f"error ratio {np.mean(ratios):.2f} on average, below 2 for {below} of {len(ratios)}")


if __name__ == "__main__":
    main()
