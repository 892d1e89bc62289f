"""Kernels block by block, the strip below a sheet, and coarse estimates in their place."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_modules.plots.kernels import (
    COLUMN,
    KERNEL_NOTE,
    LARGE_KERNEL,
    SMALL_KERNEL,
    add_kernels,
    coarse_panels,
    kernel_picture,
    kernel_tiles,
)
from lightning_modules.plots.sheet import ACCENT, Sheet, result_sheet
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
    picture = kernel_picture(values, factor)
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
    assert np.argwhere(middles(kernel_picture(values, 5), 5) == 255).tolist() == [[0, 3]]


def test_kernels_of_a_network_that_went_astray() -> None:
    values = torch.full((1, 5, 5), float("nan"))
    assert middles(kernel_picture(values, 5), 5).max() == 0
    assert middles(kernel_picture(torch.zeros(1, 5, 5), 5), 5).max() == 0
    values = torch.tensor([[[0.0, -0.5, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    red, _, blue = kernel_picture(values, 9).getpixel((13, 4))  # type: ignore[misc]  # three numbers
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


def test_kernels_stand_below_a_sheet_with_a_note() -> None:
    sheet = Sheet(2000)
    add_kernels(sheet, [])
    assert not sheet.pictures
    assert not sheet.texts
    add_kernels(sheet, kernel_tiles(kernel(127) - 1e-6, kernel(255, 1)))
    lines = [text.line for text in sheet.texts]
    # No line of a kernel needs a second one.
    assert "127 x 127, centre (63, 63)" in lines
    assert "255 x 255, centre (127, 127)" in lines
    assert lines[-1] == KERNEL_NOTE
    first, second = (box for _, box in sheet.pictures)
    assert first[2] + COLUMN - 255 < second[0]
    assert first[1] + first[3] == second[1] + second[3]


def test_estimates_stand_in_their_order_without_the_result() -> None:
    sr = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    pyramid = [bilinear_shrink(sr[None], factor)[0] for factor in (4, 2)]
    panels = coarse_panels([*pyramid, sr], sr, "srn")
    assert [(panel.title, panel.caption) for panel in panels] == [("srn at 1/4", "16 x 12"), ("srn at 1/2", "32 x 24")]
    for panel, estimate in zip(panels, pyramid, strict=True):
        assert panel.image is estimate
    other = coarse_panels([*pyramid, sr + 0.1], sr, "srn")
    assert [panel.title for panel in other] == ["srn at 1/4", "srn at 1/2", "srn, estimate"]
    assert coarse_panels([], sr, "srn") == []


@pytest.mark.parametrize("size", [(33, 45), (34, 46), (35, 44)])
def test_every_pixel_of_a_reduction_covers_those_it_was_made_of(size: tuple[int, int]) -> None:
    """Also where the sides are no multiples: the sheet's region of the estimate is that of the scene."""
    scene = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    scene = scene[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]]
    (panel,) = coarse_panels([bilinear_shrink(scene[None], 4)[0]], scene, "srn")
    assert panel.caption == f"{-(-size[1] // 4)} x {-(-size[0] // 4)}"
    torch.testing.assert_close(panel.image, scene)
    box = (size[1] - 9, size[0] - 9, size[1], size[0])
    truth = type(panel)("truth", "", scene)
    zooms = [tile.picture for tile, _ in result_sheet([panel, truth], box, "").pictures if tile.frame == ACCENT]
    np.testing.assert_array_equal(np.asarray(zooms[0]), np.asarray(zooms[1]))


def test_estimates_of_other_proportions_are_left_as_they_are() -> None:
    estimate = torch.rand(3, 11, 15)
    (panel,) = coarse_panels([estimate], torch.rand(3, 47, 63), "net")
    assert panel.image is estimate
