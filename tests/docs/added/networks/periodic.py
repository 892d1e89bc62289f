"""A network that is told the kernel and assumes periodic blur: USRNet's data step with a learned weight."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.restored import Restored
from networks.usrnet import DataStep


class Periodic(RestorationNetwork):
    """Inputs `lr` [B, 3, h, w] and `kernel` [B, 1, k, k]; output `sr` [B, 3, scale*h, scale*w]."""

    inputs = ("lr", "kernel")
    lr_sampling = "corner"
    periodic = True
    whole_image = True

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, lr: Tensor, kernel: Tensor) -> Restored:
        start = F.interpolate(lr, scale_factor=float(self.scale), mode="nearest")
        return Restored(sr=DataStep(lr, kernel, self.scale)(start, F.softplus(self.weight)))
