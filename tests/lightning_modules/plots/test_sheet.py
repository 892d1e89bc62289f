"""Result sheets, pixel by pixel: the right pictures in the right places, the right region enlarged, text uncut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor

from lightning_modules.metrics.psnr_ssim import to_eight_bit
from lightning_modules.plots.sheet import (
    ACCENT,
    BACKGROUND,
    MARGIN,
    Box,
    Panel,
    SheetLayout,
    lay_out,
    pick_zoom_box,
    result_sheet,
    save_png,
)


def noise(height: int, width: int, *, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def five_panels(height: int, width: int, *, scale: int = 4, channels: int = 3) -> list[Panel]:
    small = [noise(height // scale, width // scale, channels=channels, seed=seed) for seed in range(2)]
    large = [noise(height, width, channels=channels, seed=seed) for seed in range(2, 5)]
    titles = ["blurry input", "bicubic", "deblurred LR", "ED-DSRN", "ground truth"]
    images = [small[0], large[0], small[1], large[1], large[2]]
    return [Panel(title, "24.81 dB  0.7123", image) for title, image in zip(titles, images, strict=True)]


def array(image: Tensor) -> Any:
    return to_eight_bit(image).expand(3, -1, -1).permute(1, 2, 0).numpy()


def cut(sheet: Image.Image, box: Box) -> Any:
    return np.asarray(sheet.crop(box))


def blocks(pixels: Any, factor: int) -> Any:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def text_boxes(sheet: SheetLayout) -> list[Box]:
    boxes = []
    for text in sheet.texts:
        left, top, right, bottom = ImageFont.load_default(text.height).getbbox(text.line)
        boxes.append((int(text.x + left), int(text.y + top), int(text.x + right) + text.bold, int(text.y + bottom)))
    return boxes


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_five_panels_stand_side_by_side_at_one_size() -> None:
    panels, box = five_panels(512, 512), (8, 16, 72, 80)
    layout = lay_out(panels, zoom_box=box, title="scene 1")
    sheet = result_sheet(panels, zoom_box=box, title="scene 1")
    assert sheet.size == layout.size
    assert sheet.mode == "RGB"
    assert 2000 <= sheet.width <= 2600
    assert {(right - left, bottom - top) for left, top, right, bottom in layout.overviews} == {(384, 384)}
    assert len({top for _, top, _, _ in layout.overviews}) == len({top for _, top, _, _ in layout.zooms}) == 1
    assert layout.overviews[0][0] == MARGIN
    assert layout.overviews[-1][2] == sheet.width - MARGIN


def test_low_resolution_is_enlarged_to_whole_blocks() -> None:
    panels = five_panels(512, 512)
    layout, sheet = lay_out(panels), result_sheet(panels)
    for index in (0, 2):
        np.testing.assert_array_equal(cut(sheet, layout.overviews[index]), blocks(array(panels[index].image), 3))


def test_a_picture_of_the_shown_size_is_copied() -> None:
    panels = [Panel("a", "", noise(200, 480)), Panel("b", "", noise(200, 480, seed=1))]
    layout, sheet = lay_out(panels), result_sheet(panels)
    for panel, place in zip(panels, layout.overviews, strict=True):
        np.testing.assert_array_equal(cut(sheet, place), array(panel.image))


def test_a_large_picture_is_reduced_with_a_filter() -> None:
    """A fine checkerboard must become gray; dropping pixels would leave it black and white."""
    checks = ((torch.arange(960).view(-1, 1) + torch.arange(960)) % 2).float().expand(3, -1, -1)
    layout, sheet = lay_out([Panel("a", "", checks)]), result_sheet([Panel("a", "", checks)])
    assert np.abs(cut(sheet, layout.overviews[0]).astype(int) - 127.5)[8:-8, 8:-8].max() < 20


def test_blocks_of_an_uneven_factor_keep_their_colours() -> None:
    """256 pixels on 480: every shown pixel is its source pixel or a mixture with a direct neighbour."""
    columns = (torch.arange(256) % 2).float().expand(3, 256, -1)
    panels = [Panel("lr", "", columns), Panel("hr", "", noise(512, 512))]
    layout = lay_out(panels)
    line = cut(result_sheet(panels), layout.overviews[0])[100, :, 0].astype(int)
    assert line.size == 480
    assert line[0] == 0
    assert line[-1] == 255
    # Evened out, each block of 1.875 pixels holds the same amount of light.
    assert abs(line[:240].mean() - line[240:].mean()) < 1.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [(16, 32, 80, 96), (13, 27, 60, 99)])
def test_the_zoom_shows_the_same_region_of_every_panel(box: Box, channels: int) -> None:
    panels = five_panels(256, 256, channels=channels)
    layout, sheet = lay_out(panels, zoom_box=box), result_sheet(panels, zoom_box=box)
    left, top, right, bottom = box
    assert layout.zoom_factor >= 4
    for panel, place in zip(panels, layout.zooms, strict=True):
        whole = blocks(array(panel.image), 256 // panel.image.shape[-1])
        np.testing.assert_array_equal(cut(sheet, place), blocks(whole[top:bottom, left:right], layout.zoom_factor))


def test_a_coloured_square_is_found_in_outline_and_zoom() -> None:
    hr, lr = torch.full((3, 240, 320), 0.5), torch.full((3, 60, 80), 0.5)
    blue = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    hr[:, 80:120, 200:240] = blue
    lr[:, 20:30, 50:60] = blue
    panels = [Panel("lr", "", lr), Panel("hr", "", hr)]
    box = (200, 80, 240, 120)
    layout, sheet = lay_out(panels, zoom_box=box), result_sheet(panels, zoom_box=box)
    for overview, zoom in zip(layout.overviews, layout.zooms, strict=True):
        assert (cut(sheet, zoom) == (0, 0, 255)).all()
        # The overview is 480x360, where the square covers 60x60 from (300,120) and the outline runs around it.
        x, y = overview[0] + 300, overview[1] + 120
        assert (cut(sheet, (x + 5, y + 5, x + 55, y + 55))[..., 2] > 250).all()
        ring = [(x - 2, y + 30), (x + 61, y + 30), (x + 30, y - 2), (x + 30, y + 61)]
        assert [sheet.getpixel(point) for point in ring] == [ACCENT] * 4
        assert sheet.getpixel((zoom[0] - 2, zoom[1] + 9)) == ACCENT


def test_without_a_box_there_is_no_second_row() -> None:
    panels = five_panels(64, 64)
    assert lay_out(panels).zooms == []
    assert (np.asarray(result_sheet(panels)) == ACCENT).all(axis=-1).sum() == 0
    assert lay_out(panels).size[1] < lay_out(panels, zoom_box=(0, 0, 8, 8)).size[1]


@pytest.mark.many
@pytest.mark.parametrize(
    ("height", "width", "channels", "panel_width"),
    [
        (300, 200, 1, 480),
        (300, 200, 3, 240),
        (200, 300, 3, 480),
        (30, 40, 3, 240),
        (400, 40, 3, 240),
        (40, 400, 1, 240),
        (8, 8, 3, 240),
        (720, 1280, 3, 240),
    ],
    ids=["gray portrait", "portrait", "landscape", "tiny", "tower", "gray strip", "two blocks", "wide video"],
)
def test_nothing_overlaps_or_leaves_the_sheet(height: int, width: int, channels: int, panel_width: int) -> None:
    panels = five_panels(height, width, scale=2, channels=channels)
    # In the last two columns, so that a line too wide meets its neighbour or the edge of the sheet.
    panels[3].caption = panels[4].caption = "a very long caption, 24.81 dB  0.7123, of checkpoint_" + "0123456789" * 8
    panels[1].title = "bicubic interpolation of the blurry input, without any learning"
    box = pick_zoom_box(panels[4].image)
    layout = lay_out(panels, zoom_box=box, title="scene", panel_width=panel_width)
    sheet = result_sheet(panels, zoom_box=box, title="scene", panel_width=panel_width)
    boxes = layout.overviews + layout.zooms + text_boxes(layout)
    for index, one in enumerate(boxes):
        assert one[0] >= MARGIN // 2
        assert one[1] >= MARGIN // 2
        assert one[2] <= sheet.width - MARGIN // 2
        assert one[3] <= sheet.height - MARGIN // 2
        assert not any(overlap(one, other) for other in boxes[index + 1 :])
    for left, top, right, bottom in layout.overviews:
        assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.02)


def test_all_of_a_long_caption_is_drawn() -> None:
    panels = five_panels(64, 64)
    caption = "first line\nseveral words that do not fit beside each other in one column " + "checkpoint" * 12
    panels[2].caption = caption
    layout = lay_out(panels)
    column = layout.overviews[2]
    lines = [
        text.line for text in layout.texts if column[0] <= text.x < column[2] and text.y >= column[3] and not text.bold
    ]
    assert len(lines) > 4
    assert "".join(lines).replace(" ", "") == caption.replace(" ", "").replace("\n", "")


def test_titles_and_captions_are_drawn() -> None:
    panels = five_panels(64, 64)
    panels[1].caption = ""
    sheet, layout = result_sheet(panels), lay_out(panels)
    inked = [(cut(sheet, (x0, y1 + 6, x1, sheet.height - 4)) != BACKGROUND).any() for x0, _, x1, y1 in layout.overviews]
    assert inked == [True, False, True, True, True]
    assert all((cut(sheet, (x0, 4, x1, y0 - 3)) != BACKGROUND).any() for x0, y0, x1, _ in layout.overviews)
    panels[0].caption = "24.82 dB  0.7123"
    assert np.any(np.asarray(sheet) != np.asarray(result_sheet(panels)))


def test_signs_the_font_lacks_are_spelled_out() -> None:
    layout = lay_out([Panel("×4 σ=2 – é", "∞ dB ± 0 字", noise(8, 8))])
    assert [text.line for text in layout.texts] == ["x4 sigma=2 - e", "inf dB +/- 0 ?"]


def test_many_panels_go_on_in_further_rows() -> None:
    panels = five_panels(64, 64) + five_panels(64, 64)[:2]
    layout = lay_out(panels, zoom_box=(0, 0, 16, 16))
    tops = [top for _, top, _, _ in layout.overviews]
    assert len(set(tops[:4])) == len(set(tops[4:])) == 1
    assert layout.zooms[0][3] < tops[4] < layout.zooms[4][1]


def test_the_same_panels_give_the_same_sheet() -> None:
    panels = five_panels(48, 64)
    sheets = [result_sheet(panels, zoom_box=(0, 0, 16, 16), title="scene") for _ in range(2)]
    assert sheets[0].tobytes() == sheets[1].tobytes()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"'bad' needs .* \[1, 3, 8, 8\]"),
        (torch.zeros(2, 8, 8), r"\[2, 8, 8\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.zeros(3, 8, 12), "'bad' cannot show the same scene .* 12x8 and 64x64"),
    ],
)
def test_panels_that_cannot_be_shown(image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result_sheet([Panel("good", "", noise(64, 64)), Panel("bad", "", image)])


@pytest.mark.parametrize("box", [(-1, 0, 8, 8), (0, 0, 65, 8), (8, 0, 8, 8)])
def test_a_box_outside_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="64x64"):
        result_sheet([Panel("a", "", noise(64, 64))], zoom_box=box)
    with pytest.raises(ValueError, match="needs panels"):
        result_sheet([])


def coarse(side: int) -> torch.Tensor:
    """Noise with grains of 8 pixels, which survives slight smoothing."""
    return noise(side // 8, side // 8).repeat_interleave(8, 1).repeat_interleave(8, 2)


def test_the_detailed_region_is_picked() -> None:
    hr = torch.full((3, 300, 400), 0.5)
    hr[:, 120:216, 240:336] = coarse(96)
    assert pick_zoom_box(hr) == (240, 120, 336, 216)
    assert pick_zoom_box(hr[:1]) == (240, 120, 336, 216)
    assert pick_zoom_box(hr) == pick_zoom_box(hr.clone())


def test_texture_as_fine_as_a_pixel_does_not_count() -> None:
    hr = torch.full((3, 300, 400), 0.5)
    hr[:, 40:104, 40:104] = noise(64, 64)
    hr[:, 120:184, 240:304] = coarse(64)
    assert pick_zoom_box(hr, 64) == (240, 120, 304, 184)


def test_texture_beats_one_hard_edge_and_borders_are_left_alone() -> None:
    hr = torch.zeros(3, 256, 256)
    hr[:, :, 60:] = 1.0
    hr[:, 128:192, 128:192] = 1 - 0.5 * coarse(64)
    hr[:, :12] = noise(12, 256, seed=1)
    assert pick_zoom_box(hr, 64) == (128, 128, 192, 192)


@pytest.mark.parametrize(("height", "width"), [(40, 30), (1, 1), (2, 50), (64, 64), (65, 129), (500, 70)])
def test_picking_works_for_every_size(height: int, width: int) -> None:
    left, top, right, bottom = pick_zoom_box(noise(height, width))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert right - left == bottom - top == max(1, min(96, min(height, width) // 2))


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = result_sheet([Panel("a", "", noise(8, 8))])
    path = tmp_path / "new" / "sheet.png"
    save_png(image, path)
    with Image.open(path) as loaded:
        assert loaded.format == "PNG"
        assert loaded.tobytes() == image.tobytes()
    before = path.read_bytes()

    def fail(self: Image.Image, target: Any, **_: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(image, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["sheet.png"]
