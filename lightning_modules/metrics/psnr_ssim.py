"""PSNR and SSIM of restored pictures, one value per picture, under a stated protocol.

PSNR is torchmetrics' of each picture. Its constants are float32, which changes a figure by 1.3e-6 dB at most. Its SSIM,
in float64 and cut to whole windows, is that of `ssim_maps` to 1e-15, but convolves with all 121 taps: on two CPU cores
512x512 RGB took 5.3 s against 0.03 s, 1920x1080 gray 28 s and 10 GB against 0.14 s. So it is a reference of the tests.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import product

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.ssim_maps import PEAK, WINDOW, channel_ssim, volume_ssim


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
        ValueError: the shapes differ or are no picture batch, shaving leaves no pixel, or the shave depends on the
            scale (`Protocol.at`).
    """
    return _per_picture(_picture_psnr, restored, hr, protocol, smallest_side=1)


def ssim(restored: Tensor, hr: Tensor, protocol: Protocol) -> Tensor:
    """Structural similarity of each picture, in the form that the protocol states (`ssim_maps`).

    Args, Returns: as for `psnr`; values in [-1,1], 1 for a picture equal to its target.

    Raises:
        ValueError: as for `psnr`, or a side is shorter than 11 pixels after shaving where whole windows count.
    """
    picture_ssim = volume_ssim if protocol.ssim == "volume" else channel_ssim
    return _per_picture(picture_ssim, restored, hr, protocol, smallest_side=_window(protocol))


def smallest_side(protocol: Protocol) -> int:
    """The shortest side of a picture that can be measured.

    Raises:
        ValueError: if the protocol has no whole-number shave yet.
    """
    return 2 * protocol.border + _window(protocol)


def least_side(protocols: Iterable[Protocol], scales: Iterable[int]) -> int:
    """The shortest side that all of these can measure at all scales; what does not go together is refused later."""
    least = 1
    for protocol, scale in product(protocols, scales):
        with suppress(ValueError):
            least = max(least, smallest_side(protocol.at(scale)))
    return least


def _window(protocol: Protocol) -> int:
    return 1 if protocol.ssim == "volume" else WINDOW


def to_eight_bit(images: Tensor) -> Tensor:
    """[0,1] floating point, any shape -> uint8: clipped, times 255, halves rounded up (as MATLAB's im2uint8).

    A nan becomes 0, on every device alike.
    """
    return _rounded_levels(_wide(images)).nan_to_num(nan=0.0).to(torch.uint8)


def luma(rgb255: Tensor, full_range: bool = False) -> Tensor:
    """Luma of ITU-R BT.601 in studio range, as MATLAB's rgb2ycbcr gives it, not rounded.

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255

    Args:
        rgb255: [...,3,H,W] with R, G, B in [0,255].
        full_range: divided by 219 in place of 255 and without the 16, so that gray stays what it is.

    Returns:
        [...,1,H,W] in [16,235], with `full_range` in [0,255], float64 (float32 on devices that have no float64).
    """
    if rgb255.ndim < 3 or rgb255.shape[-3] != 3:
        raise ValueError(f"luma needs [...,3,H,W], got {list(rgb255.shape)}")
    red, green, blue = _wide(rgb255).split(1, dim=-3)
    # Integer weights keep the sum of 8-bit values exact. About one colour in 10^5 has a luma of exactly k + 1/2, and
    # with decimal weights the summation order would decide which way it rounds.
    weighted = 65481.0 * red + 128553.0 * green + 24966.0 * blue
    return weighted / 219000.0 if full_range else 16.0 + weighted / 255000.0


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
    height, width = (int(side) - 2 * protocol.border for side in restored.shape[-2:])
    if min(height, width) < smallest_side:
        raise ValueError(
            f"pictures of {restored.shape[-2]}x{restored.shape[-1]} pixels (height x width) keep {max(height, 0)}x"
            f"{max(width, 0)} after {protocol.name} shaves {protocol.border} from each side; "
            f"at least {smallest_side}x{smallest_side} are needed"
        )


def _measured(picture: Tensor, protocol: Protocol) -> Tensor:
    """[C,H,W] in [0,1] -> the channels that the protocol compares, shaved, in [0,255]."""
    height, width = picture.shape[-2:]
    border = protocol.border
    wide = _wide(picture[:, border : height - border, border : width - border])
    if protocol.rounding == "none":
        levels = wide * PEAK
    else:
        levels = _rounded_levels(wide) if protocol.rounding == "round" else _truncated_levels(wide)
    if protocol.colour == "rgb" or picture.shape[0] == 1:
        return levels
    values = luma(levels, full_range=protocol.colour == "gray")
    return values if protocol.rounding == "none" else _round_half_up(values)


def _rounded_levels(wide: Tensor) -> Tensor:
    """[0,1] -> whole numbers in 0...255, still floating point because uint8 would turn a nan into a colour."""
    return _round_half_up(wide.clamp(0.0, 1.0) * PEAK)


def _truncated_levels(wide: Tensor) -> Tensor:
    """As `_rounded_levels`, but fractions are cut off.

    A value that was a whole level before it went through floating point may lie a rounding error below: half a
    ten-thousandth of a level, so that 8-bit pictures keep all their levels.
    """
    return torch.floor(wide.clamp(0.0, 1.0) * PEAK + 5e-5)


def _round_half_up(values: Tensor) -> Tensor:
    """MATLAB's rounding of values >= 0; torch.round takes halves to the even neighbour."""
    return torch.floor(values + 0.5)


def _wide(values: Tensor) -> Tensor:
    """float64, so that neither half-precision inputs nor the variances of SSIM lose digits; Apple's GPU has none."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _picture_psnr(restored: Tensor, hr: Tensor) -> Tensor:
    return peak_signal_noise_ratio(restored[None], hr[None], PEAK, reduction="none", dim=(1, 2, 3))[0]
