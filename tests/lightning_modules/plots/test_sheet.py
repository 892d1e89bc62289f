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
from lightning_modules.plots.regions import Box, pick_zoom_box
from lightning_modules.plots.sheet import (
    ACCENT,
    BACKGROUND,
    MARGIN,
    Panel,
    Sheet,
    Tile,
    resized,
    result_sheet,
    save_png,
    shown_size,
)

BOX = (0, 0, 16, 16)


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


def text_boxes(sheet: Sheet) -> list[Box]:
    boxes = []
    for text in sheet.texts:
        left, top, right, bottom = ImageFont.load_default(text.height).getbbox(text.line)
        boxes.append((int(text.x + left), int(text.y + top), int(text.x + right) + text.bold, int(text.y + bottom)))
    return boxes


def overviews(sheet: Sheet) -> list[Box]:
    return [box for tile, box in sheet.pictures if tile.title]


def zooms(sheet: Sheet) -> list[Box]:
    return [box for tile, box in sheet.pictures if tile.frame == ACCENT]


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_five_panels_stand_side_by_side_at_one_size() -> None:
    sheet = result_sheet(five_panels(512, 512), (8, 16, 72, 80), "scene 1")
    image = sheet.image()
    assert image.mode == "RGB"
    assert 2000 <= image.width <= 2600
    assert {(right - left, bottom - top) for left, top, right, bottom in overviews(sheet)} == {(384, 384)}
    assert len({top for _, top, _, _ in overviews(sheet)}) == len({top for _, top, _, _ in zooms(sheet)}) == 1
    assert overviews(sheet)[0][0] == MARGIN
    assert overviews(sheet)[-1][2] == image.width - MARGIN


@pytest.mark.parametrize(
    ("scene", "smallest", "shown"),
    [
        ((512, 512), (128, 128), (384, 384)),  # reduced to three pixels for each of the smallest
        ((510, 510), (510, 510), (480, 480)),
        ((300, 200), (75, 50), (300, 200)),
        ((96, 48), (24, 12), (480, 240)),
        ((100, 800), (100, 800), (96, 768)),
        ((2000, 1), (2000, 1), (480, 1)),
    ],
)
def test_the_pixels_of_a_scene_are_whole_blocks_where_it_fits(scene: Any, smallest: Any, shown: Any) -> None:
    assert shown_size(scene, smallest, 480) == shown


def test_low_resolution_is_enlarged_to_whole_blocks() -> None:
    panels = five_panels(512, 512)
    sheet = result_sheet(panels, (448, 448, 512, 512), "")
    for index in (0, 2):
        shown = cut(sheet.image(), overviews(sheet)[index])
        np.testing.assert_array_equal(shown[:300], blocks(array(panels[index].image), 3)[:300])


def test_a_picture_of_the_shown_size_is_copied() -> None:
    panels = [Panel("a", "", noise(200, 480)), Panel("b", "", noise(200, 480, seed=1))]
    sheet = result_sheet(panels, (448, 168, 480, 200), "")
    for panel, place in zip(panels, overviews(sheet), strict=True):
        np.testing.assert_array_equal(cut(sheet.image(), place)[:150], array(panel.image)[:150])


def test_a_large_picture_is_reduced_with_a_filter() -> None:
    """A fine checkerboard must become gray; dropping pixels would leave it black and white."""
    checks = np.indices((960, 960)).sum(0) % 2 * 255
    reduced = np.asarray(resized(Image.fromarray(checks.astype(np.uint8)), (480, 480)))
    assert np.abs(reduced.astype(int) - 127.5)[8:-8, 8:-8].max() < 20


def test_blocks_of_an_uneven_factor_keep_their_colours() -> None:
    """256 pixels on 480: every shown pixel is its source pixel or a mixture with a direct neighbour."""
    columns = np.tile(np.arange(256) % 2 * 255, (256, 1)).astype(np.uint8)
    line = np.asarray(resized(Image.fromarray(columns), (480, 480)))[100].astype(int)
    assert line[0] == 0
    assert line[-1] == 255
    # Evened out, each block of 1.875 pixels holds the same amount of light.
    assert abs(line[:240].mean() - line[240:].mean()) < 1.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [(16, 32, 80, 96), (13, 27, 60, 74)])
def test_the_zoom_shows_the_same_region_of_every_panel(box: Box, channels: int) -> None:
    panels = five_panels(252, 252, scale=3, channels=channels)
    sheet = result_sheet(panels, box, "")
    left, top, right, bottom = box
    for panel, place in zip(panels, zooms(sheet), strict=True):
        whole = blocks(array(panel.image), 252 // panel.image.shape[-1])
        factor = (place[2] - place[0]) // (right - left)
        assert factor >= 4
        np.testing.assert_array_equal(cut(sheet.image(), place), blocks(whole[top:bottom, left:right], factor))


def test_a_coloured_square_is_found_in_outline_and_zoom() -> None:
    hr, lr = torch.full((3, 360, 480), 0.5), torch.full((3, 90, 120), 0.5)
    blue = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    hr[:, 120:180, 300:360] = blue
    lr[:, 30:45, 75:90] = blue
    sheet = result_sheet([Panel("lr", "", lr), Panel("hr", "", hr)], (300, 120, 360, 180), "")
    image = sheet.image()
    for overview, zoom in zip(overviews(sheet), zooms(sheet), strict=True):
        assert (cut(image, zoom) == (0, 0, 255)).all()
        # The overview is as large as the image; the outline runs around the square.
        x, y = overview[0] + 300, overview[1] + 120
        assert (cut(image, (x, y, x + 60, y + 60)) == (0, 0, 255)).all()
        ring = [(x - 2, y + 30), (x + 61, y + 30), (x + 30, y - 2), (x + 30, y + 61)]
        assert [image.getpixel(point) for point in ring] == [ACCENT] * 4
        assert image.getpixel((zoom[0] - 2, zoom[1] + 9)) == ACCENT


@pytest.mark.many
@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(300, 200, 1), (300, 200, 3), (200, 300, 3), (30, 40, 3), (400, 40, 3), (40, 400, 1), (8, 8, 3), (720, 1280, 3)],
    ids=["gray portrait", "portrait", "landscape", "tiny", "tower", "gray strip", "two blocks", "wide video"],
)
def test_nothing_overlaps_or_leaves_the_sheet(height: int, width: int, channels: int) -> None:
    panels = five_panels(height, width, scale=2, channels=channels)
    # In the last two columns, so that a line too wide meets its neighbour or the edge of the sheet.
    panels[3].caption = panels[4].caption = "a very long caption, 24.81 dB  0.7123, of checkpoint_" + "0123456789" * 8
    panels[1].title = "bicubic interpolation of the blurry input, without any learning"
    sheet = result_sheet(panels, pick_zoom_box(panels[4].image), "scene")
    image = sheet.image()
    boxes = [box for _, box in sheet.pictures] + text_boxes(sheet)
    for index, one in enumerate(boxes):
        assert one[0] >= MARGIN // 2
        assert one[1] >= MARGIN // 2
        assert one[2] <= image.width - MARGIN // 2
        assert one[3] <= image.height - MARGIN // 2
        assert not any(overlap(one, other) for other in boxes[index + 1 :])
    for left, top, right, bottom in overviews(sheet):
        assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.02)


def test_all_of_a_long_caption_is_drawn() -> None:
    panels = five_panels(64, 64)
    caption = "first line\nseveral words that do not fit beside each other in one column " + "checkpoint" * 12
    panels[2].caption = caption
    sheet = result_sheet(panels, BOX, "")
    column = overviews(sheet)[2]
    lines = [
        text.line
        for text in sheet.texts
        if column[0] <= text.x < column[2] and column[3] <= text.y < zooms(sheet)[2][1] and not text.bold
    ]
    assert len(lines) > 4
    assert "".join(lines).replace(" ", "") == caption.replace(" ", "").replace("\n", "")


def test_titles_and_captions_are_drawn() -> None:
    tiles = [Tile(Image.new("RGB", (300, 60)), "title", caption) for caption in ("24.81 dB", "")]
    sheet = Sheet(616)
    sheet.row(tiles, 300)
    image = sheet.image()
    inked = [(cut(image, (x0, y1 + 2, x1, image.height)) != BACKGROUND).any() for _, (x0, _, x1, y1) in sheet.pictures]
    assert inked == [True, False]
    assert all((cut(image, (x0, 4, x1, y0 - 3)) != BACKGROUND).any() for _, (x0, y0, x1, _) in sheet.pictures)


def test_tiles_of_a_row_have_their_centres_at_one_height_and_widen_the_sheet() -> None:
    sheet = Sheet(100)
    sheet.row([Tile(Image.new("RGB", (40, 40)), "a"), Tile(Image.new("RGB", (330, 10)), "b")], 330)
    first, second = (box for _, box in sheet.pictures)
    assert first[1] + first[3] == second[1] + second[3]
    assert sheet.image().width == 2 * MARGIN + 2 * 330 + 16
    assert second[2] == sheet.image().width - MARGIN


def test_signs_the_font_lacks_are_spelled_out() -> None:
    sheet = Sheet(400)
    sheet.text("é – ß 字", 20)
    assert [text.line for text in sheet.texts] == ["e ? ? ?"]


def test_many_panels_go_on_in_further_rows() -> None:
    sheet = result_sheet(five_panels(64, 64) + five_panels(64, 64)[:2], BOX, "")
    tops = [top for _, top, _, _ in overviews(sheet)]
    assert len(set(tops[:4])) == len(set(tops[4:])) == 1
    assert zooms(sheet)[0][3] < tops[4] < zooms(sheet)[4][1]


def test_images_of_another_scene_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'bad' cannot show the same scene .* 12x8 and 64x64"):
        result_sheet([Panel("good", "", noise(64, 64)), Panel("bad", "", torch.zeros(3, 8, 12))], BOX, "")


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
    image = result_sheet([Panel("a", "", noise(8, 8))], (0, 0, 4, 4), "").image()
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
