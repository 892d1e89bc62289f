"""LPIPS: distance of two images in the features of an AlexNet, weighted as people judged.

R. Zhang, P. Isola, A. Efros, E. Shechtman, O. Wang, "The unreasonable effectiveness of deep features as a perceptual
metric", CVPR 2018, version 0.1, on A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
2014. Lower is better.

The learned weights of the channels come with torchmetrics (BSD-2-Clause, of the authors); AlexNet's are supplied by the
user: torchvision's file, which is read without torchvision. Torchmetrics' own class takes no file: it has torchvision
fetch AlexNet from the network.
"""

from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.losses.perceptual import read_features
from lightning_modules.metrics.psnr_ssim import to_eight_bit

# Index in torchvision's numbering, output channels, kernel size, stride, padding, and whether a maximum over 3 x 3
# pixels in steps of 2 comes before.
LAYERS = (
    (0, 64, 11, 4, 2, False),
    (3, 192, 5, 1, 2, True),
    (6, 384, 3, 1, 1, True),
    (8, 256, 3, 1, 1, False),
    (10, 256, 3, 1, 1, False),
)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
SMALLEST = 31  # the deepest features of a smaller image have no pixel
SOURCE = "torchvision's AlexNet ImageNet weights, https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


class LPIPS(nn.Module):
    """LPIPS of images rounded to 8 bit, in float32. Gray images count as three equal channels.

    Args:
        weights: file of torchvision's AlexNet, a state dict as .pth or .safetensors; its classifier is not needed.

    Raises:
        InputError: if the file is missing, unreadable, incomplete or of another network.
    """

    shift: Tensor
    scale: Tensor

    higher_is_better = False

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1))
        state = read_alexnet(Path(weights))
        heads = read_heads()
        for i, (index, *_) in enumerate(LAYERS):
            self.register_buffer(f"weight{i}", state[f"features.{index}.weight"])
            self.register_buffer(f"bias{i}", state[f"features.{index}.bias"])
            self.register_buffer(f"head{i}", heads[i])

    @torch.no_grad()
    def forward(self, restored: Tensor, hr: Tensor) -> Tensor:
        """[B, C, H, W] about [0, 1], C = 1 or 3 -> [B], at least 0.

        Raises:
            ValueError: if the images are smaller than 31 x 31.
        """
        if min(restored.shape[-2:]) < SMALLEST:
            size = f"{restored.shape[-1]}x{restored.shape[-2]}"
            raise ValueError(f"image of {size} is too small for LPIPS: it needs {SMALLEST}x{SMALLEST} pixels")
        self.to(restored.device)
        with torch.autocast(restored.device.type, enabled=False):
            pairs = zip(self._features(restored), self._features(hr), strict=True)
            distances = [
                (getattr(self, f"head{i}") * (one - other).square()).sum(1).mean((1, 2))
                for i, (one, other) in enumerate(pairs)
            ]
        return torch.stack(distances).sum(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        """The outputs of the five layers [B, c, h, w], of length 1 at every pixel."""
        x = to_eight_bit(images).float().expand(-1, 3, -1, -1) / 127.5 - 1
        x = (x - self.shift) / self.scale
        found = []
        for i, (_, _, _, stride, padding, pooled) in enumerate(LAYERS):
            x = F.max_pool2d(x, 3, 2) if pooled else x
            x = F.relu(F.conv2d(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}"), stride, padding))
            found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found


def read_alexnet(path: Path) -> dict[str, Tensor]:
    """The weights of AlexNet's convolutions, float32, under torchvision's names.

    Raises:
        InputError: see `LPIPS`.
    """
    shapes: dict[str, list[int]] = {}
    before = 3
    for index, width, size, *_ in LAYERS:
        shapes[f"features.{index}.weight"] = [width, before, size, size]
        shapes[f"features.{index}.bias"] = [width]
        before = width
    return read_features(path, shapes, "AlexNet", f"expected {SOURCE}, or the same as .safetensors")


def read_heads() -> list[Tensor]:
    """The weights of the channels of the five layers, each [1, c, 1, 1]."""
    path = files("torchmetrics") / "functional" / "image" / "lpips_models" / "alex.pth"
    with path.open("rb") as file:
        state = torch.load(file, "cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"] for i in range(len(LAYERS))]
