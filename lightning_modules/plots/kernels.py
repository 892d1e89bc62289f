"""What a sheet shows beside the images a network was asked for: its coarse estimates, and blur kernels.

Kernels are no pictures of the scene: they stand in a strip of their own below the sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_modules.metrics.kernel_error import kernel_error
from lightning_modules.plots.sheet import (
    ACCENT,
    BACKGROUND,
    FRAME,
    GAP,
    MARGIN,
    Box,
    Panel,
    SheetLayout,
    centred,
    outline,
)

NEGATIVE = (70, 130, 255)
LARGE_KERNEL, SMALL_KERNEL = 320, 180  # sides of the squares that kernels have to fit into
COLUMN = 300  # holds every line of text
TITLE, CAPTION, NOTE = 28, 22, 19
KERNEL_NOTE = (
    "Kernels: row 0 on top, the largest value white, brightness the square root; "
    "the red frame marks the centre, pixel floor(size / 2)"
)


def kernel_picture(kernel: Tensor, factor: int) -> Image.Image:
    """A kernel [1, k, k] with each value a block of `factor` pixels, row 0 on top; the block at floor(k/2) is framed.

    White on black, the largest value white, negative values blue.
    """
    values = kernel[0].detach().double().cpu().nan_to_num(0, 0, 0).numpy()
    values = values / max(np.abs(values).max(), 1e-12)
    pixels = np.where(values[..., None] < 0, -values[..., None] * np.array(NEGATIVE) / 255, values[..., None])
    # Square root, as a display's own curve: long faint tails matter as much as the peak.
    image = Image.fromarray((255 * np.sqrt(pixels)).round().astype(np.uint8))
    image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    x, y = (factor * (n // 2) for n in (values.shape[1], values.shape[0]))
    outline(ImageDraw.Draw(image), (x, y, x + factor, y + factor), 1, ACCENT)
    return image


def kernel_tiles(estimated: Tensor | None, true: Tensor | None) -> list[Tile]:
    """The kernels [1, k, k] of one image that there are, their pixels enlarged alike; a true one alone is small."""
    named = [(name, k) for name, k in (("estimated kernel", estimated), ("true kernel", true)) if k is not None]
    room = SMALL_KERNEL if estimated is None else LARGE_KERNEL
    tiles = []
    for name, kernel in named:
        factor = max(1, room // max(other.shape[-1] for _, other in named))
        height, width = kernel.shape[-2:]
        lines = [f"{width} x {height}, centre ({width // 2}, {height // 2})"]
        if kernel is estimated and true is not None:
            lines.append(f"kernel error {kernel_error(kernel[None], true[None]).item():.3g}")
        if (kernel < 0).any():
            lines.append("negative values blue")
        tiles.append(Tile(name, "\n".join(lines), kernel_picture(kernel, factor)))
    return tiles


def with_tiles(sheet: Image.Image, tiles: Sequence[Tile], note: str) -> Image.Image:
    """The sheet with a strip below it, the tiles from the left and the note; without tiles the sheet itself."""
    if not tiles:
        return sheet
    strip = lay_out_strip(sheet.size, tiles, note)
    canvas = Image.new("RGB", strip.layout.size, BACKGROUND)
    canvas.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for tile, place in zip(tiles, strip.places, strict=True):
        canvas.paste(tile.picture, place[:2])
        outline(draw, place, 1, FRAME)
    strip.layout.draw_texts(draw)
    return canvas


def lay_out_strip(size: tuple[int, int], tiles: Sequence[Tile], note: str) -> Strip:
    """Where `with_tiles` draws what below a sheet of this size."""
    column = max(COLUMN, *(tile.picture.width for tile in tiles))
    columns = [(MARGIN + i * (column + GAP), tile) for i, tile in enumerate(tiles)]
    width = max(size[0], columns[-1][0] + column + MARGIN)
    strip = Strip(SheetLayout((width, 0), size, size, 0))
    y = max(strip.layout.add_text(tile.title, x, size[1], column, TITLE, bold=True) for x, tile in columns) + GAP // 4
    tallest = max(tile.picture.height for tile in tiles)
    # Centres at one height, so that kernels of different sizes can be compared pixel by pixel.
    tops = [y + (tallest - tile.picture.height) // 2 for tile in tiles]
    strip.places = [centred(x, top, column, tile.picture.size) for top, (x, tile) in zip(tops, columns, strict=True)]
    y += tallest + GAP // 2
    y = max(strip.layout.add_text(tile.caption, x, y, column, CAPTION) for x, tile in columns) + GAP // 2
    y = strip.layout.add_text(note, MARGIN, y, width - 2 * MARGIN, NOTE, left=True)
    strip.layout.size = (width, y + MARGIN - GAP // 2)
    return strip


def coarse_panels(pyramid: Sequence[Tensor], sr: Tensor, label: str) -> list[Panel]:
    """The estimates [C, h_i, w_i] of one image in their order, but for one that is the result [C, H, W] itself."""
    panels = []
    for estimate in pyramid:
        if estimate.shape == sr.shape and torch.equal(estimate, sr):
            continue
        height, width = estimate.shape[-2:]
        factor = round(max(sr.shape[-2:]) / max(height, width))
        title = f"{label} at 1/{factor}" if factor > 1 else f"{label}, estimate"
        panels.append(Panel(title, f"{width} x {height}", _on_scene(estimate, factor, (sr.shape[-2], sr.shape[-1]))))
    return panels


def _on_scene(estimate: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """A picture whose last row or column reaches beyond the scene [height, width], as blocks, cut to the scene.

    Reductions have a pitch of exactly `factor` pixels (`networks.ops.resize.bilinear_shrink`). Where the scene's sides
    are no multiples of it, a sheet that stretched them to the scene would show another region than beside it.
    """
    covered = tuple(-(-side // factor) for side in size)
    if tuple(estimate.shape[-2:]) != covered or all(side % factor == 0 for side in size):
        return estimate
    blocks = estimate.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return blocks[:, : size[0], : size[1]]


@dataclass
class Tile:
    """A picture that is shown as it is, with a title above and a caption below."""

    title: str
    caption: str
    picture: Image.Image


@dataclass
class Strip:
    """Places of the tiles and their texts, in their order."""

    layout: SheetLayout
    places: list[Box] = field(default_factory=list)
