"""Estimate a blur kernel from a blurred image and a current guess of the sharp one.

The kernel solves a least-squares problem in the gradients, of which only strong ones of the guess count. Kernels are
tiny: they live on the CPU in float64.

Sources: S. Cho, S. Lee, "Fast motion deblurring", SIGGRAPH Asia 2009 (strong gradients by direction, conjugate
gradients in the Fourier domain); J. Pan, D. Sun, H. Pfister, M.-H. Yang, "Blind image deblurring using dark channel
prior", CVPR 2016, section 4 and its published code (constants, removal of small parts, pyramid).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.ops.resize import cubic

KERNEL_WEIGHT = 2.0  # of ||k||^2
STEP = 6e-5  # resolution of the threshold on squared gradients


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the left and upper neighbour where a pixel has both: two [H-1, W-1] of [H, W]."""
    inside = x[1:, 1:]
    return inside - x[1:, :-1], inside - x[:-1, 1:]


def gradient_threshold(x: Tensor, kernel_size: int) -> float:
    """The squared gradient that 20 `kernel_size` pixels of each of four ranges of directions reach; 0 if fewer exist.

    Args:
        x: [H, W] in [0, 1].
        kernel_size: side of the kernel that is sought.
    """
    gx, gy = gradients(x)
    squared, slope = gx**2 + gy**2, gy / gx  # without a gradient the slope is nan and belongs to no direction
    directions = (
        (slope >= 0) & (slope < 1),
        (slope >= 1) & (slope < math.inf),
        (slope < 0) & (slope >= -1),
        slope < -1,
    )
    wanted, reached = max(20 * kernel_size, 10), math.inf
    for direction in directions:
        of_direction = squared[direction]
        reached = min(reached, of_direction.topk(wanted).values[-1].item() if len(of_direction) >= wanted else 0.0)
    return math.floor(reached / STEP) * STEP


def strong_gradients(x: Tensor, threshold: float) -> tuple[Tensor, Tensor, float]:
    """Gradients of x [H, W] with those below the threshold set to zero, and the threshold for the next round.

    A threshold that no gradient reaches is lowered until one does.
    """
    gx, gy = gradients(x)
    squared = gx**2 + gy**2
    largest = squared.max().item()
    while threshold > largest > 0:
        threshold *= 0.81
    strong = squared >= threshold
    return gx * strong, gy * strong, threshold / 1.1


def conjugate_gradients(
    autocorrelation: Tensor, right: Tensor, iterations: int = 20, tolerance: float = 1e-5
) -> Tensor:
    """Solve a * x + KERNEL_WEIGHT x = right for a kernel x, starting from a flat one of sum 1.

    Args:
        autocorrelation: a [2k-1, 2k-1], lags from -(k-1) to k-1, symmetric about the centre.
        right: [k, k].
        iterations: the most to take.
        tolerance: norm of the residual at which to stop.
    """

    def apply(x: Tensor) -> Tensor:
        return F.conv2d(autocorrelation[None, None], x.flip(0, 1)[None, None])[0, 0] + KERNEL_WEIGHT * x

    x = torch.full_like(right, 1 / right.numel())
    residual = right - apply(x)
    direction, squares = residual, residual.square().sum()
    for _ in range(iterations):
        if squares.sqrt() < tolerance:
            break
        applied = apply(direction)
        step = squares / (direction * applied).sum()
        x, residual = x + step * direction, residual - step * applied
        before, squares = squares, residual.square().sum()
        direction = residual + squares / before * direction
    return x


def fit_kernel(blurred: tuple[Tensor, Tensor], latent: tuple[Tensor, Tensor], kernel_size: int) -> Tensor:
    """min_k sum ||k * latent - blurred||^2 + KERNEL_WEIGHT ||k||^2 over the two gradient images, circular.

    Args:
        blurred, latent: gradients to the left and up, each [H, W], neither side below `kernel_size`.
        kernel_size: odd.

    Returns:
        [k, k], float64 on the CPU, may have negative values.
    """
    of_latent, of_blurred = (torch.fft.rfft2(torch.stack(pair)) for pair in (latent, blurred))
    size = latent[0].shape
    autocorrelation = torch.fft.irfft2((of_latent.real**2 + of_latent.imag**2).sum(0), s=size).cpu().double()
    correlation = torch.fft.irfft2((of_latent.conj() * of_blurred).sum(0), s=size).cpu().double()
    lags, half = torch.arange(1 - kernel_size, kernel_size), kernel_size // 2
    places = torch.arange(-half, half + 1)
    return conjugate_gradients(
        autocorrelation[lags % size[0]][:, lags % size[1]], correlation[places % size[0]][:, places % size[1]]
    )


def components(mask: Tensor) -> Tensor:
    """Label the 8-connected parts of a mask [H, W]: equal positive numbers in one part, 0 outside."""
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float64).view(mask.shape) * mask
    while True:
        grown = F.max_pool2d(labels[None], 3, 1, 1)[0] * mask
        if torch.equal(grown, labels):
            return labels.long()
        labels = grown


def delta(kernel_size: int) -> Tensor:
    kernel = torch.zeros(kernel_size, kernel_size, dtype=torch.float64)
    kernel[kernel_size // 2, kernel_size // 2] = 1
    return kernel


def clean_kernel(kernel: Tensor) -> Tensor:
    """Remove values below 5 % of the largest and then connected parts of mass below 0.1; sum 1.

    The heaviest part stays whatever its mass. Without positive values there is no estimate: a delta.
    """
    largest = kernel.max()
    if largest < 1e-9:  # what rounding leaves of zero
        return delta(len(kernel))
    kernel = kernel.masked_fill(kernel < 0.05 * largest, 0)
    kernel = kernel / kernel.sum()
    labels = components(kernel > 0)
    mass = torch.zeros(kernel.numel() + 1, dtype=kernel.dtype).index_add_(0, labels.flatten(), kernel.flatten())
    kernel = kernel * (mass[labels] >= min(0.1, mass.max().item()))
    return kernel / kernel.sum()


def recentre(kernel: Tensor) -> Tensor:
    """Shift by whole pixels until the centre of mass is at the middle; what leaves the frame is lost; sum 1."""
    for dim in (0, 1):
        n = kernel.shape[dim]
        centre = (kernel.sum(1 - dim) * torch.arange(n)).sum() / kernel.sum()
        shift = round((n - 1) / 2 - centre.item())
        at = torch.arange(n) - shift
        inside = (at >= 0) & (at < n)
        moved = kernel.index_select(dim, at.clamp(0, n - 1))
        kernel = moved * (inside[:, None] if dim == 0 else inside)
    return kernel / kernel.sum()


def enlarge_kernel(kernel: Tensor, ratio: float, size: int) -> Tensor:
    """Bicubic enlargement by `ratio` without negative values, then cut or padded to `size`; sum 1.

    Lines are taken away from the side with the smaller sum and added to the side with the larger one.
    """
    n = len(kernel)
    at = (torch.arange(math.ceil(n * ratio), dtype=torch.float64) + 0.5) / ratio - 0.5
    weights = cubic(at[:, None] - torch.arange(n))
    weights = weights / weights.sum(1, keepdim=True)
    kernel = (weights @ kernel @ weights.T).clamp(min=0)
    for dim in (0, 1):
        while kernel.shape[dim] != size:
            sums, n = kernel.sum(1 - dim), kernel.shape[dim]
            light_first = bool(sums[0] < sums[-1])
            if n > size:
                kernel = kernel.narrow(dim, 1 if light_first else 0, n - 1)
            else:
                side = (0, 1) if light_first else (1, 0)
                kernel = F.pad(kernel, (0, 0, *side) if dim == 0 else side)
    return kernel / kernel.sum()
