"""EDSR: residual blocks without normalisation and pixel shuffles, for x2, x3 or x4.

B. Lim, S. Son, H. Kim, S. Nah, K. M. Lee, "Enhanced deep residual networks for single image super-resolution",
CVPR Workshops 2017. The small configuration (EDSR-baseline) is that of the authors' published code.

What differs: nothing in the function. Inside, values are in [0, 255] as in the published code; the mean of the training
images is a constant here, where that code keeps it as fixed convolutions of 24 parameters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.options import check_choice, check_positive
from networks.restored import Restored

MEAN = (0.4488, 0.4371, 0.4040)  # R, G, B of DIV2K


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3, initialised as PyTorch does, which is what the published code uses."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def upsampler(width: int, scale: int) -> nn.Sequential:
    steps = [3] if scale == 3 else [2] * (scale // 2)
    return nn.Sequential(*(layer for r in steps for layer in (conv(width, r * r * width), nn.PixelShuffle(r))))


class ResidualBlock(nn.Module):
    """conv-ReLU-conv, times `scaling`, plus the input."""

    def __init__(self, width: int, scaling: float) -> None:
        super().__init__()
        self.scaling = scaling
        self.body = nn.Sequential(conv(width, width), nn.ReLU(inplace=True), conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) * self.scaling


class EDSR(RestorationNetwork):
    """EDSR; for x4 43,089,923 parameters. EDSR-baseline is width 64, n_blocks 16, residual_scaling 1: 1,517,571.

    Input `lr` [B, 3, h, w] in [0, 1], any size. Output `sr` [B, 3, scale*h, scale*w], about [0, 1].

    Args:
        scale: 2, 3 or 4. Networks of different scales differ only in the first part of `tail`.
        width: channels.
        n_blocks: residual blocks.
        residual_scaling: factor on the output of every block before its input is added.
    """

    mean: Tensor

    def __init__(self, scale: int = 4, width: int = 256, n_blocks: int = 32, residual_scaling: float = 0.1) -> None:
        super().__init__()
        check_choice("scale", scale, (2, 3, 4))
        check_positive(width=width, n_blocks=n_blocks)
        self.scale = scale
        # Not saved: a constant of the network, no part of what was learned.
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Sequential(conv(3, width))
        self.body = nn.Sequential(
            *(ResidualBlock(width, residual_scaling) for _ in range(n_blocks)), conv(width, width)
        )
        self.tail = nn.Sequential(upsampler(width, scale), conv(width, 3))

    def forward(self, lr: Tensor) -> Restored:
        if lr.shape[1] != 3:  # one channel would be spread over the three of the mean
            raise ValueError(f"lr has {lr.shape[1]} channels, expected 3")
        x = self.head(255 * lr - self.mean)
        return Restored(sr=(self.tail(x + self.body(x)) + self.mean) / 255)


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of the authors' PyTorch code without its fixed convolutions, which hold the mean.

    Its other names are those used here; shapes are not looked at: `load_state_dict` does that.

    Raises:
        ValueError: if the fixed convolutions are missing or hold other values than those of [0, 255].
    """
    kept = dict(state)
    mean = 255 * torch.tensor(MEAN)
    eye = torch.eye(3).view(3, 3, 1, 1)
    fixed = {"sub_mean.weight": eye, "sub_mean.bias": -mean, "add_mean.weight": eye, "add_mean.bias": mean}
    for name, value in fixed.items():
        tensor = kept.pop(name, None)
        if tensor is None:
            raise ValueError(f"not the official EDSR weights: missing {name}")
        if tensor.shape != value.shape or not torch.allclose(tensor.to(value), value, rtol=1e-4):
            raise ValueError(f"not the official EDSR weights: {name} is not that of the mean of DIV2K in 0 to 255")
    return kept
