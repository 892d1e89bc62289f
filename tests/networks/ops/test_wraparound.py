"""The wrap-around extension against its defining equations."""

import pytest
import torch

from networks.ops.wraparound import solve_laplace, wrap_extend


def laplacian(x: torch.Tensor) -> torch.Tensor:
    return sum(x.roll(step, dim) for step in (1, -1) for dim in (-2, -1)) - 4 * x


@pytest.mark.parametrize("size", [(3, 3), (4, 9), (12, 7)])
def test_inside_is_the_mean_of_its_neighbours(size: tuple[int, int]) -> None:
    frame = torch.rand(2, 3, *size, dtype=torch.float64)
    filled = solve_laplace(frame)
    assert laplacian(filled)[..., 1:-1, 1:-1].abs().max() < 1e-13
    for edge in ((..., 0, slice(None)), (..., -1, slice(None)), (..., slice(None), 0), (..., slice(None), -1)):
        assert torch.equal(filled[edge], frame[edge])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "extended"), [((13, 9), (20, 15)), ((8, 11), (9, 12)), ((7, 6), (7, 10)), ((6, 7), (9, 7))]
)
def test_extension_is_harmonic_and_periodic(channels: int, size: tuple[int, int], extended: tuple[int, int]) -> None:
    images = torch.rand(2, channels, *size, dtype=torch.float64)
    result = wrap_extend(images, extended)
    assert result.shape == (2, channels, *extended)
    (h, w), (below, right) = size, (extended[0] - size[0], extended[1] - size[1])
    assert torch.equal(result[..., :h, :w], images)
    residual = laplacian(result).abs()  # over the periodic image: the far side of every strip is the image's first line
    for new in (residual[..., h:, 1 : w - 1], residual[..., 1 : h - 1, w:], residual[..., h:, w:]):
        assert new.numel() == 0 or new.max() < 1e-13
    if below:
        t = torch.arange(1, below + 1, dtype=torch.float64) / (below + 1)
        expected = images[..., -1, :1] * (1 - t) + images[..., 0, :1] * t
        assert torch.allclose(result[..., h:, 0], expected, atol=1e-14)
    if right:
        t = torch.arange(1, right + 1, dtype=torch.float64) / (right + 1)
        assert torch.allclose(result[..., 0, w:], images[..., :1, -1] * (1 - t) + images[..., :1, 0] * t, atol=1e-14)


def test_sizes() -> None:
    images = torch.rand(1, 1, 5, 1)
    assert torch.equal(wrap_extend(images, (5, 1)), images)
    assert wrap_extend(images, (8, 4)).shape == (1, 1, 8, 4)
    assert wrap_extend(images.half(), (8, 4)).dtype == torch.float16
    with pytest.raises(ValueError, match="size is 4x9, expected at least the 5x1"):
        wrap_extend(images, (4, 9))
