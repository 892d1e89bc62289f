"""SRN-DeblurNet: one encoder-decoder applied from coarse to fine, for deblurring of dynamic scenes.

X. Tao, H. Gao, X. Shen, J. Wang, J. Jia, "Scale-recurrent network for deep image deblurring", CVPR 2018.

Layers, paddings and initial weights are those of the authors' released TensorFlow code. It differs from the paper in
the kernels of the two transposed convolutions (4x4, the paper says 5x5) and offers not only the network with a ConvLSTM
but also the one without ("color" for RGB, "gray" for one channel), which is the default here. Different from both:
images are resized between scales with aligned frames (`resize="tf1"` is the released behaviour), and any size is
accepted.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.convolution import ResidualBlock
from networks.ops.options import check_choice, check_positive, check_widths
from networks.ops.resize import bilinear_resize, bilinear_shrink, pad_to_multiple
from networks.restored import Restored

State = tuple[Tensor, Tensor]


def xavier(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # bias is there: bias=True
    return layer


def conv(inputs: int, outputs: int) -> nn.Module:
    return xavier(nn.Conv2d(inputs, outputs, 5, padding=2))


def down_conv(inputs: int, outputs: int) -> nn.Sequential:
    """5x5 convolution that halves an even resolution; TensorFlow's SAME pads 1 before and 2 after."""
    return nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), xavier(nn.Conv2d(inputs, outputs, 5, 2)), nn.ReLU(inplace=True))


def up_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(xavier(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)), nn.ReLU(inplace=True))


def blocks(width: int, n_blocks: int) -> nn.Sequential:
    units = (ResidualBlock(conv(width, width), nn.ReLU(inplace=True), conv(width, width)) for _ in range(n_blocks))
    return nn.Sequential(*units)


class ConvLSTM(nn.Module):
    """An LSTM cell whose gates are a 3x3 convolution; the state is (cell, hidden), both of the input's shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        nn.init.trunc_normal_(self.conv.weight, 0.0, 1e-3, -2e-3, 2e-3)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # bias is there: bias=True

    def forward(self, x: Tensor, state: State | None) -> State:
        cell, hidden = state if state is not None else (torch.zeros_like(x), torch.zeros_like(x))
        i, j, f, o = self.conv(torch.cat([x, hidden], 1)).chunk(4, 1)
        cell = cell * torch.sigmoid(f + 1) + torch.sigmoid(i) * torch.tanh(j)
        return cell, torch.tanh(cell) * torch.sigmoid(o)


class SRN(RestorationNetwork):
    """SRN-DeblurNet.

    Input `lr` [B, C, h, w] in [0, 1], any size: inside, it is continued by repetition at the bottom and right to a
    multiple of `size_multiple`. Outputs, about [0, 1]: `pyramid`, the estimates coarsest first, the one at 1/2^k of the
    resolution [B, C, ceil(h/2^k), ceil(w/2^k)] on the pixel grid of `bilinear_shrink(image, 2**k, resize)`; and `sr`
    [B, C, h, w], the finest of them.

    The network with `channels=1` takes images of any number of channels and restores each channel by itself: gray
    images in training, R, G and B as three gray images in evaluation.

    All scales share their weights. A finer scale sees the coarser estimate as a constant: no gradient flows through it,
    while it does through the state of the ConvLSTM.

    Args:
        channels: 3 (the released "color") or 1 ("gray", "lstm").
        recurrence: "lstm" puts a ConvLSTM at the bottleneck (sub-module `lstm`) whose state goes from scale to scale.
        n_scales: 1 to 4 scales, each half as large as the next.
        widths: channels at resolutions 1, 1/2, 1/4.
        n_blocks: residual blocks per level of the encoder and of the decoder.
        feedback: the second input of a finer scale is the coarser estimate, enlarged; without it, as at the coarsest
            scale, it is the blurred image once more. Without it and without the LSTM the scales only share weights.
        resize: how images and states are resized, see `bilinear_resize`; "tf1" is what the released code did.
        global_residual: add the blurred image to every estimate, which lets short trainings start from there; the
            paper does not.
        head_gain: factor on the initial weights of the output layer. Below 1, no large first estimates drive the ReLUs
            of a short training to where they stay zero.
    """

    outputs = ("sr", "pyramid")
    scale = 1

    def __init__(
        self,
        channels: Literal[1, 3] = 3,
        recurrence: Literal["none", "lstm"] = "none",
        n_scales: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        n_blocks: int = 3,
        feedback: bool = True,
        resize: Literal["half_pixel", "tf1"] = "half_pixel",
        global_residual: bool = False,
        head_gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("channels", channels, (1, 3))
        check_choice("recurrence", recurrence, ("none", "lstm"))
        check_choice("n_scales", n_scales, (1, 2, 3, 4))
        check_choice("resize", resize, ("half_pixel", "tf1"))
        check_widths(widths, 3)
        check_positive(n_blocks=n_blocks)
        self.channels = channels
        self.n_scales, self.coarse_to_fine = n_scales, n_scales > 1
        self.feedback = feedback
        self.resize = resize
        self.global_residual = global_residual
        self.size_multiple = 4 * 2 ** (n_scales - 1)  # the coarsest scale is halved twice
        c0, c1, c2 = widths

        self.encoder1 = nn.Sequential(conv(2 * channels, c0), nn.ReLU(inplace=True), blocks(c0, n_blocks))
        self.encoder2 = nn.Sequential(down_conv(c0, c1), blocks(c1, n_blocks))
        self.encoder3 = nn.Sequential(down_conv(c1, c2), blocks(c2, n_blocks))
        self.lstm = ConvLSTM(c2) if recurrence == "lstm" else None
        self.decoder3, self.up2 = blocks(c2, n_blocks), up_conv(c2, c1)
        self.decoder2, self.up1 = blocks(c1, n_blocks), up_conv(c1, c0)
        self.decoder1 = blocks(c0, n_blocks)
        self.head = conv(c0, channels)
        self.head.get_parameter("weight").data.mul_(head_gain)

    def one_scale(self, blurred: Tensor, previous: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """Estimate and LSTM state (at 1/4 of the resolution) of one scale, whose sides are multiples of 4."""
        f1 = self.encoder1(torch.cat([blurred, previous], 1))
        f2 = self.encoder2(f1)  # h/2 x w/2
        f3 = self.encoder3(f2)  # h/4 x w/4
        if self.lstm is not None:
            if state is not None:
                size = (f3.shape[2], f3.shape[3])
                state = (bilinear_resize(state[0], size, self.resize), bilinear_resize(state[1], size, self.resize))
            state = self.lstm(f3, state)
            f3 = state[1]
        d2 = self.up2(self.decoder3(f3)) + f2
        d1 = self.up1(self.decoder2(d2)) + f1
        return self.head(self.decoder1(d1)), state

    def step(self, blurred: Tensor, coarser: Tensor | None, state: State | None) -> tuple[Tensor, State | None]:
        """From one scale to the next: `one_scale`, given the estimate [B, C, h/2, w/2] of the coarser one, if any."""
        previous = blurred
        if self.feedback and coarser is not None:
            previous = bilinear_resize(coarser.detach(), (blurred.shape[2], blurred.shape[3]), self.resize)
        estimate, state = self.one_scale(blurred, previous, state)
        return (estimate + blurred if self.global_residual else estimate), state

    def forward(self, lr: Tensor) -> Restored:
        n_images, n_channels, h, w = lr.shape
        if self.channels not in (1, n_channels):
            raise ValueError(
                f"the images have {n_channels} channels, expected {self.channels} as the option channels says"
            )
        # With one channel, this makes every channel of every image an image of its own.
        images = lr.reshape(-1, self.channels, h, w)
        images = pad_to_multiple(images, self.size_multiple)

        pyramid: list[Tensor] = []
        estimate: Tensor | None = None
        state: State | None = None
        for factor in (2**k for k in reversed(range(self.n_scales))):
            blurred = bilinear_shrink(images, factor, self.resize)
            estimate, state = self.step(blurred, estimate, state)
            whole = estimate.reshape(n_images, n_channels, *estimate.shape[2:])
            pyramid.append(whole[..., : (h + factor - 1) // factor, : (w + factor - 1) // factor])
        return Restored(sr=pyramid[-1], pyramid=pyramid)
