"""The sheet of task=preview: kernels, crops, their degraded versions, and histograms of what is drawn at random."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.batch import Batch
from experiments.preview.statistics import Statistics, kernel_offset, kernel_spread, kernel_support
from lightning_modules.plots.kernels import kernel_picture
from lightning_modules.plots.sheet import BACKGROUND, GAP, Sheet, Tile, resized, shown_size, to_image

WIDEST = 320  # crops up to this size are enlarged by a whole number as far as they fit, larger ones are reduced to it
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
    inputs = [crop.lr[0] for crop in crops if crop.lr is not None]
    if not crops or len(inputs) < len(crops):
        raise ValueError("the degradation yields no 'lr': there is nothing to show")
    height, width = crops[0].hr.shape[-2:]
    smallest = min((image.shape[-1], image.shape[-2]) for image in inputs)
    shown = shown_size((width, height), smallest, WIDEST)
    column = max(shown[0], WIDEST * 3 // 5)
    sheet = Sheet(max(len(crops), LEAST_COLUMNS) * (column + GAP) - GAP)
    sheet.text(title, TITLE, bold=True)
    sheet.text(text, TEXT)
    _add_kernels(sheet, crops, statistics, column)
    reduced = f", shown reduced to {shown[0]} x {shown[1]}" if shown[0] < width else ""
    clean = [crop.lr_sharp[0] for crop in crops if crop.lr_sharp is not None]
    rows = [
        (f"Sharp crops, {width} x {height}{reduced}", [crop.hr[0] for crop in crops], [crop.name[0] for crop in crops]),
        ("Degraded (lr), each pixel a block", inputs, list(map(_facts, crops, inputs))),
        ("Clean target at low resolution (lr_sharp), each pixel a block", clean, [_size(image) for image in clean]),
    ]
    for heading, images, captions in rows:
        if images:
            sheet.text(heading, HEADING, bold=True)
            pictures = [resized(to_image(image), shown) for image in images]
            sheet.row([Tile(p, caption=text) for p, text in zip(pictures, captions, strict=True)], column, TEXT)
    _add_histograms(sheet, statistics)
    return sheet.image()


def _facts(crop: Batch, image: Tensor) -> str:
    noise = "" if crop.noise_level is None else f", noise {255 * crop.noise_level.item():.3g}/255"
    return f"{_size(image)}, x{crop.scale}{noise}"


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]}"


def _add_kernels(sheet: Sheet, crops: Sequence[Batch], statistics: Statistics, column: int) -> None:
    kernels = [crop.kernel[0] for crop in crops if crop.kernel is not None]
    if not kernels:
        sheet.text("Kernels: this degradation yields none", HEADING, bold=True)
        return
    marks = "each scaled to its maximum, its centre marked"
    if any((kernel < 0).any() for kernel in kernels):
        marks += ", negative values blue"
    sheet.text(f"Kernels of the crops below, {_size(kernels[0])}, {marks}", HEADING, bold=True)
    sheet.row([Tile(_kernel(kernel, KERNEL), caption=_width(kernel)) for kernel in kernels], column, TEXT)
    first = statistics.kernels[0]
    if all((kernel - first).abs().max() == 0 for kernel in statistics.kernels):
        sheet.text("The kernel is the same for every sample", TEXT)
        return
    per_row = (sheet.width + GAP) // (SMALL_KERNEL + GAP)
    further = statistics.kernels[len(kernels) : len(kernels) + KERNEL_ROWS * per_row]  # the first samples are the crops
    if further:
        sheet.text("Kernels of further samples", HEADING, bold=True)
    for start in range(0, len(further), per_row):
        tiles = [Tile(_kernel(kernel, SMALL_KERNEL)) for kernel in further[start : start + per_row]]
        sheet.row(tiles, SMALL_KERNEL)


def _width(kernel: Tensor) -> str:
    (spread,), (support,), (offset,) = (of(kernel[None]) for of in (kernel_spread, kernel_support, kernel_offset))
    centre = f", {offset:.1f} px off-centre" if offset >= 0.05 else ""
    return f"std {spread:.2f} px, {support:.0f} px wide{centre}"


def _kernel(kernel: Tensor, side: int) -> Image.Image:
    return kernel_picture(kernel, max(1, side // max(kernel.shape[-2:])))


def _add_histograms(sheet: Sheet, statistics: Statistics) -> None:
    drawn = {
        "Kernel width: standard deviation, pixels of the image it blurs": statistics.spread,
        "Kernel support: longer side of all values above 1 % of the maximum, pixels": statistics.support,
        "Kernel offset: how far its centroid lies from its centre, which shifts the image, pixels": statistics.offset,
        "Noise: standard deviation, levels of 0 ... 255": statistics.noise,
        "Scale, drawn for every batch": statistics.scale if len(set(statistics.scale)) > 1 else [],
    }
    drawn = {name: values for name, values in drawn.items() if values}
    heading = f"Statistics of {len(statistics.scale)} samples" if drawn else "No statistics"
    named = (("kernels", statistics.spread), ("noise levels", statistics.noise))
    if missing := " and ".join(f"no {name}" for name, values in named if not values):
        heading += f" (the degradation yields {missing})"
    sheet.text(heading, HEADING, bold=True)
    if drawn:
        columns = max(4, len(drawn))
        width = (sheet.width + GAP) // columns - GAP
        sheet.row([_bars(name, values, width) for name, values in drawn.items()], width, TEXT)


def _bars(name: str, values: Sequence[float], width: int) -> Tile:
    picture = Image.new("RGB", (width, BAR_HEIGHT), BACKGROUND)
    if max(values) - min(values) < 1e-6:
        return Tile(picture, name, f"always {values[0]:.4g}")
    counts, low, high = histogram(values)
    draw = ImageDraw.Draw(picture)
    edges = np.linspace(0, width, len(counts) + 1).round().astype(int).tolist()
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            top = BAR_HEIGHT - round(0.95 * BAR_HEIGHT * count / counts.max())
            draw.rectangle((left + 1, min(top, BAR_HEIGHT - 1), right - 2, BAR_HEIGHT), fill=BAR)
    span = f"bars from {low:.3g} to {high:.3g}, mean {np.mean(values):.3g}"
    return Tile(picture, name, f"{span}\ntallest bar: {counts.max()}")


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
