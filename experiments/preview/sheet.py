"""The sheet of task=preview: kernels, crops, their degraded versions, and histograms of what is drawn at random."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.batch import Batch
from experiments.preview.statistics import Statistics, kernel_offset, kernel_spread, kernel_support, kernels_of
from lightning_modules.callbacks.sheets import size
from lightning_modules.plots.kernels import kernel_picture
from lightning_modules.plots.sheet import Tile, resized, shown_size, side_by_side, stack, text_row, tile_rows, to_image

WIDEST = 320  # crops up to this size are enlarged by a whole number as far as they fit, larger ones are reduced to it
KERNEL, SMALL_KERNEL = 126, 84  # sides of the squares for kernels
PER_ROW, FURTHER = 16, 32  # small kernels
BAR_WIDTH, BAR_HEIGHT = 300, 150
BINS = 32
TEXT, HEADING, TITLE = 15, 18, 24
BAR = (60, 105, 170)


def preview_sheet(title: str, text: str, crops: Sequence[Batch], statistics: Statistics) -> Image.Image:
    """Draw degraded batches of one sample each, `hr` of equal size, as columns, and statistics of many more samples.

    Raises:
        ValueError: no crops, or a degradation that made no `lr`.
    """
    inputs = [crop.lr[0] for crop in crops if crop.lr is not None]
    if not crops or len(inputs) < len(crops):
        raise ValueError("the degradation yields no 'lr': there is nothing to show")
    height, width = crops[0].hr.shape[-2:]
    smallest = min((image.shape[-1], image.shape[-2]) for image in inputs)
    shown = shown_size((width, height), smallest, WIDEST)
    column = max(shown[0], WIDEST * 3 // 5) + 2
    reduced = f", shown reduced to {shown[0]} x {shown[1]}" if shown[0] < width else ""
    clean = [crop.lr_sharp[0] for crop in crops if crop.lr_sharp is not None]
    lines = [
        (f"Sharp crops, {width} x {height}{reduced}", [crop.hr[0] for crop in crops], [crop.name[0] for crop in crops]),
        ("Degraded (lr), each pixel a block", inputs, list(map(_facts, crops, inputs))),
        ("Clean target at low resolution (lr_sharp), each pixel a block", clean, [size(image) for image in clean]),
    ]
    rows = [text_row(title, TITLE, bold=True), text_row(text, TEXT), *_kernel_rows(crops, statistics, column)]
    for heading, images, captions in lines:
        if images:
            tiles = [Tile(resized(to_image(x), shown), caption=c) for x, c in zip(images, captions, strict=True)]
            rows += [_heading(heading), *tile_rows(tiles, column, TEXT)]
    return stack([*rows, *_histogram_rows(statistics)])


def _heading(text: str) -> Image.Image:
    return text_row(text, HEADING, bold=True)


def _facts(crop: Batch, image: Tensor) -> str:
    noise = "" if crop.noise_level is None else f", noise {255 * crop.noise_level.item():.3g}/255"
    return f"{size(image)}, x{crop.scale}{noise}"


def _kernel_rows(crops: Sequence[Batch], statistics: Statistics, column: int) -> list[Image.Image]:
    kernels = [kernel for crop in crops if (drawn := kernels_of(crop)) is not None for kernel in drawn]
    if not kernels:
        return [_heading("Kernels: this degradation yields none")]
    marks = "each scaled to its maximum, its centre marked"
    if any((kernel < 0).any() for kernel in kernels):
        marks += ", negative values blue"
    tiles = [Tile(kernel_picture(kernel, KERNEL), caption=_width(kernel)) for kernel in kernels]
    rows = [_heading(f"Kernels of the crops below, {size(kernels[0])}, {marks}")]
    several = len(kernels) // len(crops)  # to a crop, one below the other
    for p in range(several):
        rows += tile_rows(tiles[p::several], column, TEXT)
    first = statistics.kernels[0]
    if all((kernel - first).abs().max() == 0 for kernel in statistics.kernels):
        return [*rows, text_row("The kernel is the same for every sample", TEXT)]
    further = statistics.kernels[len(kernels) :][:FURTHER]  # the first samples are the crops
    if further:
        rows.append(_heading("Kernels of further samples"))
    for start in range(0, len(further), PER_ROW):
        pictures = [kernel_picture(kernel, SMALL_KERNEL) for kernel in further[start : start + PER_ROW]]
        rows.append(side_by_side(pictures, SMALL_KERNEL))
    return rows


def _width(kernel: Tensor) -> str:
    (spread,), (support,), (offset,) = (of(kernel[None]) for of in (kernel_spread, kernel_support, kernel_offset))
    centre = f", {offset:.1f} px off-centre" if offset >= 0.05 else ""
    return f"std {spread:.2f} px, {support:.0f} px wide{centre}"


def _histogram_rows(statistics: Statistics) -> list[Image.Image]:
    drawn = {
        "Kernel width: standard deviation, pixels of the image it blurs": statistics.spread,
        "Kernel support: longer side of all values above 1 % of the maximum, pixels": statistics.support,
        "Kernel offset: how far its centroid lies from its centre, which shifts the image, pixels": statistics.offset,
        "Noise: standard deviation, levels of 0 ... 255": statistics.noise,
        "Scale, drawn for every batch": statistics.scale if len(set(statistics.scale)) > 1 else [],
    }
    drawn = {name: values for name, values in drawn.items() if values}
    none = "No statistics: the degradation yields neither kernels nor noise levels"
    heading = f"Statistics of {len(statistics.scale)} samples" if drawn else none
    tiles = [_bars(name, values) for name, values in drawn.items()]
    return [_heading(heading), *(tile_rows(tiles, BAR_WIDTH, TEXT) if tiles else [])]


def _bars(name: str, values: Sequence[float]) -> Tile:
    picture = Image.new("RGB", (BAR_WIDTH - 2, BAR_HEIGHT), "white")
    if max(values) - min(values) < 1e-6:
        return Tile(picture, name, f"always {values[0]:.4g}")
    counts, low, high = histogram(values)
    draw = ImageDraw.Draw(picture)
    edges = np.linspace(0, picture.width, len(counts) + 1).round().astype(int).tolist()
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
