"""Means over windows that slide over an image."""

import torch
from torch import Tensor


def window_mean(images: Tensor, window: tuple[int, int]) -> Tensor:
    """At every pixel the mean of the window of rows x columns around it, which is moved inside at the borders.

    An even window has its middle behind the pixel. Where the image is smaller than the window, all of it is the window.

    Args:
        images: [B, C, H, W] in float32 or float64: sums of rows lose what half precision has.

    Returns:
        [B, C, H, W]; [B, C, 1, 1] where the window is the whole image.
    """
    (h, w), (rows, columns) = images.shape[-2:], window
    # Whoever exports a graph for images of any size cannot choose by the size; the windows give the same.
    if not torch.compiler.is_exporting() and rows >= h and columns >= w:
        return images.mean((2, 3), keepdim=True)
    with torch.autocast(images.device.type, enabled=False):
        return _sliding(_sliding(images, rows, 2), columns, 3)


def _sliding(images: Tensor, length: int, dim: int) -> Tensor:
    """Along one axis: differences of cumulative sums, whose cost does not depend on the window."""
    n = images.shape[dim]
    place = torch.arange(n, device=images.device)
    size = place.new_full((), n).clamp(max=length)  # a tensor, like the rest: n may be symbolic
    first = torch.minimum((place - torch.div(size - 1, 2, rounding_mode="floor")).clamp(min=0), n - size)
    zeros = torch.zeros_like(images.narrow(dim, 0, 1))
    sums = torch.cat([zeros, images.cumsum(dim)], dim)
    return (sums.index_select(dim, first + size) - sums.index_select(dim, first)) / size
