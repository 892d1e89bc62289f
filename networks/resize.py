"""Bicubic resizing equal to MATLAB's imresize, by integer factors, as fixed convolutions.

For an integer factor every output pixel sees its sources at the same few sub-pixel offsets, so imresize is a strided
convolution (down) or `scale` interleaved convolutions (up) over the symmetrically extended image. The weights are
computed in float64, which keeps the result within rounding of the reference in any floating dtype, borders included.

Source: Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981 (a = -0.5); the
anti-aliasing and border rules are those documented for imresize (kernel stretched by the factor, symmetric extension,
weights of a row normalised to 1, rows first).
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def cubic(t: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, support [-2, 2]."""
    t = t.abs()
    inner = 1.5 * t**3 - 2.5 * t**2 + 1
    outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, inner, torch.where(t <= 2, outer, torch.zeros_like(t)))


@lru_cache(maxsize=32)
def _weights_down(scale: int) -> tuple[int, Tensor]:
    """First source index of output pixel 0, and the [taps] weights common to all output pixels."""
    centre = 0.5 * scale - 0.5
    first = int(torch.floor(torch.tensor(centre - 2 * scale)).item())
    sources = torch.arange(first, first + 4 * scale + 2, dtype=torch.float64)
    weights = cubic((centre - sources) / scale)
    return first, weights / weights.sum()


@lru_cache(maxsize=32)
def _weights_up(scale: int) -> tuple[int, Tensor]:
    """First source index for input pixel 0, and the [scale, taps] weights of the `scale` phases."""
    sources = torch.arange(-3, 4, dtype=torch.float64)
    centres = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    weights = cubic(centres[:, None] - sources)
    return -3, weights / weights.sum(1, keepdim=True)


def symmetric_pad(images: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Extend `images` along `dim` by mirroring with the edge pixel repeated (... 1 0 | 0 1 2 ...), any length."""
    n = images.shape[dim]
    index = torch.arange(-before, n + after, device=images.device) % (2 * n)
    return images.index_select(dim, torch.where(index < n, index, 2 * n - 1 - index))


def _down(images: Tensor, scale: int, dim: int) -> Tensor:
    n = images.shape[dim]
    first, weights = _weights_down(scale)
    taps = len(weights)
    out = -(-n // scale)
    images = symmetric_pad(images, -first, (out - 1) * scale + first + taps - n, dim)
    shape = (1, 1, taps, 1) if dim == 2 else (1, 1, 1, taps)
    stride = (scale, 1) if dim == 2 else (1, scale)
    flat = images.flatten(0, 1)[:, None]
    return F.conv2d(flat, weights.to(images).view(shape), stride=stride)[:, 0].unflatten(0, images.shape[:2])


def _up(images: Tensor, scale: int, dim: int) -> Tensor:
    first, weights = _weights_up(scale)
    taps = weights.shape[1]
    images = symmetric_pad(images, -first, first + taps - 1, dim)
    shape = (scale, 1, taps, 1) if dim == 2 else (scale, 1, 1, taps)
    flat = images.flatten(0, 1)[:, None]
    phases = F.conv2d(flat, weights.to(images).view(shape))
    # The phase axis goes right behind the resized axis and merges with it: pixel x*scale + phase.
    return phases.movedim(1, dim).flatten(dim - 1, dim).unflatten(0, images.shape[:2])


def bicubic_resize(images: Tensor, scale: int, *, down: bool = False) -> Tensor:
    """Resize by an integer factor as MATLAB's imresize does on floating-point images (no rounding, no clipping).

    Args:
        images: [B, C, H, W], any range, any floating dtype.
        scale: integer factor >= 1; with `down` the image shrinks to ceil(H/scale) x ceil(W/scale), anti-aliased,
            without it it grows to scale*H x scale*W.

    Returns:
        [B, C, H', W'] in the dtype of `images`.

    Raises:
        ValueError: if `scale` is not an integer >= 1 or `images` is not 4-dimensional.
    """
    if isinstance(scale, bool) or int(scale) != scale or scale < 1:
        raise ValueError(f"scale is {scale!r}, expected an integer >= 1 (and down=True to shrink)")
    if images.dim() != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [B, C, H, W]")
    if scale == 1:
        return images
    step = _down if down else _up
    return step(step(images, scale, 2), scale, 3)
