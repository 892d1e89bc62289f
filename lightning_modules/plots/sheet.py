"""Result sheets: the same scene from several systems side by side, and one region of it enlarged pixel by pixel.

Boxes are (left, top, right, bottom) in pixels, right and bottom excluded, as Pillow has them; sizes (width, height).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datamodules.io.atomic import replacing
from lightning_modules.metrics.psnr_ssim import to_eight_bit

Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]

MARGIN, GAP, OUTLINE, PANELS_PER_ROW = 24, 16, 3, 6
TALLEST = 1.6  # height of an overview in panel widths: portraits fill their column, towers do not fill the screen
BACKGROUND, INK = (255, 255, 255), (24, 24, 24)
FRAME, ACCENT = (190, 190, 190), (255, 60, 40)
# The font that comes with Pillow draws boxes for everything beyond ASCII; these are the signs our captions use.
SPELLED_OUT = {"×": "x", "σ": "sigma", "–": "-", "—": "-", "−": "-", "→": "->", "±": "+/-", "∞": "inf", "µ": "u"}


def result_sheet(
    panels: Sequence[Panel], *, zoom_box: Box | None = None, title: str = "", panel_width: int = 480
) -> Image.Image:
    """Draw all panels at one displayed size and, below, the same region of each.

    Args:
        panels: pictures of one scene, of low and high resolution; those smaller than the largest are enlarged with
            each pixel a block, never interpolated.
        zoom_box: region in pixels of the largest picture (see `pick_zoom_box`); without one there is no second row.
        panel_width: widest a picture is shown; up to 20% less where that makes the smallest's pixels whole blocks.

    Raises:
        ValueError: no panels, no pictures in them, pictures of different scenes' proportions, or a box outside.
    """
    sheet = lay_out(panels, zoom_box=zoom_box, title=title, panel_width=panel_width)
    canvas = Image.new("RGB", sheet.size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index, panel in enumerate(panels):
        pixels, place = to_pixels(panel.image), sheet.overviews[index]
        canvas.paste(_overview(pixels, sheet), place[:2])
        outline(draw, place, 1, FRAME)
        if zoom_box is not None:
            region = _shown_box(zoom_box, place, sheet)
            outline(draw, region, OUTLINE + 1, BACKGROUND)  # a pale rim keeps the line visible on red things
            outline(draw, region, OUTLINE, ACCENT)
            canvas.paste(Image.fromarray(_zoom(pixels, zoom_box, sheet)), sheet.zooms[index][:2])
            outline(draw, sheet.zooms[index], OUTLINE, ACCENT)
    sheet.draw_texts(draw)
    return canvas


def lay_out(
    panels: Sequence[Panel], *, zoom_box: Box | None = None, title: str = "", panel_width: int = 480
) -> SheetLayout:
    """Where `result_sheet` draws what, for the same arguments."""
    sizes = [_checked_size(panel) for panel in panels]
    if not sizes or panel_width < 32:
        raise ValueError(f"a sheet needs panels and a panel width of at least 32, got {len(sizes)} and {panel_width}")
    scene = max(sizes, key=lambda size: size[0] * size[1])
    for panel, size in zip(panels, sizes, strict=True):
        _check_proportions(panel.title, size, scene)
    shown = _shown_size(min(sizes, key=lambda size: size[0] * size[1]), scene, panel_width)
    column = max(shown[0], math.ceil(0.8 * panel_width))
    factor, zoomed = 0, (0, 0)
    if zoom_box is not None:
        left, top, right, bottom = zoom_box
        if not (0 <= left < right <= scene[0] and 0 <= top < bottom <= scene[1]):
            raise ValueError(f"zoom box {zoom_box} is not inside the picture of {scene[0]}x{scene[1]} (width x height)")
        factor = max(1, min(column // (right - left), int(TALLEST * panel_width) // (bottom - top)))
        zoomed = (factor * (right - left), factor * (bottom - top))
        column = max(column, zoomed[0])

    per_row = math.ceil(len(panels) / math.ceil(len(panels) / PANELS_PER_ROW))
    width = 2 * MARGIN + per_row * column + (per_row - 1) * GAP
    small, large = max(11, panel_width // 20), max(12, panel_width // 17)
    sheet = SheetLayout((width, 0), scene, shown, factor)

    y = MARGIN
    if title:
        y = sheet.add_text(title, MARGIN, y, width - 2 * MARGIN, large * 5 // 4, bold=True, left=True) + GAP // 2
    for start in range(0, len(panels), per_row):
        y += GAP if start else 0
        row = [(MARGIN + i * (column + GAP), panel) for i, panel in enumerate(panels[start : start + per_row])]
        y = max(sheet.add_text(panel.title, x, y, column, large, bold=True) for x, panel in row) + GAP // 4
        sheet.overviews += [centred(x, y, column, shown) for x, _ in row]
        y += shown[1] + GAP // 2
        y = max(sheet.add_text(panel.caption, x, y, column, small) for x, panel in row) + GAP // 2
        if zoom_box is not None:
            sheet.zooms += [centred(x, y, column, zoomed) for x, _ in row]
            y += zoomed[1] + GAP
    if zoom_box is not None:
        note = f"Marked region: {right - left} x {bottom - top} pixels of {scene[0]} x {scene[1]}, from column {left} "
        note += f"and row {top}, enlarged {factor} times without interpolation"
        y = sheet.add_text(note, MARGIN, y, width - 2 * MARGIN, small * 4 // 5, left=True)
    sheet.size = (width, y + MARGIN - GAP // 2)
    return sheet


def pick_zoom_box(hr: Tensor, size: int = 96) -> Box:
    """The square region [3 or 1,h,w] with the most detail, for `result_sheet`; the same picture gives the same box.

    Detail is the mean gradient magnitude; the squared gradient would go for one hard edge rather than for texture.
    It is taken from a slightly smoothed picture: texture as fine as a pixel is lost to every method, edges are not.
    The side is at most half the picture's shorter one. Where there is room, the region keeps away from the borders
    (deblurring suffers there for reasons of its own) and starts at a multiple of 8, so that the pixels of a 2, 4 or 8
    times smaller picture are shown whole.
    """
    height, width = hr.shape[-2:]
    side = max(1, min(size, min(height, width) // 2))
    luminance = hr.detach().to("cpu", torch.float64).mean(dim=0, keepdim=True)
    gray = F.avg_pool2d(luminance, 5, stride=1, padding=2, count_include_pad=False)[0].numpy()
    detail = np.zeros((height + 1, width + 1))
    detail[1:, 1:] = np.hypot(np.diff(gray, axis=0, append=gray[-1:]), np.diff(gray, axis=1, append=gray[:, -1:]))
    sums = detail.cumsum(axis=0).cumsum(axis=1)  # over all pixels above and to the left
    tops, lefts = np.array(_starts(height, side)), np.array(_starts(width, side))
    rows = sums[tops + side] - sums[tops]
    # Window sums differ in the last digits; without rounding these would choose among equal windows.
    candidates = (rows[:, lefts + side] - rows[:, lefts]).round(6)
    row, column = np.unravel_index(int(candidates.argmax()), candidates.shape)
    left, top = int(lefts[column]), int(tops[row])
    return left, top, left + side, top + side


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write the whole picture or nothing: a reader, or a run after a crash, never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        image.save(part, format="PNG")


def _checked_size(panel: Panel) -> tuple[int, int]:
    image = panel.image
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape or not image.is_floating_point():
        found = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"panel {panel.title!r} needs a floating-point picture [3 or 1,h,w], got {found}")
    return int(image.shape[2]), int(image.shape[1])


def _check_proportions(title: str, size: tuple[int, int], scene: tuple[int, int]) -> None:
    """A sheet stretches every picture to one size; more than the pixel lost to a size that does not divide is a lie."""
    lowest = max((side - 1) / whole for side, whole in zip(size, scene, strict=True))
    highest = min((side + 1) / whole for side, whole in zip(size, scene, strict=True))
    if lowest > highest:
        shapes = f"{size[0]}x{size[1]} and {scene[0]}x{scene[1]} (width x height)"
        raise ValueError(f"panel {title!r} cannot show the same scene as the largest panel: {shapes}")


def _shown_size(smallest: tuple[int, int], scene: tuple[int, int], panel_width: int) -> tuple[int, int]:
    tallest = int(TALLEST * panel_width)
    fit = min(panel_width / scene[0], tallest / scene[1])
    factor = min(panel_width // smallest[0], tallest // smallest[1])
    in_proportion = abs(smallest[0] * scene[1] / (smallest[1] * scene[0]) - 1) < 0.01
    if in_proportion and factor * smallest[0] >= 0.8 * fit * scene[0]:
        return factor * smallest[0], factor * smallest[1]
    return max(1, round(fit * scene[0])), max(1, round(fit * scene[1]))


def centred(x: int, y: int, column: int, size: tuple[int, int]) -> Box:
    left = x + (column - size[0]) // 2
    return left, y, left + size[0], y + size[1]


def to_pixels(image: Tensor) -> Pixels:
    """[3 or 1,h,w] -> [h,w,3]."""
    return np.asarray(to_eight_bit(image.detach().cpu()).expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _overview(pixels: Pixels, sheet: SheetLayout) -> Image.Image:
    picture, shown = Image.fromarray(pixels), sheet.shown_size
    enlarged = max(shown[0] / picture.width, shown[1] / picture.height)
    # A large picture is resampled as any viewer would; enlarged a lot, that would look like the blur under judgement.
    if enlarged <= 1 or (picture.size == sheet.scene_size and enlarged <= 2):
        return picture.resize(shown, Image.Resampling.LANCZOS)
    # Plain nearest neighbour makes blocks of unequal widths unless the factor is whole; the box filter evens them out.
    blocks = picture.resize((math.ceil(enlarged) * picture.width, math.ceil(enlarged) * picture.height), 0)
    return blocks.resize(shown, Image.Resampling.BOX)


def _zoom(pixels: Pixels, box: Box, sheet: SheetLayout) -> Pixels:
    """Nearest neighbour in whole numbers, so that every panel shows exactly the same part of the scene."""
    left, top, right, bottom = box
    columns = _nearest(left, right, sheet.zoom_factor, pixels.shape[1], sheet.scene_size[0])
    rows = _nearest(top, bottom, sheet.zoom_factor, pixels.shape[0], sheet.scene_size[1])
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def _nearest(start: int, stop: int, factor: int, length: int, scene_length: int) -> NDArray[np.int64]:
    """Which pixel of `length` lies under the centre of each shown pixel, with start and stop in scene pixels."""
    twice_centres = 2 * np.arange(factor * start, factor * stop, dtype=np.int64) + 1
    return twice_centres * length // (2 * factor * scene_length)


def _shown_box(box: Box, place: Box, sheet: SheetLayout) -> Box:
    x0, x1 = (place[0] + round(x * sheet.shown_size[0] / sheet.scene_size[0]) for x in (box[0], box[2]))
    y0, y1 = (place[1] + round(y * sheet.shown_size[1] / sheet.scene_size[1]) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def outline(draw: ImageDraw.ImageDraw, box: Box, thickness: int, colour: tuple[int, int, int]) -> None:
    """Around the box, not over its pixels."""
    left, top, right, bottom = box
    corners = (left - thickness, top - thickness, right + thickness - 1, bottom + thickness - 1)
    draw.rectangle(corners, outline=colour, width=thickness)


def _starts(length: int, side: int) -> list[int]:
    """Allowed first pixels of a window: multiples of 8 and off the border, as far as the picture has room for that."""
    border = min(side // 4, (length - side) // 4)
    starts = list(range(border, length - side - border + 1))
    return [start for start in starts if start % 8 == 0] or starts


def _printable(text: str) -> str:
    """Signs the font lacks are spelled out or lose their accents; what is still unknown becomes a question mark."""
    spelled = "".join(SPELLED_OUT.get(sign, sign) for sign in text)
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(sign))
    return plain.encode("ascii", "replace").decode()


def _wrapped(text: str, height: int, width: int) -> list[str]:
    """Lines that fit, broken between words, and inside a word (a file name, say) only if it is wider than the line."""
    font, lines = ImageFont.load_default(height), []
    for paragraph in _printable(text).splitlines():
        line = ""
        for word in paragraph.split(" "):
            if line and font.getlength(f"{line} {word}") + 1 > width:
                lines.append(line.rstrip())
                line = word
            else:
                line = f"{line} {word}" if line else word
            while len(line) > 1 and font.getlength(line) + 1 > width:
                fitting = next((n for n in range(len(line) - 1, 1, -1) if font.getlength(line[:n]) + 1 <= width), 1)
                lines.append(line[:fitting])
                line = line[fitting:]
        lines.append(line.rstrip())
    return lines


@dataclass
class Panel:
    """One picture of a sheet, [3 or 1,h,w] floating point in [0,1], the name of its system and, say, its PSNR."""

    title: str
    caption: str
    image: Tensor


@dataclass
class TextLine:
    line: str
    x: int
    y: int
    height: int
    bold: bool


@dataclass
class SheetLayout:
    """Places of everything on a sheet; overviews and zooms in the order of the panels."""

    size: tuple[int, int]
    scene_size: tuple[int, int]
    shown_size: tuple[int, int]
    zoom_factor: int
    overviews: list[Box] = field(default_factory=list)
    zooms: list[Box] = field(default_factory=list)
    texts: list[TextLine] = field(default_factory=list)

    def add_text(self, text: str, x: int, y: int, width: int, size: int, bold: bool = False, left: bool = False) -> int:
        """Add the text as lines of at most this width and return the y below the last one."""
        for line in _wrapped(text, size, width):
            indent = 0 if left else max(0, int(width - ImageFont.load_default(size).getlength(line)) // 2)
            self.texts.append(TextLine(line, x + indent, y, size, bold))
            y += size * 4 // 3
        return y

    def draw_texts(self, draw: ImageDraw.ImageDraw) -> None:
        for text in self.texts:
            for shift in (0, 1) if text.bold else (0,):  # there is no bold cut of the font
                draw.text((text.x + shift, text.y), text.line, font=ImageFont.load_default(text.height), fill=INK)
