"""Luma of colour images, for the networks that restore only luma and leave the colours to bicubic enlargement.

ITU-R BT.601 in studio range, as MATLAB's rgb2ycbcr gives it on floating-point images: black is 16/255, white 235/255.

A change of Y with Cb and Cr kept adds the same number to R, G and B: in the matrix of rgb2ycbcr the rows of Cb and Cr
sum to zero and that of Y to 219/255. So the luma can be replaced without converting to YCbCr and back.
"""

import torch
from torch import Tensor

RANGE = 219 / 255  # of luma, for RGB in [0, 1]
OFFSET = 16 / 255
WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)


def luma(images: Tensor) -> Tensor:
    """Y of images: [B, 3, H, W] with R, G, B in [0, 1] -> [B, 1, H, W] in [16/255, 235/255].

    Images of one channel are luma already and come back as they are; another number of channels raises ValueError.
    """
    _check(images)
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return OFFSET + (WEIGHTS[0] * red + WEIGHTS[1] * green + WEIGHTS[2] * blue)


def replace_luma(images: Tensor, y: Tensor) -> Tensor:
    """Images with the luma `y` [B, 1, H, W] and the Cb and Cr that they have; `y` itself if they have one channel.

    Not clipped: a luma that the colour does not allow leaves [0, 1].
    """
    _check(images)
    if images.shape[1] == 1:
        return y
    with torch.autocast(images.device.type, enabled=False):
        return images + (y.to(images.dtype) - luma(images)) / RANGE


def _check(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [B, 1, H, W] or [B, 3, H, W]")
