import kornia.color
import numpy as np
import pytest
import torch

from networks.ops.luma import luma, replace_luma
from tests.helpers.references import rgb_to_ycbcr, ycbcr_to_rgb


def test_luma_of_known_colours() -> None:
    """rgb2ycbcr in MATLAB: white 235, black 16, red 81.481, green 144.553, blue 40.966."""
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    found = 255 * luma(colours.T.view(1, 3, 1, 5)).flatten()
    assert found.tolist() == pytest.approx([235, 16, 81.481, 144.553, 40.966], abs=1e-9)


def test_luma_is_kornias_in_another_range() -> None:
    """Kornia's Y is that of JPEG, black 0 and white 1."""
    images = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    assert (luma(images) - (16 + 219 * kornia.color.rgb_to_ycbcr(images)[:, :1]) / 255).abs().max() < 1e-14


@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
def test_replaced_as_by_conversion_to_ycbcr_and_back(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    y = torch.rand(2, 1, *size, dtype=torch.float64)
    found = replace_luma(images, y)
    for i in range(2):
        ycbcr = rgb_to_ycbcr(images[i].permute(1, 2, 0).numpy())
        assert np.abs(ycbcr[..., 0] - luma(images)[i, 0].numpy()).max() < 1e-12
        ycbcr[..., 0] = y[i, 0].numpy()
        assert np.abs(ycbcr_to_rgb(ycbcr) - found[i].permute(1, 2, 0).numpy()).max() < 1e-12


def test_the_luma_put_in_is_there() -> None:
    y = torch.rand(2, 1, 9, 5)
    assert (luma(replace_luma(torch.rand(2, 3, 9, 5), y)) - y).abs().max() < 5e-7  # 100 dB below a level of 1/255
    gray = torch.rand(2, 1, 9, 5)
    assert luma(gray) is gray
    assert replace_luma(gray, y) is y


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 4, 2, 2\), expected"):
        luma(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match=r"shape \(3, 2, 2\), expected"):
        replace_luma(torch.zeros(3, 2, 2), torch.zeros(1, 1, 2, 2))
