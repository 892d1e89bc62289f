"""Wiener filter and Richardson-Lucy against dense matrices in float64 and scikit-image."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import skimage.data
import skimage.restoration
import torch
from torch import Tensor

from networks.classical import Degrade, RichardsonLucy, Wiener, spectrum_level
from tests.conftest import photograph
from tests.helpers.references import convolve, gaussian

ROUNDING = 1 / (12 * 255**2)


def matrix(kernel: np.ndarray, size: tuple[int, int], scale: int) -> np.ndarray:
    """Blur and decimation of a small image, one column for each pixel."""
    h, w = scale * size[0], scale * size[1]
    columns = []
    for i in range(h * w):
        impulse = np.zeros(h * w)
        impulse[i] = 1
        columns.append(convolve(impulse.reshape(h, w), kernel, "wrap")[::scale, ::scale].ravel())
    return np.stack(columns, 1)


def problem(scale: int, channels: int) -> tuple[Tensor, Tensor, list[np.ndarray]]:
    """Two images of odd sizes with kernels of their own, and the matrices that make them."""
    size = (5, 3)
    rng = np.random.default_rng(scale)
    kernels = rng.random((2, 3, 3)) + 0.05
    kernels /= kernels.sum((1, 2), keepdims=True)
    matrices = [matrix(kernel, size, scale) for kernel in kernels]
    x = rng.random((2, channels, scale * size[0] * scale * size[1]))
    y = np.stack([image @ a.T for image, a in zip(x, matrices, strict=True)]) + 0.02 * rng.standard_normal(
        (2, channels, 15)
    )
    return torch.from_numpy(y).view(2, channels, *size), torch.from_numpy(kernels)[:, None], matrices


def likeliest(covariance: np.ndarray, data: np.ndarray, variance: float) -> float:
    """The c for which Gaussian data of covariance c * `covariance` + `variance` are most likely."""

    def surprise(logarithm: float) -> float:
        whole = np.exp(logarithm) * covariance + variance * np.eye(len(data))
        return float(np.linalg.slogdet(whole)[1] + data @ np.linalg.solve(whole, data))

    grid = np.linspace(-12, 4, 100)
    best = grid[np.argmin([surprise(g) for g in grid])]
    found = scipy.optimize.minimize_scalar(surprise, bracket=(best - 0.2, best, best + 0.2), tol=1e-12)
    return float(np.exp(found.x))


def level(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [(3, 3), (4, 5)])
def test_operator_and_its_adjoint(scale: int, kernel_size: tuple[int, int]) -> None:
    kernel = torch.rand(1, 1, *kernel_size, dtype=torch.float64)
    a = torch.from_numpy(matrix(kernel[0, 0].numpy(), (5, 7), scale))
    degrade = Degrade(kernel, (5, 7), scale)
    x, y = torch.rand(1, 2, 5 * scale, 7 * scale, dtype=torch.float64), torch.rand(1, 2, 5, 7, dtype=torch.float64)
    assert torch.allclose(degrade(x).flatten(-2), x.flatten(-2) @ a.T, atol=1e-12)
    assert torch.allclose(degrade.transpose(y).flatten(-2), y.flatten(-2) @ a, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_wiener_is_the_best_linear_estimate(scale: int, channels: int) -> None:
    """x = m + P A' (A P A' + noise)^-1 (y - m), with a covariance P built from the difference matrices."""
    y, kernel, matrices = problem(scale, channels)
    noise, balance = (0.02, 0.03), 1.7
    result = Wiener(balance=balance)(lr=y, kernel=kernel, scale=scale, noise_level=level(*noise)).sr
    h, w = 5 * scale, 3 * scale
    eye = np.eye(h * w).reshape(h * w, h, w)
    gradients = np.concatenate([(np.roll(eye, -1, axis) - eye).reshape(h * w, -1) for axis in (1, 2)], 1)
    covariance = np.linalg.pinv(gradients @ gradients.T)  # of level 1, without the mean
    for b in range(2):
        a, variance = matrices[b], noise[b] ** 2 + ROUNDING
        for c in range(channels):
            data = y[b, c].numpy().ravel()
            basis = scipy.linalg.null_space(np.ones((1, len(data))))  # the mean is known
            reduced, contrast = basis.T @ a @ covariance @ a.T @ basis, basis.T @ data
            p = covariance * likeliest(reduced, contrast, variance)
            gain = p @ a.T @ np.linalg.inv(a @ p @ a.T + balance * variance * np.eye(len(a)))
            expected = data.mean() + gain @ (data - data.mean())
            assert np.abs(result[b, c].numpy().ravel() - expected).max() < 1e-5


@pytest.mark.parametrize("scale", [1, 2])
def test_wiener_takes_a_quiet_photograph_for_what_it_is(scale: int) -> None:
    """Much less noise than is said: the level of the spectrum must not vanish, and the image with it."""
    sharp = torch.from_numpy(skimage.data.astronaut()[100:292, 120:312]).permute(2, 0, 1)[None].double() / 255
    kernel = torch.full((1, 1, 1, 9), 1 / 9, dtype=torch.float64)
    lr = Degrade(kernel, (192 // scale, 192 // scale), scale)(sharp)
    found = Wiener()(lr=lr, kernel=kernel, scale=scale, noise_level=level(5 / 255)).sr
    plain = lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    assert (found - sharp).square().mean() < (plain - sharp).square().mean()


def test_wiener_is_that_of_scikit_image() -> None:
    """At scale 1, with the same Laplacian spectrum of the penalty and the same weight."""
    rng = np.random.default_rng(0)
    image = convolve(rng.random((16, 14)), gaussian(1.0, 5), "wrap")
    y = torch.from_numpy(image)[None, None]
    kernel = torch.from_numpy(gaussian(1.0, 5))[None, None]
    result = Wiener()(lr=y, kernel=kernel, scale=1, noise_level=level(0.01)).sr[0, 0].numpy()
    padded = np.zeros((16, 14))
    padded[:5, :5] = kernel[0, 0].numpy()
    transfer = np.fft.fft2(np.roll(padded, (-2, -2), (0, 1)))
    f, g = (2 - 2 * np.cos(2 * np.pi * np.arange(n) / n) for n in (16, 14))
    power = f[:, None] + g
    power[0, 0] = np.inf
    variance = 0.01**2 + ROUNDING
    periodogram = torch.from_numpy(np.abs(np.fft.fft2(image - image.mean())) ** 2 / image.size)[None, None]
    c = spectrum_level(periodogram, torch.from_numpy(np.abs(transfer) ** 2 / power), level(variance)).item()
    power[0, 0] = 0
    # It penalises |reg|^2 and takes spectra as complex arrays, of which it uses the real part: that is all of these.
    reg = np.sqrt(power).astype(complex)
    expected = skimage.restoration.wiener(image, transfer, variance / c, reg=reg, is_real=False, clip=False).real
    assert np.abs(result - expected).max() < 1e-9


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_richardson_lucy_with_matrices(scale: int, channels: int) -> None:
    y, kernel, matrices = problem(scale, channels)
    result = RichardsonLucy(iterations=12)(lr=y, kernel=kernel, scale=scale, noise_level=level(0, 0)).sr
    for b in range(2):
        a = matrices[b]
        for c in range(channels):
            data = np.maximum(y[b, c].numpy().ravel(), 0)
            x = np.full(a.shape[1], data.mean())
            weight = a.sum(0)
            for _ in range(12):
                factor = a.T @ (data / (a @ x)) / np.where(weight > 1e-6, weight, 1)
                x = x * np.where(weight > 1e-6, factor, 1)
            assert np.abs(result[b, c].numpy().ravel() - x).max() < 1e-9


def test_richardson_lucy_is_that_of_scikit_image() -> None:
    """Inside: scikit-image sees black outside of the frame."""
    image = skimage.data.camera()[100:228, 200:328] / 255.0
    blurred = convolve(image, gaussian(1.5, 9), "wrap")
    kernel = torch.from_numpy(gaussian(1.5, 9))[None, None]
    y = torch.from_numpy(blurred)[None, None]
    result = RichardsonLucy(iterations=4)(lr=y, kernel=kernel, scale=1, noise_level=level(0)).sr[0, 0].numpy()
    expected = skimage.restoration.richardson_lucy(blurred, gaussian(1.5, 9), num_iter=4, clip=False)
    # Four iterations carry the border 4 x 2 x 4 pixels far.
    assert np.abs(result - expected)[33:-33, 33:-33].max() < 1e-9
    assert np.mean((result - image) ** 2) < 0.9 * np.mean((blurred - image) ** 2)


def test_richardson_lucy_stops_at_the_noise() -> None:
    """The noisy image of a batch stops early, the other goes on; more iterations change the other only."""
    y, kernel, _ = problem(1, 1)
    few, many = (
        RichardsonLucy(iterations=n)(lr=y, kernel=kernel, scale=1, noise_level=level(0.3, 0)).sr for n in (20, 40)
    )
    degrade = Degrade(kernel, (5, 3), 1)
    assert torch.equal(few[0], many[0])
    assert not torch.allclose(few[1], many[1])
    residual = (degrade(few)[0] - y[0].clamp(min=0)).square().mean()
    assert 0 < residual <= 0.3**2


@pytest.mark.parametrize(
    "network", [Wiener(), RichardsonLucy(), Wiener(boundary="wrap"), RichardsonLucy(boundary="wrap")]
)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_restores_a_photograph_in_float32(network: Wiener | RichardsonLucy, scale: int) -> None:
    """Better than what went in, at an odd size, with the boundary that the input was made with."""
    h, w = 33 * scale, 27 * scale
    scene = skimage.data.astronaut()[20 : 20 + h + 40, 150 : 150 + w + 40].transpose(2, 0, 1) / 255.0
    kernel = gaussian(0.8 + 0.4 * scale, 15)
    sharp = scene[:, 20 : 20 + h, 20 : 20 + w]
    if network.boundary == "wrap":  # as a camera sees it: beyond the frame the scene goes on
        blurred = np.stack([convolve(c, kernel, "edge") for c in scene])[:, 20 : 20 + h, 20 : 20 + w]
        noise = 1 / 255  # what the extension cannot know counts as noise
    else:
        noise = 0.0
        blurred = np.stack([convolve(c, kernel, "wrap") for c in sharp])
    lr = torch.from_numpy(np.round(blurred[:, ::scale, ::scale] * 255) / 255)[None].float()
    result = network(
        lr=lr, kernel=torch.from_numpy(kernel)[None, None].float(), scale=scale, noise_level=level(noise).float()
    ).sr
    assert result.dtype == torch.float32
    assert result.shape == (1, 3, h, w)
    border = 4 * scale if network.boundary == "wrap" else 0
    inside = (slice(None), slice(border, h - border), slice(border, w - border))
    before, after = (np.mean((x - sharp)[inside] ** 2) for x in (blurred, result[0].double().numpy()))
    assert after < 0.85 * before


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_wiener_keeps_a_photograph_with_less_noise_than_stated(scale: int) -> None:
    """Blurred more than by the kernel: high frequencies have next to nothing, not even the noise."""
    image = photograph(64, 64, 0).transpose(2, 0, 1) / 255.0
    y = torch.from_numpy(np.stack([convolve(c, gaussian(3.0, 25), "edge") for c in image]))[None].float()
    kernel = torch.from_numpy(gaussian(1.0, 9))[None, None].float()
    found = Wiener(boundary="wrap")(lr=y, kernel=kernel, scale=scale, noise_level=level(4 / 255).float()).sr
    assert (found.std() / y.std()).item() == pytest.approx(1, abs=0.05)


def test_wrap_keeps_the_border_quiet() -> None:
    """A ramp, blurred with its scene: as a circular image it has a step at the border, which rings."""
    ramp = np.tile(np.linspace(0, 1, 80), (60, 1))
    kernel = gaussian(2.0, 13)
    y = torch.from_numpy(convolve(ramp, kernel, "edge"))[None, None]
    arguments = {"lr": y, "kernel": torch.from_numpy(kernel)[None, None], "scale": 1, "noise_level": level(0.0)}
    for method in (Wiener, RichardsonLucy):
        errors = {
            boundary: np.abs(method(boundary=boundary)(**arguments).sr[0, 0].numpy() - ramp)[5:-5, 5:-5].max()
            for boundary in ("circular", "wrap")
        }
        assert errors["wrap"] < 0.5 * errors["circular"], method


def test_kernels_larger_than_the_image_and_flat_images() -> None:
    flat = torch.full((1, 3, 5, 4), 0.25)
    kernel = torch.from_numpy(gaussian(3.0, 25))[None, None].float()
    for network in (Wiener(), RichardsonLucy(), Wiener(boundary="wrap"), RichardsonLucy(boundary="wrap")):
        for scale in (1, 2, 3, 4):
            result = network(lr=flat, kernel=kernel, scale=scale, noise_level=level(0.01).float()).sr
            assert torch.allclose(result, torch.full_like(result, 0.25), atol=1e-5), (network, scale)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="balance is 0, expected a positive factor"):
        Wiener(balance=0)
    with pytest.raises(ValueError, match="iterations is 0, expected at least 1"):
        RichardsonLucy(iterations=0)
    with pytest.raises(ValueError, match="boundary is 'mirror', expected circular or wrap"):
        Wiener(boundary="mirror")  # type: ignore[arg-type]
    lr, kernel = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 1, 1)
    with pytest.raises(ValueError, match="scale is 5, expected 1, 2, 3 or 4"):
        Wiener()(lr=lr, kernel=kernel, scale=5, noise_level=level(0.0))
