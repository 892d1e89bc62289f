"""How far an estimated blur kernel is from the true one."""

import torch
from torch import Tensor

from networks.dan import to_support


def kernel_error(estimated: Tensor, true: Tensor) -> Tensor:
    """Sum of squared differences after the best shift by whole pixels, one value per kernel.

    A kernel and the image it belongs to are determined up to a common shift, which is no error of the kernel. The true
    kernel is brought to the size of the estimate first (`networks.dan.to_support`: cut around its centre and
    renormalised, or padded with zeros); then both are zero outside their frames, and no part of them is lost by the
    shift.

    Args:
        estimated: [B, 1, k, k], sum 1.
        true: [B, 1, l, l], sum 1.

    Returns:
        [B] on the CPU, float64: 0 for a kernel equal to the truth but for its place, at most 2 for kernels without
        negative values; nan where a kernel holds a nan.

    Raises:
        ValueError: for other shapes.
    """
    for name, kernels in (("estimated", estimated), ("true", true)):
        if kernels.ndim != 4 or kernels.shape[1] != 1 or kernels.shape[2] != kernels.shape[3]:
            raise ValueError(f"the {name} kernels have shape {list(kernels.shape)}, expected [B, 1, k, k]")
    if len(estimated) != len(true):
        raise ValueError(f"{len(estimated)} estimated and {len(true)} true kernels, expected one for each")
    # On the CPU because Apple's GPU has no float64: the error is a small difference of larger numbers.
    one = estimated.detach().to("cpu", torch.float64)[:, 0]
    other = to_support(true.detach().to("cpu", torch.float64), one.shape[-1])[:, 0]
    # |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>, and <a, b> for all shifts of b is one correlation. At twice the size it
    # cannot wrap around.
    size = (2 * one.shape[-1], 2 * one.shape[-1])
    overlaps = torch.fft.irfft2(torch.fft.rfft2(one, size) * torch.fft.rfft2(other, size).conj(), size)
    squares = one.square().sum((1, 2)) + other.square().sum((1, 2))
    return (squares - 2 * overlaps.amax((1, 2))).clamp(min=0)  # rounding may leave -1e-17
