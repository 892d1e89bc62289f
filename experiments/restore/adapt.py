"""What makes networks for synthetic blur fit photographs: borders, the place of the kernel, kernels found once.

USRNet and the classical methods assume circular blur, which sees what leaves a photograph on one side enter on the
other, and a low resolution that keeps the upper-left pixel of every block. A pixel of a photograph stands for the whole
block.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import InputError
from experiments.restore.tiling import Span
from networks.base import RestorationNetwork, Wrapped
from networks.ops.wraparound import wrap_extend
from networks.restored import Restored

LEAST_STRIP = 16  # pixels of the result between opposite borders, as in the authors' code


class Continued(Wrapped):
    """A network for circular blur, applied to images whose borders have been made to meet.

    The image, enlarged by repeating pixels, is continued to the bottom and right (`networks.ops.wraparound`) by 16
    pixels or more, up to a multiple of 8; of this every s-th pixel is taken, and the image itself put in its place. The
    result is cut off where the image ends. Inputs and outputs as of `network`.

    Source: K. Zhang, L. Van Gool, R. Timofte, "Deep unfolding network for image super-resolution", CVPR 2020: their
    code for bicubically reduced and real images. What differs: a kernel of more than 17 pixels gets a strip of its side
    less one, so that no pixel is blurred by both borders. Maps of weights are continued by the same rule.
    """

    whole_image = True

    def forward(self, lr: Tensor, **others: Any) -> Restored:
        h, w = lr.shape[-2:]
        s = int(others.get("scale", self.scales[0]))
        kernel = others.get("kernel", others.get("kernels"))
        side = max(kernel.shape[-2:]) if kernel is not None else self.network.kernel_side
        strip = max(LEAST_STRIP, side - 1)
        height, width = (-(-(s * n + strip) // 8) * 8 for n in (h, w))
        with torch.autocast(lr.device.type, enabled=False):
            large = F.interpolate(lr, scale_factor=float(s), mode="nearest")
            continued = wrap_extend(large, (height, width))[..., ::s, ::s].contiguous()
        continued[..., :h, :w] = lr
        if "weights" in others and (*others["weights"].shape[2:],) == (s * h, s * w):
            maps = wrap_extend(others["weights"], (height, width)).clamp(min=0)
            others["weights"] = maps / maps.sum(1, keepdim=True)
        result = self.network(lr=continued, **others)
        result.sr = result.sr[..., : s * h, : s * w]
        return result


def for_photographs(network: RestorationNetwork) -> RestorationNetwork:
    """The network with its circular parts made fit for images whose opposite borders do not meet."""
    return network.converted(lambda part: Continued(part) if part.periodic else part)


def smallest_side(network: RestorationNetwork) -> int:
    """Of an image that the network takes; smaller ones have to be continued first."""
    normalised = any(isinstance(layer, nn.InstanceNorm2d) for layer in network.modules())
    # There is no variance of one pixel.
    return max(2 if normalised else 1, *(part.smallest_side for part in network.parts()))


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


def place_weights(
    weights: Tensor, size: tuple[int, int], scale: int, rows: Span, columns: Span, lr_sampling: str
) -> Tensor:
    """The weights of a part of the result, by linear interpolation, which keeps their sum.

    Where the low resolution has the upper-left pixel of each block instead of its middle, they move as the kernel does
    (`place_kernel`). Beyond the image, its last weights are repeated.

    Args:
        weights: [K, h, w], of the size of the image or of the result.
        size: of the image (H, W).
        scale: of the enlargement.
        rows, columns: the part, in pixels of the image.
        lr_sampling: "corner" or "centre".

    Returns:
        [K, scale * rows, scale * columns].

    Raises:
        InputError: for weights of another size.
    """
    given = (weights.shape[1], weights.shape[2])
    if given not in (size, (scale * size[0], scale * size[1])):
        result = f", or {scale * size[1]}x{scale * size[0]} of the result" * (scale > 1)
        raise InputError(
            f"weights of the kernels: found maps of {given[1]}x{given[0]}, expected {size[1]}x{size[0]} as the "
            f"image{result}"
        )
    step = scale if given == size else 1  # pixels of the result to one of the maps
    moved = (scale - 1) / 2 if lr_sampling == "corner" else 0.0
    for dim, span in ((1, rows), (2, columns)):
        n = weights.shape[dim]
        middle = torch.arange(scale * span.start, scale * span.stop, dtype=torch.float64) + moved + 0.5
        place = (middle / step - 0.5).clamp(0, n - 1)
        first = place.floor().long()
        share = (place - first).float().view([-1, 1][: 3 - dim])
        before, after = (weights.index_select(dim, i) for i in (first, (first + 1).clamp(max=n - 1)))
        weights = before + share * (after - before)
    return weights
