"""Decimation and the kernels that align it with bicubic reduction."""

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.degradations.blur import blur_decimate, convolve
from datamodules.degradations.kernels import isotropic_gaussian
from datamodules.degradations.resample import bicubic_kernel, bicubic_resize, decimate, modcrop, shift_kernel
from tests.helpers import references


def centre_of_mass(images: Tensor) -> Tensor:
    """(row, column) of the only channel of each image, [B, 2]."""
    rows = torch.arange(images.shape[-2], dtype=images.dtype)
    columns = torch.arange(images.shape[-1], dtype=images.dtype)
    total = images.sum((1, 2, 3))
    return torch.stack([images.sum((1, 3)) @ rows / total, images.sum((1, 2)) @ columns / total], 1)


def test_decimation_keeps_the_upper_left_pixel() -> None:
    image = torch.arange(35.0).view(1, 1, 5, 7)
    assert decimate(image, 3).flatten().tolist() == [0, 3, 6, 21, 24, 27]
    assert decimate(image, 1) is not None
    assert torch.equal(decimate(image, 1), image)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 1] = 1
    assert torch.equal(blur_decimate(image, kernel, 3), decimate(image, 3))


def test_modcrop() -> None:
    image = torch.arange(35.0).view(1, 1, 5, 7)
    assert torch.equal(modcrop(image, 3), image[..., :3, :6])
    assert modcrop(image, 5).shape == (1, 1, 5, 5)
    for multiple in (0, 6):
        with pytest.raises(ValueError, match="multiples of"):
            modcrop(image, multiple)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_shifted_kernel(scale: int) -> None:
    kernels = isotropic_gaussian(torch.tensor([1.0, 1.6], dtype=torch.float64), 25)
    shifted = shift_kernel(kernels, scale)
    assert torch.allclose(shifted.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64), atol=1e-14)
    assert (centre_of_mass(shifted) - (12 - (scale - 1) / 2)).abs().max() < 1e-6
    step, half = divmod(scale - 1, 2)
    moved = kernels.roll((-step, -step), (-2, -1))
    if half:  # between four pixels: their mean
        moved = (moved + moved.roll(-1, -1) + moved.roll(-1, -2) + moved.roll((-1, -1), (-2, -1))) / 4
    assert (shifted - moved).abs()[..., :20, :20].max() < 1e-9
    clamped = shift_kernel(torch.ones(1, 1, 5, 5), scale)  # beyond the edge its value is repeated: a constant stays
    assert torch.allclose(clamped, torch.ones(1, 1, 5, 5))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_and_high_resolution_are_aligned(scale: int) -> None:
    """A blob keeps its place under shifted blur + decimation as under bicubic; unshifted it is (s-1)/2 pixels off."""
    y, x = torch.meshgrid(*[torch.arange(96, dtype=torch.float64)] * 2, indexing="ij")
    blob = torch.exp(-((y - 45.3) ** 2 + (x - 50.8) ** 2) / (2 * 6.0**2))[None, None]
    kernel = isotropic_gaussian(torch.tensor([2.0], dtype=torch.float64), 25)
    bicubic = centre_of_mass(bicubic_resize(blob, scale, down=True))
    aligned = centre_of_mass(blur_decimate(blob, shift_kernel(kernel, scale), scale))
    unshifted = centre_of_mass(blur_decimate(blob, kernel, scale))
    place = (torch.tensor([[45.3, 50.8]], dtype=torch.float64) + 0.5) / scale - 0.5
    assert (aligned - bicubic).abs().max() < 1e-3
    assert (aligned - place).abs().max() < 1e-3
    assert (unshifted - bicubic - (scale - 1) / 2 / scale).abs().max() < 1e-3


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [None, 25])
def test_bicubic_kernel_is_imresize_inside(scale: int, size: int | None) -> None:
    image = torch.rand(1, 1, 72, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kernel = bicubic_kernel(scale, size, dtype=torch.float64)
    assert kernel.shape[-1] == (size or {1: 1, 2: 8, 3: 12, 4: 18}[scale])
    assert abs(kernel.sum() - 1) < 1e-14
    expected = references.imresize(image[0, 0].numpy(), 1 / scale)
    result = blur_decimate(image, kernel, scale)[0, 0].numpy()
    inside = (slice(3, -3), slice(3, -3))
    assert np.abs(result - expected)[inside].max() < 1e-14
    if scale > 1:
        assert np.abs(result - expected).max() > 0.01  # borders wrap round here, imresize mirrors
        off_by_one = convolve(image, kernel.roll(1, -1), "circular")[..., ::scale, ::scale]
        assert np.abs(off_by_one[0, 0].numpy() - expected)[inside].max() > 0.05


def test_bicubic_kernel_that_does_not_fit() -> None:
    for scale, smallest in ((2, 8), (3, 12), (4, 18)):
        with pytest.raises(ValueError, match=f"expected at least {smallest}"):
            bicubic_kernel(scale, smallest - 1)
    for scale in (0, 1.5, True):
        with pytest.raises(ValueError, match="expected an integer >= 1"):
            bicubic_kernel(scale)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected an integer >= 1"):
            decimate(torch.zeros(1, 1, 4, 4), scale)  # type: ignore[arg-type]
