"""What makes networks for synthetic blur fit photographs: borders, the place of the kernel, kernels found once.

USRNet and the classical methods assume circular blur, which sees what leaves a photograph on one side enter on the
other, and a low resolution that keeps the upper-left pixel of every block. A pixel of a photograph stands for the whole
block.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.cascade import Cascade
from networks.classical import RichardsonLucy, Wiener
from networks.dan_usrnet import DANUSRNet
from networks.dark_channel import DarkChannel, deconvolve
from networks.ensemble import KEPT
from networks.gfn import GFN
from networks.ops.fourier import work_dtype
from networks.ops.resize import bicubic_resize
from networks.ops.wraparound import wrap_extend
from networks.restored import Restored
from networks.usrnet import USRNet

LEAST_STRIP = 16  # pixels of the result between opposite borders, as in the authors' code


class Continued(nn.Module):
    """A network for circular blur, applied to images whose borders have been made to meet.

    The image, enlarged by repeating pixels, is continued to the bottom and right (`networks.ops.wraparound`) by 16
    pixels or more, up to a multiple of 8; of this every s-th pixel is taken, and the image itself put in its place. The
    result is cut off where the image ends. Inputs and outputs as of `network`.

    Source: K. Zhang, L. Van Gool, R. Timofte, "Deep unfolding network for image super-resolution", CVPR 2020: their
    code for bicubically reduced and real images. What differs: a kernel of more than 17 pixels gets a strip of its side
    less one, so that no pixel is blurred by both borders.
    """

    looks_at_all = True  # there is no limited receptive field

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name in (*KEPT, "lr_sampling"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def forward(self, lr: Tensor, **others: Any) -> Restored:
        h, w = lr.shape[-2:]
        s = int(others.get("scale", getattr(self.network, "scale", 1)))
        kernel = others.get("kernel")
        side = max(kernel.shape[-2:]) if kernel is not None else int(self.network.kernel_size)  # type: ignore[arg-type]
        strip = max(LEAST_STRIP, side - 1)
        height, width = (-(-(s * n + strip) // 8) * 8 for n in (h, w))
        with torch.autocast(lr.device.type, enabled=False):
            large = F.interpolate(lr, scale_factor=float(s), mode="nearest")
            continued = wrap_extend(large, (height, width))[..., ::s, ::s].contiguous()
        continued[..., :h, :w] = lr
        result = self.network(lr=continued, **others)
        result.sr = result.sr[..., : s * h, : s * w]
        return result


class DarkChannelDeconvolution(nn.Module):
    """The second half of `DarkChannel`: its deconvolution with a kernel [B, 1, k, k] that is known."""

    inputs = ("lr", "kernel")
    outputs = ("sr", "deblurred")
    size_multiple = 1
    looks_at_all = True

    def __init__(self, network: DarkChannel) -> None:
        super().__init__()
        self.scale, self.kernel_size = network.scale, network.kernel_size
        self.options = (network.lambda_tv, network.lambda_l0, network.weight_ring)

    def forward(self, lr: Tensor, kernel: Tensor) -> Restored:
        with torch.autocast(lr.device.type, enabled=False):
            pairs = zip(lr.to(work_dtype(lr)), kernel[:, 0], strict=True)
            images = [deconvolve(image, of_image.cpu().double(), *self.options) for image, of_image in pairs]
        deblurred = torch.stack(images).to(lr.dtype)
        return Restored(sr=bicubic_resize(deblurred, self.scale), deblurred=deblurred)


def for_photographs(network: nn.Module) -> nn.Module:
    """The network with its circular parts made fit for images whose opposite borders do not meet."""
    if isinstance(network, Cascade):
        return Cascade(for_photographs(network.first), for_photographs(network.second), network.rounding)
    if isinstance(network, USRNet | DANUSRNet):
        return Continued(network)
    if isinstance(network, Wiener | RichardsonLucy) and network.boundary == "circular":
        return Continued(network)
    return network


def with_given_kernel(network: nn.Module) -> nn.Module | None:
    """What restores as a method that estimates kernels does, once the kernel is known; None for other networks."""
    found: Any = network.network if isinstance(network, Continued) else network
    if isinstance(found, DANUSRNet):
        return Continued(found.restorer)
    if isinstance(found, DarkChannel):
        return DarkChannelDeconvolution(found)
    return None


def looks_at_all(network: nn.Module) -> bool:
    """Whether a part of the network works on the whole image by its nature, as Fourier transforms do."""
    whole = (USRNet, DarkChannel, Wiener, RichardsonLucy)
    return any(
        getattr(part, "looks_at_all", False)
        or isinstance(part, whole)
        or (isinstance(part, GFN) and part.pad == "official")  # it stretches images, by what depends on their size
        for part in network.modules()
    )


def estimated_side(network: nn.Module) -> int:
    """Side of the largest kernel that a part of the network estimates; 0 if none does."""
    return max((part.kernel_size for part in network.modules() if isinstance(part, DANUSRNet | DarkChannel)), default=0)


def smallest_side(network: nn.Module) -> int:
    """Of an image that the network takes; smaller ones have to be continued first."""
    least = 1
    for part in network.modules():
        if isinstance(part, DarkChannel):
            least = max(least, 2 * part.kernel_size)
        if isinstance(part, nn.InstanceNorm2d):  # there is no variance of one pixel
            least = max(least, 2)
    return least


def takes_gray(network: nn.Module) -> bool:
    """Whether the network restores images of any number of channels, channel by channel."""
    if isinstance(network, Cascade):
        return takes_gray(network.first) and takes_gray(network.second)
    return getattr(network, "channels", None) == 1 or not any(True for _ in network.parameters())


def place_kernel(kernel: Tensor, scale: int) -> Tensor:
    """The kernel [k, k] that goes with pixels kept at the upper left of each block instead of its middle.

    The middle of a block lies (scale - 1) / 2 pixels further to the bottom and right, so the kernel moves by as much
    to the top and left; half pixels are interpolated linearly, which blurs by half a pixel as the authors' code does.

    Returns:
        [l, l], l = k + 2 ceil((scale - 1) / 2) (and one more for even k), sum as before.
    """
    if scale == 1:
        return kernel
    whole, half = divmod(scale - 1, 2)
    reach = whole + half
    k = F.pad(kernel, (reach, reach + 1 - kernel.shape[1] % 2, reach, reach + 1 - kernel.shape[0] % 2))
    for dim in (0, 1):
        moved = k.roll(-whole, dim)
        k = (moved + moved.roll(-1, dim)) / 2 if half else moved
    return k
