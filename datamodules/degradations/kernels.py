"""Blur kernels, batched, on any device: [B, 1, k, k], float32, non-negative, sum 1, centre at index floor(k/2).

Formulas take tensors [B] of parameters and keep their dtype; `sample_*` draw the parameters from keys [B] (see
`keyed_random`) as the papers do. Coordinates are pixels, x to the right and y downwards; angles are radians from x
towards y. A `size` below 1 raises ValueError. `trajectory_motion` lives in `trajectories`.
"""

import math
from typing import Literal

import kornia.filters
import torch
from torch import Tensor

from datamodules.degradations.keyed_random import integers, uniform
from datamodules.degradations.trajectories import check_size
from datamodules.degradations.trajectories import trajectory_motion as trajectory_motion
from networks.ops.options import LARGEST_KERNEL, check_range


def gaussian_line(sigma: Tensor, size: int) -> Tensor:
    """One-dimensional Gaussians [B, size], sum 1, centre at index floor(size/2), for sigma [B] in pixels."""
    odd = _odd(size)
    line = kornia.filters.get_gaussian_kernel1d(odd, sigma[:, None])
    return line if size == odd else line[:, :-1] / line[:, :-1].sum(1, keepdim=True)


def axis_aligned_gaussian(sigma: Tensor, size: int) -> Tensor:
    """Gaussian kernels whose axes are the image's, by Kornia.

    k(y, x) ~ exp(-y^2 / (2 sigma_y^2) - x^2 / (2 sigma_x^2)), sampled at pixel centres, normalised.

    Args:
        sigma: standard deviations downwards and to the right in pixels [B, 2], > 0.
        size: side k of the square support in pixels; the centre is index floor(k/2).

    Returns:
        [B, 1, k, k] in the dtype of `sigma`.
    """
    odd = _odd(size)
    kernels = kornia.filters.get_gaussian_kernel2d(odd, sigma)
    return kernels[:, None] if size == odd else _normalised(kernels[:, :-1, :-1])


def isotropic_gaussian(sigma: Tensor, size: int) -> Tensor:
    """`axis_aligned_gaussian` of equal standard deviations [B]: [B, 1, k, k]."""
    return axis_aligned_gaussian(sigma[:, None].expand(-1, 2), size)


def anisotropic_gaussian(variances: Tensor, angle: Tensor, size: int, centre: Tensor | None = None) -> Tensor:
    """Anisotropic Gaussian kernels.

    k(p) ~ exp(-(p - c)^T S^-1 (p - c) / 2), S = Q diag(variances) Q^T, Q = [[cos, -sin], [sin, cos]], p = (x, y),
    sampled at pixel centres, normalised. However narrow the Gaussian and wherever its centre, the sum is 1.

    Args:
        variances: along the first and the second axis in pixels^2 [B, 2], > 0.
        angle: of the first axis in radians [B], from x (right) towards y (down).
        size: side k of the square support in pixels.
        centre: row and column [B, 2] of the centre c as indices, whole or not; floor(k/2) if None.

    Returns:
        [B, 1, k, k] in the dtype of `variances`.
    """
    index = _offsets(size, variances) + size // 2
    if centre is None:
        centre = torch.full_like(variances, size // 2)
    y, x = index[:, None] - centre[:, 0, None, None], index - centre[:, 1, None, None]
    along, across = _rotate(x, y, angle)
    exponent = -(along**2 / variances[:, 0, None, None] + across**2 / variances[:, 1, None, None]) / 2
    # Softmax: a normalised exponential that holds where every value underflows.
    return exponent.flatten(1).softmax(1).view(-1, 1, size, size)


def linear_motion(length: Tensor, angle: Tensor, size: int) -> Tensor:
    """Straight motion at constant speed: an anti-aliased line through the centre, as MATLAB's fspecial("motion").

    k(p) ~ max(0, 1 - d(p)), d the distance to the segment of half length h = (length - 1) / 2, so that a horizontal
    motion of 9 pixels is nine times 1/9. As in MATLAB, d is taken to the segment's end for every pixel at least h from
    the centre, also beside the line. `linear_motion(length, -theta * pi / 180, size)` is fspecial("motion", length,
    theta), whose angle turns counter-clockwise. A line longer than the support is cut.

    Args:
        length: in pixels [B]; below 1 counts as 1, a kernel that changes nothing.
        angle: in radians [B], from x (right) towards y (down).
        size: side k of the square support in pixels.

    Returns:
        [B, 1, k, k] in the dtype of `length`.
    """
    offset = _offsets(size, length)
    half = (length.clamp(min=1)[:, None, None] - 1) / 2
    along, across = _rotate(offset.expand(len(length), 1, size), offset[:, None], angle)
    beyond = torch.hypot(offset, offset[:, None]) >= half
    distance = torch.where(beyond, torch.hypot(across, along.abs() - half), across.abs())
    return _normalised((1 - distance).clamp(min=0))


def kornia_motion(
    length: Tensor, angle: Tensor, direction: Tensor, size: int, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """Straight motion by Kornia: a line of `length` pixels whose weights rise or fall evenly, turned by resampling it.

    Args:
        length: in pixels [B], odd whole numbers from 3 to `size`.
        angle: in radians [B], from x (right) towards y (down); Kornia's own are degrees and turn the other way.
        direction: -1 to 1 [B]: 0 is constant speed; at 1 the motion is slow at its start, so that the weights fall to 0
            along `angle`, at -1 the other way round.
        size: side k of the square support in pixels.
        mode: how the line is turned: "bilinear", or "nearest", whose number of pixels changes with the angle.

    Returns:
        [B, 1, k, k] in the dtype of `angle`.
    """
    check_size(size)
    kernels = angle.new_zeros(len(angle), 1, size, size)
    for side in map(int, length.unique().tolist()):  # Kornia's length is its side, one for a batch
        chosen, start = length == side, size // 2 - side // 2
        lines = kornia.filters.get_motion_kernel2d(side, -angle[chosen].rad2deg(), direction[chosen], mode)
        kernels[chosen, 0, start : start + side, start : start + side] = lines
    return kernels


def disk(radius: Tensor, size: int) -> Tensor:
    """Defocus of a round aperture: a uniform disk, anti-aliased, as MATLAB's fspecial("disk").

    k(p) = area of (the disk about the centre and pixel p's unit square) / (pi radius^2): exact, in closed form. With
    P(u) = (u sqrt(r^2 - u^2) + r^2 asin(u / r)) / 2, the area of the disk in the rectangle [0, x] x [0, y] is
    F = x y if x^2 + y^2 <= r^2, else a y + P(x) - P(a) with a = sqrt(r^2 - y^2) (x and y cut to r); a pixel is the
    alternating sum of F over its four corners. A disk larger than the support is cut and normalised.

    Args:
        radius: in pixels [B], >= 0; up to 1/2 the disk lies within the centre pixel and changes nothing.
        size: side k of the square support in pixels.

    Returns:
        [B, 1, k, k] in the dtype of `radius`.
    """
    r = radius.double().clamp(min=1e-3)[:, None, None]  # float64: four large areas cancel in a corner pixel
    lower = _offsets(size, r) - 0.5
    corner = torch.cat((lower, lower[-1:] + 1))
    x = torch.minimum(corner.abs().expand(len(radius), 1, size + 1), r)
    y = x.transpose(1, 2)
    a = (r**2 - y**2).clamp(min=0).sqrt()

    def primitive(u: Tensor) -> Tensor:
        return (u * (r**2 - u**2).clamp(min=0).sqrt() + r**2 * (u / r).clamp(max=1).asin()) / 2

    area = torch.where(x**2 + y**2 <= r**2, x * y, a * y + primitive(x) - primitive(a))
    area = area * corner.sign() * corner.sign()[:, None]
    return _normalised(area.diff(dim=1).diff(dim=2).clamp(min=0)).to(radius.dtype)


def check_law(name: str, low: float, high: float, noise: float = 0.0) -> None:
    """Raise ValueError for options with which `sample_isotropic` or `sample_dan_gaussian` would draw no kernels.

    Args:
        name: of the node, before the names of its options: "kernels.", or "".
    """
    check_range(f"[{name}low, {name}high]", (low, high), 0, LARGEST_KERNEL, above=True)
    if not 0 <= noise < math.inf:
        raise ValueError(f"{name}noise is {noise}, expected a share of at least 0")


def sample_isotropic(keys: Tensor, size: int, low: float, high: float, point: float | None = None) -> Tensor:
    """Isotropic Gaussians [B, 1, size, size], standard deviation U[low, high) pixels, low > 0; fixed at a `point`.

    DAN: U[0.2, 4), size 21 (Luo et al., NeurIPS 2020). ED-DSRN: U[1, 2) at low resolution (ICASSP 2018, section 3.1).

    Raises:
        ValueError: see `check_law`.
    """
    check_law("", low, high)
    return isotropic_gaussian(uniform(keys, "isotropic/sigma", (), low, high, point), size)


def sample_usrnet_gaussian(keys: Tensor, size: int = 25) -> Tensor:
    """The Gaussian half of USRNet's training kernels [B, 1, size, size].

    Both variances U[0.6, 12) pixels^2, angle U[0, pi), centre (s - 1) / 2 pixels from index floor(size/2) on both axes
    with s from {1, 2, 3, 4} (drawn by itself, whatever the scale of super-resolution), then one of the eight flips and
    quarter turns. These map the law of variances and angle to itself, so what they do is to draw the shift's two signs.

    Source: Zhang, Van Gool, Timofte, CVPR 2020, by its public training code.
    """
    draws = uniform(keys, "usrnet_gaussian", (5,))
    signs = torch.where(draws[:, 3:] < 0.5, -0.5, 0.5)
    shift = signs * integers(keys, "usrnet_gaussian/scale", (1,), low=0, high=4)
    return anisotropic_gaussian(0.6 + 11.4 * draws[:, :2], math.pi * draws[:, 2], size, size // 2 + shift)


def sample_dan_gaussian(
    keys: Tensor, size: int = 21, low: float = 0.6, high: float = 5.0, noise: float = 0.25
) -> Tensor:
    """DAN's anisotropic kernels [B, 1, size, size] (its setting 2: size 11 for x2, 21 or 31 for x4).

    Standard deviations along the axes U[low, high) pixels, low > 0, angle U[-pi, pi), every element times
    1 + U[0, noise), normalised again. Source: Luo et al., "Unfolding the alternating optimization for blind super
    resolution", NeurIPS 2020, by its public code.

    Raises:
        ValueError: see `check_law`.
    """
    check_law("", low, high, noise)
    draws = uniform(keys, "dan_gaussian", (3,))
    angle = math.pi * (2 * draws[:, 2] - 1)
    kernels = anisotropic_gaussian((low + (high - low) * draws[:, :2]) ** 2, angle, size)
    return _normalised(kernels[:, 0] * uniform(keys, "dan_gaussian/noise", (size, size), 1.0, 1.0 + noise))


def _odd(size: int) -> int:
    """The side that Kornia is asked for: it centres even kernels between pixels, so one more is made, and cut off."""
    check_size(size)
    return size + 1 - size % 2


def _offsets(size: int, like: Tensor) -> Tensor:
    """Pixel positions [size] relative to the centre index floor(size/2)."""
    check_size(size)
    return torch.arange(size, device=like.device, dtype=like.dtype) - size // 2


def _rotate(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along and across the direction of `angle` [B], from x and y that broadcast to [B, k, k]."""
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return x * cos + y * sin, y * cos - x * sin


def _normalised(kernels: Tensor) -> Tensor:
    """[B, k, k] with positive sums to [B, 1, k, k] with sum 1."""
    return (kernels / kernels.sum((1, 2), keepdim=True))[:, None]
