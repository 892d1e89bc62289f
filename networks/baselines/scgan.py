"""A STAND-IN for the generator of SCGAN, not the published network: its layers are not known here.

X. Xu, D. Sun, J. Pan, Y. Zhang, H. Pfister, M.-H. Yang, "Learning to super-resolve blurry face and text images", ICCV
2017. Taken over is what is generally said of it: enlargement at the start by two transposed convolutions (6x6 and 5x5,
stride 2), then 5x5 convolutions with 64 channels, batch normalization and ReLU, a hyperbolic tangent at the end, about
1.1 M parameters. Uncertain are the number of layers and the order inside a block. Left out are what the title is about,
the classes of faces and text, and the loss on the discriminator's features.

Figures measured with it are figures of this stand-in and must say so.
"""

from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.options import check_positive
from networks.restored import Restored


def normalised(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]


class SCGANStandIn(RestorationNetwork):
    """Stand-in for SCGAN's generator, x4; 1,139,651 parameters.

    Input `lr` [B, 3, h, w] in [0, 1], any size. Output `sr` [B, 3, 4h, 4w] in [0, 1].

    Args:
        width: channels of all layers.
        n_layers: 5x5 convolutions at full resolution before the last one.
    """

    scale = 4

    def __init__(self, width: int = 64, n_layers: int = 10) -> None:
        super().__init__()
        check_positive(width=width, n_layers=n_layers)
        # Normalization takes a bias away: only the last layer has one.
        first = nn.ConvTranspose2d(3, width, 6, 2, 2, bias=False)  # 2h x 2w
        second = nn.ConvTranspose2d(width, width, 5, 2, 2, output_padding=1, bias=False)  # 4h x 4w
        blocks = normalised(first) + normalised(second)
        for _ in range(n_layers):
            blocks += normalised(nn.Conv2d(width, width, 5, padding=2, bias=False))
        self.layers = nn.Sequential(*blocks, nn.Conv2d(width, 3, 5, padding=2), nn.Tanh())

    def forward(self, lr: Tensor) -> Restored:
        return Restored(sr=self.layers(2 * lr - 1) / 2 + 0.5)
