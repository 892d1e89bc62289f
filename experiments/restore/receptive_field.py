"""How far a network looks: measured by values that are not numbers, which reach all results that depend on them.

NaN times zero is NaN, and so are NaN's maximum, its sigmoid and its comparison with anything as far as networks use
it: the result is a property of the network's structure, whatever its weights.
"""

import math

import torch

from networks.base import RestorationNetwork
from networks.cascade import taken

WIDTH = 8  # of the strip that is looked at, at least: the field along it does not depend on it


def up_to(value: float, align: int) -> int:
    """The smallest multiple of `align` that is not below `value`."""
    return align * math.ceil(value / align)


@torch.inference_mode()
def receptive_field(network: RestorationNetwork, scale: int, limit: int = 512) -> int | None:
    """How many pixels of the input around a pixel of the result, on every side, it depends on at most.

    The network is applied to a strip in which one block of `size_multiple` rows is NaN, along both axes. The answer is
    a multiple of that and holds for whole blocks: the results of a block depend on the blocks up to that far. Some
    convolutions of processors compute a few neighbours along, which may add to it by as much.

    Returns:
        None if it is larger than `limit`, or the whole image.
    """
    # A network for several scales counts its size_multiple in pixels of the result.
    align = alignment(network, scale)
    length = up_to(4 * limit + align, align)  # also seen is what lies beyond a gap
    reached = 0
    for axis in (-2, -1):
        reach = _reach(network, scale, axis, align, length)
        if reach is None:
            return None
        reached = max(reached, up_to(reach, align))
    return reached if reached <= limit else None


def alignment(network: RestorationNetwork, scale: int) -> int:
    """Tiles that begin at multiples of this see the image as the network does when it sees all of it."""
    size_multiple = network.size_multiple
    return size_multiple // math.gcd(size_multiple, scale) if "scale" in network.inputs else size_multiple


def _reach(network: RestorationNetwork, scale: int, axis: int, align: int, length: int) -> int | None:
    """How far NaN got along a strip, in pixels of the input; None if it got to an end."""
    width = up_to(WIDTH, align)
    shape = (1, 3, length, width) if axis == -2 else (1, 3, width, length)
    like = next(network.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(shape, generator=generator).to(like.device)
    start = length // 2 // align * align
    lr.narrow(axis, start, align).fill_(torch.nan)
    kernel = lr.new_full((1, 1, 3, 3), 1 / 9)
    fields = {"lr": lr, "kernel": kernel, "scale": scale, "noise_level": lr.new_full((1, 1, 1, 1), 0.01)}
    result = network(**taken(network, fields))
    reached = 0
    for image, s in ((result.sr, scale), (result.deblurred, 1)):
        if image is None:
            continue
        lines = image.isnan().any(1)[0].any(1 if axis == -2 else 0).nonzero()[:, 0]
        if not len(lines):  # what depends on the block lies beside the strip
            continue
        first, last = int(lines[0]), int(lines[-1]) + 1
        if first == 0 or last == s * length:
            return None
        reached = max(reached, math.ceil(start - first / s), math.ceil(last / s - start - align))
    return reached
