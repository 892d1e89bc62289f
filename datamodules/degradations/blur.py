"""Blur: true convolution of every image with its own kernel."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Boundary = Literal["replicate", "reflect", "circular"]


def convolve(images: Tensor, kernels: Tensor, boundary: Boundary = "replicate") -> Tensor:
    """Convolve each image with its kernel; all channels of an image share it.

    y[i] = sum_j k[j] x[i - (j - floor(k/2))]: true convolution, so an off-centre kernel moves the image the
    way its mass is displaced.

    Args:
        images: [B, C, H, W].
        kernels: [B, 1, k, k] (or [1, 1, k, k], shared), odd or even k.
        boundary: how the image continues outside its frame; "reflect" repeats no edge pixel.

    Returns:
        [B, C, H, W], same dtype as `images`.

    Raises:
        ValueError: if the shapes do not fit, or if the frame is smaller than the boundary rule needs.
    """
    batch, _, height, width = images.shape
    if kernels.dim() != 4 or kernels.shape[0] not in (1, batch) or kernels.shape[1] != 1:
        raise ValueError(f"kernels have shape {tuple(kernels.shape)}, expected [{batch}, 1, k, k]")
    kh, kw = kernels.shape[-2:]
    # The flipped kernel of an even size has its centre one pixel earlier: pad the longer side first.
    padding = (kw - 1 - kw // 2, kw // 2, kh - 1 - kh // 2, kh // 2)
    limit = {"replicate": 10**9, "reflect": min(height, width) - 1, "circular": min(height, width)}[boundary]
    if max(padding) > limit:
        raise ValueError(f"a {kh}x{kw} kernel is too large for {height}x{width} images with boundary {boundary!r}")
    weight = kernels.expand(batch, 1, kh, kw).flip(-2, -1).to(images.dtype)
    # One image is one group: channels take the place of the batch, images that of the channels.
    stack = F.pad(images, padding, mode=boundary).transpose(0, 1)
    return F.conv2d(stack, weight, groups=batch).transpose(0, 1)
