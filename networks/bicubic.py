"""Bicubic interpolation as a network: the baseline every method has to beat."""

from torch import Tensor

from networks.base import RestorationNetwork
from networks.ops.resize import bicubic_resize
from networks.restored import Restored


class Bicubic(RestorationNetwork):
    """MATLAB-exact bicubic enlargement; no parameters, nothing to train.

    Input `lr` [B, C, h, w]; output `sr` [B, C, scale*h, scale*w]. For scale 1 the input comes back as it is.
    """

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr: Tensor) -> Restored:
        return Restored(sr=bicubic_resize(lr, self.scale))
