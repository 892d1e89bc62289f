import numpy as np
import pytest
import torch
from torch import Tensor

from networks.ops.resize import bilinear_resize, bilinear_shrink

CONVENTIONS = ("half_pixel", "tf1")


def matrix(n: int, out: int, convention: str) -> Tensor:
    """Row x holds the weights of output pixel x, by the definition, one pixel at a time."""
    weights = np.zeros((out, n))
    for x in range(out):
        source = (x + 0.5) * n / out - 0.5 if convention == "half_pixel" else x * n / out
        source = min(max(source, 0.0), n - 1.0)  # the border pixel is repeated
        for pixel in range(n):
            weights[x, pixel] = max(0.0, 1 - abs(source - pixel))
    return torch.from_numpy(weights)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [(7, 9), (14, 18), (3, 5), (8, 4), (1, 1), (20, 3), (7, 11)])
def test_resize_equals_definition(convention: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    expected = matrix(7, size[0], convention) @ x @ matrix(9, size[1], convention).T
    torch.testing.assert_close(bilinear_resize(x, size, convention), expected, atol=1e-14, rtol=0)  # type: ignore[arg-type]


def test_tf1_picks_and_copies_pixels() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 12, dtype=torch.float64)
    assert torch.equal(bilinear_resize(x, (4, 6), "tf1"), x[..., ::2, ::2])
    assert torch.equal(bilinear_resize(x, (2, 3), "tf1"), x[..., ::4, ::4])
    doubled = bilinear_resize(x, (16, 24), "tf1")
    assert torch.equal(doubled[..., ::2, ::2], x)
    middle = (x[..., :-1] + x[..., 1:]) / 2
    torch.testing.assert_close(doubled[..., ::2, 1:-1:2], middle, atol=1e-15, rtol=0)
    assert torch.equal(doubled[..., -1, :], doubled[..., -2, :])
    assert torch.equal(doubled[..., -1], doubled[..., -2])


def test_half_pixel_halving_is_a_mean() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 12, dtype=torch.float64)
    blocks = x.view(2, 1, 4, 2, 6, 2)
    torch.testing.assert_close(bilinear_resize(x, (4, 6)), blocks.mean((3, 5)), atol=1e-15, rtol=0)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_shrink_keeps_the_grid(convention: str) -> None:
    """The shrunken image is the top left part of the shrunken continued image."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 13, 9, dtype=torch.float64)
    further = torch.cat([x, x[:, :, -1:].expand(-1, -1, 3, -1)], 2)
    further = torch.cat([further, further[..., -1:].expand(-1, -1, -1, 7)], 3)  # 16 x 16
    for factor in (1, 2, 4, 8):
        small = bilinear_shrink(x, factor, convention)  # type: ignore[arg-type]
        h, w = -(-13 // factor), -(-9 // factor)
        whole = matrix(16, 16 // factor, convention) @ further @ matrix(16, 16 // factor, convention).T
        assert small.shape == (2, 3, h, w)
        torch.testing.assert_close(small, whole[..., :h, :w], atol=1e-14, rtol=0)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradient(convention: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    for size in ((8, 3), (2, 7)):
        assert torch.autograd.gradcheck(lambda x, size=size: bilinear_resize(x, size, convention), (x,))  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda x: bilinear_shrink(x, 2, convention), (x,))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_dtype_is_kept(convention: str, dtype: torch.dtype) -> None:
    x = torch.rand(1, 2, 6, 5).to(dtype)
    small = bilinear_resize(x, (3, 9), convention)  # type: ignore[arg-type]
    assert small.dtype == dtype
    exact = bilinear_resize(x.double(), (3, 9), convention)  # type: ignore[arg-type]
    assert (small.double() - exact).abs().max() < (1e-6 if dtype == torch.float32 else 2e-2)


def test_wrong_arguments() -> None:
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        bilinear_resize(x, (0, 3))
    with pytest.raises(ValueError, match="half_pixel or tf1"):
        bilinear_resize(x, (4, 4), "corners")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        bilinear_resize(x[0], (2, 2))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        bilinear_shrink(x[0], 2)
    for factor in (0, 1.5, True):
        with pytest.raises(ValueError, match="integer >= 1"):
            bilinear_shrink(x, factor)  # type: ignore[arg-type]
