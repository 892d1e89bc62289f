"""VDSR: twenty convolutions that correct the luma of a bicubically enlarged image, one model for all scales.

J. Kim, J. K. Lee, K. M. Lee, "Accurate image super-resolution using very deep convolutional networks", CVPR 2016.

What differs: no biases by default, as in the re-trainings whose weights are public in PyTorch. Colour images go in and
come out: the network sees their luma, Cb and Cr are enlarged bicubically.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.luma import luma, replace_luma
from networks.ops.meta import shapes_alone
from networks.ops.options import check_choice
from networks.ops.published import renamed
from networks.ops.resize import bicubic_resize
from networks.restored import Restored


def conv(inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    """3x3, weights N(0, 2/(9 C_in)) as He et al., ICCV 2015, biases 0."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class VDSR(RestorationNetwork):
    """VDSR; 664,704 parameters, 665,921 with biases.

    Inputs: `lr` [B, C, h, w], about [0, 1], any size, C = 3 (RGB) or 1 (luma in studio range, see `networks.ops.luma`);
    `scale`, one of 1, 2, 3, 4 for the whole batch, 1 for images that are enlarged already. Output: `sr`
    [B, C, scale*h, scale*w], about [0, 1].

    Args:
        bias: biases in all convolutions, as the paper has them.
        width: channels.
        n_layers: convolutions.
    """

    inputs = ("lr", "scale")
    scales = (1, 2, 3, 4)

    def __init__(self, bias: bool = False, width: int = 64, n_layers: int = 20) -> None:
        super().__init__()
        if width < 1 or n_layers < 2:
            raise ValueError(f"width is {width} and n_layers {n_layers}, expected at least 1 and 2")
        layers: list[nn.Module] = [conv(1, width, bias)]
        for _ in range(n_layers - 2):
            layers += [nn.ReLU(inplace=True), conv(width, width, bias)]
        self.layers = nn.Sequential(*layers, nn.ReLU(inplace=True), conv(width, 1, bias))

    def forward(self, lr: Tensor, scale: int) -> Restored:
        check_choice("scale", scale, self.scales)
        enlarged = bicubic_resize(lr, scale)
        y = luma(enlarged)
        return Restored(sr=replace_luma(enlarged, y + self.layers(y)))


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A public re-training in PyTorch, 20 convolutions without biases, under the names used here.

    Its names are `input.weight`, `residual_layer.0.conv.weight` to `residual_layer.17.conv.weight`, `output.weight`.
    """
    theirs = ["input.weight", *(f"residual_layer.{i}.conv.weight" for i in range(18)), "output.weight"]
    with shapes_alone():
        ours = list(VDSR().state_dict())
    return renamed(state, dict(zip(theirs, ours, strict=True)), "public VDSR")
