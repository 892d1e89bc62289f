"""A network that estimates its kernel, then restores as `Periodic` does."""

from networks.periodic import Periodic
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.restored import Restored


class Blind(RestorationNetwork):
    """Input `lr` [B, 3, h, w]; outputs `sr` [B, 3, scale*h, scale*w] and `kernel` [B, 1, kernel_side, kernel_side]."""

    outputs = ("sr", "kernel")
    lr_sampling = "corner"
    periodic = True
    whole_image = True

    def __init__(self, scale: int, kernel_side: int = 5) -> None:
        super().__init__()
        self.scale, self.kernel_side = scale, kernel_side
        self.estimate = nn.Conv2d(3, kernel_side**2, 3, padding=1)
        self.restorer = Periodic(scale)

    def with_known_kernel(self) -> Periodic:
        return self.restorer

    def forward(self, lr: Tensor) -> Restored:
        kernel = self.estimate(lr).square().mean((2, 3)).softmax(1).view(-1, 1, self.kernel_side, self.kernel_side)
        return Restored(sr=self.restorer(lr=lr, kernel=kernel).sr, kernel=kernel)
