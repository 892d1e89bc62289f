"""Blur kernels, batched, on any device: [B, 1, k, k], float32, non-negative, sum 1, centre at index floor(k/2)."""

import torch
from torch import Tensor


def isotropic_gaussian(sigma: Tensor, size: int) -> Tensor:
    """Isotropic Gaussian kernels.

    k(y, x) ~ exp(-(y^2 + x^2) / (2 sigma^2)), sampled at pixel centres, normalised.

    Args:
        sigma: standard deviations in pixels [B], > 0.
        size: side k of the square support in pixels; the centre is index floor(k/2).

    Returns:
        [B, 1, k, k] in the dtype of `sigma`.

    Raises:
        ValueError: if `size` < 1.
    """
    if size < 1:
        raise ValueError(f"kernel size is {size}, expected at least 1")
    offset = torch.arange(size, device=sigma.device, dtype=sigma.dtype) - size // 2
    line = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    line = line / line.sum(1, keepdim=True)
    return (line[:, :, None] * line[:, None, :])[:, None]
