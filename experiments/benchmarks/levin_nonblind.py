"""Deblurring of Levin's 32 photographs with their kernels known: PSNR before and after, for each of the eight kernels.

    python -m experiments.benchmarks.levin_nonblind FOLDER --model usrnet_tiny --weights FILE
    python -m experiments.benchmarks.levin_nonblind FOLDER --run runs/NAME
    python -m experiments.benchmarks.levin_nonblind FOLDER --model wiener --noise-level 0.01 --pictures OUT

FOLDER, alignment and border are those of `experiments.benchmarks.levin`: every image is compared with the sharp one at
its best shift by whole pixels, for the kernels lie off centre, without a border of 20 pixels. The photographs are gray
and go through networks for colours as three equal channels. Any model works that restores at scale 1; one that takes no
kernel is measured blind.

Source: Levin, Weiss, Durand, Freeman, "Understanding and evaluating blind deconvolution algorithms", CVPR 2009.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.benchmarks.levin import psnr, read, squared_error
from experiments.restore import Restorer

# The pictures of six kernels have to be turned by 180 degrees to convolve the sharp images to the blurred ones. So it
# is for every one of the four images, but for the third kernel, which is nearly symmetric.
TURNED = (1, 2, 3, 5, 6, 7)
CAMERA_NOISE = 2 / 255  # what USRNet's authors set for photographs that are clean to the eye


def true_kernel(folder: Path, number: int) -> Tensor:
    """[k, k] for true convolution, sum 1."""
    kernel = read(folder / "gt" / f"kernel{number}.png")
    kernel = kernel.flip(0, 1) if number in TURNED else kernel
    return kernel / kernel.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path, help="run folder or checkpoint")
    parser.add_argument("--model", help="option of conf/model/")
    parser.add_argument("--weights", type=Path, help="of --model")
    parser.add_argument("--override", nargs="+", default=[], help="of --model, such as model.boundary=wrap")
    parser.add_argument("--noise-level", type=float, default=CAMERA_NOISE, help="on the [0, 1] scale; %(default).4f")
    parser.add_argument("--images", type=int, nargs="+", default=range(1, 5))
    parser.add_argument("--kernels", type=int, nargs="+", default=range(1, 9))
    parser.add_argument("--pictures", type=Path, help="folder for sheets: blurred, restored, sharp, by kernel")
    args = parser.parse_args()
    restorer = Restorer.load(args.run or args.weights, model=args.model, overrides=args.override)
    noise_level = args.noise_level if "noise_level" in restorer.inputs else None
    print(f"{restorer.name}, noise level {noise_level}")
    print("| kernel | side | blurred | restored | gain | least | most |\n| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for number in args.kernels:
        kernel = true_kernel(args.folder, number)
        found, sheets = [], []
        for image in args.images:
            blurred = read(args.folder / f"im{image}_kernel{number}_img.png")
            sharp = read(args.folder / "gt" / f"im{image}.png")
            given = kernel if restorer.needs_kernel else None
            result = restorer.restore(blurred[None], scale=1, kernel=given, noise_level=noise_level)
            restored = (torch.as_tensor(result.sr)[0] * 255).round() / 255  # as a file of 8 bit holds it
            found.append((psnr(squared_error(blurred, sharp)), psnr(squared_error(restored, sharp))))
            sheets.append(torch.cat([blurred, restored, sharp], 1))
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            values = (torch.cat(sheets) * 255).round().byte().numpy()
            Image.fromarray(values).save(args.pictures / f"kernel{number}.png")
        before, after = np.array(found).T
        gains = after - before
        rows.append((before.mean(), after.mean(), gains))
        print(
            f"| {number} | {len(kernel)} | {before.mean():.2f} | {after.mean():.2f} | {gains.mean():+.2f} "
            f"| {gains.min():+.2f} | {gains.max():+.2f} |",
            flush=True,
        )
    before, after = (np.mean([row[i] for row in rows]) for i in (0, 1))
    gains = np.concatenate([row[2] for row in rows])
    print(
        f"| mean | | {before:.2f} | {after:.2f} | {gains.mean():+.2f} | {gains.min():+.2f} | {gains.max():+.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
