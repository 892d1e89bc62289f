"""ED-DSRN and ED-SRN: one encoder-decoder, two heads, for Gaussian deblurring and x4 super-resolution.

X. Zhang, F. Wang, H. Dong, Y. Guo, "A deep encoder-decoder networks for joint deblurring and super-resolution",
ICASSP 2018. No code or weights were published.

The paper gives the sequence of blocks; widths, activation, pooling and units per block are not stated. The defaults are
the widths and units that fit the parameter count and the run-time ratio to SRResNet which the authors report elsewhere.
The paper adds the low-resolution input to the high-resolution output (eq. 2), which the shapes do not allow: here it is
enlarged first (`global_residual`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.convolution import conv
from networks.ops.options import check_choice, check_positive, check_widths
from networks.ops.resize import bicubic_resize, pad_to_multiple
from networks.restored import Restored

SLOPE = 0.2


def act() -> nn.LeakyReLU:
    return nn.LeakyReLU(SLOPE, inplace=True)


class ResidualUnit(nn.Module):
    """conv-act-conv plus the input (through a 1x1 convolution where the width changes); no activation after the sum."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs), act(), conv(outputs, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def res_block(inputs: int, outputs: int, n_units: int) -> nn.Sequential:
    widths = [inputs] + [outputs] * n_units
    return nn.Sequential(*(ResidualUnit(i, o) for i, o in pairwise(widths)))


def pool(kind: str, width: int) -> nn.Module:
    if kind == "max":
        return nn.MaxPool2d(2)
    if kind == "avg":
        return nn.AvgPool2d(2)
    return conv(width, width, 3, stride=2)


def up_conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """Transposed convolution that doubles the resolution: 4/2/1, or 3/2/1 with one output row and column added."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, size, 2, 1, output_padding=4 - size), act())


class EDDSRN(RestorationNetwork):
    """ED-DSRN, and ED-SRN with `deblur_branch=False`.

    Input `lr` [B, 3, h, w] in [0, 1], any size (padded by repetition to a multiple of 8 inside). Output `sr`
    [B, 3, 4h, 4w] and, with the deblurring branch, `deblurred` [B, 3, h, w], both about [0, 1].

    Args:
        widths: channels at resolutions 1, 1/2, 1/4, 1/8.
        n_units: residual units per Res-Block; 3 is the reference (25.693 M parameters), 1 the base size (10.352 M).
        deblur_branch: the parallel deblurring head; without it the network is ED-SRN.
        global_residual: what is added to the super-resolved image: the enlarged input (eq. 2), or nothing.
        pooling: "max", "avg" or "conv" (stride-2 3x3 convolution).
        up_kernel: kernel of the decoder's up-convolutions, 4 or 3 (the paper's text says 3x3).
        head_gain: factor on the initial weights of the two output layers; below 1 the network starts close to what is
            added to its outputs, which helps short trainings.
    """

    size_multiple = 8
    scale = 4

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        n_units: int = 3,
        deblur_branch: bool = True,
        global_residual: Literal["bicubic", "nearest", "none"] = "bicubic",
        pooling: Literal["max", "avg", "conv"] = "max",
        up_kernel: Literal[3, 4] = 4,
        head_gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_widths(widths, 4)
        check_positive(n_units=n_units)
        check_choice("global_residual", global_residual, ("bicubic", "nearest", "none"))
        check_choice("pooling", pooling, ("max", "avg", "conv"))
        check_choice("up_kernel", up_kernel, (3, 4))
        self.outputs = ("sr", "deblurred") if deblur_branch else ("sr",)
        self.global_residual = global_residual
        c0, c1, c2, c3 = widths

        self.stem = nn.Sequential(conv(3, c0, 7), act())
        self.encoder1 = nn.Sequential(pool(pooling, c0), res_block(c0, c1, n_units))
        self.encoder2 = nn.Sequential(pool(pooling, c1), res_block(c1, c2, n_units))
        self.encoder3 = nn.Sequential(pool(pooling, c2), res_block(c2, c3, n_units))

        self.up1, self.skip1, self.decoder1 = up_conv(c3, c2, up_kernel), conv(c2, c2), res_block(c2, c2, n_units)
        self.up2, self.skip2, self.decoder2 = up_conv(c2, c1, up_kernel), conv(c1, c1), res_block(c1, c1, n_units)
        self.up3, self.skip3 = up_conv(c1, c0, up_kernel), conv(c0, c0)

        self.sr_head = nn.Sequential(
            *(conv(c0, c0), act(), conv(c0, c0), act(), conv(c0, c0), act()),
            *(conv(c0, 4 * c0), nn.PixelShuffle(2), act()),  # 2h x 2w
            *(conv(c0, 4 * c0), nn.PixelShuffle(2), act()),  # 4h x 4w
            *(conv(c0, c0), act(), conv(c0, 3)),
        )
        self.deblur_head = (
            nn.Sequential(conv(c0, c0), act(), conv(c0, c0), act(), conv(c0, 3)) if deblur_branch else None
        )
        for head in (self.sr_head, self.deblur_head):
            if head is not None and isinstance(last := head[-1], nn.Conv2d):
                last.weight.data.mul_(head_gain)

    def features(self, x: Tensor) -> Tensor:
        """Shared features [B, c0, h, w] of an input whose height and width are multiples of 8."""
        f0 = self.stem(x)
        f1 = self.encoder1(f0)  # h/2 x w/2
        f2 = self.encoder2(f1)  # h/4 x w/4
        f3 = self.encoder3(f2)  # h/8 x w/8
        d1 = self.decoder1(self.up1(f3) + self.skip1(f2))  # h/4 x w/4
        d2 = self.decoder2(self.up2(d1) + self.skip2(f1))  # h/2 x w/2
        return self.up3(d2) + self.skip3(f0)

    def forward(self, lr: Tensor) -> Restored:
        h, w = lr.shape[-2:]
        x = pad_to_multiple(lr, self.size_multiple)
        shared = self.features(x)
        sr = self.sr_head(shared)[..., : self.scale * h, : self.scale * w]
        if self.global_residual == "bicubic":
            sr = sr + bicubic_resize(lr, self.scale)
        elif self.global_residual == "nearest":
            sr = sr + F.interpolate(lr, scale_factor=self.scale, mode="nearest")
        if self.deblur_head is None:
            return Restored(sr=sr)
        return Restored(sr=sr, deblurred=self.deblur_head(shared)[..., :h, :w] + lr)
