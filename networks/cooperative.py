"""Cooperative-Learning Deblur-SR: a deblurring and a super-resolving branch side by side, both residual to the input.

H. Liu, J. Qin, Z. Fu, X. Li, J. Han, "Fast simultaneous image super-resolution and motion deblurring with decoupled
cooperative learning", Journal of Real-Time Image Processing 2020. The layers follow the authors' Caffe definition.

The network works at the target resolution: its input is the low-resolution image already enlarged bicubically. What
differs from the original: sides that 8 does not divide are padded and cropped; the statistics behind a frozen
convolution stay as they are, where the original went on averaging them; and images are not transposed, as they were
there by MATLAB's memory order, which would matter to the authors' weights only; nothing reads those here.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.batch_norm import batch_norm
from networks.ops.options import check_choice, check_positive, check_widths
from networks.ops.resize import pad_to_multiple
from networks.restored import Restored

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d)


def msra(layer: Layer) -> Layer:
    """Caffe's "msra" filler, N(0, 2/fan_in), where fan_in of a transposed convolution counts its output channels."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, (2 / fan_in) ** 0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # bias is there: bias=True
    return layer


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return msra(nn.Conv2d(inputs, outputs, size, stride, size // 2))


def up_conv(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return msra(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization whose running statistics are averaged as in Caffe.

    Caffe keeps sums that decay by 1 - momentum per step and divides them by the equally decayed number of steps: the
    statistics are a weighted mean of the batches seen, without the initial 0 and 1. PyTorch's average would still hold
    37 % of these after 1000 steps of momentum 0.001. The factor of step t is therefore momentum/(1 - (1-momentum)^t),
    which starts at 1 and tends to momentum. The variance kept is the unbiased one, in Caffe and PyTorch alike.

    Attributes:
        synced: whether a batch is what all processes have of it (`lightning_modules.sync_batchnorm` sets it).
    """

    synced = False

    def forward(self, input: Tensor, frozen: bool = False) -> Tensor:
        """Normalise by the batch, or by the running statistics (left as they are) in evaluation or if `frozen`."""
        mean, var, steps = self.running_mean, self.running_var, self.num_batches_tracked
        assert mean is not None
        assert var is not None
        assert steps is not None
        assert self.momentum is not None
        if frozen or not self.training:
            return F.batch_norm(input, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        # Momentum 1 leaves the statistics of this batch; taking the average here keeps the step count on the device.
        batch_mean, batch_var = torch.zeros_like(mean), torch.zeros_like(var)
        output = batch_norm(input, batch_mean, batch_var, self.weight, self.bias, 1.0, self.eps, self.synced)
        steps.add_(1)
        factor = -self.momentum / torch.expm1(steps.to(mean.dtype) * math.log1p(-self.momentum))
        mean.lerp_(batch_mean, factor)
        var.lerp_(batch_var, factor)
        return output


class NormBlock(nn.Module):
    """(Transposed) convolution, batch normalization, PReLU; `skip` is added before the PReLU."""

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, affine: bool, momentum: float) -> None:
        super().__init__()
        self.conv = layer
        self.norm = BatchNorm(layer.out_channels, momentum=momentum, affine=affine)
        self.act = nn.PReLU(layer.out_channels)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        # Asked here and not in train(): whoever freezes or unfreezes the weights later need not tell the network.
        y = self.norm(self.conv(x), frozen=not self.conv.weight.requires_grad)
        return self.act(y if skip is None else y + skip)


Block = Callable[[nn.Conv2d | nn.ConvTranspose2d], NormBlock]


class Level(nn.Module):
    """Residual units of one resolution: each adds its output to the anchor, or (not `anchored`) to its own input."""

    def __init__(self, width: int, n_units: int, anchored: bool, block: Block) -> None:
        super().__init__()
        self.anchored = anchored
        self.units = nn.ModuleList(
            nn.Sequential(block(conv(width, width)), block(conv(width, width))) for _ in range(n_units)
        )

    def forward(self, x: Tensor, anchor: Tensor) -> Tensor:
        for unit in self.units:
            x = (anchor if self.anchored else x) + unit(x)
        return x


class Deblur(nn.Module):
    """Encoder-decoder; [B, 3, H, W] with sides divisible by 8 to a correction of the same shape."""

    def __init__(self, widths: Sequence[int], anchored: bool, skips: bool, affine: bool, bn_momentum: float) -> None:
        super().__init__()
        self.skips = skips
        block = partial(NormBlock, affine=affine, momentum=bn_momentum)
        level = partial(Level, anchored=anchored, block=block)
        c0, c1, c2, c3 = widths
        self.stem = block(conv(3, c0, 5))
        self.down1, self.encoder1 = block(conv(c0, c1, stride=2)), level(c1, 2)
        self.down2, self.encoder2 = block(conv(c1, c2, stride=2)), level(c2, 3)
        self.down3, self.encoder3 = block(conv(c2, c3, stride=2)), level(c3, 3)
        self.up1, self.decoder1 = block(up_conv(c3, c2)), level(c2, 3)
        self.up2, self.decoder2 = block(up_conv(c2, c1)), level(c1, 2)
        self.up3 = block(up_conv(c1, c0))
        self.head = nn.Sequential(block(conv(c0, c0)), conv(c0, 3))

    def forward(self, x: Tensor) -> Tensor:
        f0 = self.stem(x)
        a1 = self.down1(f0)  # 1/2
        f1 = self.encoder1(a1, a1)
        a2 = self.down2(f1)  # 1/4
        f2 = self.encoder2(a2, a2)
        a3 = self.down3(f2)  # 1/8
        f3 = self.encoder3(a3, a3)
        # The decoder's levels take the encoder's anchors of their resolution.
        d1 = self.decoder1(self.up1(f3, f2 if self.skips else None), a2)
        d2 = self.decoder2(self.up2(d1, f1 if self.skips else None), a1)
        return self.head(self.up3(d2, f0 if self.skips else None))


class ScaledUnit(nn.Module):
    """PReLU(alpha * x + beta * body(x)) with fixed alpha and beta; without normalization."""

    def __init__(self, width: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        transposed = msra(nn.ConvTranspose2d(width, width, 3, 1, 1))
        self.body = nn.Sequential(conv(width, width), nn.PReLU(width), transposed, nn.PReLU(width))
        self.act = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.alpha * x + self.beta * self.body(x))


class CooperativeNet(RestorationNetwork):
    """Deblurring and super-resolving branch; the restored image is the input plus what both add.

    Input `lr` [B, 3, H, W], RGB about [0, 1], the low-resolution image enlarged bicubically to the target size; any
    size (padded by repetition to a multiple of 8 inside). Output `sr` [B, 3, H, W], about [0, 1].

    In training, a normalization layer takes the statistics of the batch as long as the weight of its convolution has
    `requires_grad`; behind a frozen convolution it uses its running statistics and does not change them. This is
    looked up in every forward pass, so freezing `deblur.*` at any time freezes the branch's statistics too.

    Args:
        widths: channels of the deblurring branch at resolutions 1, 1/2, 1/4, 1/8; the super-resolving branch has the
            first of them.
        n_units: units of the super-resolving branch.
        alpha: fixed weight of a super-resolving unit's input.
        beta: fixed weight of what the unit computes; not tied to `alpha`.
        anchored: every residual sum of a level of the deblurring branch adds to the level's first feature map; without
            it each unit adds to its own input.
        skips: the encoder's features are added to the decoder's where it goes up. Without them (and with `anchored`)
            the decoder still sees the anchors.
        affine: learned scale and offset in the normalization layers.
        bn_momentum: share of the newest batch in the running statistics once many were seen; less than 1/momentum
            batches are weighted about equally (see `BatchNorm`).
        branch: what is computed and added to the input: "both", "deblur" or "superres". May be set at any time; the
            parameters of the branch left out get no gradient.
    """

    scale = 1
    size_multiple = 8

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        n_units: int = 9,
        alpha: float = 0.9,
        beta: float = 0.1,
        anchored: bool = True,
        skips: bool = True,
        affine: bool = False,
        bn_momentum: float = 0.001,
        branch: Literal["both", "deblur", "superres"] = "both",
    ) -> None:
        super().__init__()
        check_widths(widths, 4)
        check_positive(n_units=n_units)
        if not 0 < bn_momentum < 1:
            raise ValueError(f"bn_momentum is {bn_momentum}, expected a number between 0 and 1")
        self.branch = branch
        self.deblur = Deblur(widths, anchored, skips, affine, bn_momentum)
        units = (ScaledUnit(widths[0], alpha, beta) for _ in range(n_units))
        self.superres = nn.Sequential(conv(3, widths[0]), *units, conv(widths[0], 3))

    @property
    def branch(self) -> str:
        return self._branch

    @branch.setter
    def branch(self, branch: str) -> None:
        check_choice("branch", branch, ("both", "deblur", "superres"))
        self._branch = branch

    def forward(self, lr: Tensor) -> Restored:
        h, w = lr.shape[-2:]
        x = pad_to_multiple(lr, self.size_multiple)
        sr = x
        if self.branch != "deblur":
            sr = sr + self.superres(x)
        if self.branch != "superres":
            sr = sr + self.deblur(x)
        return Restored(sr=sr[..., :h, :w])
