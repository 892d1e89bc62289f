"""Circular convolution in the Fourier domain: transfer functions and transform sizes. Nothing here but torch."""

import torch
from torch import Tensor


def work_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is float64, else float32: transforms never run in half precision."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def good_size(n: int, multiple: int = 1) -> int:
    """The smallest size >= n that is `multiple` times a number of the form 2^a 3^b 5^c, which transforms fastest."""
    factor = -(-n // multiple)
    while True:
        rest = factor
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return factor * multiple
        factor += 1


def centre_at_origin(kernels: Tensor, size: tuple[int, int]) -> Tensor:
    """Kernels as periodic images whose centre, index floor(k/2), lies at pixel (0, 0).

    A kernel larger than the canvas is folded onto it: its value at offset (y, x) adds to pixel (y mod H, x mod W),
    which is what circular convolution with it means. Differentiable in `kernels`.

    Args:
        kernels: [..., kh, kw], odd or even sides.
        size: (H, W) of the canvas.

    Returns:
        [..., H, W] in the dtype of `kernels`.
    """
    kh, kw = kernels.shape[-2:]
    if kh <= size[0] and kw <= size[1]:
        padded = torch.nn.functional.pad(kernels, (0, size[1] - kw, 0, size[0] - kh))
        return padded.roll((-(kh // 2), -(kw // 2)), (-2, -1))
    canvas = kernels
    for dim, n in ((-2, size[0]), (-1, size[1])):
        k = kernels.shape[dim]
        periods = -(-k // n)
        shape = list(canvas.shape)
        shape[dim] = periods * n - k
        canvas = torch.cat([canvas, canvas.new_zeros(shape)], dim)
        canvas = canvas.unflatten(dim, (periods, n)).sum(dim - 1)
        canvas = canvas.roll(-(k // 2), dim)
    return canvas


def otf(kernels: Tensor, size: tuple[int, int]) -> Tensor:
    """Optical transfer functions: the full 2-D DFT of kernels whose centre is at the origin.

    ifft2(otf(k, x.shape[-2:]) * fft2(x)) is the circular true convolution of x with k, y[i] = sum_j k[j]
    x[(i - j + floor(k/2)) mod n], for odd and even kernels and for kernels larger than x.

    Args:
        kernels: [..., kh, kw], any floating dtype; half precision is computed in float32.
        size: (H, W) of the images it will multiply.

    Returns:
        [..., H, W], complex64 (complex128 for float64 kernels).

    Source: Zhang, Van Gool, Timofte, "Deep unfolding network for image super-resolution", CVPR 2020, section 4.2.
    """
    return torch.fft.fft2(centre_at_origin(kernels.to(work_dtype(kernels)), size))
