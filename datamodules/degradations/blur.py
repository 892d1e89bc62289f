"""Blur: true convolution of every image with its own kernel, by whichever algorithm is measured to be fastest.

The choice depends on kernel size, image size and device, never on the batch size, so a sample does not change its
algorithm with the batch it travels in. In space its result is the same to the bit in every batch; FFT libraries round
the last bit differently in batches of another size. Arithmetic is float32, or float64 for float64 images; half
precision images are computed in float32 and rounded once, and autocast does not reach in here. The transposed blur is
what autograd makes of it.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from datamodules.degradations.convolution import (
    Boundary,
    convolution_matrix,
    spatial,
    spectral,
    spectral_size,
)
from networks.ops.fourier import work_dtype
from networks.ops.options import check_choice

__all__ = ["Algorithm", "Boundary", "blur_decimate", "choose", "convolve", "convolve_separable"]

Algorithm = Literal["auto", "spatial", "fft"]
SeparableAlgorithm = Literal["auto", "matrices", "passes"]

# Convolution in space costs (kernel pixels x output pixels), the FFT roughly its number of pixels; FFT is chosen when
# the first exceeds this many times the second. CPU: measured for images of 64 to 256 pixels and kernels of 5 to 65, by
# whether the boundary is circular (no margin to transform), and divided by the scale, or its square, as kept pixels
# cost more than others.
# CUDA: unmeasured; about a 15x15 kernel at scale 1, where libraries commonly change over.
_CPU_RATIO = {False: 450.0, True: 220.0}
_CUDA_RATIO = 225.0
# Between these sides, products with n x n matrices beat two passes of grouped convolution. Same measurement; CPU only.
# Products of smaller matrices round the last bit differently in batches of another size.
_MATRIX_SIDES = (12, 160)


def choose(
    size: tuple[int, int], kernel: tuple[int, int], scale: int, boundary: Boundary, device: str
) -> Literal["spatial", "fft"]:
    """The algorithm of `blur_decimate` (`convolve` for scale 1) for images and kernels of (height, width).

    Kernels larger than the frame of a circular image take the FFT, which folds them for free.
    """
    circular = boundary == "circular"
    if circular and (kernel[0] > size[0] or kernel[1] > size[1]):
        return "fft"
    # Without a margin the spectrum shrinks with the decimation, so that FFT keeps its advantage at every scale.
    ratio = _CUDA_RATIO if device == "cuda" else _CPU_RATIO[circular] / (scale * scale if circular else scale)
    in_space = math.prod(kernel) * math.ceil(size[0] / scale) * math.ceil(size[1] / scale)
    return "fft" if in_space > ratio * math.prod(spectral_size(*size, *kernel, boundary, scale)) else "spatial"


def convolve(
    images: Tensor, kernels: Tensor, boundary: Boundary = "replicate", *, algorithm: Algorithm = "auto"
) -> Tensor:
    """Convolve each image with its kernel; all channels of an image share it.

    y[i] = sum_j k[j] x[i - (j - floor(k/2))]: true convolution, so an off-centre kernel moves the image the
    way its mass is displaced.

    Args:
        images: [B, C, H, W], any range, any floating dtype.
        kernels: [B, 1, k, k] (or [1, 1, k, k], shared), odd or even, also rectangular, of any size: where a kernel
            is larger than the frame, the boundary rule is repeated as often as it takes.
        boundary: how the image continues outside its frame: "replicate" repeats the edge pixel, "reflect" mirrors
            without repeating it, "circular" starts again at the other side.
        algorithm: "spatial" or "fft" to force one; they agree within rounding.

    Returns:
        [B, C, H, W], same dtype as `images`.

    Raises:
        ValueError: here and in the functions below, if the shapes do not fit, the images are not floating point, a
            name is unknown or a scale is below 1.
    """
    return blur_decimate(images, kernels, 1, boundary, algorithm=algorithm)


def blur_decimate(
    images: Tensor,
    kernels: Tensor,
    scale: int,
    boundary: Boundary = "circular",
    *,
    algorithm: Algorithm = "auto",
) -> Tensor:
    """Blur, then keep the upper-left pixel of every `scale` x `scale` block: convolve(...)[..., ::s, ::s].

    In space only the kept pixels are computed, which is s^2 times less work.

    Args:
        images, kernels, boundary, algorithm: as `convolve`; H and W need not be multiples of `scale`.
        scale: decimation factor >= 1.

    Returns:
        [B, C, ceil(H/s), ceil(W/s)], same dtype as `images`.
    """
    _check(images, kernels, boundary, algorithm)
    if scale < 1:
        raise ValueError(f"scale is {scale}, expected an integer of at least 1")
    height, width, kh, kw = (*images.shape[-2:], *kernels.shape[-2:])
    if algorithm == "auto":
        algorithm = choose((height, width), (kh, kw), scale, boundary, images.device.type)
    dtype = work_dtype(images)
    apply = spectral if algorithm == "fft" else spatial
    with torch.autocast(images.device.type, enabled=False):
        return apply(images.to(dtype), kernels.to(dtype), boundary, scale).to(images.dtype)


def convolve_separable(
    images: Tensor, lines: Tensor, boundary: Boundary = "replicate", *, algorithm: SeparableAlgorithm = "auto"
) -> Tensor:
    """Convolve with kernels that are the outer product of a line with itself, such as isotropic Gaussians.

    Equal to `convolve(images, lines^T lines, boundary)` within rounding.

    Args:
        images: [B, C, H, W], any range, any floating dtype.
        lines: [B, k] (or [1, k], shared), centre at index floor(k/2), any size.
        boundary: as `convolve`.
        algorithm: "matrices" (products with n x n matrices that hold the boundary) or "passes" (two convolutions) to
            force one.

    Returns:
        [B, C, H, W], same dtype as `images`.
    """
    if lines.dim() != 2:
        raise ValueError(f"lines have shape {tuple(lines.shape)}, expected [{len(images)}, k]")
    check_choice("algorithm", algorithm, ("auto", "matrices", "passes"))
    _check(images, lines[:, None, None, :], boundary, "auto")
    dtype = work_dtype(images)
    height, width = images.shape[-2:]
    if algorithm == "auto":
        # Lower matmul precision settings (TF32, bfloat16) must not reach the data.
        exact = dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
        least, most = _MATRIX_SIDES
        small = images.device.type == "cpu" and least <= min(height, width) and max(height, width) <= most
        algorithm = "matrices" if exact and small else "passes"
    with torch.autocast(images.device.type, enabled=False):
        x, lines = images.to(dtype), lines.to(dtype)
        if algorithm == "matrices":
            left = convolution_matrix(lines, height, boundary)[:, None]
            right = convolution_matrix(lines, width, boundary)[:, None].mT
            return (left @ x @ right).to(images.dtype)
        x = spatial(x, lines[:, None, :, None], boundary)
        return spatial(x, lines[:, None, None, :], boundary).to(images.dtype)


def _check(images: Tensor, kernels: Tensor, boundary: str, algorithm: str) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, expected floating point [B, C, H, W]")
    batch = len(images)
    if kernels.dim() != 4 or kernels.shape[0] not in (1, batch) or kernels.shape[1] != 1:
        raise ValueError(f"kernels have shape {tuple(kernels.shape)}, expected [{batch}, 1, k, k]")
    check_choice("boundary", boundary, ("replicate", "reflect", "circular"))
    check_choice("algorithm", algorithm, ("auto", "spatial", "fft"))
