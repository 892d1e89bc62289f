"""Geometric self-ensemble: the mean result of eight flips and rotations of the input ("x8", "+").

R. Timofte, R. Rothe, L. Van Gool, "Seven ways to improve example-based single image super resolution", CVPR 2016;
B. Lim et al., "Enhanced deep residual networks for single image super-resolution", CVPR Workshops 2017.

What is added: blur kernels are turned with the images, and inputs that consist of every s-th pixel are put right. Such
an input y[i] = (k * x)[s i] keeps the upper-left pixel of each s x s block. Flipped, it is the input of the flipped
image with the *last* pixel of each block kept, (k' * x')[s i + s - 1] with k' the flipped kernel, which is no input of
the kind that the method knows. Either the kernel takes up the difference, k'[m + s - 1], and so do the maps of weights
of kernels that share the image, and the result is x'; or,
where no kernel is handed over, the method sees x' shifted by s - 1 pixels, and its result is shifted back. Both are
exact if the blur is circular.
"""

from collections.abc import Collection
from itertools import product
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from networks.base import RestorationNetwork, Wrapped
from networks.restored import Restored

KERNELS = ("kernel", "kernels")
NO_IMAGES = ("scale", "noise_level")


class Orientation(NamedTuple):
    """Transposed or not, then flipped along the axes -2 and -1."""

    transposed: bool
    flipped: tuple[bool, bool]


ORIENTATIONS = [Orientation(t, (rows, columns)) for t, rows, columns in product((False, True), repeat=3)]


def turn(images: Tensor, to: Orientation) -> Tensor:
    """[..., H, W] in another orientation: [..., H, W] or [..., W, H]."""
    images = images.mT if to.transposed else images
    return images.flip(flipped_axes(to))


def turn_back(images: Tensor, to: Orientation) -> Tensor:
    """The inverse of `turn`."""
    images = images.flip(flipped_axes(to))
    return images.mT if to.transposed else images


def flipped_axes(to: Orientation) -> list[int]:
    return [axis for axis, flipped in zip((-2, -1), to.flipped, strict=True) if flipped]


def turn_kernel(kernel: Tensor, to: Orientation, offset: int = 0) -> Tensor:
    """The kernel that blurs a turned image as `kernel`, centre at floor(k / 2), blurs the image.

    Args:
        kernel: [B, C, k, k], k odd or even.
        to: the orientation.
        offset: along flipped axes the kernel is moved by -offset pixels (see the header).

    Returns:
        [B, C, l, l] with l odd, l = k (or k + 1 for even k) + 2 offset.
    """
    odd = [0, 1 - kernel.shape[-1] % 2, 0, 1 - kernel.shape[-2] % 2]
    turned = turn(F.pad(kernel, odd), to)
    ahead = [0 if flipped else offset for flipped in reversed(to.flipped)]  # F.pad begins with the last axis
    return F.pad(turned, [size for before in ahead for size in (before, 2 * offset - before)])


def takes_kernels(fields: Collection[str]) -> bool:
    return not set(KERNELS).isdisjoint(fields)


def shifted(images: Tensor, to: Orientation, offset: int) -> Tensor:
    """[..., H, W] moved by `offset` pixels along the flipped axes; what leaves on one side enters on the other."""
    axes = flipped_axes(to)
    return images.roll([offset] * len(axes), axes) if axes and offset else images


class SelfEnsemble(Wrapped):
    """A network applied to the eight orientations of its input, the results turned back and averaged.

    Inputs and outputs as of `network`. `sr` and `deblurred` are means; other branches are those of the plain pass.
    A network that takes kernels says by `lr_sampling = "corner"` if its model of the input keeps the upper-left pixel
    of each block; without, the model is symmetric.

    Args:
        network: any network of the suite.
        decimated: the inputs consist of every s-th pixel, beginning with the first one. Counts for networks without
            kernels only: nothing else tells them where the pixels lie.
    """

    def __init__(self, network: RestorationNetwork, decimated: bool = False) -> None:
        super().__init__(network)
        if takes_kernels(network.inputs):  # then it also knows where the pixels lie
            self.corner = network.lr_sampling == "corner"
        else:
            self.corner = decimated

    def forward(self, **fields: Any) -> Restored:
        result = self.network(**fields)
        offset = fields.get("scale", self.scales[0]) - 1 if self.corner else 0
        for to in ORIENTATIONS[1:]:
            turned = {name: self._turned(name, value, to, offset) for name, value in fields.items()}
            restored = self.network(**turned)
            sr = restored.sr if takes_kernels(fields) else shifted(restored.sr, to, offset)
            result.sr = result.sr + turn_back(sr, to)
            if result.deblurred is not None:
                result.deblurred = result.deblurred + turn_back(restored.deblurred, to)
        result.sr = result.sr / len(ORIENTATIONS)
        if result.deblurred is not None:
            result.deblurred = result.deblurred / len(ORIENTATIONS)
        return result

    @staticmethod
    def _turned(name: str, value: Any, to: Orientation, offset: int) -> Any:
        if name in KERNELS:
            return turn_kernel(value, to, offset)
        if name == "weights":
            return shifted(turn(value, to), to, -offset)
        return value if name in NO_IMAGES else turn(value, to)
