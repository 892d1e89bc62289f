"""The image steps of the dark channel method against SciPy, scikit-image and dense matrices in float64."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import skimage.filters
import torch
from torch import Tensor

from networks.ops import l0_deconvolution as steps
from tests.helpers.references import convolve, gaussian


def random_kernel(side: int) -> Tensor:
    kernel = torch.rand(side, side, dtype=torch.float64)
    return kernel / kernel.sum()


@pytest.mark.parametrize("size", [(41, 57), (35, 20), (64, 90)])
@pytest.mark.parametrize("window", [35, 5])
def test_dark_pixels_hold_the_dark_channel(size: tuple[int, int], window: int) -> None:
    """They are those and only those whose value SciPy's sliding minimum shows somewhere."""
    x = torch.rand(size, dtype=torch.float64)
    found = steps.dark_pixels(x, window)
    minimum = scipy.ndimage.minimum_filter(x.numpy(), window, mode="nearest")
    assert set(x[found].tolist()) == set(minimum.ravel().tolist())


def test_otsu_is_that_of_scikit_image() -> None:
    """Which names the last level below the threshold as well, in 256 bins from the smallest to the largest value."""
    for image in (skimage.data.camera(), skimage.data.coins(), skimage.data.page()):
        stretched = (image.astype(float) - image.min()) / (image.max() - image.min())
        levels = np.round(stretched * 255).astype(np.uint8)
        assert steps.otsu_threshold(torch.from_numpy(stretched)) * 255 == skimage.filters.threshold_otsu(levels)
    assert steps.otsu_threshold(torch.tensor([-1.0, 0.0, 2.0, 5.0])) == pytest.approx(127 / 255)  # between both classes
    assert steps.otsu_threshold(torch.full((4,), 0.3)) == 0


@pytest.mark.parametrize("size", [(6, 5), (5, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_quadratic_problem_with_matrices(size: tuple[int, int], channels: int) -> None:
    """The solution satisfies (K'K + weight D'D + pull) x = K'b + weight D'g + pull u."""
    h, w = size
    kernel, n = random_kernel(3), h * w
    blurred, u, g = (torch.rand(channels, h, w, dtype=torch.float64) for _ in range(3))
    g2 = torch.rand_like(g)
    eye = np.eye(n).reshape(n, h, w)
    k = np.stack([convolve(e, kernel.numpy(), "wrap").ravel() for e in eye], 1)
    dx, dy = (np.stack([(np.roll(e, -1, axis) - e).ravel() for e in eye], 1) for axis in (1, 0))
    weight, pull_weight = 0.7, 0.3
    target = steps.adjoint_differences(g, g2)
    x = steps.Quadratic(blurred, kernel).solve(target, weight, torch.fft.rfft2(u), pull_weight)
    system = k.T @ k + weight * (dx.T @ dx + dy.T @ dy) + pull_weight * np.eye(n)
    for c in range(channels):
        flat = [t[c].numpy().ravel() for t in (x, blurred, g, g2, u)]
        right = k.T @ flat[1] + weight * (dx.T @ flat[2] + dy.T @ flat[3]) + pull_weight * flat[4]
        assert np.abs(system @ flat[0] - right).max() < 1e-12
        assert np.abs(steps.differences(x)[0][c].numpy().ravel() - dx @ flat[0]).max() < 1e-14


def quadratic(
    transfer: np.ndarray, blurred: np.ndarray, terms: list[tuple[float, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """min ||x * k - b||^2 + sum of weight ||x * f - g||^2 over (weight, transfer function of f, g), full spectra."""
    top = np.conj(transfer) * np.fft.fft2(blurred)
    bottom = np.abs(transfer) ** 2
    for weight, f, g in terms:
        top = top + weight * np.conj(f) * np.fft.fft2(g)
        bottom = bottom + weight * np.abs(f) ** 2
    return np.fft.ifft2(top / bottom).real


def transfer_of(kernel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    padded = np.zeros(size)
    padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    return np.fft.fft2(np.roll(padded, (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1)))


def reference_l0(
    x: np.ndarray, blurred: np.ndarray, transfer: np.ndarray, grad: float, pull: tuple[float, np.ndarray] | None
) -> np.ndarray:
    size = x.shape[-2:]
    fx = np.exp(2j * np.pi * np.fft.fftfreq(size[1]))[None, :] - 1 + np.zeros(size)
    fy = np.exp(2j * np.pi * np.fft.fftfreq(size[0]))[:, None] - 1 + np.zeros(size)
    beta = 2 * grad
    while beta < 1e5:
        h, v = np.roll(x, -1, 2) - x, np.roll(x, -1, 1) - x
        weak = (h**2 + v**2).sum(0) < grad / beta
        h, v = np.where(weak, 0, h), np.where(weak, 0, v)
        x = np.stack(
            [
                quadratic(
                    transfer,
                    blurred[c],
                    [(beta, fx, h[c]), (beta, fy, v[c])] + ([(pull[0], np.ones(size), pull[1][c])] if pull else []),
                )
                for c in range(len(x))
            ]
        )
        beta *= 2
    return x


@pytest.mark.parametrize("channels", [1, 3])
def test_l0_deconvolution_step_by_step(channels: int) -> None:
    image = skimage.data.astronaut()[50:81, 200:240].transpose(2, 0, 1)[:channels] / 255.0
    kernel = gaussian(1.0, 7)
    blurred = np.stack([convolve(c, kernel, "wrap") for c in image])
    result = steps.l0_deconvolution(torch.from_numpy(blurred), torch.from_numpy(kernel), 2e-3).numpy()
    expected = reference_l0(blurred, blurred, transfer_of(kernel, blurred.shape[-2:]), 2e-3, None)
    assert np.abs(result - expected).max() < 1e-6


def test_dark_channel_step_by_step() -> None:
    """Every weight, threshold and pixel of the image step, written a second time with a window at a time."""
    image = skimage.data.astronaut()[40:91, 190:244].mean(2)[None] / 255.0
    kernel, grad, dark = gaussian(1.0, 7), 4e-3, 5e-3
    blurred = convolve(image[0], kernel, "wrap")[None]
    result = steps.dark_channel_deconvolution(torch.from_numpy(blurred), torch.from_numpy(kernel), grad, dark).numpy()
    x, beta = blurred, dark / (skimage.filters.threshold_otsu(np.round(255 * blurred**2).astype(np.uint8)) / 255)
    h, w = blurred.shape[-2:]
    zeros = 0
    while beta < 8:
        u = x.copy()
        for i in range(h):
            for j in range(w):
                top, left = max(i - 17, 0), max(j - 17, 0)
                patch = x[0, top : i + 18, left : j + 18]
                a, b = np.unravel_index(patch.argmin(), patch.shape)
                if patch[a, b] ** 2 < dark / beta and 17 <= top + a < h - 17 and 17 <= left + b < w - 17:
                    u[0, top + a, left + b] = 0
                    zeros += 1
        x = reference_l0(x, blurred, transfer_of(kernel, (h, w)), grad, (beta, u))
        beta *= 2
    assert zeros > 0
    assert np.abs(result - x).max() < 1e-6
    assert (
        np.abs(result - steps.l0_deconvolution(torch.from_numpy(blurred), torch.from_numpy(kernel), grad).numpy()).max()
        > 1e-3
    )


@pytest.mark.slow
def test_tv_deconvolution_lowers_its_energy() -> None:
    """Close to the best value of the energy that a general optimiser finds, and the weight does what it says."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.random((2, 6, 6)), np.ones((5, 5)))
    kernel = gaussian(1.0, 7)
    blurred = np.stack([convolve(c, kernel, "wrap") for c in image]) + 0.01 * rng.standard_normal(image.shape)
    b, k = torch.from_numpy(blurred), torch.from_numpy(kernel)

    def energy(x: Tensor, weight: float) -> Tensor:
        h, v = steps.differences(x)
        data = (
            torch.fft.irfft2(torch.fft.rfft2(x) * torch.from_numpy(transfer_of(kernel, (30, 30)))[:, :16], s=(30, 30))
            - b
        )
        return data.square().sum() + weight * ((h**2 + 1e-8).sqrt().sum() + (v**2 + 1e-8).sqrt().sum())

    result = steps.tv_deconvolution(b, k, 3e-3)
    assert np.mean((result.numpy() - image) ** 2) < 0.35 * np.mean((blurred - image) ** 2)
    best = result.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([best], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = energy(best, 3e-3)
        value.backward()
        return value

    optimiser.step(closure)
    assert energy(result, 3e-3) < 1.1 * energy(best.detach(), 3e-3)
    smoother = steps.tv_deconvolution(b, k, 3e-2)
    assert sum(d.abs().sum() for d in steps.differences(smoother)) < sum(
        d.abs().sum() for d in steps.differences(result)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_bilateral_filter_pixel_by_pixel(channels: int) -> None:
    x = np.random.default_rng(0).random((channels, 7, 9))
    sigma, sigma_range, radius = 0.9, 0.3, 3
    padded = np.pad(x, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    expected = np.empty_like(x)
    for i in range(7):
        for j in range(9):
            total, weights = np.zeros(channels), 0.0
            for di in range(-radius, radius + 1):
                for dj in range(-radius, radius + 1):
                    other = padded[:, i + radius + di, j + radius + dj]
                    difference = np.mean((other - x[:, i, j]) ** 2)
                    weight = np.exp(-(di**2 + dj**2) / (2 * sigma**2) - difference / (2 * sigma_range**2))
                    total, weights = total + weight * other, weights + weight
            expected[:, i, j] = total / weights
    assert np.abs(steps.bilateral_filter(torch.from_numpy(x), sigma, sigma_range).numpy() - expected).max() < 1e-13
