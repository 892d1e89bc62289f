"""DeblurCNN, network L15: fifteen convolutions without any skip, for blind deblurring.

M. Hradis, J. Kotera, P. Zemcik, F. Sroubek, "Convolutional neural networks for direct text deblurring", BMVC 2015. The
groups of five layers stand in the authors' network file, not in the paper's table; with them the network has the 2.3 M
parameters that the paper states. What differs: the image is extended by repetition so that the result has its size (the
authors train and restore without padding and lose 25 pixels at every side), and channels are RGB, not BGR.

For joint deblurring and super-resolution the network works at low resolution (`scale=4`): its result is enlarged
bicubically.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.options import check_positive
from networks.ops.resize import bicubic_resize
from networks.restored import Restored

# Kernel, output channels and groups of the layers.
LAYERS = (
    *((19, 128, 1), (1, 320, 1), (1, 320, 1), (1, 320, 1), (1, 128, 1)),
    *((3, 128, 1), (1, 512, 1), (5, 128, 4), (5, 128, 2), (3, 128, 1)),
    *((5, 128, 2), (5, 128, 2), (1, 256, 1), (7, 64, 2), (7, 3, 1)),
)
MARGIN = sum(size - 1 for size, _, _ in LAYERS) // 2  # 25 pixels: what the layers take off every side


def caffe_xavier(layer: nn.Conv2d) -> nn.Conv2d:
    """Caffe's "xavier" filler: uniform with variance 1/fan_in, where fan_in counts the inputs of one group."""
    bound = (3 / layer.weight[0].numel()) ** 0.5
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # bias is there: bias=True
    return layer


class DeblurCNN(RestorationNetwork):
    """DeblurCNN L15; 2,256,195 parameters, all in `layers`.

    Input `lr` [B, 3, h, w], RGB in [0, 1], any size. With `scale=1` the output `sr` [B, 3, h, w] is the deblurred
    image; otherwise that is `deblurred` and `sr` [B, 3, scale*h, scale*w] its bicubic enlargement. All about [0, 1].

    Args:
        scale: of the enlargement after the network, which has no part in it.
        grouped: the groups of the authors' network file; without them the network has 4,500,803 parameters.
        width: factor on the channels inside; they have to stay multiples of the groups (1/4 and 1/8 do).
        offset: subtracted from the image before the network and added to its output; the paper's network computes on
            [-0.5, 0.5].
        residual: the network computes what is added to its input, which helps short trainings; the paper's does not.
    """

    def __init__(
        self, scale: int = 1, grouped: bool = True, width: float = 1.0, offset: float = 0.5, residual: bool = False
    ) -> None:
        super().__init__()
        check_positive(scale=scale)
        widths = [outputs * width for _, outputs, _ in LAYERS[:-1]]
        if width <= 0 or any(outputs % 4 for outputs in widths):
            raise ValueError(f"width is {width}, expected a factor that leaves multiples of 4, such as 1, 0.5 or 0.25")
        self.scale, self.offset, self.residual = scale, offset, residual
        self.outputs = ("sr",) if scale == 1 else ("sr", "deblurred")
        modules: list[nn.Module] = []
        channels = 3
        for outputs, (size, _, groups) in zip([*map(int, widths), 3], LAYERS, strict=True):
            layer = nn.Conv2d(channels, outputs, size, groups=groups if grouped else 1)
            modules += [caffe_xavier(layer), nn.ReLU(inplace=True)]
            channels = outputs
        self.layers = nn.Sequential(*modules[:-1])  # the last layer is linear

    def forward(self, lr: Tensor) -> Restored:
        x = F.pad(lr, (MARGIN,) * 4, mode="replicate") - self.offset
        deblurred = self.layers(x) + (lr if self.residual else self.offset)  # the padding is gone: valid convolutions
        if self.scale == 1:
            return Restored(sr=deblurred)
        return Restored(sr=bicubic_resize(deblurred, self.scale), deblurred=deblurred)
