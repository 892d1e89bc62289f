import numpy as np
import pytest
import torch
import torch.nn.functional as F

from networks.ops.resize import bicubic_resize, symmetric_pad
from tests.helpers.references import imresize


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize("size", [(37, 31), (24, 36), (5, 3)])
def test_equals_imresize_borders_included(scale: int, down: bool, size: tuple[int, int]) -> None:
    image = np.random.default_rng(scale).random((*size, 3))
    expected = imresize(image, 1 / scale if down else scale)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        result = bicubic_resize(tensor.to(dtype), scale, down=down)[0].permute(1, 2, 0)
        assert result.shape == expected.shape
        assert result.dtype == dtype
        assert np.abs(result.double().numpy() - expected).max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_of_a_batch_is_resized_by_itself(channels: int) -> None:
    images = torch.rand(3, channels, 13, 9, dtype=torch.float64)
    together = bicubic_resize(images, 4)
    assert torch.equal(together, torch.cat([bicubic_resize(images[i : i + 1], 4) for i in range(3)]))


def test_hand_computed_impulse() -> None:
    """The two phases of x2: weights of the cubic (a = -0.5) at distances 0.25, 0.75, 1.25, 1.75."""
    line = torch.zeros(1, 1, 1, 9, dtype=torch.float64)
    line[..., 4] = 1
    expected = torch.tensor(
        [-0.0234375, -0.0703125, 0.2265625, 0.8671875, 0.8671875, 0.2265625, -0.0703125, -0.0234375]
    )
    assert torch.allclose(bicubic_resize(line, 2)[0, 0, 0, 5:13], expected.double(), atol=1e-15)


def test_agrees_with_torch_inside() -> None:
    images = torch.rand(1, 3, 64, 48, dtype=torch.float64)
    theirs = F.interpolate(images, scale_factor=0.25, mode="bicubic", antialias=True)
    assert torch.allclose(bicubic_resize(images, 4, down=True)[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-12)


def test_symmetric_pad_goes_on_over_several_periods() -> None:
    line = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    padded = symmetric_pad(line, 7, 5, 3).flatten().tolist()
    assert padded == [1, 1, 2, 3, 3, 2, 1, 1, 2, 3, 3, 2, 1, 1, 2]


@pytest.mark.parametrize("scale", [0, -2, 1.5, True])
def test_scale_that_is_no_positive_integer(scale: float) -> None:
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        bicubic_resize(torch.zeros(1, 1, 4, 4), scale)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scale", "down"), [(2, True), (4, True), (2, False), (3, False), (4, False)])
def test_a_gray_image_does_not_depend_on_its_batch(scale: int, down: bool) -> None:
    images = torch.rand(3, 1, 12, 24)
    alone = torch.cat([bicubic_resize(image[None], scale, down=down) for image in images])
    assert torch.equal(bicubic_resize(images, scale, down=down), alone)


@pytest.mark.parametrize("down", [True, False])
def test_autocast_does_not_reach_in(down: bool) -> None:
    images = torch.rand(2, 3, 8, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = bicubic_resize(images, 2, down=down)
    assert torch.equal(found, bicubic_resize(images, 2, down=down))
