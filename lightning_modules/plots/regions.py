"""Which part of an image is worth enlarging. Boxes are (left, top, right, bottom), right and bottom excluded."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Box = tuple[int, int, int, int]


def pick_zoom_box(hr: Tensor, size: int = 96) -> Box:
    """The square region of an image [3 or 1, h, w] with the most detail; the same image gives the same box.

    Detail is the mean gradient magnitude; the squared gradient would go for one hard edge rather than for texture.
    It is taken from a slightly smoothed image: texture as fine as a pixel is lost to every method, edges are not.
    The side is at most half the image's shorter one. Where there is room, the region keeps away from the borders
    (deblurring suffers there for reasons of its own) and starts at a multiple of 8, so that the pixels of a 2, 4 or 8
    times smaller image are shown whole.
    """
    side = max(1, min(size, min(hr.shape[-2:]) // 2))
    luminance = hr.detach().to("cpu", torch.float64).mean(dim=0, keepdim=True)
    gray = F.avg_pool2d(luminance, 5, stride=1, padding=2, count_include_pad=False)[0].numpy()
    detail = np.hypot(np.diff(gray, axis=0, append=gray[-1:]), np.diff(gray, axis=1, append=gray[:, -1:]))
    return busiest_box(detail, side, border=side // 4, step=8)


def busiest_box(values: NDArray[np.floating], side: int, border: int = 0, step: int = 1) -> Box:
    """The box of at most side x side with the largest sum of values [H, W] that are at least 0.

    Of boxes with almost the same sum it is the middle one, so that a small place of difference is not at its edge.

    Args:
        border: pixels that it keeps away from the borders, where there is room.
        step: it starts at multiples of this, where there is one.
    """
    height, width = values.shape
    tall, wide = min(side, height), min(side, width)
    sums = np.zeros((height + 1, width + 1))  # over all pixels above and to the left
    sums[1:, 1:] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    tops, lefts = _starts(height, tall, border, step), _starts(width, wide, border, step)
    rows = sums[tops + tall] - sums[tops]
    totals = rows[:, lefts + wide] - rows[:, lefts]
    places = np.argwhere(totals >= 0.999 * totals.max())
    row, column = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    left, top = int(lefts[column]), int(tops[row])
    return left, top, left + wide, top + tall


def _starts(length: int, side: int, border: int, step: int) -> NDArray[np.int64]:
    border = min(border, (length - side) // 4)
    starts = np.arange(border, length - side - border + 1)
    whole = starts[starts % step == 0]
    return whole if len(whole) else starts
