"""Sheets of pictures: texts and rows of labelled pictures under each other.

`result_sheet` draws one scene as several systems restored it, and one region of it enlarged pixel by pixel;
`task=preview` draws kernels, crops and histograms. Sizes are (width, height), boxes (left, top, right, bottom) with
right and bottom excluded, as Pillow has them.
"""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_modules.metrics.psnr_ssim import to_eight_bit
from lightning_modules.plots.regions import Box

Size = tuple[int, int]
Colour = tuple[int, int, int]

MARGIN, GAP = 24, 16
PANEL, PANELS_PER_ROW = 480, 6  # the widest that a scene is shown
TALLEST = 1.6  # height of a picture in panel widths: portraits fill their column, towers do not fill the screen
TITLE, TEXT, NOTE = 35, 24, 19  # heights of letters
BACKGROUND, INK = (255, 255, 255), (24, 24, 24)
FRAME, ACCENT = (190, 190, 190), (255, 60, 40)


@dataclass
class Panel:
    """A system's image [3 or 1, h, w] in [0, 1] of the scene, floating point, its name and, say, its PSNR."""

    title: str
    caption: str
    image: Tensor


@dataclass
class Tile:
    """A picture of a row, drawn pixel by pixel as it is, with a bold title above, a caption below and a frame."""

    picture: Image.Image
    title: str = ""
    caption: str = ""
    frame: Colour = FRAME


@dataclass
class TextLine:
    line: str
    x: int
    y: int
    height: int
    bold: bool


class Sheet:
    """Grows downwards, and to the right where a row is wider; drawn when the places of everything are known.

    Args:
        width: of texts, without the margins.
    """

    def __init__(self, width: int) -> None:
        self.width, self.y = width, MARGIN
        self.pictures: list[tuple[Tile, Box]] = []
        self.texts: list[TextLine] = []

    def text(self, text: str, size: int, bold: bool = False) -> None:
        """Add a paragraph, or a bold heading, over the whole width."""
        self.y += GAP // 2 if bold else 0
        self.y = self._write(text, MARGIN, self.width, size, bold, left=True) + GAP // 2

    def row(self, tiles: Sequence[Tile], column: int, size: int = TEXT) -> None:
        """Add tiles in columns of this width, their centres at one height, captions `size` pixels high."""
        columns = [(MARGIN + i * (column + GAP), tile) for i, tile in enumerate(tiles)]
        self.width = max(self.width, len(tiles) * (column + GAP) - GAP)
        self.y = max(self._write(tile.title, x, column, size * 7 // 6, bold=True) for x, tile in columns) + GAP // 4
        tallest = max(tile.picture.height for tile in tiles)
        for x, tile in columns:
            left, top = x + (column - tile.picture.width) // 2, self.y + (tallest - tile.picture.height) // 2
            self.pictures.append((tile, (left, top, left + tile.picture.width, top + tile.picture.height)))
        self.y += tallest + GAP // 2
        self.y = max(self._write(tile.caption, x, column, size) for x, tile in columns) + GAP // 2

    def image(self) -> Image.Image:
        canvas = Image.new("RGB", (self.width + 2 * MARGIN, self.y + MARGIN - GAP // 2), BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        for tile, box in self.pictures:
            canvas.paste(tile.picture, box[:2])
            outline(draw, box, 1 if tile.frame == FRAME else 3, tile.frame)
        for text in self.texts:
            for shift in (0, 1) if text.bold else (0,):  # there is no bold cut of the font
                draw.text((text.x + shift, text.y), text.line, font=ImageFont.load_default(text.height), fill=INK)
        return canvas

    def _write(self, text: str, x: int, width: int, size: int, bold: bool = False, left: bool = False) -> int:
        """Add the text below `y` as lines of at most this width, centred or not; the place below the last one."""
        y, font = self.y, ImageFont.load_default(size)
        for line in _wrapped(text, font, width):
            indent = 0 if left else max(0, int(width - font.getlength(line)) // 2)
            self.texts.append(TextLine(line, x + indent, y, size, bold))
            y += size * 4 // 3
        return y


def result_sheet(panels: Sequence[Panel], zoom_box: Box, title: str) -> Sheet:
    """All panels at one displayed size and, below, the same region of each.

    Args:
        panels: images of one scene, of low and high resolution; those smaller than the largest are enlarged with each
            pixel a block, never interpolated.
        zoom_box: square region in pixels of the largest image (`pick_zoom_box`).

    Raises:
        ValueError: for images whose proportions are not those of one scene.
    """
    pictures = [to_image(panel.image).convert("RGB") for panel in panels]
    scene, smallest = (of((p.size for p in pictures), key=math.prod) for of in (max, min))
    for panel, picture in zip(panels, pictures, strict=True):
        _check_proportions(panel.title, picture.size, scene)
    shown = shown_size(scene, smallest, PANEL)
    left, top, right, bottom = zoom_box
    column = max(shown[0], 4 * PANEL // 5)
    factor = column // (right - left)
    across, down = shown[0] / scene[0], shown[1] / scene[1]
    region = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    per_row = math.ceil(len(panels) / math.ceil(len(panels) / PANELS_PER_ROW))
    sheet = Sheet(per_row * (column + GAP) - GAP)
    sheet.text(title, TITLE, bold=True)
    for start in range(0, len(panels), per_row):
        overviews, zooms = [], []
        for panel, picture in list(zip(panels, pictures, strict=True))[start : start + per_row]:
            overview = resized(picture, shown)
            pen = ImageDraw.Draw(overview)
            outline(pen, region, 4, BACKGROUND)  # a pale rim keeps the line visible on red things
            outline(pen, region, 3, ACCENT)
            overviews.append(Tile(overview, panel.title, panel.caption))
            zooms.append(Tile(_zoom(picture, zoom_box, factor, scene), frame=ACCENT))
        sheet.row(overviews, column)
        sheet.row(zooms, column)
    sheet.text(
        f"Marked region: {right - left} x {bottom - top} pixels of {scene[0]} x {scene[1]}, from column {left} "
        f"and row {top}, enlarged {factor} times without interpolation",
        NOTE,
    )
    return sheet


def shown_size(scene: Size, smallest: Size, widest: int) -> Size:
    """Size at which all images of a scene are shown: with pixels of the scene as whole blocks, or reduced to fit.

    Args:
        smallest: size of the smallest image of the scene; up to 20 % are given up for its pixels to be whole blocks.
        widest: largest width in pixels; `TALLEST` times as much in height.
    """
    fit = min(widest / scene[0], TALLEST * widest / scene[1])
    if fit >= 1:
        return int(fit) * scene[0], int(fit) * scene[1]
    factor = int(fit * scene[0] / smallest[0])
    if factor * smallest[0] >= 0.8 * fit * scene[0]:
        return factor * smallest[0], factor * smallest[1]
    return max(1, round(fit * scene[0])), max(1, round(fit * scene[1]))


def resized(picture: Image.Image, size: Size) -> Image.Image:
    """The picture at another size: reduced as any viewer would, enlarged with each pixel a block."""
    factor = math.ceil(max(size[0] / picture.width, size[1] / picture.height))
    if factor <= 1:
        return picture.resize(size, Image.Resampling.LANCZOS)
    # Nearest neighbour makes blocks of unequal widths unless the factor is whole; the box filter evens them out.
    blocks = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
    return blocks.resize(size, Image.Resampling.BOX)


def _zoom(picture: Image.Image, box: Box, factor: int, scene: Size) -> Image.Image:
    """A region of the scene, each of its pixels `factor` large, out of a picture of any resolution."""
    left, top, right, bottom = box
    across, down = picture.width / scene[0], picture.height / scene[1]
    size = (factor * (right - left), factor * (bottom - top))
    region = (left * across, top * down, right * across, bottom * down)
    return picture.resize(size, Image.Resampling.NEAREST, region)


def _check_proportions(title: str, size: Size, scene: Size) -> None:
    """A sheet stretches every picture to one size; more than the pixel lost to a size that does not divide is a lie."""
    lowest = max((side - 1) / whole for side, whole in zip(size, scene, strict=True))
    highest = min((side + 1) / whole for side, whole in zip(size, scene, strict=True))
    if lowest > highest:
        shapes = f"{size[0]}x{size[1]} and {scene[0]}x{scene[1]} (width x height)"
        raise ValueError(f"panel {title!r} cannot show the same scene as the largest panel: {shapes}")


def outline(draw: ImageDraw.ImageDraw, box: Box, thickness: int, colour: Colour) -> None:
    """Around the box, not over its pixels."""
    left, top, right, bottom = box
    corners = (left - thickness, top - thickness, right + thickness - 1, bottom + thickness - 1)
    draw.rectangle(corners, outline=colour, width=thickness)


def to_image(image: Tensor) -> Image.Image:
    """[3 or 1, h, w] in [0, 1] as an 8-bit image, RGB or gray, rounded as the metrics round it."""
    pixels = to_eight_bit(image.detach().cpu()).movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save_png(image: Image.Image, path: Path) -> None:
    """Write the whole picture or nothing: a reader, or a run after a crash, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        image.save(part, format="PNG")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that fit, broken between words, and inside a word (a file name, say) only if it is wider than the line."""
    # The font that comes with Pillow has ASCII only: letters lose their accents, others become question marks.
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    lines: list[str] = []
    for paragraph in plain.encode("ascii", "replace").decode().splitlines():
        broken, letters = [paragraph], len(paragraph)
        while letters > 1 and any(font.getlength(line) + 1 > width for line in broken):
            letters -= 1
            broken = textwrap.wrap(paragraph, letters, break_on_hyphens=False)
        lines += broken
    return lines
