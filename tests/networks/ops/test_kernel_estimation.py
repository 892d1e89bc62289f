"""The kernel step of the dark channel method against SciPy, dense matrices and known kernels."""

import math

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from torch import Tensor

from networks.ops import kernel_estimation as estimation
from tests.helpers.references import convolve, gaussian, imresize


def motion(size: int) -> Tensor:
    """A bent stroke, not symmetric, sum 1."""
    kernel = torch.zeros(size, size, dtype=torch.float64)
    for t in torch.linspace(0, 1, 60, dtype=torch.float64):
        y, x = 0.2 + 0.6 * t, 0.25 + 0.5 * t**2
        kernel[round((size - 1) * y.item()), round((size - 1) * x.item())] += 1 + t
    return kernel / kernel.sum()


def circular(image: np.ndarray, kernel: Tensor) -> np.ndarray:
    return convolve(image, kernel.numpy(), "wrap")


@pytest.mark.parametrize("size", [(61, 47), (40, 64)])
@pytest.mark.parametrize("kernel_size", [7, 13])
def test_exact_gradients_give_the_kernel_back(size: tuple[int, int], kernel_size: int) -> None:
    """Off-centre and asymmetric; what the penalty and 20 iterations leave is small, and less with contrast."""
    kernel = motion(kernel_size)
    image = np.random.default_rng(0).random(size)
    errors = []
    for contrast in (1, 10):
        latent = [contrast * (np.roll(image, -1, axis) - image) for axis in (1, 0)]
        blurred = [circular(g, kernel) for g in latent]
        pairs = ((torch.from_numpy(a), torch.from_numpy(b)) for a, b in (blurred, latent))
        found = estimation.fit_kernel(*pairs, kernel_size)
        errors.append((found - kernel).abs().max().item() / kernel.max().item())
    assert errors[0] < 0.06
    assert errors[1] < 0.02


def test_fit_solves_its_normal_equations() -> None:
    """(L'L + 2) k = L'b with the matrices of all shifts, where the kernel is nearly as large as the image."""
    rng = np.random.default_rng(0)
    latent, blurred = rng.standard_normal((2, 2, 9, 8))
    places = range(-3, 4)
    columns = [[np.roll(g, (dy, dx), (0, 1)).ravel() for g in latent] for dy in places for dx in places]
    matrix = np.array(columns).reshape(49, -1).T
    expected = np.linalg.solve(matrix.T @ matrix + 2 * np.eye(49), matrix.T @ blurred.reshape(-1))
    both = ((torch.from_numpy(a[0]), torch.from_numpy(a[1])) for a in (blurred, latent))
    found = estimation.fit_kernel(*both, 7)
    # Twenty iterations are not all that it takes: the residual is small against the right side.
    residual = (matrix.T @ matrix + 2 * np.eye(49)) @ found.numpy().ravel() - matrix.T @ blurred.reshape(-1)
    assert np.linalg.norm(residual) < 1e-2 * np.linalg.norm(matrix.T @ blurred.reshape(-1))
    assert np.abs(found.numpy().ravel() - expected).max() < 1e-2 * np.abs(expected).max()


def test_conjugate_gradients_reach_the_solution() -> None:
    """With as many iterations as unknowns."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((12, 11))
    spectrum = np.abs(np.fft.fft2(image)) ** 2
    lags = np.fft.ifft2(spectrum).real
    a = np.array([[lags[i % 12, j % 11] for j in range(-4, 5)] for i in range(-4, 5)])
    right = rng.standard_normal((5, 5))
    cells = [(i, j) for i in range(5) for j in range(5)]
    matrix = np.array([[a[i - k + 4, j - m + 4] for k, m in cells] for i, j in cells]) + 2 * np.eye(25)
    found = estimation.conjugate_gradients(torch.from_numpy(a), torch.from_numpy(right), 60, 1e-10)
    assert np.abs(found.numpy().ravel() - np.linalg.solve(matrix, right.ravel())).max() < 1e-9


def test_threshold_counts_every_direction() -> None:
    """20 kernel sides of pixels of each range of directions reach it, and one step more is too many for some range."""
    image = skimage.data.camera()[100:300, 100:290] / 255.0
    x = torch.from_numpy(image)
    threshold = estimation.gradient_threshold(x, 9)
    gx, gy = image[1:, 1:] - image[1:, :-1], image[1:, 1:] - image[:-1, 1:]
    with np.errstate(all="ignore"):
        angle = np.arctan(gy / gx)
    squared = gx**2 + gy**2
    quarters = [(0, 1), (1, 2), (-1, 0), (-2, -1)]

    def least(level: float) -> int:
        return min(
            ((angle >= a * math.pi / 4) & (angle < b * math.pi / 4) & (squared >= level)).sum() for a, b in quarters
        )

    assert threshold > 0
    assert least(threshold) >= 180
    assert least(threshold + estimation.STEP) < 180
    assert estimation.gradient_threshold(x[:20, :20], 9) == 0  # too few pixels


def test_strong_gradients() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.3, 0.3], [0.0, 0.3, 0.4]], dtype=torch.float64)
    gx, gy, following = estimation.strong_gradients(x, 0.05)
    assert torch.allclose(gx, torch.tensor([[0.3, 0.0], [0.3, 0.0]]).double())
    assert torch.allclose(gy, torch.tensor([[0.3, 0.3], [0.0, 0.0]]).double())
    assert following == pytest.approx(0.05 / 1.1)
    gx, gy, following = estimation.strong_gradients(x, 1.0)  # lowered until it is below 0.18
    assert (gx.count_nonzero(), gy.count_nonzero()) == (1, 1)
    assert following == pytest.approx(0.81**9 / 1.1)
    gx, gy, following = estimation.strong_gradients(torch.ones(3, 3), 0.5)
    assert not gx.any()
    assert not gy.any()


def test_components_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((9, 13), (25, 25), (1, 5)):
        mask = torch.rand(size, generator=generator) < 0.35
        expected, count = scipy.ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
        labels = estimation.components(mask).numpy()
        assert ((labels > 0) == (expected > 0)).all()
        pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
        assert len(pairs) == count + (not mask.all())


def test_clean_kernel() -> None:
    kernel = torch.zeros(9, 9, dtype=torch.float64)
    kernel[1, 1:5] = 1.0
    kernel[2, 5] = 0.5  # touches at a corner
    kernel[7, 7] = 0.4  # alone, 8 % of the mass
    kernel[0, 0] = 0.04  # touches, but below 5 % of the largest
    kernel[5, 0] = -0.3
    expected = torch.zeros(9, 9, dtype=torch.float64)
    expected[1, 1:5], expected[2, 5] = 1 / 4.5, 0.5 / 4.5
    assert torch.allclose(estimation.clean_kernel(kernel), expected)
    kernel[7, 7] = 0.6  # 12 %
    assert estimation.clean_kernel(kernel)[7, 7] == pytest.approx(0.6 / 5.1)
    scattered = torch.zeros(9, 9, dtype=torch.float64)
    scattered[::2, ::2] = 1.0
    scattered[4, 4] = 1.1
    assert torch.equal(estimation.clean_kernel(scattered), estimation.delta(9))
    assert torch.equal(estimation.clean_kernel(torch.zeros(5, 5, dtype=torch.float64)), estimation.delta(5))


def test_recentre() -> None:
    kernel = torch.zeros(7, 7, dtype=torch.float64)
    kernel[0, 5], kernel[1, 5] = 0.5, 0.5
    moved = torch.zeros(7, 7, dtype=torch.float64)
    moved[2, 3], moved[3, 3] = 0.5, 0.5  # the centre of mass, row 0.5, can go to 2.5 or 3.5
    assert torch.equal(estimation.recentre(kernel), moved)
    lost = torch.zeros(3, 3, dtype=torch.float64)
    lost[0, 0], lost[2, 2] = 0.1, 0.9
    assert torch.equal(estimation.recentre(lost), estimation.delta(3))


@pytest.mark.parametrize(("size", "larger"), [(7, 9), (9, 11), (11, 15), (15, 21)])
def test_enlarged_kernel_is_imresize_inside(size: int, larger: int) -> None:
    kernel = torch.from_numpy(gaussian(size / 9, size)) + 0.1 * motion(size)
    kernel = kernel / kernel.sum()
    expected = imresize(kernel.numpy(), math.sqrt(2)).clip(min=0)
    result = estimation.enlarge_kernel(kernel, math.sqrt(2), larger).numpy()
    assert result.shape == (larger, larger)
    assert result.sum() == pytest.approx(1)
    n = len(expected)
    candidates = []
    for top in range(abs(n - larger) + 1):
        for left in range(abs(n - larger) + 1):
            if n >= larger:
                whole = expected[top : top + larger, left : left + larger]
            else:
                after = larger - n
                whole = np.pad(expected, ((top, after - top), (left, after - left)))
            candidates.append(np.abs(whole / whole.sum() - result).max())
    assert min(candidates) < 2e-3  # the borders, where the kernels nearly vanish, are continued differently
