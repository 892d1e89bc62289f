"""Resampling of images. The one bicubic routine of the suite serves degradations and networks alike.

Decimation keeps the upper-left pixel of every block, while ordinary resizing puts a pixel at the middle of its block,
(s-1)/2 pixels further on. `shift_kernel` and `bicubic_kernel` make up for that inside the blur that comes before.
"""

import torch
from torch import Tensor

from networks.ops.resize import bicubic_resize, cubic

__all__ = ["bicubic_kernel", "bicubic_resize", "decimate", "modcrop", "shift_kernel"]


def _check_scale(scale: int) -> None:
    if isinstance(scale, bool) or int(scale) != scale or scale < 1:
        raise ValueError(f"scale is {scale!r}, expected an integer >= 1")


def decimate(images: Tensor, scale: int) -> Tensor:
    """The upper-left pixel of every `scale` x `scale` block, a view: [..., H, W] -> [..., ceil(H/s), ceil(W/s)].

    After a blur use `datamodules.degradations.blur.blur_decimate`, which does not compute the pixels dropped here.

    Raises:
        ValueError: if `scale` is not an integer >= 1.
    """
    _check_scale(scale)
    return images[..., ::scale, ::scale]


def modcrop(images: Tensor, multiple: int) -> Tensor:
    """Drop rows at the bottom and columns at the right until both sides of [..., H, W] are multiples of `multiple`.

    Raises:
        ValueError: if `multiple` < 1, or a side is shorter than it.
    """
    height, width = images.shape[-2:]
    if multiple < 1 or min(height, width) < multiple:
        raise ValueError(f"cannot crop {height}x{width} images to multiples of {multiple}, expected 1 ... side")
    return images[..., : height // multiple * multiple, : width // multiple * multiple]


def shift_kernel(kernels: Tensor, scale: int) -> Tensor:
    """Move kernels by (s-1)/2 pixels up and left, so that blur and s-fold decimation leave the image in place.

    A kernel with its mass at the centre floor(k/2) gets it at floor(k/2) - (s-1)/2 along both axes: new[j] = old[j +
    (s-1)/2], linearly interpolated along rows and columns (exact for odd s), the edge value repeated, the sum as
    before. Keep a margin of (s-1)/2 pixels around the mass: what passes the edge is lost, and values at the far edge
    are repeated.

    Args:
        kernels: [B, 1, k, k], sum not 0.
        scale: decimation factor that will follow.

    Returns:
        [B, 1, k, k], same dtype; the input itself for scale 1.

    Raises:
        ValueError: if `scale` is not an integer >= 1.

    Source: the rule `shift_pixel` of the USRNet experiments, Zhang, Van Gool, Timofte, CVPR 2020.
    """
    _check_scale(scale)
    if scale == 1:
        return kernels
    shifted = kernels
    for dim in (-2, -1):
        k = kernels.shape[dim]
        position = (torch.arange(k, device=kernels.device) + 0.5 * (scale - 1)).clamp(max=k - 1)
        lower = position.floor().long()
        upper = (lower + 1).clamp(max=k - 1)
        fraction = (position - lower).to(kernels.dtype)
        if dim == -2:
            fraction = fraction[:, None]
        shifted = shifted.index_select(dim, lower) * (1 - fraction) + shifted.index_select(dim, upper) * fraction
    return shifted * (kernels.sum((-2, -1), keepdim=True) / shifted.sum((-2, -1), keepdim=True))


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
        ValueError: if `scale` is not an integer >= 1, or `size` does not hold all taps.

    Source: Keys, IEEE TASSP 1981; the equivalence is section 4 of Zhang et al., CVPR 2020, there with fitted kernels.
    """
    _check_scale(scale)
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
