"""Structural similarity in the two forms that published figures use.

Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE TIP
13(4), 2004, eq. 13:

    SSIM(x, y) = (2 mx my + C1) (2 sxy + C2) / ((mx² + my² + C1) (sx² + sy² + C2))

with local means m, variances s² and covariance sxy under a Gaussian window of 11 taps an axis and sigma 1.5, whose
weights sum to 1; C1 = (0.01 * 255)², C2 = (0.03 * 255)².
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
PEAK = 255.0
C1 = (0.01 * PEAK) ** 2
C2 = (0.03 * PEAK) ** 2


def channel_ssim(one: Tensor, other: Tensor) -> Tensor:
    """The published form: the map of every window that lies wholly inside, averaged; then the mean over channels.

    Args:
        one: [C,H,W] in [0,255], H and W at least 11.
        other: the same shape.

    Returns:
        A single value in [-1,1].
    """
    channels = zip(one, other, strict=True)
    return torch.stack([_similarity(a, b, _whole_windows).mean() for a, b in channels]).mean()


def volume_ssim(one: Tensor, other: Tensor) -> Tensor:
    """MATLAB's `ssim` (since R2014a) of an H x W x C array, which it takes as a volume.

    The window has 11 taps along the channels as well, every axis is continued by its edge value, and the map covers
    every pixel. A single channel is a plane to MATLAB: the window is 11 x 11, the borders are continued all the same.

    Args, Returns: as for `channel_ssim`, H and W at least 1.
    """
    return _similarity(one, other, _all_windows).mean()


def gaussian_weights() -> list[float]:
    """The taps of one axis; the window is the outer product of these."""
    radius = WINDOW // 2
    weights = [math.exp(-(offset**2) / (2.0 * SIGMA**2)) for offset in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


def _similarity(one: Tensor, other: Tensor, window_mean: Callable[[Tensor], Tensor]) -> Tensor:
    mean_one, mean_other = window_mean(one), window_mean(other)
    variance_one = window_mean(one * one) - mean_one * mean_one
    variance_other = window_mean(other * other) - mean_other * mean_other
    covariance = window_mean(one * other) - mean_one * mean_other
    similar = (2.0 * mean_one * mean_other + C1) * (2.0 * covariance + C2)
    return similar / ((mean_one**2 + mean_other**2 + C1) * (variance_one + variance_other + C2))


def _whole_windows(values: Tensor) -> Tensor:
    """Gaussian mean under every whole window, [...,H,W] -> [...,H-10,W-10], first along rows and then along columns.

    A sum of shifted copies, because float64 convolutions on the CPU unfold their input: on a 2K picture they took
    three times as long and twice the memory.
    """
    for axis in (-1, -2):
        length = values.shape[axis] - WINDOW + 1
        total = torch.zeros_like(values.narrow(axis, 0, length))
        for shift, weight in enumerate(gaussian_weights()):
            total.add_(values.narrow(axis, shift, length), alpha=weight)
        values = total
    return values


def _all_windows(values: Tensor) -> Tensor:
    """Gaussian mean around every pixel, [C,H,W] -> [C,H,W], edges repeated; across the channels of colour too."""
    radius = WINDOW // 2
    channels = len(values)
    if channels > 1:
        # Repeating the outer channels only collects the taps beyond them on these two.
        mix = values.new_zeros(channels, channels)
        for channel in range(channels):
            for shift, weight in enumerate(gaussian_weights()):
                mix[channel, min(max(channel + shift - radius, 0), channels - 1)] += weight
        values = torch.einsum("oc,chw->ohw", mix, values)
    return _whole_windows(F.pad(values[None], [radius] * 4, mode="replicate")[0])
