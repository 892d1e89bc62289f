import math
from collections.abc import Callable
from typing import Any

import kornia.filters
import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.degradations import kernels
from datamodules.degradations.blur import convolve
from datamodules.degradations.kernels import (
    anisotropic_gaussian,
    axis_aligned_gaussian,
    disk,
    isotropic_gaussian,
    kornia_motion,
    linear_motion,
)
from datamodules.degradations.keyed_random import make_key

SAMPLERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "isotropic": lambda keys, size: kernels.sample_isotropic(keys, size, 0.2, 4.0),
    "usrnet": kernels.sample_usrnet_gaussian,
    "dan": kernels.sample_dan_gaussian,
}
# Each from a scale in pixels [B] and a size.
FORMULAS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "isotropic": isotropic_gaussian,
    "axis-aligned": lambda s, size: axis_aligned_gaussian(torch.stack((s, 2 * s), 1), size),
    "anisotropic": lambda s, size: anisotropic_gaussian(torch.stack((s**2, s), 1), s, size),
    "motion": lambda s, size: linear_motion(s, s, size),
    "disk": disk,
}


def keys(count: int) -> Tensor:
    return torch.tensor([make_key("test_kernels", i) for i in range(count)])


def moments(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids [B, 2] (row, column) relative to floor(k/2) and covariances [B, 2, 2] in the same order."""
    k = kernel.double()[:, 0]
    index = torch.arange(k.shape[-1], dtype=torch.float64) - k.shape[-1] // 2
    grid = torch.stack(torch.meshgrid(index, index, indexing="ij"))
    mean = torch.einsum("bij,cij->bc", k, grid)
    return mean, torch.einsum("bij,cij,dij->bcd", k, grid, grid) - mean[:, :, None] * mean[:, None, :]


@pytest.mark.parametrize("size", [1, 2, 5, 24, 25])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_gives_a_kernel(name: str, size: int) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        scale = torch.tensor([0.01, 0.5, 1.0, 3.3, 50.0], dtype=dtype)
        result = FORMULAS[name](scale, size)
        assert result.dtype == dtype
        assert result.shape == (5, 1, size, size)
        assert result.min() >= 0
        assert (result.sum((1, 2, 3)) - 1).abs().max() < tolerance
        assert result[0, 0, size // 2, size // 2] == 1  # much smaller than a pixel: changes nothing
    with pytest.raises(ValueError, match="expected at least 1"):
        FORMULAS[name](scale, 0)


@pytest.mark.parametrize("name", FORMULAS)
def test_an_even_kernel_is_the_odd_one_without_its_last_row_and_column(name: str) -> None:
    scale = torch.tensor([0.7, 2.5, 9.0], dtype=torch.float64)
    even, odd = FORMULAS[name](scale, 12), FORMULAS[name](scale, 13)[:, :, :-1, :-1]
    assert torch.allclose(even, odd / odd.sum((1, 2, 3), keepdim=True), atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("size", [20, 25])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampled_kernel_does_not_depend_on_its_batch(name: str, size: int) -> None:
    whole = keys(8)
    together = SAMPLERS[name](whole, size)
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert (together.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    for i in range(8):
        assert torch.equal(SAMPLERS[name](whole[i : i + 1], size)[0], together[i])
    assert SAMPLERS[name](whole[:0], size).shape == (0, 1, size, size)
    assert SAMPLERS[name](whole.to("meta"), size).shape == together.shape  # nothing mixes devices or reads values


def test_anisotropic_gaussian_against_a_loop() -> None:
    variances = torch.tensor([[7.0, 2.0], [9.0, 1.5]], dtype=torch.float64)
    angle, centre = torch.tensor([0.3, 2.5]).double(), torch.tensor([[6.0, 5.0], [4.5, 7.25]]).double()
    got = anisotropic_gaussian(variances, angle, 12, centre)
    for b in range(2):
        c, s = math.cos(angle[b]), math.sin(angle[b])
        q = np.array([[c, -s], [s, c]])
        inverse = np.linalg.inv(q @ np.diag(variances[b].numpy()) @ q.T)
        expected = np.empty((12, 12))
        for row in range(12):
            for column in range(12):
                p = np.array([column - float(centre[b, 1]), row - float(centre[b, 0])])
                expected[row, column] = np.exp(-p @ inverse @ p / 2)
        assert np.abs(got[b, 0].numpy() - expected / expected.sum()).max() < 1e-15


def test_anisotropic_gaussian_has_the_covariance_and_centre_asked_for() -> None:
    variances, angle = torch.tensor([[7.0, 2.0], [7.0, 2.0]]).double(), torch.tensor([0.0, math.radians(30)]).double()
    centre = torch.tensor([[20.0, 20.0], [18.5, 21.25]]).double()
    mean, covariance = moments(anisotropic_gaussian(variances, angle, 41, centre))
    assert torch.allclose(mean, centre - 20, atol=1e-9)
    # Rows downwards: at 30 degrees the long axis leads right and down, so the mixed moment is positive.
    expected = torch.tensor([[[2.0, 0.0], [0.0, 7.0]], [[3.25, 2.16506], [2.16506, 5.75]]]).double()
    assert torch.allclose(covariance, expected, atol=1e-5)


def test_equal_variances_are_the_isotropic_gaussian() -> None:
    sigma = torch.tensor([0.7, 2.0], dtype=torch.float64)
    got = anisotropic_gaussian((sigma**2)[:, None].expand(2, 2), torch.tensor([0.4, 3.0]).double(), 25)
    assert torch.allclose(got, isotropic_gaussian(sigma, 25), atol=1e-15)


def test_an_axis_aligned_gaussian_is_the_anisotropic_one_at_angle_0() -> None:
    sigma = torch.tensor([[0.7, 2.0], [3.0, 1.1]], dtype=torch.float64)  # rows first, while angle 0 lies along x
    for size in (12, 25):
        expected = anisotropic_gaussian(sigma.flip(1) ** 2, torch.zeros(2).double(), size)
        assert torch.allclose(axis_aligned_gaussian(sigma, size), expected, atol=1e-15)


@pytest.mark.parametrize("size", [12, 21])
def test_a_line_is_a_side_of_its_isotropic_gaussian(size: int) -> None:
    """What ED-DSRN blurs with and what it says it has blurred with."""
    sigma = torch.tensor([0.7, 2.0, 9.0], dtype=torch.float64)
    line = kernels.gaussian_line(sigma, size)
    assert torch.allclose(isotropic_gaussian(sigma, size)[:, 0], line[:, :, None] * line[:, None, :], atol=1e-15)


def test_a_narrow_gaussian_far_from_every_pixel_is_still_a_kernel() -> None:
    got = anisotropic_gaussian(torch.full((1, 2), 1e-6), torch.zeros(1), 5, torch.tensor([[2.25, 40.0]]))
    assert got[0, 0, 2, 4] == 1


def test_shift_and_laws_of_the_usrnet_sampler() -> None:
    n = 4000
    result = kernels.sample_usrnet_gaussian(keys(n), 61)  # wide enough to cut nothing
    mean, covariance = moments(result)
    assert torch.allclose(mean[:, 0].abs(), mean[:, 1].abs(), atol=1e-4)
    steps = (2 * mean).round()
    assert torch.allclose(2 * mean, steps, atol=1e-3)
    # Shift of both axes in half pixels: (+-1, +-1) to (+-3, +-3) with 1/16 each, none with 1/4.
    values, counts = steps.unique(dim=0, return_counts=True)
    assert len(values) == 13
    share = torch.where(values[:, 0] == 0, 1 / 4, 1 / 16)
    assert ((counts - n * share) ** 2 / (n * share)).sum() < 32.9  # chi square, 12 degrees of freedom, p = 0.001
    eigenvalues = torch.linalg.eigvalsh(covariance)
    assert 0.55 < eigenvalues.min() < 0.75
    assert 11.9 < eigenvalues.max() < 12.001
    # Smaller and larger of two uniform variances: 0.6 + 11.4 / 3 and 0.6 + 2 * 11.4 / 3, five standard errors.
    tolerance = 5 * 11.4 / 18**0.5 / n**0.5
    assert torch.allclose(eigenvalues.mean(0), torch.tensor([4.4, 8.2]).double(), atol=tolerance)
    assert abs(covariance[:, 0, 1].mean()) < 5 * covariance[:, 0, 1].std() / n**0.5


def test_law_of_the_dan_sampler() -> None:
    plain = kernels.sample_dan_gaussian(keys(1000), 49, noise=0.0)
    std = torch.linalg.eigvalsh(moments(plain)[1]).sqrt()
    assert 0.55 < std.min() < 0.7
    assert 4.9 < std.max() < 5.001
    assert torch.allclose(std.mean(0), torch.tensor([0.6 + 4.4 / 3, 0.6 + 8.8 / 3]).double(), atol=5 * 1.04 / 1000**0.5)
    noisy = kernels.sample_dan_gaussian(keys(1000), 49)
    wide = std[:, 0] > 2  # over 50 pixels and more the noise averages to 1.125, within 0.04
    ratio = (noisy / plain)[wide][plain[wide] > 1e-3]
    assert 0.85 < ratio.min() < 0.91
    assert 1.10 < ratio.max() < 1.16
    assert abs(ratio.std() - 0.25 / 12**0.5 / 1.125) < 0.003


def test_isotropic_sampler_fills_its_range() -> None:
    _, covariance = moments(kernels.sample_isotropic(keys(1000), 41, 1.0, 2.0))
    sigma = covariance[:, 0, 0].sqrt()
    assert torch.allclose(sigma, covariance[:, 1, 1].sqrt(), atol=1e-4)
    assert 0.99 < sigma.min() < 1.01
    assert 1.99 < sigma.max() < 2.001


def matlab_motion(length: float, degrees: float, size: int) -> np.ndarray:
    """fspecial("motion") as documented, pixel by pixel; y upwards."""
    half = (max(length, 1) - 1) / 2
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    kernel = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            x, y = column - size // 2, size // 2 - row
            distance = abs(y * c - x * s)
            if math.hypot(x, y) >= half:
                distance = math.hypot(distance, half - abs(x * c + y * s))
            kernel[row, column] = max(0.0, 1 - distance)
    return kernel / kernel.sum()


def test_linear_motion_is_matlab_s() -> None:
    cases = [(9.0, 0.0), (5.0, 90.0), (20.0, 45.0), (15.5, 30.0), (7.3, 110.0), (31.0, 179.0), (0.2, 20.0)]
    length, degrees = torch.tensor(cases, dtype=torch.float64).unbind(1)
    got = linear_motion(length, -degrees.deg2rad(), 33)
    for kernel, case in zip(got[:, 0].numpy(), cases, strict=True):
        assert np.abs(kernel - matlab_motion(*case, 33)).max() < 1e-14
    assert torch.allclose(got[0, 0, 16, 12:21], torch.full((9,), 1 / 9).double(), atol=1e-15)
    assert torch.allclose(got[1, 0, 14:19, 16], torch.full((5,), 1 / 5).double(), atol=1e-15)
    assert got[2, 0, :16, 17:].sum() > 0.4  # 45 degrees counter-clockwise: up and to the right


def test_linear_motion_is_symmetric_and_as_long_as_asked_for() -> None:
    angle = torch.linspace(0, math.pi, 50, dtype=torch.float64)
    got = linear_motion(torch.full_like(angle, 21.0), angle, 31)
    mean, covariance = moments(got)
    assert torch.equal(got, got.flip(-2, -1))
    assert mean.abs().max() < 1e-12
    direction = torch.stack((angle.sin(), angle.cos()), 1)  # row, column
    along = torch.einsum("bi,bij,bj->b", direction, covariance, direction)
    assert (along / (21**2 / 12) - 1).abs().max() < 0.1  # the variance of a uniform line


def motion(length: int, degrees: float, direction: float, size: int, **mode: Any) -> Tensor:
    """One of Kornia's motions [k, k], its angle clockwise."""
    angle, speed = (torch.tensor([value], dtype=torch.float64) for value in (math.radians(degrees), direction))
    return kornia_motion(torch.tensor([length]), angle, speed, size, **mode)[0, 0]


def test_kornia_motion_by_hand() -> None:
    """Along an axis the weights are a straight line; at 45 degrees every pixel is interpolated from such a line."""
    fading = torch.tensor(
        [0, 0.4, 0.3, 0.2, 0.1, 0, 0], dtype=torch.float64
    )  # to the right: slow at the start, the left
    expected = torch.zeros(7, 7, dtype=torch.float64)
    expected[3] = fading
    for degrees, direction, kernel in (
        (0, 1, expected),
        (180, 1, expected.flip(1)),
        (0, -1, expected.flip(1)),
        (90, 1, expected.T),  # downwards
        (-90, 1, expected.T.flip(0)),
    ):
        assert (motion(5, degrees, direction, 7) - kernel).abs().max() < 1e-6
    # At 45 degrees pixel (1, 1) lies at (sqrt 2, 0) of a line of three equal weights, pixel (1, 0) at (1, -1) / sqrt 2.
    near, far = 1 - math.sqrt(0.5), 2 - math.sqrt(2)
    diagonal = torch.tensor([[far, near, 0], [near, 1, near], [0, near, far]], dtype=torch.float64)
    assert (motion(3, 45, 0, 3) - diagonal / diagonal.sum()).abs().max() < 1e-6
    # The example of Kornia's documentation, whose angle turns the other way.
    nearest = torch.tensor([[0, 0, 1], [0, 2, 0], [3, 0, 0]]) / 6
    assert (motion(3, -215, -0.5, 3, mode="nearest") - nearest).abs().max() < 1e-6


def test_kornia_motions_of_a_batch_differ_and_are_kornias() -> None:
    length, degrees = torch.tensor([3, 11, 7, 11]), torch.tensor([0.0, 33.0, 120.0, 170.0])
    speed = torch.tensor([0.0, 1.0, -0.3, 0.5])
    got = kornia_motion(length, degrees.deg2rad(), speed, 13)
    assert (got.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    for i, side in enumerate(length.tolist()):
        start = 6 - side // 2
        one = kornia.filters.get_motion_kernel2d(side, -degrees[i : i + 1], speed[i : i + 1], "bilinear")[0]
        inside = got[i, 0, start : start + side, start : start + side]
        assert (inside - one).abs().max() < 1e-6
        assert (inside.sum() - 1).abs() < 1e-6  # zero around
    with pytest.raises(ValueError, match="expected at least 1"):
        kornia_motion(length, degrees, speed, 0)


@pytest.mark.parametrize(("mode", "tolerance"), [("bilinear", 0.15), ("nearest", 0.7)])
def test_kornia_motion_leads_where_it_should(mode: Any, tolerance: float) -> None:
    degrees = torch.arange(-170.0, 180, 10, dtype=torch.float64)
    direction = torch.stack((degrees.deg2rad().sin(), degrees.deg2rad().cos()), 1)  # row, column
    length, slow = torch.full((len(degrees),), 21), torch.ones(len(degrees), dtype=torch.float64)
    mean, covariance = moments(kornia_motion(length, degrees.deg2rad(), slow, 25, mode))
    # Weights 20, 19, ..., 0 at -10, -9, ..., 10 have the mean -11 / 3 and the variance 209 / 9.
    assert (mean + 11 / 3 * direction).norm(dim=1).max() < tolerance
    along = torch.einsum("bi,bij,bj->b", direction, covariance, direction)
    assert (along / (209 / 9) - 1).abs().max() < 0.1
    assert (covariance.diagonal(dim1=1, dim2=2).sum(1) - along).max() < 0.2  # a line is thin


def test_disk_against_supersampling_and_matlab() -> None:
    radius = torch.tensor([0.3, 0.7, 1.0, 2.5, 4.2, 9.0], dtype=torch.float64)
    got = disk(radius, 13)[:, 0].numpy()
    fine = (np.arange(13 * 400) + 0.5) / 400 - 6.5
    for kernel, r in zip(got, radius.tolist(), strict=True):
        inside = (fine[:, None] ** 2 + fine**2 <= r**2).reshape(13, 400, 13, 400).mean((1, 3))
        assert np.abs(kernel - inside / inside.sum()).max() < 2e-4
        assert np.abs(kernel - kernel.T).max() < 1e-14
    # fspecial("disk", 1), as MATLAB prints it.
    expected = [[0.0251, 0.1453, 0.0251], [0.1453, 0.3183, 0.1453], [0.0251, 0.1453, 0.0251]]
    assert np.abs(got[2, 5:8, 5:8] - expected).max() < 5e-5


def test_a_kernel_moves_the_image_the_way_its_mass_is_displaced() -> None:
    point = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    point[0, 0, 15, 15] = 1
    for size in (10, 11):
        centre = torch.tensor([[size // 2 + 2.0, size // 2 - 1.5]], dtype=torch.float64)
        kernel = anisotropic_gaussian(torch.full((1, 2), 0.5).double(), torch.zeros(1).double(), size, centre)
        mean, _ = moments(convolve(point, kernel))
        assert torch.allclose(mean, torch.tensor([[2.0, -1.5]]).double(), atol=2e-3)


def test_trajectory_motion_is_found_here() -> None:
    assert kernels.trajectory_motion(keys(2), 25).shape == (2, 1, 25, 25)
