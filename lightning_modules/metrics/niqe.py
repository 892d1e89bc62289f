"""NIQE: how far an image is from natural images, without its original.

A. Mittal, R. Soundararajan, A. C. Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal Processing
Letters 20(3), 2013. Lower is better. Where the paper leaves something open, the authors' published MATLAB code decides:
blocks of 96 x 96 that do not overlap, the second scale by bicubic reduction, products of neighbours that wrap around
within a block.

The model of natural images is supplied by the user.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.metrics.psnr_ssim import luma, to_eight_bit
from networks.ops.resize import bicubic_resize

BLOCK = 96
WINDOW, SIGMA = 7, 7 / 6
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows, columns
FEATURES = 36  # 18 at each of two scales
SOURCE = (
    "the authors' modelparameters.mat (NIQE release of the Laboratory for Image & Video Engineering, Austin) or the "
    "same as niqe_pris_params.npz (of the package basicsr, Apache-2.0)"
)
# Mean and covariance of the features of natural images under the names of either file.
NAMES = {".npz": ("mu_pris_param", "cov_pris_param"), ".mat": ("mu_prisparam", "cov_prisparam")}


class NIQE:
    """NIQE of restored images, rounded to 8 bit, in colour of their luma (BT.601, rounded).

    Computed on the CPU in float64. What the blocks leave over to the right and below does not count, nor do blocks
    without variation. Flat parts, such as a clipped sky, have no values; in the published code the signs of rounding
    errors count there, which changes the result by up to a few hundredths.

    Args:
        model: the file of the model, see `SOURCE`.

    Raises:
        InputError: if the file is missing, unreadable or holds no such model.
    """

    higher_is_better = False

    def __init__(self, model: str) -> None:
        self.mean, self.covariance = read_model(Path(model))

    def __call__(self, restored: Tensor, hr: Tensor) -> Tensor:
        """[B, C, H, W] about [0, 1] -> [B], nan for an image without two blocks that vary; `hr` is not looked at.

        Raises:
            ValueError: if an image has room for less than two blocks.
        """
        height, width = restored.shape[-2:]
        if (height // BLOCK) * (width // BLOCK) < 2:
            raise ValueError(
                f"image of {width}x{height} is too small for NIQE: it needs two blocks of {BLOCK}x{BLOCK} pixels"
            )
        levels = to_eight_bit(restored.detach().cpu()).double()
        if levels.shape[1] == 3:
            levels = torch.floor(luma(levels) + 0.5)
        return torch.stack([self._distance(features(image)) for image in levels[:, 0]])

    def _distance(self, found: Tensor) -> Tensor:
        """Between the Gaussians of natural features and of those of the blocks [N, 36] (eq. 10)."""
        mean = found.nanmean(0)
        whole = found[~found.isnan().any(1)]
        if len(whole) < 2:
            return found.new_tensor(math.nan)
        difference = self.mean - mean
        pooled = torch.linalg.pinv((self.covariance + whole.T.cov()) / 2)
        return (difference @ pooled @ difference).sqrt()


def features(plane: Tensor) -> Tensor:
    """Features [N, 36] of the N blocks of an image [H, W] in 0...255, float64."""
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    plane = plane[: rows * BLOCK, : columns * BLOCK]
    found = []
    for size in (BLOCK, BLOCK // 2):
        blocks = normalised(plane).unflatten(1, (columns, size)).unflatten(0, (rows, size))
        blocks = blocks.permute(0, 2, 1, 3).flatten(0, 1)  # N, size, size
        power, left, right = asymmetric_gaussian(blocks)
        found += [power, (left + right) / 2]
        for shift in NEIGHBOURS:
            power, left, right = asymmetric_gaussian(blocks * blocks.roll(shift, (1, 2)))
            mean = (right - left) * (torch.lgamma(2 / power) - torch.lgamma(1 / power)).exp()
            found += [power, mean, left, right]
        plane = bicubic_resize(plane[None, None], 2, down=True)[0, 0]
    return torch.stack(found, 1)


def normalised(plane: Tensor) -> Tensor:
    """Local mean 0 and deviation about 1 (eq. 1), under a Gaussian window of 7 x 7, edges repeated."""
    offsets = torch.arange(WINDOW, dtype=plane.dtype) - WINDOW // 2
    line = (-(offsets**2) / (2 * SIGMA**2)).exp()
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local_mean(values: Tensor) -> Tensor:
        return F.conv2d(F.pad(values[None, None], [WINDOW // 2] * 4, mode="replicate"), window)[0, 0]

    mean = local_mean(plane)
    values = (plane - mean) / ((local_mean(plane * plane) - mean * mean).abs().sqrt() + 1)
    # Where the image is flat only rounding errors are left, whose signs would count: they are no values.
    return torch.where(values.abs() < 1e-9, 0.0, values)


def asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exponent and widths to the left and right of generalised Gaussians fitted by moments (eqs. 4 to 7).

    Args:
        blocks: [N, h, w].

    Returns:
        Three times [N]; nan for a block without negative or without positive values.
    """
    values = blocks.flatten(1)
    left = _root_mean_square(values, values < 0)
    right = _root_mean_square(values, values > 0)
    ratio = left / right
    moment = values.abs().mean(1).square() / values.square().mean(1)
    moment = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    powers = 0.2 + 0.001 * torch.arange(9801, dtype=values.dtype)
    # Of a Gaussian with that exponent; it rises with the exponent, so the nearest one is found by bisection.
    known = (2 * torch.lgamma(2 / powers) - torch.lgamma(1 / powers) - torch.lgamma(3 / powers)).exp()
    above = torch.searchsorted(known, moment).clamp(1, len(known) - 1)
    nearer = (moment - known[above - 1]) <= (known[above] - moment)
    power = powers[torch.where(nearer, above - 1, above)]
    power = torch.where(moment.isnan(), moment, power)
    width = ((torch.lgamma(1 / power) - torch.lgamma(3 / power)) / 2).exp()
    return power, left * width, right * width


def _root_mean_square(values: Tensor, chosen: Tensor) -> Tensor:
    return ((values.square() * chosen).sum(1) / chosen.sum(1)).sqrt()


def read_model(file: Path) -> tuple[Tensor, Tensor]:
    """Mean [36] and covariance [36, 36] of the features of natural images.

    Raises:
        InputError: see `NIQE`.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; metric.niqe.model has to be {SOURCE}")
    if file.suffix not in NAMES:
        raise InputError(f"{file}: found a {file.suffix or 'nameless'} file; metric.niqe.model has to be {SOURCE}")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as found:
                arrays = [np.asarray(found[name], np.float64) for name in NAMES[".npz"]]
        else:
            from scipy.io import loadmat

            contents = loadmat(file)
            arrays = [np.asarray(contents[name], np.float64) for name in NAMES[".mat"]]
    except Exception as error:  # of the readers, whatever is wrong with the file
        raise InputError(f"{file}: cannot be read ({type(error).__name__}: {error}); expected {SOURCE}") from error
    mean, covariance = arrays
    if mean.size != FEATURES or covariance.shape != (FEATURES, FEATURES):
        raise InputError(
            f"{file}: mean of shape {list(mean.shape)} and covariance of {list(covariance.shape)}, expected 36 and "
            f"36 x 36 numbers; metric.niqe.model has to be {SOURCE}"
        )
    return torch.from_numpy(mean.reshape(-1)), torch.from_numpy(covariance)
