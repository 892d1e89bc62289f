"""PSNR and SSIM of restored pictures, one value per picture, under a stated protocol.

Published numbers differ by tenths of a decibel only because of what is measured: luma or colour, with or without the
border, before or after rounding to 8 bit. A `Protocol` names these choices, so a table can print what it compares.

Why not torchmetrics: its PSNR pools the squared error over the data set (papers average the PSNR of each picture) and
its SSIM pads the picture (the published one takes whole windows only).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PEAK = 255.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = (0.01 * PEAK) ** 2
SSIM_C2 = (0.03 * PEAK) ** 2


def psnr(restored: Tensor, hr: Tensor, protocol: Protocol) -> Tensor:
    """Peak signal-to-noise ratio of each picture in decibels: 20 log10(255 / rmse).

    The mean square runs over all pixels left after shaving and over all channels jointly.

    Args:
        restored: [B,C,H,W], floating point, values in [0,1], C = 1 or 3.
        hr: the true pictures, same shape.
        protocol: what is measured.

    Returns:
        [B] on the device of `restored`, float64 (float32 on devices that have no float64). `inf` for a picture equal
        to its target, which JSON cannot express: whoever writes it to a file has to say how. `nan` where a picture
        holds a nan, so that a diverged network shows.

    Raises:
        ValueError: the shapes differ or are no picture batch, or shaving leaves no pixel.
    """
    return _per_picture(_picture_psnr, restored, hr, protocol, smallest_side=1)


def ssim(restored: Tensor, hr: Tensor, protocol: Protocol) -> Tensor:
    """Structural similarity of each picture: the mean of the SSIM map, in colour the mean over the three channels.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 13(4), 2004, eq. 13:

        SSIM(x, y) = (2 mx my + C1) (2 sxy + C2) / ((mx² + my² + C1) (sx² + sy² + C2))

    with local means m, variances s² and covariance sxy under an 11x11 Gaussian window of sigma 1.5 whose weights sum
    to 1, C1 = (0.01 * 255)² and C2 = (0.03 * 255)². Only windows that lie wholly inside the shaved picture count.

    Args, Returns: as for `psnr`; values in [-1,1], 1 for a picture equal to its target.

    Raises:
        ValueError: the shapes differ or are no picture batch, or a side is shorter than 11 pixels after shaving.
    """
    return _per_picture(_picture_ssim, restored, hr, protocol, smallest_side=SSIM_WINDOW)


def to_eight_bit(images: Tensor) -> Tensor:
    """[0,1] floating point, any shape -> uint8: clipped, times 255, halves rounded up (as MATLAB's im2uint8).

    A nan becomes 0, on every device alike.
    """
    return _rounded_levels(_wide(images)).nan_to_num(nan=0.0).to(torch.uint8)


def luma(rgb255: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 in studio range, as MATLAB's rgb2ycbcr gives it, not rounded.

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255

    Args:
        rgb255: [...,3,H,W] with R, G, B in [0,255].

    Returns:
        [...,1,H,W] in [16,235], float64 (float32 on devices that have no float64).
    """
    if rgb255.ndim < 3 or rgb255.shape[-3] != 3:
        raise ValueError(f"luma needs [...,3,H,W], got {list(rgb255.shape)}")
    red, green, blue = _wide(rgb255).split(1, dim=-3)
    # Integer weights keep the sum of 8-bit values exact. About one colour in 10^5 has a luma of exactly k + 1/2, and
    # with decimal weights the summation order would decide which way it rounds.
    return 16.0 + (65481.0 * red + 128553.0 * green + 24966.0 * blue) / 255000.0


def _per_picture(
    measure: Callable[[Tensor, Tensor], Tensor], restored: Tensor, hr: Tensor, protocol: Protocol, *, smallest_side: int
) -> Tensor:
    """One picture at a time: a batch of 2K pictures in float64 with all intermediate maps would not fit in memory."""
    _check_pictures(restored, hr, protocol, smallest_side)
    values = _wide(restored.new_zeros(restored.shape[0]))
    with torch.no_grad():
        for index in range(restored.shape[0]):
            values[index] = measure(_measured(restored[index], protocol), _measured(hr[index], protocol))
    return values


def _check_pictures(restored: Tensor, hr: Tensor, protocol: Protocol, smallest_side: int) -> None:
    if restored.shape != hr.shape:
        raise ValueError(f"restored {list(restored.shape)} and hr {list(hr.shape)} differ in shape")
    if restored.ndim != 4 or restored.shape[1] not in (1, 3):
        raise ValueError(f"expected pictures [B,1,H,W] or [B,3,H,W], got {list(restored.shape)}")
    if not (restored.is_floating_point() and hr.is_floating_point()):
        raise ValueError(f"expected floating-point pictures in [0,1], got {restored.dtype} and {hr.dtype}")
    height, width = (int(side) - 2 * protocol.shave for side in restored.shape[-2:])
    if min(height, width) < smallest_side:
        raise ValueError(
            f"pictures of {restored.shape[-2]}x{restored.shape[-1]} pixels (height x width) keep {max(height, 0)}x"
            f"{max(width, 0)} after {protocol.name} shaves {protocol.shave} from each side; "
            f"at least {smallest_side}x{smallest_side} are needed"
        )


def _measured(picture: Tensor, protocol: Protocol) -> Tensor:
    """[C,H,W] in [0,1] -> the channels that the protocol compares, shaved, in [0,255]."""
    height, width = picture.shape[-2:]
    picture = picture[:, protocol.shave : height - protocol.shave, protocol.shave : width - protocol.shave]
    levels = _rounded_levels(_wide(picture)) if protocol.eight_bit else _wide(picture) * PEAK
    if protocol.colour == "rgb" or picture.shape[0] == 1:
        return levels
    return _round_half_up(luma(levels)) if protocol.eight_bit else luma(levels)


def _rounded_levels(wide: Tensor) -> Tensor:
    """[0,1] -> whole numbers in 0...255, still floating point because uint8 would turn a nan into a colour."""
    return _round_half_up(wide.clamp(0.0, 1.0) * PEAK)


def _round_half_up(values: Tensor) -> Tensor:
    """MATLAB's rounding of values >= 0; torch.round takes halves to the even neighbour."""
    return torch.floor(values + 0.5)


def _wide(values: Tensor) -> Tensor:
    """float64, so that neither half-precision inputs nor the variances of SSIM lose digits; Apple's GPU has none."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _picture_psnr(restored: Tensor, hr: Tensor) -> Tensor:
    return 20.0 * torch.log10(PEAK / (restored - hr).square().mean().sqrt())


def _picture_ssim(restored: Tensor, hr: Tensor) -> Tensor:
    channels = zip(restored, hr, strict=True)
    return torch.stack([_ssim_map(one, other).mean() for one, other in channels]).mean()


def _ssim_map(one: Tensor, other: Tensor) -> Tensor:
    """Two channels [H,W] in [0,255] -> the SSIM of every whole window, [H-10,W-10]."""
    mean_one, mean_other = _window_mean(one), _window_mean(other)
    variance_one = _window_mean(one * one) - mean_one * mean_one
    variance_other = _window_mean(other * other) - mean_other * mean_other
    covariance = _window_mean(one * other) - mean_one * mean_other
    similar = (2.0 * mean_one * mean_other + SSIM_C1) * (2.0 * covariance + SSIM_C2)
    return similar / ((mean_one**2 + mean_other**2 + SSIM_C1) * (variance_one + variance_other + SSIM_C2))


def _window_mean(channel: Tensor) -> Tensor:
    """Gaussian mean under every whole window, [H,W] -> [H-10,W-10], first along rows and then along columns.

    A sum of shifted copies, because float64 convolutions on the CPU unfold their input: on a 2K picture they took
    three times as long and twice the memory.
    """
    for axis in (1, 0):
        length = channel.shape[axis] - SSIM_WINDOW + 1
        total = torch.zeros_like(channel.narrow(axis, 0, length))
        for shift, weight in enumerate(_gaussian_weights()):
            total.add_(channel.narrow(axis, shift, length), alpha=weight)
        channel = total
    return channel


def _gaussian_weights() -> list[float]:
    """The 11x11 window is the outer product of these with themselves."""
    radius = SSIM_WINDOW // 2
    weights = [math.exp(-(offset**2) / (2.0 * SSIM_SIGMA**2)) for offset in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True)
class Protocol:
    """What PSNR and SSIM are measured on.

    Attributes:
        name: how tables call it.
        colour: "y" compares the luma of RGB pictures, "rgb" the three channels. Pictures of one channel are luma
            already: both choices take them as they are, scaled to 0...255.
        shave: pixels removed on each of the four sides before measuring.
        eight_bit: clip and round picture and target to 0...255 first, halves up, as if both had been written to PNG
            files; the luma is then rounded too, as rgb2ycbcr does on 8-bit input. If false, values are compared as
            they are, neither clipped nor rounded.
    """

    name: str
    colour: Literal["y", "rgb"]
    shave: int
    eight_bit: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"a protocol needs a name, got {self.name!r}")
        if self.colour not in ("y", "rgb"):
            raise ValueError(f'colour of protocol {self.name} must be "y" or "rgb", got {self.colour!r}')
        # bool is a kind of int, and `shave: true` in a config would otherwise shave one pixel.
        if isinstance(self.shave, bool) or not isinstance(self.shave, int) or self.shave < 0:
            raise ValueError(f"shave of protocol {self.name} must be a whole number >= 0, got {self.shave!r}")
        if not isinstance(self.eight_bit, bool):
            raise ValueError(f"eight_bit of protocol {self.name} must be true or false, got {self.eight_bit!r}")
