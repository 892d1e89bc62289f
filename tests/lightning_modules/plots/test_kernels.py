"""Kernels block by block, the strip below a sheet, and coarse estimates in their place."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_modules.plots.kernels import (
    COLUMN,
    LARGE_KERNEL,
    SMALL_KERNEL,
    coarse_tiles,
    kernel_picture,
    kernel_rows,
    kernel_tiles,
)
from lightning_modules.plots.sheet import ACCENT, GAP, to_image
from networks.ops.resize import bilinear_shrink


def kernel(size: int, seed: int = 0) -> Tensor:
    values = torch.rand(1, size, size, generator=torch.Generator().manual_seed(seed)) ** 3
    return values / values.sum()


def middles(picture: Image.Image, factor: int) -> np.ndarray:
    """The red channel of the middle of every block."""
    return np.asarray(picture)[factor // 2 :: factor, factor // 2 :: factor, 0]


@pytest.mark.parametrize("size", [5, 6])
def test_a_kernel_is_drawn_as_numpy_prints_it(size: int) -> None:
    values, factor = kernel(size), 7
    picture = kernel_picture(values, factor * size)
    assert picture.size == (7 * size, 7 * size)
    expected = (255 * (values[0] / values.max()).sqrt()).round()
    np.testing.assert_array_equal(middles(picture, factor), expected.numpy())
    # The block of index floor(size / 2) has the frame around it, of one pixel.
    start, end = factor * (size // 2), factor * (size // 2) + factor
    ring = [(start - 1, start), (end, start), (start, start - 1), (start, end)]
    assert [picture.getpixel(place) for place in ring] == [ACCENT] * 4
    assert picture.getpixel((start, start)) != ACCENT
    assert (np.asarray(picture) == ACCENT).all(-1).sum() == 4 * (factor + 1)


def test_row_and_column_are_not_exchanged() -> None:
    values = torch.zeros(1, 5, 5)
    values[0, 0, 3] = 1
    assert np.argwhere(middles(kernel_picture(values, 25), 5) == 255).tolist() == [[0, 3]]


def test_kernels_of_a_network_that_went_astray() -> None:
    values = torch.full((1, 5, 5), float("nan"))
    assert middles(kernel_picture(values, 25), 5).max() == 0
    assert middles(kernel_picture(torch.zeros(1, 5, 5), 25), 5).max() == 0
    values = torch.tensor([[[0.0, -0.5, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    red, _, blue = kernel_picture(values, 27).getpixel((13, 4))  # type: ignore[misc]  # three numbers
    assert blue > red > 0


def test_what_is_there_is_drawn() -> None:
    estimated, true = kernel(21), kernel(25, 1)
    assert kernel_tiles(None, None) == []
    (only,) = kernel_tiles(None, true)
    assert (only.title, only.caption) == ("true kernel", "25 x 25, centre (12, 12)")
    assert only.picture.width == SMALL_KERNEL // 25 * 25
    (alone,) = kernel_tiles(estimated, None)
    assert (alone.title, alone.caption) == ("estimated kernel", "21 x 21, centre (10, 10)")
    assert alone.picture.width == LARGE_KERNEL // 21 * 21


def test_an_estimate_stands_by_the_truth_with_its_error() -> None:
    near = torch.zeros(1, 6, 6)
    near[0, 2, 2:4] = 0.5
    exact = torch.zeros(1, 9, 9)
    exact[0, 4, 4] = 1
    estimated, true = kernel_tiles(near, exact)
    assert estimated.caption == "6 x 6, centre (3, 3)\nkernel error 0.5"
    assert true.caption == "9 x 9, centre (4, 4)"
    # One pixel of the kernel is as large in both.
    assert (estimated.picture.width, true.picture.width) == (6 * (LARGE_KERNEL // 9), 9 * (LARGE_KERNEL // 9))
    estimated, true = kernel_tiles(near - 0.01, exact)
    assert estimated.caption.endswith("\nnegative values blue")
    assert "negative" not in true.caption
    large = kernel_tiles(None, kernel(401))[0]
    assert large.picture.size == (401, 401)


def test_kernels_stand_below_with_a_note() -> None:
    assert kernel_rows([]) == []
    titles, pictures, captions, note = kernel_rows(kernel_tiles(kernel(127) - 1e-6, kernel(255, 1)))
    assert pictures.width == 2 * COLUMN + GAP
    # No line needs a second one: the estimate has a size, an error and negative values.
    assert (titles.height, captions.height, note.height) == (37, 3 * 32, 25)
    large = kernel_rows(kernel_tiles(None, kernel(401)))
    assert large[1].size == (403, 403)


def test_estimates_stand_in_their_order_without_the_result() -> None:
    sr = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    pyramid = [bilinear_shrink(sr[None], factor)[0] for factor in (4, 2)]
    tiles = coarse_tiles([*pyramid, sr], sr, "srn")
    assert [(tile.title, tile.caption) for tile in tiles] == [("srn at 1/4", "16 x 12"), ("srn at 1/2", "32 x 24")]
    for tile, estimate in zip(tiles, pyramid, strict=True):
        reduced = tile.picture.resize((estimate.shape[2], estimate.shape[1]), Image.Resampling.NEAREST)
        assert reduced == to_image(estimate)
    other = coarse_tiles([*pyramid, sr + 0.1], sr, "srn")
    assert [tile.title for tile in other] == ["srn at 1/4", "srn at 1/2", "srn, estimate"]
    assert coarse_tiles([], sr, "srn") == []


@pytest.mark.parametrize("size", [(33, 45), (34, 46), (35, 44)])
def test_every_pixel_of_a_reduction_covers_those_it_was_made_of(size: tuple[int, int]) -> None:
    """Also where the sides are no multiples: the sheet's region of the estimate is that of the scene."""
    scene = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    scene = scene[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]]
    (tile,) = coarse_tiles([bilinear_shrink(scene[None], 4)[0]], scene, "srn")
    assert tile.caption == f"{-(-size[1] // 4)} x {-(-size[0] // 4)}"
    assert tile.picture.size == size[::-1]
    difference = np.asarray(tile.picture).astype(int) - np.asarray(to_image(scene))
    assert np.abs(difference).max() <= 1
