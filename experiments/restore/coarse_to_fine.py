"""SRN in tiles, scale by scale: its result in tiles is that of the whole image.

From one end to the other SRN looks further than many an image is wide, for a pixel of the coarsest scale is several
pixels of the finest, but at none of its scales does it look far. So each scale is finished over the whole image before
the next one begins, in tiles of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.restore.image_buffer import Image, Picture, scratch_array
from experiments.restore.tiling import Joined, Span, Tiling, restore_tiles, spans
from networks.base import RestorationNetwork
from networks.ops.resize import bilinear_shrink
from networks.restored import Restored
from networks.srn import SRN

BAND = 64  # rows of a scale for which the photograph is read at once


class Step(nn.Module):
    """One scale of SRN.

    What the next scale takes from it is one image of a quarter of the resolution: the estimate, 4x4 pixels as channels,
    and the state of the ConvLSTM.
    """

    def __init__(self, network: SRN) -> None:
        super().__init__()
        self.network = network
        states = 0 if network.lstm is None else network.lstm.conv.in_channels
        self.carried = 16 * network.channels + states  # channels of what is handed on, for `network.channels` of image

    def forward(self, blurred: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """Estimate [B, C, h, w] and what is handed on [B, K, h/4, w/4], from the blurred image of this scale
        [B, C, h, w], sides multiples of 8, and what the coarser scale has handed on [B, K, h/8, w/8]."""
        n_images, _, h, w = blurred.shape
        coarser = state = None
        if carried is not None:
            estimate, rest = carried.reshape(-1, self.carried, h // 8, w // 8).split(
                [16 * self.network.channels, self.carried - 16 * self.network.channels], 1
            )
            coarser = F.pixel_shuffle(estimate, 4)
            if rest.shape[1]:
                cell, hidden = rest.chunk(2, 1)
                state = (cell, hidden)
        estimate, state = self.network.step(blurred.reshape(-1, self.network.channels, h, w), coarser, state)
        handed_on = torch.cat([F.pixel_unshuffle(estimate, 4), *(state or ())], 1)
        return estimate.reshape(blurred.shape), handed_on.reshape(n_images, -1, h // 4, w // 4)


class OneScale(RestorationNetwork):
    """A network for measuring how far one scale looks: what the coarser scale hands on lies where the image lies."""

    scale = 1

    def __init__(self, network: SRN) -> None:
        super().__init__()
        self.step, self.size_multiple = Step(network), network.size_multiple

    def forward(self, lr: Tensor) -> Restored:
        channels = lr.shape[1] // self.step.network.channels * self.step.carried
        carried = lr[:, :1, ::8, ::8].expand(-1, channels, -1, -1)
        return Restored(sr=self.step(lr, carried)[0])


def restore_by_scales(
    network: SRN,
    picture: Picture,
    tiling: Tiling,
    batch: int,
    run: Callable[[Step, Tensor, Tensor | None], tuple[Tensor, Tensor]],
    target: Image,
) -> Iterator[tuple[int, int]]:
    """Restore an image, and yield after every batch of tiles how many are done and how many there are.

    Args:
        picture: of a size that the network's size_multiple divides.
        tiling: of every scale, in pixels of this scale, exact by the receptive field of `OneScale`.
        run: applies the step to its inputs [B, ...], gives its results in the channels of the photograph.
        target: gets the result.
    """
    step = Step(network)
    factors = [2**k for k in reversed(range(network.n_scales))]
    sizes = [(picture.size[0] // factor, picture.size[1] // factor) for factor in factors]
    count = sum(len(spans(height, tiling)) * len(spans(width, tiling)) for height, width in sizes)
    separate = picture.channels if network.channels == 1 else 1  # images that a channel of the photograph each makes
    done, carried = 0, None
    with ExitStack() as stack:
        for factor, (height, width) in zip(factors, sizes, strict=True):

            def restore(row: Span, group: Sequence[Span], factor: int = factor, carried: Any = carried) -> list[Tensor]:
                blurred = torch.stack([_shrunk(picture, factor, row, column, network.resize) for column in group])
                coarser = None if carried is None else torch.stack([_part(carried, row, column) for column in group])
                estimates, handed_on = run(step, blurred, coarser)
                return [estimates if factor == 1 else handed_on]

            if factor == 1:
                joined = Joined(target, 1, width, picture.channels)
            else:
                shape = (height // 4, width // 4, separate * step.carried)
                carried = stack.enter_context(scratch_array(None, shape, np.dtype(np.float32)))
                joined = Joined(carried, Fraction(1, 4), width, shape[2])
            for tiles in restore_tiles((height, width), tiling, batch, restore, [joined]):
                done += tiles
                yield done, count


def _shrunk(picture: Picture, factor: int, row: Span, column: Span, resize: Literal["half_pixel", "tf1"]) -> Tensor:
    """A tile [C, h, w] of the photograph at 1/factor of its resolution."""
    columns = slice(factor * column.start, factor * column.stop)
    bands = []
    for start in range(row.start, row.stop, BAND):
        rows = slice(factor * start, factor * min(start + BAND, row.stop))
        bands.append(bilinear_shrink(picture.part(rows, columns)[None], factor, resize)[0])
    return torch.cat(bands, 1)


def _part(carried: np.ndarray, row: Span, column: Span) -> Tensor:
    """What the coarser scale has handed on of a tile: [K, h/8, w/8]."""
    part = carried[row.start // 8 : row.stop // 8, column.start // 8 : column.stop // 8]
    return torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))
