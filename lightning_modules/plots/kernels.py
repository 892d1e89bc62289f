"""What a sheet shows besides the images that a network was asked for: its coarse estimates, and blur kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_modules.metrics.kernel_error import kernel_error
from lightning_modules.plots.sheet import ACCENT, NOTE, Tile, outline, text_row, tile_rows, to_image

NEGATIVE = (70, 130, 255)
LARGE_KERNEL, SMALL_KERNEL = 320, 180  # sides of the squares that kernels have to fit into
COLUMN = 340  # holds every line of text
KERNEL_NOTE = (
    "Kernels: row 0 on top, the largest value white, brightness the square root; "
    "the red frame marks the centre, pixel floor(size / 2)"
)


def kernel_picture(kernel: Tensor, side: int) -> Image.Image:
    """A kernel [1, k, k] with each value a block, row 0 on top, in about `side` pixels; block floor(k/2) is framed.

    White on black, the largest value white, negative values blue.
    """
    values = kernel[0].detach().double().cpu().nan_to_num(0, 0, 0).numpy()
    values = values / max(np.abs(values).max(), 1e-12)
    pixels = np.where(values[..., None] < 0, -values[..., None] * np.array(NEGATIVE) / 255, values[..., None])
    # Square root, as a display's own curve: long faint tails matter as much as the peak.
    image = Image.fromarray((255 * np.sqrt(pixels)).round().astype(np.uint8))
    factor = max(1, side // max(image.size))
    x, y = (factor * (size // 2) for size in image.size)
    image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    outline(ImageDraw.Draw(image), (x, y, x + factor, y + factor), 1, ACCENT)
    return image


def kernel_tiles(estimated: Tensor | None, true: Tensor | None) -> list[Tile]:
    """The kernels [1, k, k] of one image that there are, their pixels enlarged alike; only a true one is small."""
    named = [(name, k) for name, k in (("estimated kernel", estimated), ("true kernel", true)) if k is not None]
    room = SMALL_KERNEL if estimated is None else LARGE_KERNEL
    tiles = []
    for name, kernel in named:
        height, width = kernel.shape[-2:]
        factor = max(1, room // max(other.shape[-1] for _, other in named))
        lines = [f"{width} x {height}, centre ({width // 2}, {height // 2})"]
        if kernel is estimated and true is not None:
            lines.append(f"kernel error {kernel_error(kernel[None], true[None]).item():.3g}")
        if (kernel < 0).any():
            lines.append("negative values blue")
        tiles.append(Tile(kernel_picture(kernel, factor * width), name, "\n".join(lines)))
    return tiles


def kernel_rows(tiles: Sequence[Tile]) -> list[Image.Image]:
    """Kernels are not pictures of the scene: they stand below it, with a note of how they are drawn."""
    if not tiles:
        return []
    column = max(COLUMN, *(tile.picture.width + 2 for tile in tiles))
    return [*tile_rows(tiles, column), text_row(KERNEL_NOTE, NOTE)]


def coarse_tiles(pyramid: Sequence[Tensor], sr: Tensor, label: str) -> list[Tile]:
    """The estimates [C, h_i, w_i] of one image in their order, but for one that is the result [C, H, W] itself.

    Reductions have a pitch of exactly 2, 4, ... pixels (`networks.ops.resize.bilinear_shrink`): where the sides of the
    scene are no multiples of it, the last row and column reach beyond the scene, and blocks are cut to it.
    """
    tiles = []
    for estimate in pyramid:
        if estimate.shape == sr.shape and torch.equal(estimate, sr):
            continue
        height, width = estimate.shape[-2:]
        factor = round(max(sr.shape[-2:]) / max(height, width))
        title = f"{label} at 1/{factor}" if factor > 1 else f"{label}, estimate"
        blocks = estimate.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        tiles.append(Tile(to_image(blocks[:, : sr.shape[-2], : sr.shape[-1]]), title, f"{width} x {height}"))
    return tiles
