"""PSNR and SSIM against references written independently in NumPy, SciPy and scikit-image, and against hand values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import luma, psnr, ssim, to_eight_bit

Array = NDArray[np.float64]
ROUNDINGS: Any = ("round", "truncate", "none")
DB = 2e-6  # torchmetrics' constants are float32
PROTOCOLS = [Protocol(f"{c}{s}{r}", c, s, r) for c in ("y", "rgb") for s in (0, 4, 6) for r in ROUNDINGS]


def reference_levels(picture: Tensor, protocol: Protocol) -> Array:
    """[C,H,W] -> [H,W,C] in 0...255 as the protocol says, written apart from the code under test."""
    levels = 255.0 * picture.to(torch.float64).numpy().transpose(1, 2, 0)
    whole = protocol.rounding != "none"
    if whole:
        levels = np.trunc(np.clip(levels, 0, 255) + (0.5 if protocol.rounding == "round" else 0))
    if protocol.colour == "y" and levels.shape[2] == 3:
        levels = 16 + levels @ np.array([[65.481], [128.553], [24.966]]) / 255
        levels = np.trunc(levels + 0.5 + 1e-9) if whole else levels  # halves up despite decimal weights
    border = int(protocol.shave)
    return levels[border : levels.shape[0] - border, border : levels.shape[1] - border]


def reference_psnr(restored: Tensor, hr: Tensor, protocol: Protocol) -> float:
    error = reference_levels(restored, protocol) - reference_levels(hr, protocol)
    return 10 * math.log10(255**2 / float(np.mean(error**2)))


def reference_ssim(restored: Tensor, hr: Tensor, protocol: Protocol) -> float:
    one, other = reference_levels(restored, protocol), reference_levels(hr, protocol)
    scores = [
        structural_similarity(
            one[..., channel],
            other[..., channel],
            gaussian_weights=True,  # cut off after 3.5 sigma, which makes the window 11x11
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )  # the mean leaves out the 5 border pixels whose windows are not whole
        for channel in range(one.shape[2])
    ]
    return float(np.mean(scores))


def loop_ssim(one: Array, other: Array) -> float:
    """Equation 13 of Wang et al. as it stands, window by window, with variances of centred values."""
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()
    scores = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            a, b = (plane[top : top + 11, left : left + 11] for plane in (one, other))
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            scores.append(
                (2 * ma * mb + 6.5025) * (2 * cov + 58.5225) / ((ma**2 + mb**2 + 6.5025) * (va + vb + 58.5225))
            )
    return float(np.mean(scores))


def test_ssim_is_that_of_torchmetrics_where_windows_are_whole() -> None:
    restored, hr = (images.double() * 255 for images in pictures(2, 3, 29, 37))
    maps: Any = structural_similarity_index_measure(restored, hr, data_range=255.0, return_full_image=True)[1]
    wanted = maps[..., 5:-5, 5:-5].mean((1, 2, 3))
    found = ssim(restored / 255, hr / 255, Protocol("p", "rgb", 0, "none"))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)


def pictures(batch: int, channels: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth structure and noise, every picture of the batch different and differently well restored."""
    generator = np.random.default_rng(seed)
    hr = generator.random((batch, channels, height, width))
    hr = 0.5 * hr + 0.5 * np.stack([[convolve2d(p, np.full((7, 7), 1 / 49), "same") for p in image] for image in hr])
    noise = generator.normal(size=hr.shape) * np.linspace(0.02, 0.2, batch).reshape(-1, 1, 1, 1)
    return torch.from_numpy(np.clip(hr + noise, 0, 1)).float(), torch.from_numpy(hr).float()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_both_equal_the_references(protocol: Protocol, channels: int) -> None:
    restored, hr = pictures(3, channels, 37, 31)
    wanted = [reference_psnr(one, other, protocol) for one, other in zip(restored, hr, strict=True)]
    np.testing.assert_allclose(psnr(restored, hr, protocol), wanted, rtol=0, atol=DB)
    wanted = [reference_ssim(one, other, protocol) for one, other in zip(restored, hr, strict=True)]
    np.testing.assert_allclose(ssim(restored, hr, protocol), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("protocol", [PROTOCOLS[0], PROTOCOLS[5], PROTOCOLS[-1]], ids=lambda protocol: protocol.name)
def test_ssim_equals_the_equation_window_by_window(protocol: Protocol) -> None:
    restored, hr = pictures(2, 3, 31, 37, seed=3)
    for index in range(2):
        one, other = reference_levels(restored[index], protocol), reference_levels(hr[index], protocol)
        wanted = np.mean([loop_ssim(one[..., c], other[..., c]) for c in range(one.shape[2])])
        assert ssim(restored, hr, protocol)[index].item() == pytest.approx(wanted, abs=1e-9)


def test_ssim_of_one_window() -> None:
    restored, hr = pictures(1, 1, 11, 11)
    protocol = Protocol("p", "y", 0)
    wanted = loop_ssim(reference_levels(restored[0], protocol)[..., 0], reference_levels(hr[0], protocol)[..., 0])
    assert ssim(restored, hr, protocol).item() == pytest.approx(wanted, abs=1e-9)


def test_ssim_of_flat_pictures_by_hand() -> None:
    """Without variance only the first factor is left: (2*100*110 + C1) / (100² + 110² + C1)."""
    flat = torch.ones(1, 3, 20, 24)
    value = ssim(flat * (100 / 255), flat * (110 / 255), Protocol("p", "rgb", 2)).item()
    assert value == pytest.approx((22000 + 6.5025) / (22100 + 6.5025), abs=1e-9)


@pytest.mark.parametrize(("steps", "decibels"), [(1, 48.130804), (2, 42.110204), (10, 28.130804), (255, 0.0)])
def test_psnr_of_a_constant_offset_by_hand(steps: int, decibels: float) -> None:
    hr = torch.zeros(1, 3, 8, 8)
    for rounding in ROUNDINGS:
        assert psnr(hr + steps / 255, hr, Protocol("p", "rgb", 0, rounding)).item() == pytest.approx(decibels, abs=1e-4)


def test_psnr_pools_pixels_and_channels_of_one_picture() -> None:
    """One of 3 x 4 x 4 values is off by 48 levels: the mean square is 48² / 48 = 48."""
    hr = torch.zeros(1, 3, 4, 4)
    restored = hr.clone()
    restored[0, 1, 2, 3] = 48 / 255
    assert psnr(restored, hr, Protocol("p", "rgb", 0)).item() == pytest.approx(10 * math.log10(65025 / 48), abs=DB)


def test_mean_of_psnrs_is_not_psnr_of_the_pooled_error() -> None:
    hr = torch.zeros(2, 1, 4, 4)
    values = psnr(hr + torch.tensor([1.0, 10.0]).view(2, 1, 1, 1) / 255, hr, Protocol("p", "y", 0))
    assert values.mean().item() == pytest.approx((48.130804 + 28.130804) / 2, abs=1e-4)
    assert abs(values.mean().item() - 10 * math.log10(65025 / 50.5)) > 5


def test_shaving_removes_exactly_the_border() -> None:
    hr = torch.rand(1, 3, 24, 25, generator=torch.Generator().manual_seed(0))
    restored = hr.clone()
    restored[..., :4, :] = restored[..., -4:, :] = 0
    restored[..., :, :4] = restored[..., :, -4:] = 0
    assert psnr(restored, hr, Protocol("p", "rgb", 4)).item() == math.inf
    assert ssim(restored, hr, Protocol("p", "rgb", 4)).item() == pytest.approx(1, abs=1e-12)
    assert psnr(restored, hr, Protocol("p", "rgb", 3)).item() < 40
    assert ssim(restored, hr, Protocol("p", "rgb", 3)).item() < 0.9995


@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_identical_pictures(colour: Any) -> None:
    restored, _ = pictures(2, 3, 20, 20)
    assert psnr(restored, restored, Protocol("p", colour, 0)).tolist() == [math.inf, math.inf]
    assert ssim(restored, restored, Protocol("p", colour, 0)).tolist() == pytest.approx([1, 1], abs=1e-12)


def test_rounding_decides() -> None:
    """0.4 levels of difference vanish in 8 bit on both sides, and 0.6 become 1, or vanish as well if cut off."""
    hr = torch.full((1, 1, 12, 12), 100 / 255)
    rounded, cut, exact = (Protocol("p", "y", 0, rounding) for rounding in ROUNDINGS)
    assert psnr(hr + 0.99 / 255, hr, cut).item() == math.inf
    assert psnr(hr - 0.01 / 255, hr, cut).item() == pytest.approx(48.130804, abs=1e-4)
    assert psnr(hr + 0.4 / 255, hr, rounded).item() == math.inf
    assert psnr(hr, hr + 0.4 / 255, rounded).item() == math.inf
    assert psnr(hr + 0.6 / 255, hr, rounded).item() == pytest.approx(48.130804, abs=1e-4)
    assert psnr(hr + 0.4 / 255, hr, exact).item() == pytest.approx(48.130804 - 20 * math.log10(0.4), abs=1e-3)


def test_clipping_belongs_to_eight_bit() -> None:
    hr = torch.ones(1, 3, 8, 8)
    assert psnr(hr + 0.5, hr, Protocol("p", "rgb", 0)).item() == math.inf
    assert psnr(hr + 0.5, hr, Protocol("p", "rgb", 0, "truncate")).item() == math.inf
    assert psnr(hr + 0.5, hr, Protocol("p", "rgb", 0, "none")).item() == pytest.approx(6.0206, abs=1e-4)


def test_to_eight_bit_clips_and_rounds_halves_up() -> None:
    levels = torch.tensor([-0.2, 0.0, 0.5, 1.5, 2.49, 2.5, 254.4, 254.6, 255.0, 400.0, math.nan], dtype=torch.float64)
    result = to_eight_bit(levels / 255)
    assert result.dtype == torch.uint8
    assert result.tolist() == [0, 0, 1, 2, 2, 3, 254, 255, 255, 255, 0]


def test_every_eight_bit_level_survives_float32() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_eight_bit(levels.float() / 255), levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rounding", ROUNDINGS[:2])
def test_every_eight_bit_level_survives_in_the_figures(rounding: Any, dtype: torch.dtype) -> None:
    """Against 0 the PSNR shows the level; also if devices multiply by 1 / 255 instead of dividing."""
    levels = torch.arange(1, 256).view(-1, 1, 1, 1).expand(-1, 1, 12, 12)
    protocol = Protocol("p", "y", 0, rounding)
    wanted = 20 * torch.log10(255 / torch.arange(1, 256).double())
    for values in (levels.to(dtype) / 255, levels.to(dtype) * (torch.ones((), dtype=dtype) / 255)):
        torch.testing.assert_close(psnr(values, torch.zeros_like(values), protocol), wanted, rtol=0, atol=DB)


@pytest.mark.parametrize(
    ("colour", "exact", "rounded"),
    [
        ((255, 0, 0), 81.481, 81),
        ((0, 255, 0), 144.553, 145),
        ((0, 0, 255), 40.966, 41),
        ((255, 255, 255), 235, 235),
        ((0, 0, 0), 16, 16),
    ],
)
def test_luma_by_hand(colour: tuple[int, int, int], exact: float, rounded: int) -> None:
    picture = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 2, 5)
    assert luma(picture).shape == (1, 1, 2, 5)
    assert luma(picture).unique().tolist() == pytest.approx([exact], abs=1e-9)
    # Against black, whose luma is 16, the PSNR shows the rounded luma.
    if rounded > 16:
        value = psnr(picture / 255, torch.zeros(1, 3, 2, 5), Protocol("p", "y", 0)).item()
        assert value == pytest.approx(20 * math.log10(255 / (rounded - 16)), abs=DB)


def test_luma_halves_are_exact() -> None:
    """Wherever 299 R + 587 G + 114 B is 1000 times 255/6, 3 * 255/6 or 5 * 255/6, the luma ends in exactly .5."""
    red, green = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    found = 0
    for total in (42500, 127500, 212500):
        rest = total - 299 * red - 587 * green
        halves = (rest >= 0) & (rest <= 114 * 255) & (rest % 114 == 0)
        colours = torch.stack([red[halves], green[halves], rest[halves] // 114]).unsqueeze(-1)
        assert luma(colours).unique().tolist() == [16 + 219 * total / 255000]
        found += int(halves.sum())
    assert found > 100


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_a_batch_equals_one_by_one(metric: Any, colour: Any) -> None:
    restored, hr = pictures(4, 3, 23, 29)
    together = metric(restored, hr, Protocol("p", colour, 3))
    alone = torch.cat([metric(restored[i : i + 1], hr[i : i + 1], Protocol("p", colour, 3)) for i in range(4)])
    assert together.shape == (4,)
    assert torch.equal(together, alone)
    assert together.unique().numel() == 4
    assert metric(restored[:0], hr[:0], Protocol("p", colour, 3)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_is_computed_in_float64(dtype: torch.dtype) -> None:
    restored, hr = (picture.to(dtype) for picture in pictures(2, 3, 20, 20))
    protocol = Protocol("p", "y", 2)
    assert psnr(restored, hr, protocol).dtype == ssim(restored, hr, protocol).dtype == torch.float64
    assert torch.equal(psnr(restored, hr, protocol), psnr(restored.double(), hr.double(), protocol))
    assert torch.equal(ssim(restored, hr, protocol), ssim(restored.double(), hr.double(), protocol))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_cuda_gives_the_same(metric: Any) -> None:
    restored, hr = pictures(2, 3, 37, 31)
    on_device = metric(restored.cuda(), hr.cuda(), Protocol("p", "y", 4))
    assert on_device.is_cuda
    np.testing.assert_allclose(on_device.cpu(), metric(restored, hr, Protocol("p", "y", 4)), rtol=0, atol=1e-9)


def test_nan_shows_and_no_gradient_is_kept() -> None:
    restored, hr = pictures(2, 3, 20, 20)
    restored[0, 0, 10, 10] = math.nan
    for metric in (psnr, ssim):
        values = metric(restored.clone().requires_grad_(), hr, Protocol("p", "rgb", 0))
        assert values.isnan().tolist() == [True, False]
        assert not values.requires_grad


def test_sizes_that_cannot_be_measured() -> None:
    protocol = Protocol("bench", "y", 4)
    with pytest.raises(ValueError, match=r"18x40 .* keep 10x32 .*bench shaves 4.* at least 11x11"):
        ssim(torch.zeros(1, 3, 18, 40), torch.zeros(1, 3, 18, 40), protocol)
    with pytest.raises(ValueError, match=r"8x40 .* keep 0x32"):
        psnr(torch.zeros(1, 3, 8, 40), torch.zeros(1, 3, 8, 40), protocol)
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"\[1, 3, 40, 40\] and hr \[1, 3, 40, 41\] differ"):
            metric(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 41), protocol)
        with pytest.raises(ValueError, match=r"got \[1, 2, 40, 40\]"):
            metric(torch.zeros(1, 2, 40, 40), torch.zeros(1, 2, 40, 40), protocol)
        with pytest.raises(ValueError, match="uint8"):
            metric(torch.zeros(1, 3, 40, 40, dtype=torch.uint8), torch.zeros(1, 3, 40, 40), protocol)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_gray_files_are_luma_already(rounding: Any) -> None:
    """Three equal channels count as the one that they are; the luma of others has the same range, 0...255."""
    generator = torch.Generator().manual_seed(3)
    truth, restored = torch.rand(2, 1, 1, 24, 26, generator=generator)
    three, other = truth.expand(1, 3, 24, 26), restored.expand(1, 3, 24, 26)
    one_channel = Protocol("p", "y", "s", rounding)
    gray = one_channel.at(2, gray=True)
    assert gray == Protocol("p", "gray", 2, rounding)
    for metric in (psnr, ssim):
        expected = metric(restored, truth, one_channel.at(2))
        assert metric(other, three, gray).item() == pytest.approx(expected.item(), abs=1e-9)
        squeezed = metric(other, three, Protocol("p", "y_of_rgb", "s", rounding).at(2, gray=True))
        assert squeezed.item() == metric(other, three, one_channel.at(2)).item()
        assert squeezed.item() > expected.item() + (1.2 if metric is psnr else 0)
    for colour in ("rgb", "y_of_rgb"):
        unchanged = Protocol("p", colour, 0)  # type: ignore[arg-type]  # words of the loop
        assert unchanged.at(2, gray=True) == unchanged
    coloured = torch.rand(1, 3, 24, 26, dtype=torch.float64, generator=generator)
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64).view(3, 1, 1)
    by_hand = (coloured * weights).sum(1, keepdim=True) / 219
    found = psnr(coloured, three.double(), Protocol("p", "gray", 0, "none"))
    assert found.item() == pytest.approx(psnr(by_hand, truth.double(), Protocol("p", "y", 0, "none")).item(), abs=1e-9)


def test_full_range_luma_keeps_every_gray_level() -> None:
    levels = torch.arange(256, dtype=torch.float64).view(1, 16, 16)
    assert torch.equal(luma(levels.expand(3, 16, 16), full_range=True), levels)
