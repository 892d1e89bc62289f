"""The two ways to convolve a batch with per-sample kernels, in space and by FFT.

`datamodules.degradations.blur` chooses between them. Here every function takes images [B, C, H, W] and kernels
[B or 1, 1, kh, kw] of one dtype (float32 or float64) and means true convolution with the centre at index floor(k/2).
"""

import math
from functools import lru_cache
from typing import Literal

import kornia.filters
import torch
import torch.nn.functional as F
from torch import Tensor

from networks.ops.fourier import good_size

Boundary = Literal["replicate", "reflect", "circular"]

_CACHED = 1 << 19  # pixels that a CPU transforms at once
# Multiplications of a plane from which Kornia convolves (float32, CPU): there its `filter2d` takes 0.36 to 1.02 of the
# time for the same bits (experiments/results/kernels_and_blur.md). Below, its checks of arguments, about 0.03 ms, make
# it up to 1.5 times slower. CUDA: unmeasured.
_BY_KORNIA = 1 << 20


def boundary_index(first: int, last: int, n: int, boundary: Boundary, device: torch.device) -> Tensor:
    """Which pixel of a line of n stands at the positions first..last-1 of its infinite continuation.

    "replicate": 0 0 | 0 1 2 | 2 2; "reflect": 2 1 | 0 1 2 | 1 0, and on and on with period 2(n - 1); "circular":
    1 2 | 0 1 2 | 0 1. Any distance from the frame is fine.
    """
    index = torch.arange(first, last, device=device)
    if boundary == "circular":
        return index % n
    if boundary == "replicate":
        return index.clamp(0, n - 1)
    period = max(2 * (n - 1), 1)
    index = index % period
    return torch.where(index < n, index, period - index)


def _margins(k: int) -> tuple[int, int]:
    """Pixels a valid convolution needs before and after the frame."""
    return k - 1 - k // 2, k // 2


def extend(images: Tensor, kh: int, kw: int, boundary: Boundary) -> Tensor:
    """Continue images beyond their frame: [B, C, H + kh - 1, W + kw - 1], any kernel size."""
    height, width = images.shape[-2:]
    vertical, horizontal = _margins(kh), _margins(kw)
    reach_y, reach_x = max(vertical), max(horizontal)
    turns = {
        "replicate": False,
        "reflect": reach_y >= height or reach_x >= width,
        "circular": reach_y > height or reach_x > width,
    }
    if not turns[boundary]:  # several times faster on CPU than indexing, but turns round at most once
        return F.pad(images, (*horizontal, *vertical), mode=boundary)
    rows = boundary_index(-vertical[0], height + vertical[1], height, boundary, images.device)
    columns = boundary_index(-horizontal[0], width + horizontal[1], width, boundary, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def spatial(images: Tensor, kernels: Tensor, boundary: Boundary, stride: int = 1) -> Tensor:
    """Convolution in space; of the result only every `stride`-th row and column is computed."""
    channels, height, width = images.shape[1:]
    kh, kw = kernels.shape[-2:]
    images = extend(images, kh, kw, boundary)
    kernels = kernels.expand(len(images), -1, -1, -1)
    if images.shape[:2] == (1, 1):  # a single plane takes another routine, which rounds otherwise than the rest
        images = images.expand(-1, 2, -1, -1)
    measured = images.device.type == "cpu" and images.dtype == torch.float32 and stride == 1
    if measured and kh * kw * height * width >= _BY_KORNIA:
        # Extended here: Kornia turns round at most once, and centres even kernels elsewhere.
        blurred = kornia.filters.filter2d(images, kernels[:, 0], padding="valid", behaviour="conv")
        return blurred[:, :channels]
    # One image is one group: channels take the place of the batch, images that of the channels.
    weights = kernels.flip(-2, -1)  # conv2d correlates
    stack = F.conv2d(images.transpose(0, 1), weights, stride=stride, groups=len(images))
    return stack.transpose(0, 1)[:, :channels]


def spectral_size(height: int, width: int, kh: int, kw: int, boundary: Boundary, scale: int = 1) -> tuple[int, int]:
    """The transform `spectral` uses: the frame itself if circular, else the extended frame, rounded up."""
    if boundary == "circular":
        return height, width
    return good_size(height + kh - 1, scale), good_size(width + kw - 1)


def _transfer(kernels: Tensor, size: tuple[int, int], centre: tuple[int, int]) -> Tensor:
    """rfft2 of kernels on a canvas of `size`, on which index `centre` lies at pixel (0, 0).

    By the definition, as two products with matrices of waves: a kernel has few rows and columns, which makes this
    several times faster than transforms of a padded canvas, and folds what is larger than the canvas.
    """
    dtype = torch.complex128 if kernels.dtype == torch.float64 else torch.complex64
    kh, kw = kernels.shape[-2:]
    vertical = _waves(size[0], kh, size[0], centre[0], dtype, kernels.device)
    horizontal = _waves(size[1] // 2 + 1, kw, size[1], centre[1], dtype, kernels.device)
    return vertical @ (kernels.to(dtype) @ horizontal.T)


@lru_cache(maxsize=32)
def _waves(count: int, k: int, n: int, origin: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """exp(-2 pi i f (x - origin) / n) for frequencies f < count and pixels x < k: [count, k]."""
    turns = torch.outer(torch.arange(count), torch.arange(k) - origin) % n
    angle = turns.to(torch.float64).mul_(-2 * math.pi / n)
    return torch.polar(torch.ones_like(angle), angle).to(device, dtype)


def spectral(images: Tensor, kernels: Tensor, boundary: Boundary, stride: int = 1) -> Tensor:
    """Convolution by FFT, then every `stride`-th row and column of it."""
    kernels = kernels.expand(len(images), -1, -1, -1)
    if images.device.type != "cpu":
        return _spectral(images, kernels, boundary, stride)
    # What fits the cache is transformed at once; larger buffers cost more to allocate than to fill.
    count = max(1, _CACHED // images[0].numel())
    parts = zip(images.split(count), kernels.split(count), strict=True)
    return torch.cat([_spectral(*part, boundary, stride) for part in parts])


def _spectral(images: Tensor, kernels: Tensor, boundary: Boundary, stride: int) -> Tensor:
    height, width = images.shape[-2:]
    kh, kw = kernels.shape[-2:]
    size = spectral_size(height, width, kh, kw, boundary, stride)
    if boundary == "circular":
        centre = (kh // 2, kw // 2)
    else:
        images = extend(images, kh, kw, boundary)
        # Output pixel 0 is where the kernel's last row and column meet extended pixel 0: no crop at the top left. What
        # wraps round reaches only rows and columns behind the frame.
        centre = (kh - 1, kw - 1)
    transfer = _transfer(kernels, size, centre)
    spectrum = torch.fft.rfft2(images, s=size)
    learned = spectrum.requires_grad or transfer.requires_grad
    spectrum = spectrum * transfer if learned else spectrum.mul_(transfer)
    row_step = stride
    if stride > 1 and size[0] % stride == 0:
        # To decimate rows is to average the spectrum over its aliases: the way back is `stride` times shorter.
        size = (size[0] // stride, size[1])
        height = -(-height // stride)
        row_step = 1
        aliases = torch.view_as_real(spectrum).unflatten(-3, (stride, size[0]))
        spectrum = torch.view_as_complex(aliases.sum(-4).div_(stride))  # complex sums are far slower on CPU
    # One dimension after the other, each contiguous: irfft2 makes more copies on CPU, and strided transforms round
    # differently in batches of different size.
    columns = torch.fft.ifft(spectrum.mT.contiguous()).mT.contiguous()
    return torch.fft.irfft(columns, n=size[1])[..., :height:row_step, :width:stride]


def convolution_matrix(lines: Tensor, n: int, boundary: Boundary) -> Tensor:
    """One-dimensional convolution as matrices, the boundary included.

    Args:
        lines: kernels [B, k].
        n: length of the line they act on.

    Returns:
        [B, n, n]: row i holds the weights of output i.
    """
    batch, k = lines.shape
    before, after = _margins(k)
    source = boundary_index(-before, n + after, n, boundary, lines.device).unfold(0, k, 1)  # [n, k]
    weights = lines.flip(1)[:, None, :].expand(batch, n, k)
    return lines.new_zeros(batch, n, n).scatter_add(2, source.expand(batch, n, k), weights)
