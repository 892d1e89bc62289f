"""What sensors and files add to an image: white noise, eight bits, JPEG. Random draws depend on the keys only."""

import torch
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor

from datamodules.degradations.keyed_random import integers, normal_field


def add_gaussian_noise(images: Tensor, noise_level: Tensor, keys: Tensor) -> Tensor:
    """Add white Gaussian noise, independent in every pixel and channel; nothing is clipped.

    Args:
        images: [B, C, H, W], values in [0, 1].
        noise_level: standard deviation on that scale [B, 1, 1, 1] (a level of 0 ... 255 divided by 255); where it is 0
            the image stays as it is, to the bit.
        keys: one per image [B], int64.

    Returns:
        [B, C, H, W] in the dtype of `images`; the noise is drawn in float32.

    Raises:
        ValueError: if `noise_level` or `keys` has another shape.
    """
    if noise_level.shape != (len(images), 1, 1, 1) or keys.shape != (len(images),):
        raise ValueError(
            f"noise_level has shape {tuple(noise_level.shape)} and keys {tuple(keys.shape)}, expected "
            f"[{len(images)}, 1, 1, 1] and [{len(images)}]"
        )
    noise = normal_field(keys, "gaussian_noise", tuple(images.shape[1:])).mul_(noise_level)
    return noise.to(images.dtype).add_(images)


def sample_usrnet_noise_level(keys: Tensor) -> Tensor:
    """USRNet's noise levels: 0 with probability 1/9, else an integer uniform in 0 ... 24, divided by 255.

    Exactly 0 has thus probability 1/9 + 8/9 * 1/25 = 33/225 in all.

    Args:
        keys: [B], int64.

    Returns:
        [B, 1, 1, 1], float32, on the [0, 1] scale.

    Source: training data of Zhang, Van Gool, Timofte, CVPR 2020, as published with their code.
    """
    level = integers(keys, "usrnet/noise_level", low=0, high=25)
    noisy = integers(keys, "usrnet/noisy", low=0, high=9) > 0
    return (torch.where(noisy, level, 0).to(torch.float32) / 255).view(-1, 1, 1, 1)


def to_eight_bit_levels(images: Tensor) -> Tensor:
    """Clip to [0, 1] and round to the nearest multiple of 1/255, as an image file would store it; same dtype."""
    return images.clamp(0, 1).mul(255).round().div(255)


def trunc8(images: Tensor) -> Tensor:
    """Eight bits as the official USRNet data code gets them: levels cut towards zero, then taken modulo 256.

    There the blur is computed on uint8 arrays, which costs half a level on average and turns what lies outside
    [0, 255] upside down: 100.67 -> 100, -11.9 -> 245, 277.5 -> 21. Its models were trained and tested on that. Meant
    for blurs without negative lobes.

    Values within rounding error of a level (1e-9 levels in float64, 2^-12 in float32) count as that level. The official
    arrays come of a blur in float64 with the float32 kernel, whose sum is not exactly 1: there a constant 200 often
    becomes 199.

    Args:
        images: any shape, nominally in [0, 1], float32 or float64, before noise is added.

    Returns:
        Same shape and dtype, multiples of 1/255 in [0, 1].
    """
    tolerance = 1e-9 if images.dtype == torch.float64 else 2.0**-12
    levels = images * 255
    nearest = levels.round()
    levels = torch.where((levels - nearest).abs() <= tolerance, nearest, levels.trunc())
    return levels.remainder(256) / 255


@torch.no_grad()
def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress as JPEG, 4:2:0, each image at its own quality: rounds to 8 bit before and after.

    kornia's batched codec, on any device. Its roundings of coefficients are softened to be differentiable, so it keeps
    traces of what a codec drops. Measured on three photographs against libjpeg's output for the same input: RGB 41 to
    48 dB at qualities 30 to 95 (37 dB at 10), gray 45 to 52 dB; its own loss is 0.2 to 0.9 dB (gray up to 1.5 dB) less
    than libjpeg's. Good for training; store test images with a real codec.

    Args:
        images: [B, C, H, W] with C = 3, or C = 1 (a gray image), any size, values in [0, 1].
        quality: 1 ... 100 on libjpeg's scale [B].

    Returns:
        [B, C, H, W], same dtype, multiples of 1/255 in [0, 1].

    Raises:
        ValueError: if C or the shape of `quality` does not fit.
    """
    batch, channels = images.shape[:2]
    if channels not in (1, 3) or quality.shape != (batch,):
        raise ValueError(
            f"images have {channels} channels and quality has shape {tuple(quality.shape)}, expected 1 or 3 and "
            f"[{batch}]"
        )
    coded = to_eight_bit_levels(images).expand(-1, 3, -1, -1)
    coded = jpeg_codec_differentiable(coded, quality.to(images.dtype))
    # A gray image has no chroma: the three channels are equal but for rounding.
    return to_eight_bit_levels(coded[:, 1:2] if channels == 1 else coded)


def sample_jpeg_quality(keys: Tensor, low: int = 30, high: int = 95) -> Tensor:
    """Qualities uniform over the integers low ... high, both included: [B] int64 for keys [B].

    Raises:
        ValueError: unless 1 <= low <= high <= 100.

    Source: the range is that of Zhang et al., "Designing a practical degradation model for deep blind image
    super-resolution", ICCV 2021.
    """
    if not 1 <= low <= high <= 100:
        raise ValueError(f"JPEG quality range is {low} ... {high}, expected 1 <= low <= high <= 100")
    return integers(keys, "jpeg/quality", low=low, high=high + 1)
