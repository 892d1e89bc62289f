"""Resampling of images. The one bicubic routine of the suite serves degradations and networks alike.

Decimation keeps the upper-left pixel of every block, while ordinary resizing puts a pixel at the middle of its block,
(s-1)/2 pixels further on. `bicubic_kernel` makes up for that inside the blur that comes before. A scale that is no
whole number from 1 raises ValueError.
"""

import torch
from torch import Tensor

from networks.ops.resize import bicubic_resize, check_factor, cubic

__all__ = ["bicubic_kernel", "bicubic_resize", "decimate"]


def decimate(images: Tensor, scale: int) -> Tensor:
    """The upper-left pixel of every `scale` x `scale` block, a view: [..., H, W] -> [..., ceil(H/s), ceil(W/s)].

    After a blur use `datamodules.degradations.blur.blur_decimate`, which does not compute the pixels dropped here.
    """
    check_factor("scale", scale)
    return images[..., ::scale, ::scale]


def bicubic_kernel(scale: int, size: int | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The kernel whose blur, decimated by `scale`, is bicubic reduction (imresize) wherever no border is in reach.

    k = outer(w, w), w[j] = f((j - c + (s-1)/2) / s), c = floor(size/2), normalised to sum 1, f Keys' cubic with a =
    -0.5. The mass lies at c - (s-1)/2: the kernel contains the half-pixel alignment, so it is not to be shifted again.
    It has negative lobes. With circular boundaries the frame's borders wrap round, where imresize mirrors; inside, the
    two agree within rounding.

    Args:
        scale: reduction factor s >= 1; for 1 the kernel is an impulse.
        size: side k of the kernel, odd or even; by default the smallest that holds all taps: 4s for s = 2 and 3, 18
            for s = 4 (16 taps, but their middle is 1.5 pixels before the centre).
        dtype: of the result; the weights are computed in float64.

    Returns:
        [1, 1, k, k] on the CPU.

    Raises:
        ValueError: if `size` does not hold all taps.

    Source: Keys, IEEE TASSP 1981; the equivalence is section 4 of Zhang et al., CVPR 2020, there with fitted kernels.
    """
    check_factor("scale", scale)
    shift = 0.5 * (scale - 1)
    offset = torch.arange(-3 * scale, 3 * scale + 1, dtype=torch.float64)
    taps = offset[cubic((offset + shift) / scale) != 0]
    before, after = -int(taps[0]), int(taps[-1])
    smallest = min(2 * max(before, after + 1), 2 * max(before, after) + 1)
    if size is None:
        size = smallest
    if size < smallest:
        raise ValueError(f"kernel size is {size}, expected at least {smallest} to hold the bicubic kernel x{scale}")
    line = cubic((torch.arange(size, dtype=torch.float64) - size // 2 + shift) / scale)
    line = line / line.sum()
    return (line[:, None] * line[None, :])[None, None].to(dtype)
