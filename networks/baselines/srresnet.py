"""SRResNet: sixteen residual blocks with normalisation and two pixel shuffles, for x4.

C. Ledig et al., "Photo-realistic single image super-resolution using a generative adversarial network", CVPR 2017.

What differs: the paper trains against images scaled to [-1, 1], here all values are about [0, 1]. `form="port"` is the
re-implementation in PyTorch that most later papers trained: instance instead of batch normalisation, LeakyReLU instead
of PReLU, no biases. Initial weights are those of the port in both forms, the paper does not state its own.
"""

from typing import Literal

from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops import convolution
from networks.ops.convolution import ResidualBlock
from networks.ops.options import check_choice, check_positive
from networks.ops.resize import bicubic_resize
from networks.restored import Restored

Form = Literal["paper", "port"]


def conv(inputs: int, outputs: int, form: Form, size: int = 3) -> nn.Conv2d:
    return convolution.conv(inputs, outputs, size, bias=form == "paper")


def norm(width: int, form: Form) -> nn.Module:
    return nn.BatchNorm2d(width) if form == "paper" else nn.InstanceNorm2d(width, affine=True)


def act(form: Form) -> nn.Module:
    return nn.PReLU() if form == "paper" else nn.LeakyReLU(0.2, inplace=True)


def block(width: int, form: Form) -> ResidualBlock:
    """conv-norm-act-conv-norm plus the input."""
    return ResidualBlock(
        *(conv(width, width, form), norm(width, form), act(form)),
        *(conv(width, width, form), norm(width, form)),
    )


class SRResNet(RestorationNetwork):
    """SRResNet; 1,549,462 parameters, 1,546,752 in the form of the port.

    Input `lr` [B, 3, h, w] in [0, 1], any size. Output `sr` [B, 3, 4h, 4w], about [0, 1].

    Args:
        form: "paper" has batch normalisation, PReLUs of one slope each and biases; "port" has instance normalisation,
            LeakyReLU 0.2 and no biases.
        width: channels.
        n_blocks: residual blocks.
        global_residual: "bicubic" adds the enlarged input, which lets short trainings start from there; the paper has
            "none".
        head_gain: factor on the initial weights of the output layer; below 1, the network starts close to what is
            added.
    """

    scale = 4

    def __init__(
        self,
        form: Form = "paper",
        width: int = 64,
        n_blocks: int = 16,
        global_residual: Literal["none", "bicubic"] = "none",
        head_gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("form", form, ("paper", "port"))
        check_choice("global_residual", global_residual, ("none", "bicubic"))
        check_positive(width=width, n_blocks=n_blocks)
        self.global_residual = global_residual
        self.first = nn.Sequential(conv(3, width, form, 9), act(form))
        self.body = nn.Sequential(
            *(block(width, form) for _ in range(n_blocks)), conv(width, width, form), norm(width, form)
        )
        self.up = nn.Sequential(
            *(conv(width, 4 * width, form), nn.PixelShuffle(2), act(form)),  # 2h x 2w
            *(conv(width, 4 * width, form), nn.PixelShuffle(2), act(form)),  # 4h x 4w
        )
        self.last = conv(width, 3, form, 9)
        self.last.weight.data.mul_(head_gain)

    def forward(self, lr: Tensor) -> Restored:
        first = self.first(lr)
        sr = self.last(self.up(first + self.body(first)))
        return Restored(sr=sr + bicubic_resize(lr, self.scale) if self.global_residual == "bicubic" else sr)
