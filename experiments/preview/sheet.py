"""The sheet of task=preview: kernels, crops, their degraded versions, and histograms of what is drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datamodules.batch import Batch
from experiments.preview.statistics import Statistics, kernel_offset, kernel_spread, kernel_support
from lightning_modules.plots.kernels import kernel_picture
from lightning_modules.plots.sheet import (
    BACKGROUND,
    FRAME,
    GAP,
    MARGIN,
    SheetLayout,
    centred,
    outline,
    to_pixels,
)

COLUMN = 264  # crops up to this size are enlarged by a whole number as far as they fit,
WIDEST = 320  # up to this size they are shown as they are, and larger ones are reduced to it
LEAST_COLUMNS = 5  # a sheet of few crops keeps this width for its text
KERNEL, SMALL_KERNEL = 126, 84  # sides of the squares for kernels
KERNEL_ROWS = 2  # of further kernels
BAR_HEIGHT = 150
BINS = 32
TEXT, HEADING, TITLE = 15, 18, 24
BAR = (60, 105, 170)


def preview_sheet(title: str, text: str, crops: Sequence[Batch], statistics: Statistics) -> Image.Image:
    """Draw the sheet.

    Args:
        title: first line.
        text: below it, wrapped.
        crops: degraded batches of one sample each, `hr` of equal size; each is a column.
        statistics: of many more samples.

    Raises:
        ValueError: no crops, or a degradation that made no `lr`.
    """
    if not crops or any(crop.lr is None for crop in crops):
        raise ValueError("the degradation yields no 'lr': there is nothing to show")
    sheet = _Sheet(len(crops), (crops[0].hr.shape[-1], crops[0].hr.shape[-2]))
    sheet.text(title, TITLE, bold=True)
    sheet.text(text, TEXT)
    _draw_kernels(sheet, crops, statistics)
    height, width = crops[0].hr.shape[-2:]
    reduced = f", shown reduced to {sheet.shown[0]} x {sheet.shown[1]}" if sheet.shown[0] < width else ""
    sheet.text(f"Sharp crops, {width} x {height}{reduced}", HEADING, bold=True, space=GAP)
    sheet.pictures([crop.hr[0] for crop in crops], [crop.name[0] for crop in crops])
    sheet.text("Degraded (lr), each pixel a block", HEADING, bold=True, space=GAP)
    sheet.pictures([crop.lr[0] for crop in crops if crop.lr is not None], [_facts(crop) for crop in crops])
    clean = [crop.lr_sharp[0] for crop in crops if crop.lr_sharp is not None]
    if clean:
        sheet.text("Clean target at low resolution (lr_sharp), each pixel a block", HEADING, bold=True, space=GAP)
        sheet.pictures(clean, [f"{image.shape[-1]} x {image.shape[-2]}" for image in clean])
    _draw_histograms(sheet, statistics)
    return sheet.finished()


def _facts(crop: Batch) -> str:
    assert crop.lr is not None
    noise = "" if crop.noise_level is None else f", noise {255 * crop.noise_level.item():.3g}/255"
    return f"{crop.lr.shape[-1]} x {crop.lr.shape[-2]}, x{crop.scale}{noise}"


def _draw_kernels(sheet: _Sheet, crops: Sequence[Batch], statistics: Statistics) -> None:
    own = [crop.kernel[0] for crop in crops if crop.kernel is not None]
    if not own:
        sheet.text("Kernels: this degradation yields none", HEADING, bold=True, space=GAP)
        return
    size = f"{own[0].shape[-1]} x {own[0].shape[-2]}"
    marks = "each scaled to its maximum, its centre marked" + ", negative values blue" * any(
        (kernel < 0).any().item() for kernel in own
    )
    sheet.text(f"Kernels of the crops below, {size}, {marks}", HEADING, bold=True, space=GAP)
    sheet.row([_kernel(kernel, KERNEL) for kernel in own], [_width(kernel) for kernel in own], sheet.column)
    more = statistics.kernels
    if all((kernel - more[0]).abs().max() == 0 for kernel in more):
        sheet.text("The kernel is the same for every sample", TEXT)
        return
    per_row = (sheet.inner + GAP) // (SMALL_KERNEL + GAP)
    further = more[len(own) : len(own) + KERNEL_ROWS * per_row]  # the first samples are the crops
    if further:
        sheet.text("Kernels of further samples", HEADING, bold=True, space=GAP)
    for start in range(0, len(further), per_row):
        tiles = [_kernel(kernel, SMALL_KERNEL) for kernel in further[start : start + per_row]]
        sheet.row(tiles, [""] * len(tiles), SMALL_KERNEL)


def _width(kernel: Tensor) -> str:
    (spread,), (support,), (offset,) = (of(kernel[None]) for of in (kernel_spread, kernel_support, kernel_offset))
    return f"std {spread:.2f} px, {support:.0f} px wide" + f", {offset:.1f} px off-centre" * (offset >= 0.05)


def _kernel(kernel: Tensor, side: int) -> Image.Image:
    return kernel_picture(kernel, max(1, side // max(kernel.shape[-2:])))


def _draw_histograms(sheet: _Sheet, statistics: Statistics) -> None:
    found = [
        ("Kernel width: standard deviation, pixels of the image it blurs", statistics.spread),
        ("Kernel support: longer side of all values above 1 % of the maximum, pixels", statistics.support),
        ("Kernel offset: how far its centroid lies from its centre, which shifts the image, pixels", statistics.offset),
        ("Noise: standard deviation, levels of 0 ... 255", statistics.noise),
        ("Scale, drawn for every batch", statistics.scale if len(set(statistics.scale)) > 1 else []),
    ]
    named = (("kernels", statistics.spread), ("noise levels", statistics.noise))
    missing = " and ".join(f"no {name}" for name, values in named if not values)
    drawn = [(name, values) for name, values in found if values]
    heading = f"Statistics of {len(statistics.scale)} samples" if drawn else "No statistics"
    heading += f" (the degradation yields {missing})" * bool(missing)
    sheet.text(heading, HEADING, bold=True, space=GAP)
    sheet.histograms(drawn)


def histogram(values: Sequence[float]) -> tuple[NDArray[np.int64], float, float]:
    """Counts of equal bins, and the values that the middle of the first and of the last bin stand for.

    Whole numbers get a bin each as far as there are at most 64, other values `BINS` bins.
    """
    data = np.asarray(values)
    low, high = float(data.min()), float(data.max())
    steps = BINS
    if np.abs(data - data.round()).max() < 1e-3 and high - low < 64:
        low, high = round(low) - 0.5, round(high) + 0.5
        steps = round(high - low)
    counts, edges = np.histogram(data, steps, (low, high))
    half = (edges[1] - edges[0]) / 2
    return counts, float(edges[0] + half), float(edges[-1] - half)


def _bars(counts: NDArray[np.int64], width: int) -> Image.Image:
    image = Image.new("RGB", (width, BAR_HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(image)
    edges = np.linspace(0, width, len(counts) + 1).round().astype(int)
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        top = BAR_HEIGHT - round(0.95 * BAR_HEIGHT * count / counts.max())
        if count:
            draw.rectangle((int(left) + 1, min(top, BAR_HEIGHT - 1), int(right) - 2, BAR_HEIGHT), fill=BAR)
    return image


class _Sheet:
    """Grows downwards: everything is laid out first and drawn when the height is known."""

    def __init__(self, columns: int, crop: tuple[int, int]) -> None:
        longest = max(crop)
        factor = COLUMN // longest if longest <= COLUMN else min(1.0, WIDEST / longest)
        self.shown = (round(factor * crop[0]), round(factor * crop[1]))
        self.column = max(self.shown[0], COLUMN * 3 // 4)
        wide = max(columns, LEAST_COLUMNS)
        self.inner = wide * self.column + (wide - 1) * GAP
        self.layout = SheetLayout((self.inner + 2 * MARGIN, 0), crop, self.shown, 0)
        self.images: list[tuple[Image.Image, tuple[int, int]]] = []
        self.y = MARGIN

    def text(self, text: str, size: int, bold: bool = False, space: int = 0) -> None:
        self.y = self.layout.add_text(text, MARGIN, self.y + space, self.inner, size, bold, left=True) + GAP // 4

    def pictures(self, images: Sequence[Tensor], captions: Sequence[str]) -> None:
        """Tensors [C, h, w] as large as the sharp crops are shown, nearest neighbour."""
        tiles = []
        for image in images:
            tile = Image.fromarray(to_pixels(image))
            blocks = max(1, math.ceil(self.layout.scene_size[0] / tile.width))
            factor = max(1, self.shown[0] // self.layout.scene_size[0]) * blocks
            tile = tile.resize((factor * tile.width, factor * tile.height), Image.Resampling.NEAREST)
            # Only where crops are too large for the sheet.
            tiles.append(tile if tile.size == self.shown else tile.resize(self.shown, Image.Resampling.BOX))
        self.row(tiles, captions, self.column)

    def row(self, tiles: Sequence[Image.Image], captions: Sequence[str], column: int) -> None:
        bottom = self.y
        for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
            x, y, _, end = centred(MARGIN + i * (column + GAP), self.y, column, tile.size)
            self.images.append((tile, (x, y)))
            if caption:
                end = self.layout.add_text(caption, MARGIN + i * (column + GAP), end + GAP // 4, column, TEXT)
            bottom = max(bottom, end)
        self.y = bottom + GAP // 2

    def histograms(self, columns: Sequence[tuple[str, list[float]]]) -> None:
        """Bars side by side, at least four to the width, with the values of the first and last bar below."""
        count = max(4, len(columns))
        width = (self.inner - (count - 1) * GAP) // count
        places = [MARGIN + i * (width + GAP) for i in range(len(columns))]
        tops = [
            self.layout.add_text(name, x, self.y, width, TEXT, left=True)
            for x, (name, _) in zip(places, columns, strict=True)
        ]
        top = max(tops, default=self.y) + GAP // 4
        self.y = top
        for x, (_, values) in zip(places, columns, strict=True):
            if max(values) - min(values) < 1e-6:
                end = self.layout.add_text(f"always {values[0]:.4g}", x, top, width, HEADING, bold=True, left=True)
                self.y = max(self.y, end)
                continue
            counts, low, high = histogram(values)
            self.images.append((_bars(counts, width), (x, top)))
            y = top + BAR_HEIGHT + GAP // 4
            self.layout.add_text(f"{low:.3g}", x, y, width, TEXT, left=True)
            last = f"{high:.3g}"
            end_width = math.ceil(ImageFont.load_default(TEXT).getlength(last)) + 2
            self.layout.add_text(last, x + width - end_width, y, end_width, TEXT)
            self.layout.add_text(f"mean {np.mean(values):.3g}", x, y, width, TEXT)
            end = self.layout.add_text(f"tallest bar: {counts.max()}", x, y + TEXT * 4 // 3, width, TEXT)
            self.y = max(self.y, end)

    def finished(self) -> Image.Image:
        canvas = Image.new("RGB", (self.inner + 2 * MARGIN, self.y + MARGIN), BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        for image, (x, y) in self.images:
            canvas.paste(image, (x, y))
            outline(draw, (x, y, x + image.width, y + image.height), 1, FRAME)
        self.layout.draw_texts(draw)
        return canvas
