"""Continue images so that opposite borders meet smoothly: what circular deconvolution of a real photograph needs.

R. Liu, J. Jia, "Reducing boundary artifacts in image deconvolution", ICIP 2008. As in the variant that deblurring codes
use, a strip below and one to the right of the image, and the corner between them, are filled by harmonic functions:
each solves the Laplace equation with the pixels around it, across the seams too, as boundary values.
"""

import math

import torch
from torch import Tensor

from networks.ops.fourier import good_size, work_dtype


def _sines(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal sine transform (DST-I) of n points, its own inverse, and the second difference's eigenvalues."""
    i = torch.arange(1, n + 1, dtype=like.dtype, device=like.device)
    basis = math.sqrt(2 / (n + 1)) * torch.sin(i[:, None] * i * (math.pi / (n + 1)))
    return basis, 2 * torch.cos(i * (math.pi / (n + 1))) - 2


def solve_laplace(frame: Tensor) -> Tensor:
    """Fill the inside of images from their outermost pixels: each inner pixel is the mean of its four neighbours.

    Args:
        frame: [..., H, W]; only the outermost pixels are read.

    Returns:
        [..., H, W] with these pixels unchanged.
    """
    filled = frame.clone()
    h, w = frame.shape[-2] - 2, frame.shape[-1] - 2
    if h < 1 or w < 1:
        return filled
    source = frame.new_zeros(*frame.shape[:-2], h, w)
    source[..., 0, :] -= frame[..., 0, 1:-1]
    source[..., -1, :] -= frame[..., -1, 1:-1]
    source[..., :, 0] -= frame[..., 1:-1, 0]
    source[..., :, -1] -= frame[..., 1:-1, -1]
    rows, row_values = _sines(h, frame)
    columns, column_values = _sines(w, frame)
    spectrum = rows @ source @ columns / (row_values[:, None] + column_values)
    filled[..., 1:-1, 1:-1] = rows @ spectrum @ columns
    return filled


def _strip_below(images: Tensor, n: int) -> Tensor:
    """n rows that lead from the last row of the images to their first one: [..., h, w] -> [..., n, w]."""
    t = torch.arange(n + 2, dtype=images.dtype, device=images.device)[:, None] / (n + 1)
    # Only the outermost pixels of this count; to the left and right they go over in a straight line.
    frame = (1 - t) * images[..., -1:, :] + t * images[..., :1, :]
    return solve_laplace(frame)[..., 1:-1, :]


def wrap_extend(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Extend images to the bottom and the right to a size at which they are smooth as periodic images.

    Args:
        images: [B, C, h, w], any range, any floating dtype.
        size: (H, W), not smaller than (h, w), or there is a ValueError.

    Returns:
        [B, C, H, W] in the dtype of `images`, whose upper left h x w pixels are the images themselves.
    """
    h, w = images.shape[-2:]
    below, right = size[0] - h, size[1] - w
    if below < 0 or right < 0:
        raise ValueError(f"size is {size[0]}x{size[1]}, expected at least the {h}x{w} of the images")
    x = images.to(work_dtype(images))
    strip_right = _strip_below(x.mT, right).mT
    if below:
        strip_below = _strip_below(x, below)
        frame = x.new_zeros(*x.shape[:-2], below + 2, right + 2)
        frame[..., 0, 1:-1], frame[..., -1, 1:-1] = strip_right[..., -1, :], strip_right[..., 0, :]
        frame[..., 1:-1, 0], frame[..., 1:-1, -1] = strip_below[..., -1], strip_below[..., 0]
        corner = solve_laplace(frame)[..., 1:-1, 1:-1]
        x = torch.cat([torch.cat([x, strip_right], -1), torch.cat([strip_below, corner], -1)], -2)
    else:
        x = torch.cat([x, strip_right], -1)
    return x.to(images.dtype)


def room_for_kernel(images: Tensor, kernel: Tensor, scale: int) -> Tensor:
    """`wrap_extend` of low-resolution images until opposite borders lie a kernel apart, to a size for fast transforms.

    Args:
        images: [B, C, h, w].
        kernel: [..., kh, kw], of pixels that are `scale` times smaller.
    """
    reach = [-(-k // scale) for k in kernel.shape[-2:]]
    h, w = images.shape[-2:]
    return wrap_extend(images, (good_size(h + reach[0]), good_size(w + reach[1])))
