"""Result sheets, pixel by pixel: the right pictures in the right places, the right region enlarged, text uncut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor

from lightning_modules.plots import sheet as sheet_module
from lightning_modules.plots.regions import Box, pick_zoom_box
from lightning_modules.plots.sheet import (
    ACCENT,
    BACKGROUND,
    GAP,
    MARGIN,
    Tile,
    overview,
    resized,
    result_rows,
    save_png,
    shown_size,
    side_by_side,
    stack,
    text_row,
    tile_rows,
    to_image,
    zoomed,
)


def noise(height: int, width: int, *, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def picture(height: int, width: int, *, channels: int = 3, seed: int = 0) -> Image.Image:
    return to_image(noise(height, width, channels=channels, seed=seed))


def five_tiles(height: int, width: int, *, scale: int = 4, channels: int = 3) -> list[Tile]:
    small = [picture(height // scale, width // scale, channels=channels, seed=seed) for seed in range(2)]
    large = [picture(height, width, channels=channels, seed=seed) for seed in range(2, 5)]
    titles = ["blurry input", "bicubic", "deblurred LR", "ED-DSRN", "ground truth"]
    pictures = [small[0], large[0], small[1], large[1], large[2]]
    return [Tile(image, title, "24.81 dB  0.7123") for title, image in zip(titles, pictures, strict=True)]


def array(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))


def blocks(pixels: Any, factor: int) -> Any:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def inked(image: Image.Image) -> bool:
    return bool((array(image) != BACKGROUND).any())


def test_five_tiles_stand_side_by_side_at_one_size() -> None:
    title, *texts_and_pictures = result_rows(five_tiles(512, 512), (8, 16, 72, 80), "scene 1")
    titles, overviews, captions, zooms, note = texts_and_pictures
    sheet = stack([title, *texts_and_pictures])
    assert sheet.mode == "RGB"
    assert 2000 <= sheet.width <= 2600
    assert overviews.height == 384 + 2  # three pixels for each of the smallest, and a frame
    assert titles.width == overviews.width == captions.width == zooms.width == sheet.width - 2 * MARGIN
    assert all(inked(row) for row in (title, titles, captions, note))
    column = (overviews.width + GAP) // 5
    for i, tile in enumerate(five_tiles(512, 512)):
        left = i * column + (column - GAP - 384) // 2
        expected = overview(tile.picture, (384, 384), (512, 512), (8, 16, 72, 80))
        np.testing.assert_array_equal(array(overviews.crop((left, 1, left + 384, 385))), array(expected))


@pytest.mark.parametrize(
    ("scene", "smallest", "shown"),
    [
        ((512, 512), (128, 128), (384, 384)),
        ((510, 510), (510, 510), (480, 480)),
        ((300, 200), (75, 50), (300, 200)),
        ((96, 48), (24, 12), (480, 240)),
        ((100, 800), (100, 800), (96, 768)),
        ((2000, 1), (2000, 1), (480, 1)),
    ],
)
def test_the_pixels_of_a_scene_are_whole_blocks_where_it_fits(scene: Any, smallest: Any, shown: Any) -> None:
    assert shown_size(scene, smallest, 480) == shown


@pytest.mark.parametrize(("size", "factor"), [((128, 96), 1), ((384, 288), 3)])
def test_pixels_become_whole_blocks(size: Any, factor: int) -> None:
    image = picture(96, 128)
    np.testing.assert_array_equal(array(resized(image, size)), blocks(array(image), factor))


def test_a_large_picture_is_reduced_with_a_filter() -> None:
    """A fine checkerboard must become gray; dropping pixels would leave it black and white."""
    checks = np.indices((960, 960)).sum(0) % 2 * 255
    reduced = np.asarray(resized(Image.fromarray(checks.astype(np.uint8)), (480, 480)))
    assert np.abs(reduced.astype(int) - 127.5).max() < 20


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
def test_the_zoom_shows_the_same_region_of_every_picture(box: Box, channels: int) -> None:
    left, top, right, bottom = box
    for tile in five_tiles(252, 252, scale=3, channels=channels):
        whole = blocks(array(tile.picture), 252 // tile.picture.width)
        shown = array(zoomed(tile.picture, (252, 252), box, 6))
        np.testing.assert_array_equal(shown, blocks(whole[top:bottom, left:right], 6))


def test_a_coloured_square_is_found_in_outline_and_zoom() -> None:
    box = (300, 120, 360, 180)
    for factor in (1, 4):
        colours = np.full((360 // factor, 480 // factor, 3), 128, np.uint8)
        colours[120 // factor : 180 // factor, 300 // factor : 360 // factor] = (0, 0, 255)
        image = Image.fromarray(colours)
        assert (array(zoomed(image, (480, 360), box, 8)) == (0, 0, 255)).all()
        marked = overview(image, (480, 360), (480, 360), box)
        assert (array(marked.crop(box)) == (0, 0, 255)).all()
        ring = [(298, 150), (361, 150), (330, 118), (330, 181)]
        assert [marked.getpixel(point) for point in ring] == [ACCENT] * 4


@pytest.mark.many
@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(300, 200, 1), (300, 200, 3), (200, 300, 3), (30, 40, 3), (400, 40, 3), (40, 400, 1), (8, 8, 3), (720, 1280, 3)],
    ids=["gray portrait", "portrait", "landscape", "tiny", "tower", "gray strip", "two blocks", "wide video"],
)
def test_every_scene_fits_its_column(height: int, width: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def watched(images: list[Image.Image], column: int, top: bool = False) -> Image.Image:
        drawn.extend((image.width, column) for image in images)
        return side_by_side(images, column, top)

    monkeypatch.setattr(sheet_module, "side_by_side", watched)
    tiles = five_tiles(height, width, scale=2, channels=channels)
    tiles[4].caption = "a very long caption, 24.81 dB  0.7123, of checkpoint_" + "0123456789" * 8
    rows = result_rows(tiles, pick_zoom_box(noise(height, width)), "scene")
    assert len(drawn) == 4 * len(tiles)
    assert all(wide <= column for wide, column in drawn)
    assert stack(rows).width == rows[1].width + 2 * MARGIN


def test_all_of_a_long_text_is_drawn_and_fits() -> None:
    words = "first line\nseveral words that do not fit beside each other in one column " + "checkpoint" * 12
    font = ImageFont.load_default(24)
    lines = sheet_module._wrapped(words, font, 384)
    assert len(lines) > 4
    assert "".join(lines).replace(" ", "") == words.replace(" ", "").replace("\n", "")
    assert all(font.getlength(line) + 1 <= 384 for line in lines)
    image = array(text_row(words, 24, 384, bold=True))
    assert image.shape == (32 * len(lines), 384, 3)
    for number in range(len(lines)):
        assert (image[32 * number : 32 * number + 32] != 255).any()
    assert (image[:, -1] == 255).all()


def test_captions_stand_below_and_empty_rows_are_omitted() -> None:
    image = picture(60, 300)
    rows = tile_rows([Tile(image, "title", "24.81 dB"), Tile(image, "title", "two\nlines")], 302)
    assert [row.height > 0 for row in rows] == [True] * 3
    assert inked(rows[2].crop((0, 0, 302, 32)))
    assert not inked(rows[2].crop((0, 32, 302, 64)))
    assert len(tile_rows([Tile(image)], 302)) == 1


def test_pictures_of_a_row_have_their_centres_at_one_height() -> None:
    row = array(side_by_side([Image.new("RGB", (40, 40)), Image.new("RGB", (330, 10))], 330))
    assert row.shape == (40, 2 * 330 + GAP, 3)
    assert np.argwhere((row[:, :330] == 0).all(-1)).tolist()[0] == [0, 145]
    assert np.argwhere((row[:, 330 + GAP :] == 0).all(-1)).tolist()[0] == [15, 0]


def test_signs_the_font_lacks_are_replaced() -> None:
    assert sheet_module._wrapped("é – ß 字", ImageFont.load_default(20), 400) == ["e ? ? ?"]


def test_many_tiles_go_on_in_further_rows() -> None:
    five, seven = (result_rows(five_tiles(64, 64)[:n] + five_tiles(64, 64), (0, 0, 16, 16), "") for n in (0, 2))
    assert len(five) == 1 + 4 + 1
    assert len(seven) == 1 + 2 * 4 + 1
    assert seven[1].width < five[1].width


def test_images_of_another_scene_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'bad' cannot show the same scene .* 12x8 and 64x64"):
        result_rows([Tile(picture(64, 64), "good"), Tile(picture(8, 12), "bad")], (0, 0, 16, 16), "")
    odd = [Tile(picture(63, 47)), Tile(picture(16, 12)), Tile(picture(32, 24))]
    assert result_rows(odd, (0, 0, 16, 16), "")


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
    image = picture(8, 8)
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
