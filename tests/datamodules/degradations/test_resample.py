"""Decimation and the kernels that align it with bicubic reduction."""

import numpy as np
import pytest
import torch

from datamodules.degradations.blur import blur_decimate, convolve
from datamodules.degradations.resample import bicubic_kernel, decimate
from tests.helpers import references


def test_decimation_keeps_the_upper_left_pixel() -> None:
    image = torch.arange(35.0).view(1, 1, 5, 7)
    assert decimate(image, 3).flatten().tolist() == [0, 3, 6, 21, 24, 27]
    assert decimate(image, 1) is not None
    assert torch.equal(decimate(image, 1), image)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 1] = 1
    assert torch.equal(blur_decimate(image, kernel, 3), decimate(image, 3))


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
