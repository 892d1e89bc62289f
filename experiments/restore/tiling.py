"""Where tiles lie, what is kept of them, and how they are joined.

A tile is read with a margin on the sides where the image goes on. The margin is dropped from its result, for there the
network did not see all that it would have seen of the whole image. What is left still overlaps with the neighbours: in
this strip the results of both are mixed, with weights that go over from one to the other in a straight line.
"""

import itertools
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from fractions import Fraction

import numpy as np
from torch import Tensor

from datamodules.errors import InputError
from experiments.restore.image_buffer import Image, write
from experiments.restore.receptive_field import up_to

RESULT_SIDE = 2048  # of a tile's result, in pixels, where the tile is not given
LARGEST_MARGIN = 256  # wider ones leave little of a tile: such networks are approximated
GLOBAL_MARGIN = 48  # of methods that look at the whole image, beside the kernel
FEATHER = 8


@dataclass(frozen=True)
class Tiling:
    """In pixels of the input, multiples of the network's alignment.

    Attributes:
        tile: side of the tiles.
        overlap: of neighbouring tiles: two margins and the strip in which they are mixed.
        margin: dropped at every side at which the image goes on.
        exact: whether the result is that of the whole image.
    """

    tile: int
    overlap: int
    margin: int
    exact: bool


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels of the input.

    Attributes:
        start, stop: what the network sees.
        first, last: what is kept.
        before, after: of this, what is mixed with the neighbours.
    """

    start: int
    stop: int
    first: int
    last: int
    before: int = 0
    after: int = 0

    def times(self, scale: Fraction | int) -> "Span":
        """The tile in a result that is `scale` times as large."""
        return Span(*(int(scale * value) for value in astuple(self)))

    def weights(self) -> np.ndarray:
        """Of the kept pixels; those of neighbours sum to 1."""
        weights = np.ones(self.last - self.first, np.float32)
        if self.before:
            weights[: self.before] = (np.arange(self.before) + 0.5) / self.before
        if self.after:
            weights[-self.after :] = 1 - (np.arange(self.after) + 0.5) / self.after
        return weights


def choose_tiling(
    size: tuple[int, int],
    scale: int,
    align: int,
    field: Callable[[], int | None],
    kernel_side: int = 0,
    tile: int | None = None,
    overlap: int | None = None,
) -> Tiling | None:
    """How to cut an image into tiles.

    Without `tile`, images whose result has at most RESULT_SIDE^2 pixels stay whole, others get tiles with results of
    that side, and at least twice the overlap. Without `overlap`, it is twice the network's receptive field and a strip
    for mixing; networks that look further than LARGEST_MARGIN are approximated.

    Args:
        size: (H, W) of the image; `tile` and `overlap` are in its pixels.
        align: see `receptive_field.alignment`.
        field: the network's receptive field, called only if the image is cut; None: too large, or the whole image.
        kernel_side: of the blur kernel in pixels of the result, for methods that look at the whole image.

    Returns:
        None where the image stays whole.

    Raises:
        InputError: for a tile that is not larger than what it has to overlap by.
    """
    if tile is not None and tile < 1:
        raise InputError(f"tile: found {tile}, expected at least 1 pixel, or none to choose it", key="tile")
    if overlap is not None and overlap < 0:
        raise InputError(f"overlap: found {overlap}, expected 0 or more pixels, or none to choose it", key="overlap")
    if size[0] * size[1] * scale**2 <= RESULT_SIDE**2 if tile is None else max(size) <= tile:
        return None
    needed = field()
    if overlap is not None:
        overlap = up_to(overlap, align)
        exact = needed is not None and overlap >= 2 * needed + align
        margin = needed if exact and needed is not None else max(0, overlap // align * 3 // 8) * align
    elif needed is not None:
        exact, overlap, margin = True, 2 * needed + up_to(FEATHER, align), needed
    else:
        margin = LARGEST_MARGIN if not kernel_side else GLOBAL_MARGIN + kernel_side // scale
        margin = up_to(margin if tile is None else min(margin, tile // 5), align)
        exact, overlap = False, 2 * margin + up_to(max(FEATHER, margin // 4), align)
    least_tile = overlap + (overlap - 2 * margin) + (align if overlap == 2 * margin else 0)
    if tile is None:
        tile = up_to(max(RESULT_SIDE / scale, 2 * overlap), align)
    elif up_to(tile, align) < least_tile:
        raise InputError(
            f"tile: found {tile}, but tiles that overlap by {overlap} pixels have a side of at least {least_tile}: "
            "give a larger tile, or a smaller overlap for an approximation",
            key="tile",
        )
    return Tiling(up_to(tile, align), overlap, margin, exact)


def spans(length: int, tiling: Tiling | None) -> list[Span]:
    """The tiles along an axis of `length` pixels; all of it without a tiling."""
    if tiling is None:
        return [Span(0, length, 0, length)]
    step = tiling.tile - tiling.overlap
    mixed = tiling.overlap - 2 * tiling.margin
    count = max(1, math.ceil((length - tiling.overlap) / step))
    tiles = []
    for i in range(count):
        is_first, is_last = i == 0, i == count - 1
        start, stop = i * step, length if is_last else i * step + tiling.tile
        first, before = (start, 0) if is_first else (start + tiling.margin, mixed)
        last, after = (stop, 0) if is_last else (stop - tiling.margin, mixed)
        tiles.append(Span(start, stop, first, last, before, after))
    return tiles


def middle(length: int, size: int) -> Span:
    """The middle `size` pixels of an axis, or all of them."""
    start = max(0, length - size) // 2
    stop = min(length, start + size)
    return Span(start, stop, start, stop)


def in_batches(columns: Sequence[Span], batch: int) -> list[list[Span]]:
    """The tiles of a row, up to `batch` of equal width together."""
    groups: list[list[Span]] = []
    for _, equal in itertools.groupby(columns, lambda span: span.stop - span.start):
        tiles = list(equal)
        groups += [tiles[i : i + batch] for i in range(0, len(tiles), batch)]
    return groups


class Joined:
    """Puts the results of tiles together, tiles from left to right in rows from top to bottom, and writes them.

    What no neighbour has a part in is written at once. Kept are the strips that wait for the tile to the right and for
    those below: no more memory for a high image, and little for a wide one. By NumPy, which leaves the other cores to
    the network and to the file that is being written.

    Args:
        target: gets the result.
        scale: of the result against the image.
        width: of the image.
    """

    def __init__(self, target: Image, scale: Fraction | int, width: int, channels: int) -> None:
        self.target, self.scale = target, scale
        self.below = np.empty((channels, 0, int(scale * width)), np.float32)

    def start_row(self, row: Span) -> None:
        row = row.times(self.scale)
        channels, _, width = self.below.shape
        self.above, self.below = self.below, np.empty((channels, row.after, width), np.float32)
        self.left = np.empty((channels, row.last - row.first, 0), np.float32)

    def add(self, result: Tensor, row: Span, column: Span) -> None:
        """The result [C, h, w] of one tile."""
        row, column = row.times(self.scale), column.times(self.scale)
        rows = slice(row.first - row.start, row.last - row.start)
        columns = slice(column.first - column.start, column.last - column.start)
        kept, weights = result[:, rows, columns].float().cpu().numpy(), column.weights()
        middle = kept.shape[2] - column.after
        self._finish(self.left + kept[:, :, : column.before] * weights[: column.before], row, column.first)
        self._finish(kept[:, :, column.before : middle], row, column.first + column.before)
        self.left = kept[:, :, middle:] * weights[middle:]

    def _finish(self, values: np.ndarray, row: Span, left: int) -> None:
        """Values [C, h, w] that are those of the row, from column `left` on."""
        columns, weights = slice(left, left + values.shape[2]), row.weights()[:, None]
        complete = values.shape[1] - row.after
        mixed = self.above[:, :, columns] + values[:, : row.before] * weights[: row.before]
        write(self.target, row.first, left, mixed)
        write(self.target, row.first + row.before, left, values[:, row.before : complete])
        self.below[:, :, columns] = values[:, complete:] * weights[complete:]


def restore_tiles(
    size: tuple[int, int],
    tiling: Tiling | None,
    batch: int,
    restore: Callable[[Span, Sequence[Span]], Sequence[Tensor]],
    joined: Sequence[Joined],
) -> Iterator[int]:
    """Restore an image of size (H, W) tile by tile, up to `batch` together, and yield how many these were.

    Args:
        restore: the results [B, C, h, w] of tiles in a row, one for each of `joined`.
    """
    columns = spans(size[1], tiling)
    for row in spans(size[0], tiling):
        for result in joined:
            result.start_row(row)
        for group in in_batches(columns, batch):
            for result, tiles in zip(joined, restore(row, group), strict=True):
                for column, values in zip(group, tiles, strict=True):
                    result.add(values, row, column)
            yield len(group)
        for result in joined:
            release(result.target)


def release(image: Image) -> None:
    """Let go of the memory of a memory-mapped array: what was written is on its way to the file."""
    if isinstance(image, np.memmap) and image.mode in ("r+", "w+"):  # private pages have no file to go to
        image.flush()
        if hasattr(mmap, "MADV_DONTNEED"):  # Windows does so by itself
            image._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # numpy has no other way to it
