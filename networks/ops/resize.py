"""Bicubic resizing equal to MATLAB's imresize, by integer factors, as fixed convolutions.

For an integer factor every output pixel sees its sources at the same few sub-pixel offsets, so imresize is a strided
convolution (down) or `scale` interleaved convolutions (up) over the symmetrically extended image. The weights are
computed in float64, which keeps the result within rounding of the reference in any floating dtype, borders included.

Source: Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981 (a = -0.5); the
anti-aliasing and border rules are those documented for imresize (kernel stretched by the factor, symmetric extension,
weights of a row normalised to 1, rows first).
"""

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.ops.options import check_choice


def cubic(t: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, support [-2, 2]."""
    t = t.abs()
    inner = 1.5 * t**3 - 2.5 * t**2 + 1
    outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, inner, torch.where(t <= 2, outer, torch.zeros_like(t)))


def _cached(make: Callable[[int], tuple[int, Tensor]]) -> Callable[[int], tuple[int, Tensor]]:
    """Keep what `make` returns, but in compiled graphs: Dynamo looks through caches, with a warning each time."""
    kept = lru_cache(maxsize=32)(make)

    @wraps(make)
    def table(scale: int) -> tuple[int, Tensor]:
        return make(scale) if torch.compiler.is_dynamo_compiling() else kept(scale)

    return table


@_cached
def _weights_down(scale: int) -> tuple[int, Tensor]:
    """First source index of output pixel 0, and the [taps] weights common to all output pixels."""
    centre = 0.5 * scale - 0.5
    first = math.floor(centre - 2 * scale)
    sources = torch.arange(first, first + 4 * scale + 2, dtype=torch.float64)
    weights = cubic((centre - sources) / scale)
    return first, weights / weights.sum()


@_cached
def _weights_up(scale: int) -> tuple[int, Tensor]:
    """First source index for input pixel 0, and the [scale, taps] weights of the `scale` phases."""
    sources = torch.arange(-3, 4, dtype=torch.float64)
    centres = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    weights = cubic(centres[:, None] - sources)
    return -3, weights / weights.sum(1, keepdim=True)


def symmetric_pad(images: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Extend `images` along `dim` by mirroring with the edge pixel repeated (... 1 0 | 0 1 2 ...), any length."""
    n = images.shape[dim]
    index = torch.arange(-before, n + after, device=images.device)
    index = index % index.new_full((), 2 * n)  # a tensor: n may be symbolic, which ONNX takes no remainder of
    return images.index_select(dim, torch.where(index < n, index, 2 * n - 1 - index))


def _filtered(images: Tensor, weights: Tensor, dim: int, before: int, after: int, stride: int = 1) -> Tensor:
    """Each plane of [B, C, H, W], mirrored beyond its edges, under each row of weights [n, taps]: [B*C, n, H', W']."""
    n, taps = weights.shape
    flat = symmetric_pad(images, before, after, dim).flatten(0, 1)[:, None]
    planes = flat.shape[0]  # may be symbolic, which len() is not
    if planes == 1:  # a single plane takes another routine, which rounds otherwise than the rest
        flat = flat.expand(2, -1, -1, -1)
    shape = (n, 1, taps, 1) if dim == 2 else (n, 1, 1, taps)
    strides = (stride, 1) if dim == 2 else (1, stride)
    return F.conv2d(flat, weights.to(images).view(shape), stride=strides)[:planes]


def _down(images: Tensor, scale: int, dim: int) -> Tensor:
    n = images.shape[dim]
    first, weights = _weights_down(scale)
    out = -(-n // scale)
    reduced = _filtered(images, weights[None], dim, -first, (out - 1) * scale + first + len(weights) - n, scale)
    return reduced[:, 0].unflatten(0, images.shape[:2])


def _up(images: Tensor, scale: int, dim: int) -> Tensor:
    first, weights = _weights_up(scale)
    phases = _filtered(images, weights, dim, -first, first + weights.shape[1] - 1)
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
    check_factor("scale", scale)
    _check_images(images)
    if scale == 1:
        return images
    step = _down if down else _up
    with torch.autocast(images.device.type, enabled=False):  # of the dtype of the images, whatever surrounds it
        return step(step(images, scale, 2), scale, 3)


def pad_to_multiple(images: Tensor, multiple: int, mode: Literal["replicate", "constant"] = "replicate") -> Tensor:
    """Images [B, C, H, W] continued at the bottom and right until `multiple` divides both sides.

    Args:
        mode: by repetition of the last row and column, or by zeros.
    """
    h, w = images.shape[-2:]
    # Unlike -h % multiple, this form shows torch.export, to which h and w are symbols, that the sides get divisible.
    height, width = ((n + multiple - 1) // multiple * multiple for n in (h, w))
    if mode == "replicate" and torch.compiler.is_dynamo_compiling():
        # Inductor is wrong about the memory format of the gradient of F.pad(mode="replicate"), and stops.
        images = torch.cat([images, images[..., -1:, :].expand(-1, -1, height - h, -1)], 2)
        return torch.cat([images, images[..., -1:].expand(-1, -1, -1, width - w)], 3)
    return F.pad(images, (0, width - w, 0, height - h), mode=mode)


def check_factor(name: str, value: int) -> None:
    """Raise ValueError for what is no whole number from 1."""
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(f"{name} is {value!r}, expected an integer >= 1")


def _check_images(images: Tensor) -> None:
    if images.dim() != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [B, C, H, W]")


def _tf1_linear(images: Tensor, out: int, dim: int) -> Tensor:
    n = images.shape[dim]
    # Source coordinate of output pixel x is x * n / out: whole part and remainder in integers are free of rounding.
    position = torch.arange(out, device=images.device) * n
    size = position.new_full((), out)  # a tensor: see `symmetric_pad`
    low = torch.div(position, size, rounding_mode="floor")
    shape = (out, 1) if dim == 2 else (out,)
    weight = ((position % size).to(torch.float64) / out).to(images.dtype).view(shape)
    first = images.index_select(dim, low)
    return first + weight * (images.index_select(dim, (low + 1).clamp(max=n - 1)) - first)


def bilinear_resize(
    images: Tensor, size: tuple[int, int], convention: Literal["half_pixel", "tf1"] = "half_pixel"
) -> Tensor:
    """Resize to any size by bilinear interpolation without anti-aliasing.

    Args:
        images: [B, C, H, W], any range, any floating dtype.
        size: (H', W') of the result.
        convention: "half_pixel" aligns the frames of the images: source = (x + 0.5) * H / H' - 0.5, so that halving is
            the mean of 2x2 pixels. "tf1" is TensorFlow 1's resize_images: source = x * H / H', so that halving takes
            every second pixel and doubling copies pixels to the even places; behind the last pixel it is repeated.

    Returns:
        [B, C, H', W'] in the dtype of `images`.

    Raises:
        ValueError: for a size below 1, an unknown convention or `images` that are not 4-dimensional.
    """
    _check_images(images)
    if min(size) < 1:
        raise ValueError(f"size is {tuple(size)}, expected at least 1 pixel per side")
    check_choice("convention", convention, ("half_pixel", "tf1"))
    if tuple(size) == tuple(images.shape[-2:]):
        return images
    if convention == "half_pixel":
        return F.interpolate(images, tuple(size), mode="bilinear", align_corners=False)
    return _tf1_linear(_tf1_linear(images, size[0], 2), size[1], 3)


def bilinear_shrink(images: Tensor, factor: int, convention: Literal["half_pixel", "tf1"] = "half_pixel") -> Tensor:
    """`bilinear_resize` to 1/factor on a grid of exactly that pitch, whatever the size.

    Where `factor` does not divide a side, the last row or column is repeated up to the next multiple first. So a
    pixel of the result stands for the same place as in the shrunken version of any image continued to the bottom and
    right, which resizing to ceil(H/factor) pixels does not give.

    Args:
        images: [B, C, H, W], any range, any floating dtype.
        factor: integer >= 1.
        convention: see `bilinear_resize`.

    Returns:
        [B, C, ceil(H/factor), ceil(W/factor)] in the dtype of `images`.
    """
    _check_images(images)
    check_factor("factor", factor)
    h, w = images.shape[-2:]
    size = ((h + factor - 1) // factor, (w + factor - 1) // factor)
    return bilinear_resize(pad_to_multiple(images, factor), size, convention)
