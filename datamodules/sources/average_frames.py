"""Motion blur as a camera makes it: the average of the sharp frames taken while the shutter is open."""

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

# The measured response of the camera of REDS (GoPRO HERO6): light of red, green and blue by 8-bit level, that of level
# 250 being 1. Samples of the table that its authors publish (Datasets/reds/crf.npy of the page of REDS), with their
# straight continuation above level 250. Between 1 and 250 it is near a power of 3.7: 2.2 does not resemble it.
_LEVELS = (0, 16, 32, 64, 96, 128, 160, 192, 224, 240, 250, 255)
_LIGHT = (
    (0.00050, 0.00392, 0.00886, 0.02835, 0.05532, 0.10602, 0.20085, 0.36862, 0.60456, 0.78982, 1.0, 1.24112),
    (0.00035, 0.00374, 0.00886, 0.02812, 0.05630, 0.10780, 0.19642, 0.36049, 0.62164, 0.81509, 1.0, 1.29850),
    (0.00066, 0.00455, 0.01007, 0.03066, 0.05854, 0.11172, 0.20675, 0.37714, 0.63659, 0.85137, 1.0, 1.12281),
)


def reds_response() -> Tensor:
    """The response of REDS [3, 256] in float64: light at each 8-bit level, by monotone interpolation of its samples.

    Above level 250 it is straight, as its authors continue what was measured.

    Source: Nah et al., "NTIRE 2019 challenge on video deblurring and super-resolution: dataset and study", CVPRW 2019.
    """
    light = np.array(_LIGHT)
    measured = PchipInterpolator(_LEVELS[:-1], light[:, :-1], axis=1)(range(251))
    straight = np.linspace(light[:, -2], light[:, -1], 6, axis=1)  # levels 250 to 255
    return torch.from_numpy(np.hstack([measured, straight[:, 1:]]))


def check_response(response: Tensor, channels: int | None = None) -> None:
    """Raises `ValueError` unless `response` is [C, 256] (C = 1 for all channels), not negative and increasing."""
    rows = len(response) if response.dim() == 2 else 0
    if response.dim() != 2 or response.shape[1] != 256 or (channels is not None and rows not in (1, channels)):
        expected = "[C, 256]" if channels is None else f"[1, 256] or [{channels}, 256]"
        raise ValueError(f"response is {list(response.shape)}, expected {expected}: light at each 8-bit level")
    if not (response.diff() > 0).all() or not (response >= 0).all() or not response.isfinite().all():
        raise ValueError(
            "response does not increase from level to level, expected finite light of at least 0 that does"
        )


def average_frames(frames: Tensor, gamma: float | None = None, response: Tensor | None = None) -> Tensor:
    """Blur by averaging M consecutive frames of a fast camera; the ground truth is the middle one, frames[:, M // 2].

    B = g((1/M) sum_i g^-1(S_i)), with g the identity (`gamma` None; GOPRO's "blur") or g(v) = v^(1/gamma) ("blur_gamma"
    with 2.2), which averages light rather than pixel values, or the camera's measured `response` (REDS). Linear
    averaging works on any range; the others are defined on [0, 1] only and clip what lies outside.

    Args:
        frames: [B, M, C, H, W], M odd (GOPRO: 7 to 13), values in [0, 1].
        gamma: exponent of the camera's response curve, or None.
        response: light at each 8-bit level [C, 256] or [1, 256], in any unit, increasing (`reds_response`), or None;
            between the levels it is straight.

    Returns:
        [B, C, H, W], same dtype.

    Raises:
        ValueError: if `frames` is not 5-dimensional floating point, M is even, `gamma` is not positive, `response` is
            no such table, or both are given.

    Source: Nah, Kim, Lee, "Deep multi-scale convolutional neural network for dynamic scene deblurring", CVPR 2017,
    section 2.
    """
    if frames.dim() != 5 or not frames.is_floating_point():
        raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}, expected floating point [B, M, C, H, W]")
    if frames.shape[1] % 2 == 0:
        raise ValueError(f"{frames.shape[1]} frames have no middle one, expected an odd number")
    if gamma is not None and response is not None:
        raise ValueError("gamma and response are both given, expected one of them")
    if response is not None:
        return _by_response(frames, response)
    if gamma is None:
        return frames.mean(1)
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}, expected a positive exponent or None")
    return frames.clamp(0, 1).pow(gamma).mean(1).pow(1 / gamma)


def _by_response(frames: Tensor, response: Tensor) -> Tensor:
    channels = frames.shape[2]
    check_response(response, channels)
    table = response.to(frames).expand(channels, 256)
    levels = (frames.clamp(0, 1) * 255).transpose(0, 2).flatten(2)  # [C, M, B * H * W]
    light = torch.stack([_straight(of_one, table[c]).mean(0) for c, of_one in enumerate(levels)])
    # The level whose light that is: between the last one that is darker and the next.
    below = (torch.searchsorted(table.contiguous(), light) - 1).clamp(0, 254)
    start, end = table.gather(1, below), table.gather(1, below + 1)
    back = (below + (light - start) / (end - start)) / 255
    return back.view(channels, len(frames), *frames.shape[3:]).transpose(0, 1)


def _straight(levels: Tensor, table: Tensor) -> Tensor:
    below = levels.long().clamp(0, 254)
    return table[below] + (levels - below) * (table[below + 1] - table[below])
