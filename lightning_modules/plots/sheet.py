"""Sheets of pictures: rows of labelled pictures and texts, stacked under each other.

`result_rows` shows one scene as several systems restored it, and one region of it enlarged pixel by pixel;
`task=preview` shows kernels, crops and histograms. Sizes are (width, height).
"""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from datamodules.io.atomic import replacing
from lightning_modules.metrics.psnr_ssim import to_eight_bit
from lightning_modules.plots.regions import Box

Size = tuple[int, int]
Colour = tuple[int, int, int]

MARGIN, GAP, SPACE = 24, 16, 10  # around the sheet; between columns; between rows
LINE = 1160  # longest line of a text over the whole sheet: three scenes, the fewest there are, are as wide
WIDEST, PER_ROW = 480, 6  # width in which a scene is shown; scenes in a row
TALLEST = 1.6  # height of a scene in that width: portraits fill their column, towers do not fill the screen
TITLE, TEXT, NOTE = 35, 24, 19  # heights of letters
BACKGROUND, INK, FRAME, ACCENT = (255, 255, 255), (24, 24, 24), (190, 190, 190), (255, 60, 40)


@dataclass
class Tile:
    """A picture with a bold title above and a caption below."""

    picture: Image.Image
    title: str = ""
    caption: str = ""


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """The sheet of these rows."""
    height = sum(row.height + SPACE for row in rows) - SPACE
    sheet = Image.new("RGB", (max(row.width for row in rows) + 2 * MARGIN, height + 2 * MARGIN), BACKGROUND)
    y = MARGIN
    for row in rows:
        sheet.paste(row, (MARGIN, y))
        y += row.height + SPACE
    return sheet


def tile_rows(tiles: Sequence[Tile], column: int, size: int = TEXT) -> list[Image.Image]:
    """Rows of titles, framed pictures and captions, in columns of this width; captions `size` pixels high."""
    titles = [text_row(tile.title, size * 7 // 6, column, bold=True, centred=True) for tile in tiles]
    pictures = [framed(tile.picture, FRAME, 1) for tile in tiles]
    captions = [text_row(tile.caption, size, column, centred=True) for tile in tiles]
    rows = (side_by_side(titles, column), side_by_side(pictures, column), side_by_side(captions, column, top=True))
    return [row for row in rows if row.height]


def side_by_side(images: Sequence[Image.Image], column: int, top: bool = False) -> Image.Image:
    """Each image in the middle of a column, or at its top."""
    row = Image.new("RGB", (len(images) * (column + GAP) - GAP, max(image.height for image in images)), BACKGROUND)
    for i, image in enumerate(images):
        y = 0 if top else (row.height - image.height) // 2
        row.paste(image, (i * (column + GAP) + (column - image.width) // 2, y))
    return row


def framed(picture: Image.Image, colour: Colour, thickness: int) -> Image.Image:
    return ImageOps.expand(picture.convert("RGB"), thickness, colour)


def text_row(words: str, size: int, width: int = LINE, bold: bool = False, centred: bool = False) -> Image.Image:
    """Lines of at most this width, letters `size` pixels high; empty without words."""
    font = ImageFont.load_default(size)
    lines = _wrapped(words, font, width)
    image = Image.new("RGB", (width, len(lines) * size * 4 // 3), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        x = int(width - font.getlength(line)) // 2 if centred else 0
        for shift in (0, 1) if bold else (0,):  # there is no bold cut of the font
            draw.text((x + shift, number * size * 4 // 3), line, font=font, fill=INK)
    return image


def result_rows(tiles: Sequence[Tile], zoom_box: Box, title: str) -> list[Image.Image]:
    """All pictures at one displayed size and, below, the same region of each.

    Args:
        tiles: pictures of one scene, of low and high resolution; those smaller than the largest are enlarged with each
            pixel a block, never interpolated.
        zoom_box: square region in pixels of the largest picture (`pick_zoom_box`).

    Raises:
        ValueError: for pictures whose proportions are not those of one scene.
    """
    scene, smallest = (of((tile.picture.size for tile in tiles), key=math.prod) for of in (max, min))
    for tile in tiles:
        width, height = tile.picture.size
        if abs(width * scene[1] - height * scene[0]) > max(scene):  # more than the pixel that no scale divides
            sizes = f"{width}x{height} and {scene[0]}x{scene[1]} (width x height)"
            raise ValueError(f"{tile.title!r} cannot show the same scene as the largest picture: {sizes}")
    shown = shown_size(scene, smallest, WIDEST)
    left, top, right, bottom = zoom_box
    factor = max(shown[0], 4 * WIDEST // 5) // (right - left)
    column = max(shown[0], 4 * WIDEST // 5) + 6
    per_row = math.ceil(len(tiles) / math.ceil(len(tiles) / PER_ROW))
    rows = [text_row(title, TITLE, bold=True)]
    for start in range(0, len(tiles), per_row):
        part = tiles[start : start + per_row]
        overviews = [Tile(overview(tile.picture, shown, scene, zoom_box), tile.title, tile.caption) for tile in part]
        zooms = [framed(zoomed(tile.picture, scene, zoom_box, factor), ACCENT, 3) for tile in part]
        rows += [*tile_rows(overviews, column), side_by_side(zooms, column)]
    note = (
        f"Marked region: {right - left} x {bottom - top} pixels of {scene[0]} x {scene[1]}, from column {left} "
        f"and row {top}, enlarged {factor} times without interpolation"
    )
    return [*rows, text_row(note, NOTE)]


def shown_size(scene: Size, smallest: Size, widest: int) -> Size:
    """Size at which all pictures of a scene are shown: with pixels of the scene as whole blocks, or reduced to fit.

    Args:
        smallest: size of the smallest picture of the scene; up to 20 % are given up for its pixels to be whole blocks.
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
    """The picture reduced by averaging, or enlarged with each pixel a block.

    Nearest neighbour makes blocks of unequal widths unless the factor is whole; averaging evens them out.
    """
    factor = max(1, math.ceil(max(size[0] / picture.width, size[1] / picture.height)))
    blocks = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
    return blocks.resize(size, Image.Resampling.BOX)


def overview(picture: Image.Image, shown: Size, scene: Size, box: Box) -> Image.Image:
    """The whole scene with the region marked."""
    image = resized(picture.convert("RGB"), shown)
    left, top, right, bottom = (round(side * shown[i % 2] / scene[i % 2]) for i, side in enumerate(box))
    draw = ImageDraw.Draw(image)
    # A pale rim keeps the line visible on red things.
    for thickness, colour in ((4, BACKGROUND), (3, ACCENT)):
        outline(draw, (left, top, right, bottom), thickness, colour)
    return image


def zoomed(picture: Image.Image, scene: Size, box: Box, factor: int) -> Image.Image:
    """A region of the scene, each of its pixels `factor` large, out of a picture of any resolution."""
    left, top, right, bottom = box
    across, down = picture.width / scene[0], picture.height / scene[1]
    size = (factor * (right - left), factor * (bottom - top))
    return picture.resize(size, Image.Resampling.NEAREST, (left * across, top * down, right * across, bottom * down))


def outline(draw: ImageDraw.ImageDraw, box: Box, thickness: int, colour: Colour) -> None:
    """Around the box, not over its pixels."""
    left, top, right, bottom = box
    corners = (left - thickness, top - thickness, right + thickness - 1, bottom + thickness - 1)
    draw.rectangle(corners, outline=colour, width=thickness)


def to_image(image: Tensor) -> Image.Image:
    """[3 or 1, h, w] in [0, 1] as an 8-bit picture, RGB or gray, rounded as the metrics round it."""
    pixels = to_eight_bit(image.detach().cpu()).movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save_png(image: Image.Image, path: Path) -> None:
    """Write the whole picture or nothing: a reader, or a run after a crash, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        image.save(part, format="PNG")


def _wrapped(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines that fit, broken between words, and inside a word (a file name, say) only if it is wider than the line."""
    # The font that comes with Pillow has ASCII only: letters lose their accents, others become question marks.
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", words) if not unicodedata.combining(sign))
    lines: list[str] = []
    for paragraph in plain.encode("ascii", "replace").decode().splitlines():
        broken, letters = [paragraph], len(paragraph)
        while letters > 1 and any(font.getlength(line) + 1 > width for line in broken):
            letters -= 1
            broken = textwrap.wrap(paragraph, letters, break_on_hyphens=False)
        lines += broken
    return lines
