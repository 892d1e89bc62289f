"""The perceptual loss: distance of two images in the features of a VGG19 trained for ImageNet.

J. Johnson, A. Alahi, L. Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016, on
K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015. The defaults
are those of X. Wang et al., "ESRGAN", ECCV Workshops 2018: the last convolution, before its ReLU, and L1.

The weights are supplied by the user: torchvision's file, which is read without torchvision.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.errors import InputError

WIDTHS = (64, 128, 256, 512, 512)  # of the five stages
DEPTHS = (2, 2, 4, 4, 4)  # convolutions of the stages
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SOURCE = (
    "expected torchvision's VGG19 ImageNet weights, https://download.pytorch.org/models/vgg19-dcbb9e9d.pth, "
    "or the same as .safetensors"
)


def vgg19_layers() -> list[int | str]:
    """The layers in torchvision's numbering: a convolution is its number of output channels."""
    layers: list[int | str] = []
    for width, depth in zip(WIDTHS, DEPTHS, strict=True):
        for _ in range(depth):
            layers += [width, "relu"]
        layers.append("pool")
    return layers


class PerceptualLoss(nn.Module):
    """Mean absolute difference of the features of two images, always computed in float32.

    Gradients reach the first image only. The weights move with the module, but they are neither parameters nor part
    of its state: no optimiser finds them and no checkpoint holds them.

    Args:
        weights: file of torchvision's VGG19, a state dict as .pth or .safetensors; its classifier is not needed.
        layer: index of the layer whose output is compared, in torchvision's numbering; 34 is conv5_4 before its ReLU.

    Raises:
        ValueError: for a layer that VGG19 does not have.
        InputError: if the file is missing, unreadable, incomplete or of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str, layer: int = 34) -> None:
        super().__init__()
        layers = vgg19_layers()
        if not 0 <= layer < len(layers):
            raise ValueError(f"layer is {layer}, expected 0 to {len(layers) - 1}")
        self.layers = layers[: layer + 1]
        state = read_vgg19(Path(weights), layer)
        # Buffers that are not persistent, for the reasons above.
        for name, tensor in state.items():
            self.register_buffer(_buffer(name), tensor, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Features [B, C, h, w] of RGB images [B, 3, H, W] about [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            x = (images.to(self.mean.dtype) - self.mean) / self.std
            for i, layer in enumerate(self.layers):
                if layer == "pool":
                    x = F.max_pool2d(x, 2)
                elif layer == "relu":
                    x = F.relu(x, inplace=True)
                else:
                    x = F.conv2d(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}"), padding=1)
            return x

    def forward(self, restored: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(target)
        return F.l1_loss(self.features(restored), wanted)


def _buffer(name: str) -> str:
    """features.34.weight -> weight34: names of buffers have no dots."""
    _, index, kind = name.split(".")
    return kind + index


def read_vgg19(path: Path, layer: int) -> dict[str, Tensor]:
    """The weights of VGG19's layers up to `layer`, float32, under torchvision's names. Raises as `read_features`."""
    shapes: dict[str, list[int]] = {}
    before = 3
    for i, width in enumerate(vgg19_layers()):
        if isinstance(width, int):
            shapes[f"features.{i}.weight"], shapes[f"features.{i}.bias"] = [width, before, 3, 3], [width]
            before = width
    needed = [name for name in shapes if int(name.split(".")[1]) <= layer]
    return read_features(path, shapes, "VGG19", SOURCE, needed)


def read_features(
    path: Path, shapes: Mapping[str, list[int]], network: str, source: str, needed: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Weights of a classifier's convolutions, float32, from a file that may hold its `classifier.*` too.

    Args:
        path: state dict as .pth or .safetensors.
        shapes: of all tensors that the network has under `features`.
        network: its name, for messages.
        source: what the file should be and where to get it, for messages.
        needed: names that are wanted; all by default. The file may lack the others.

    Raises:
        InputError: if the file is missing, unreadable, incomplete or of another network.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {source}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers raise
        raise InputError(
            f"{path}: cannot be read as weights ({path.stat().st_size:,} bytes, {type(error).__name__}); {source}"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict; {source}")
    if foreign := [str(name) for name in state if name not in shapes and not str(name).startswith("classifier.")]:
        raise InputError(
            f"{path}: weights of another network: it holds {foreign[0]!r}, which {network} has not; {source}"
        )
    for name in needed or shapes:
        if not isinstance(state.get(name), Tensor):
            raise InputError(f"{path}: incomplete or of another network: it holds no tensor {name!r}; {source}")
        if list(state[name].shape) != shapes[name]:
            raise InputError(
                f"{path}: weights of another network: {name} is {list(state[name].shape)}, {network} has "
                f"{shapes[name]}; {source}"
            )
    return {name: state[name].detach().float().contiguous() for name in needed or shapes}
