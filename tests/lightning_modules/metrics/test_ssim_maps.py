"""The volume SSIM against an independent float64 implementation on scipy.ndimage, and hand values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate
from torch import Tensor

from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, ssim
from lightning_modules.metrics.ssim_maps import channel_ssim, volume_ssim

Array = NDArray[np.float64]


def reference(one: Array, other: Array) -> float:
    """H x W x C or H x W arrays in 0...255; one dense window of 11 taps an axis, edge values beyond the borders."""
    axes = np.meshgrid(*[np.arange(-5, 6)] * one.ndim, indexing="ij")
    window = np.exp(-sum(axis.astype(float) ** 2 for axis in axes) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: Array) -> Array:
        return correlate(values, window, mode="nearest")

    mx, my = mean(one), mean(other)
    vx, vy, cov = mean(one**2) - mx**2, mean(other**2) - my**2, mean(one * other) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


def pair(channels: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures [C,H,W] whose channels differ, in 0...255, float64."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(0.3 * y + 0.2 * x * (c + 1) + c) for c in range(channels)])
    one = 127 + 80 * waves + random.normal(0, 10, waves.shape)
    other = np.clip(one + random.normal(0, 25, waves.shape), 0, 255)
    return torch.from_numpy(np.clip(one, 0, 255)), torch.from_numpy(other)


@pytest.mark.parametrize(("height", "width"), [(37, 31), (16, 45), (11, 11), (5, 8), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_volume_form_equals_the_reference(channels: int, height: int, width: int) -> None:
    one, other = pair(channels, height, width, seed=height)
    arrays = [picture.numpy().transpose(1, 2, 0) for picture in (one, other)]
    if channels == 1:
        arrays = [array[..., 0] for array in arrays]
    assert volume_ssim(one, other).item() == pytest.approx(reference(*arrays), abs=1e-10)


def test_the_order_of_channels_counts() -> None:
    """Green is nearer to red than blue is: a volume, not three planes."""
    one, other = pair(3, 32, 32)
    swapped = volume_ssim(one[[1, 0, 2]], other[[1, 0, 2]]).item()
    assert abs(swapped - volume_ssim(one, other).item()) > 1e-4
    assert channel_ssim(one[[1, 0, 2]], other[[1, 0, 2]]).item() == pytest.approx(channel_ssim(one, other).item())


def test_flat_pictures_by_hand() -> None:
    flat = torch.ones(3, 9, 14, dtype=torch.float64)
    wanted = (2 * 100 * 110 + 6.5025) / (100**2 + 110**2 + 6.5025)
    assert volume_ssim(100 * flat, 110 * flat).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_protocols_choose_the_form(colour: str) -> None:
    """Of a batch, shaved and truncated, as GFN and SRN measure."""
    pairs = [pair(3, 40, 33, seed=seed) for seed in (1, 2)]
    hr, restored = (torch.stack([found[i] for found in pairs]) / 255 for i in (0, 1))
    volume = Protocol("p", colour, 6, "truncate", "volume")  # type: ignore[arg-type]  # a word of the parameters
    values = ssim(restored, hr, volume)
    for i in range(2):
        arrays = [np.floor(x[i].numpy().transpose(1, 2, 0)[6:-6, 6:-6] * 255) for x in (restored, hr)]
        if colour == "y":
            weights = np.array([65.481, 128.553, 24.966]) / 255
            arrays = [np.floor(16 + array @ weights + 0.5 + 1e-9) for array in arrays]
        assert values[i].item() == pytest.approx(reference(*arrays), abs=1e-10)
    plain = Protocol("p", colour, 6, "truncate")  # type: ignore[arg-type]
    assert torch.equal(psnr(restored, hr, volume), psnr(restored, hr, plain))
    assert (ssim(restored, hr, plain) - values).abs().min() > 1e-3


def test_small_pictures() -> None:
    """Whole windows need 11 pixels, the volume form one."""
    hr = torch.rand(2, 3, 7, 20, generator=torch.Generator().manual_seed(0))
    assert ssim(hr, hr, Protocol("p", "rgb", 0, ssim="volume")).tolist() == pytest.approx([1, 1], abs=1e-12)
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(hr, hr, Protocol("p", "rgb", 0))
