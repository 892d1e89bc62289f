"""Dark channel deblurring as a whole, on photographs; its steps have tests of their own."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from torch import Tensor

from lightning_modules.metrics.kernel_error import kernel_error
from networks import dark_channel
from networks.dark_channel import DarkChannel, deconvolve, estimate_kernel, kernel_sizes, shrink
from networks.ops.kernel_estimation import delta
from networks.ops.l0_deconvolution import bilateral_filter, l0_deconvolution, tv_deconvolution
from networks.ops.resize import bicubic_resize
from networks.ops.wraparound import wrap_extend
from tests.helpers.references import convolve
from tests.networks.ops.test_kernel_estimation import motion


@dataclass
class Photograph:
    sharp: Tensor  # [1, C, h, w]
    blurred: Tensor
    kernel: Tensor  # [1, 1, k, k]


def blurred_photograph(name: str, size: int) -> Photograph:
    """A part of a photograph, blurred by a bent stroke, with the border repeated, in 8 bit."""
    image = getattr(skimage.data, name)()
    crop = {"camera": np.s_[60:188, 160:288], "astronaut": np.s_[:140, 150:290]}[name]
    sharp = (image if image.ndim == 3 else image[..., None])[crop].transpose(2, 0, 1) / 255.0
    kernel = motion(size)
    blurred = np.stack([convolve(channel, kernel.numpy(), "edge") for channel in sharp])
    tensors = (torch.from_numpy(x)[None].float() for x in (sharp, np.round(255 * blurred) / 255))
    return Photograph(*tensors, kernel=kernel[None, None])


def best_psnr(x: Tensor, sharp: Tensor, reach: int = 6, border: int = 12) -> float:
    """Away from the border, after the best shift by whole pixels: a kernel is known up to a shift only."""
    h, w = sharp.shape[-2:]
    inside = sharp[..., border:-border, border:-border]
    steps = range(-reach, reach + 1)
    errors = [
        (x[..., border + dy : h - border + dy, border + dx : w - border + dx] - inside).square().mean().item()
        for dy in steps
        for dx in steps
    ]
    return -10 * np.log10(min(errors))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "true_size", "kernel_size"), [("camera", 15, 15), ("astronaut", 17, 21)])
def test_finds_the_kernel_and_deblurs(name: str, true_size: int, kernel_size: int) -> None:
    """Measured: 22.67 to 27.54 dB and a kernel error of 0.030 for camera; 23.11 to 27.69 dB, 0.032 for astronaut, or to
    26.04 dB with two threads: the alternation enlarges differences of rounding.
    """
    photograph = blurred_photograph(name, true_size)
    result = DarkChannel(scale=1, kernel_size=kernel_size)(lr=photograph.blurred)
    assert result.kernel is not None
    assert result.deblurred is result.sr or torch.equal(result.deblurred, result.sr)
    before = best_psnr(photograph.blurred, photograph.sharp)
    assert best_psnr(result.sr, photograph.sharp) > before + 2
    assert result.kernel.shape == (1, 1, kernel_size, kernel_size)
    assert result.kernel.min() >= 0
    assert result.kernel.sum() == pytest.approx(1, abs=1e-6)
    blind = kernel_error(delta(kernel_size)[None, None], photograph.kernel)
    assert kernel_error(result.kernel, photograph.kernel) < 0.2 * blind


def test_batch_scale_and_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image by itself, gray weights for the kernel only, enlargement last.

    With kernels that are given: the alternation that finds them enlarges a difference of one rounding to 0.7.
    """
    grays: list[Tensor] = []

    def given(gray: Tensor, kernel_size: int, *_: float) -> Tensor:
        grays.append(gray)
        return motion(kernel_size) if gray.mean() > threshold else delta(kernel_size)

    monkeypatch.setattr(dark_channel, "estimate_kernel", given)
    photograph = blurred_photograph("astronaut", 7).blurred.double()
    lr = torch.cat([photograph[..., 20:71, 30:77], photograph[..., 60:111, 60:107]])
    expected = 0.2989 * lr[:, 0] + 0.587 * lr[:, 1] + 0.114 * lr[:, 2]
    threshold = expected.mean(dim=(1, 2)).mean()
    together = DarkChannel(scale=3, kernel_size=7)(lr=lr)
    assert torch.allclose(torch.stack(grays), expected, atol=1e-7)
    assert together.deblurred is not None
    assert together.kernel is not None
    assert together.deblurred.shape == (2, 3, 51, 47)
    assert torch.equal(together.sr, bicubic_resize(together.deblurred, 3))
    assert not torch.allclose(together.kernel[1], together.kernel[0], atol=1e-3)
    for i in (0, 1):
        alone = DarkChannel(scale=1, kernel_size=7)(lr=lr[i : i + 1])
        assert torch.allclose(alone.sr, together.deblurred[i], atol=1e-9)
        assert alone.kernel is not None
        assert torch.equal(alone.kernel[0], together.kernel[i])
    of_gray = DarkChannel(scale=1, kernel_size=7)(lr=expected[:, None])
    assert of_gray.sr.shape == (2, 1, 51, 47)
    assert torch.allclose(torch.stack(grays[-2:]), expected, atol=1e-12)


def test_ringing_is_what_total_variation_adds() -> None:
    """Twice the weight takes off twice as much; all of it brings the image close to that of the L0 prior."""
    photograph = blurred_photograph("camera", 9)
    image, kernel = photograph.blurred[0, :, :60, :70], photograph.kernel[0, 0]
    none, half, full = (deconvolve(image, kernel, 3e-3, 5e-4, weight) for weight in (0.0, 0.5, 1.0))
    extended = wrap_extend(image[None], (72, 80))[0]  # fast sizes of at least 60 + 8 and 70 + 8
    sparse = l0_deconvolution(extended, kernel, 5e-4)[:, :60, :70]
    assert torch.allclose(none, tv_deconvolution(extended, kernel, 3e-3)[:, :60, :70], atol=1e-6)
    assert torch.allclose(half, (none + full) / 2, atol=1e-6)
    assert torch.allclose(full, none - bilateral_filter(none - sparse, 3, 0.1), atol=1e-6)
    assert (full - sparse).square().mean() < 0.8 * (none - sparse).square().mean()


def test_options_do_what_they_say() -> None:
    lr = blurred_photograph("camera", 7).blurred[..., 20:71, 30:77]
    options = {"scale": 1, "kernel_size": 7}
    usual = DarkChannel(**options)(lr=lr)
    assert usual.kernel is not None
    for change in ({"lambda_dark": 0.0}, {"lambda_grad": 1e-3}):
        other = DarkChannel(**options, **change)(lr=lr)
        assert other.kernel is not None
        assert (other.kernel - usual.kernel).abs().max() > 1e-3, change
    for change in ({"lambda_tv": 1e-2}, {"lambda_l0": 2e-3}, {"weight_ring": 0.0}):
        other = DarkChannel(**options, **change)(lr=lr)
        assert torch.equal(other.kernel, usual.kernel), change
        assert (other.sr - usual.sr).abs().max() > 1e-3, change


def test_flat_image_comes_back() -> None:
    lr = torch.full((1, 3, 40, 45), 0.4)
    result = DarkChannel(scale=2, kernel_size=9)(lr=lr)
    assert torch.allclose(result.sr, torch.full((1, 3, 80, 90), 0.4), atol=1e-5)
    assert torch.equal(result.kernel, delta(9)[None, None].float())


def test_smallest_image() -> None:
    for kernel_size in (3, 9):
        gray = torch.rand(2 * kernel_size, 2 * kernel_size + 5)
        assert estimate_kernel(gray, kernel_size, 4e-3, 4e-3).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="an image of 50x41 is too small to find a kernel of 21x21"):
        DarkChannel(kernel_size=21)(lr=torch.rand(1, 3, 41, 50))


def test_pyramid() -> None:
    assert kernel_sizes(21) == [21, 15, 11, 9, 7]
    assert kernel_sizes(27) == [27, 21, 15, 11, 7]
    assert kernel_sizes(3) == [3]


@pytest.mark.parametrize(("ratio", "radius"), [(0.5**0.5, 1), (0.5, 2), (0.25, 3)])
def test_shrink_with_scipy(ratio: float, radius: int) -> None:
    """A Gaussian of 1/(2 ratio) pixels and linear interpolation; `radius` is where 5 % of it are left outside."""
    image = np.random.default_rng(0).random((40, 31))
    taps = np.exp(-0.5 * (2 * ratio * np.arange(-radius, radius + 1)) ** 2)
    smooth = image
    for axis in (0, 1):
        smooth = scipy.ndimage.convolve1d(smooth, taps / taps.sum(), axis)
    smooth = smooth[radius:-radius, radius:-radius]
    axes = [np.arange(0, n - 1 + 1e-6, 1 / ratio) for n in smooth.shape]
    expected = scipy.ndimage.map_coordinates(smooth, np.meshgrid(*axes, indexing="ij"), order=1)
    result = shrink(torch.from_numpy(image), ratio).numpy()
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() < 1e-12


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="kernel_size is 20, expected an odd number"):
        DarkChannel(kernel_size=20)
    with pytest.raises(ValueError, match="lambda_tv is 0, expected a positive weight"):
        DarkChannel(9, lambda_tv=0)
    with pytest.raises(ValueError, match="weight_ring is -1, expected a weight of at least 0"):
        DarkChannel(9, weight_ring=-1)
    with pytest.raises(ValueError, match="lr has 4 channels, expected 1 or 3"):
        DarkChannel(9)(lr=torch.rand(1, 4, 50, 50))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float) -> None:
    lr = torch.rand(1, 3, 40, 40)
    lr[0, 0, 3, 4] = value
    with pytest.raises(ValueError, match="lr has values that are not finite"):
        DarkChannel(scale=1, kernel_size=5)(lr=lr)
