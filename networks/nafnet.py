"""NAFNet: a U-shaped network without activation functions, for deblurring and denoising at constant size.

L. Chen, X. Chu, X. Zhang, J. Sun, "Simple Baselines for Image Restoration", ECCV 2022. Layers, and the names of their
parameters, are those of the authors' published code. What is not linear in it are products of channel halves, the
product with pooled channels, and layer normalisation.

`local_pooling` is X. Chu, L. Chen, C. Chen, X. Lu, "Improving Image Restoration by Revisiting Global Information
Aggregation", ECCV 2022: whole photographs are pooled over windows of the extent that training patches had.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.options import check_positive
from networks.ops.pooling import window_mean
from networks.ops.resize import pad_to_multiple
from networks.restored import Restored

EPS = 1e-6  # PyTorch's default, 1e-5, changes results visibly

Window = tuple[int, int]


class LayerNorm2d(nn.Module):
    """Every pixel of [B, c, H, W] minus its mean over the channels, by their standard deviation; a gain and an offset.

    The variance is the biased one. Computed in the precision of the parameters, which is float32 under autocast.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        with torch.autocast(x.device.type, enabled=False):
            # Channels last in memory is how layer_norm takes them, and leaves them to the convolutions.
            y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, EPS).permute(0, 3, 1, 2)
        # In graphs for images of any size, convolutions of those ask for more than one row and column.
        return y.contiguous() if torch.compiler.is_exporting() else y


class Pool(nn.Module):
    """Means over whole images [B, c, 1, 1], or over a window around every pixel [B, c, H, W]: see `window_mean`."""

    def __init__(self, window: Window | None) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)  # sums of whole images, also of half precision
        if self.window is None:
            return x.mean((2, 3), keepdim=True, dtype=wide).to(x.dtype)
        return window_mean(x.to(wide), self.window).to(x.dtype)


def gated(x: Tensor) -> Tensor:
    """The first half of the channels times the second one."""
    first, second = x.chunk(2, 1)
    return first * second


class NAFBlock(nn.Module):
    """Depth-wise convolution, gate and channel attention, then a gated layer pixel by pixel; both are added to x.

    The identity at first, for the factors `beta` and `gamma` of what is added begin as 0.

    Args:
        width: channels c of the images [B, c, H, W].
        window: of the pooling in the channel attention; None: the whole image.
    """

    def __init__(self, width: int, window: Window | None = None) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.conv1 = nn.Conv2d(width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.conv3 = nn.Conv2d(width, width, 1)
        self.sca = nn.Sequential(Pool(window), nn.Conv2d(width, width, 1))
        self.conv4 = nn.Conv2d(width, 2 * width, 1)
        self.conv5 = nn.Conv2d(width, width, 1)
        self.norm1, self.norm2 = LayerNorm2d(width), LayerNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        attended = gated(self.conv2(self.conv1(self.norm1(x))))
        attended = attended * self.sca(attended)
        y = x + self.beta * self.conv3(attended)
        return y + self.gamma * self.conv5(gated(self.conv4(self.norm2(y))))


def blocks(width: int, count: int, window: Window | None = None) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(width, window) for _ in range(count)))


class NAFBody(RestorationNetwork):
    """The network up to its last decoder, from which images are made.

    Args:
        width, enc, mid, dec, local_pooling: see `NAFNet`.
        ending: whether it has the layer that makes an image at the input's size.
    """

    whole_image = True  # the channel attention; tiles approximate it
    scale = 1

    def __init__(
        self,
        width: int,
        enc: Sequence[int],
        mid: int,
        dec: Sequence[int],
        local_pooling: Sequence[int] | None,
        ending: bool = True,
    ) -> None:
        super().__init__()
        check_positive(width=width)
        if not enc or len(enc) != len(dec) or min(*enc, *dec, mid) < 0:
            raise ValueError(
                f"enc is {list(enc)}, mid {mid} and dec {list(dec)}, expected numbers of blocks, "
                "as many in enc as in dec"
            )
        if local_pooling is not None and (len(local_pooling) != 2 or min(local_pooling) < 1):
            raise ValueError(f"local_pooling is {list(local_pooling)}, expected height and width of a patch")
        levels = len(enc)
        self.size_multiple = 2**levels
        widths = [width * 2**level for level in range(levels + 1)]
        self.windows = sizes = windows(local_pooling, levels)
        coarser = range(levels - 1, -1, -1)

        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.ending = nn.Conv2d(width, 3, 3, padding=1) if ending else None
        self.encoders = nn.ModuleList(blocks(widths[i], enc[i], sizes[i]) for i in range(levels))
        self.decoders = nn.ModuleList(blocks(widths[i], n, sizes[i]) for i, n in zip(coarser, dec, strict=True))
        self.middle_blks = blocks(widths[-1], mid, sizes[-1])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * widths[i], 4 * widths[i], 1, bias=False), nn.PixelShuffle(2)) for i in coarser
        )
        self.downs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in range(levels))

    @classmethod
    def options_of(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        if "intro.weight" not in state or not state["intro.weight"].dim():
            return {}
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name in state:
            if part := re.match(r"((?:encoders|decoders)\.\d+|middle_blks|downs)\.(\d+)\.", name):
                found[part[1]].add(part[2])
        levels = range(len(found["downs"]))
        return {
            "width": len(state["intro.weight"]),
            "enc": [len(found[f"encoders.{level}"]) for level in levels],
            "mid": len(found["middle_blks"]),
            "dec": [len(found[f"decoders.{level}"]) for level in levels],
        }

    def features(self, x: Tensor) -> Tensor:
        """Features [B, width, h, w] of an input whose height and width are multiples of `size_multiple`."""
        x = self.intro(x)
        kept = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            kept.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(kept), strict=True):
            x = decoder(up(x) + skip)
        return x

    def padded(self, lr: Tensor) -> Tensor:
        """With zeros at the bottom and right, which the published weights are used to."""
        return pad_to_multiple(lr, self.size_multiple, "constant")


class NAFNet(NAFBody):
    """NAFNet, and NAFNetLocal with `local_pooling`.

    Input `lr` [B, 3, h, w] in [0, 1], any size (padded with zeros to a multiple of 2^len(enc) inside). Output `sr`
    [B, 3, h, w], about [0, 1]. The channel attention looks at the whole image, so that tiles approximate it; with
    `local_pooling` too, whose windows tiles of their size or less do without.

    Args:
        width: channels at full resolution; they double where the resolution halves.
        enc: blocks of each level of the encoder, the finest first; their number is the number of halvings.
        mid: blocks at the coarsest resolution.
        dec: blocks of each level of the decoder, the coarsest first.
        local_pooling: height and width of the training patches, for which images larger than 1.5 times that are pooled
            over windows of that size; None: over the whole image. It changes no parameter, and nothing in training on
            such patches.
    """

    def __init__(
        self,
        width: int = 32,
        enc: Sequence[int] = (1, 1, 1, 28),
        mid: int = 1,
        dec: Sequence[int] = (1, 1, 1, 1),
        local_pooling: Sequence[int] | None = None,
    ) -> None:
        super().__init__(width, enc, mid, dec, local_pooling)

    def forward(self, lr: Tensor) -> Restored:
        assert self.ending is not None
        h, w = lr.shape[-2:]
        x = self.padded(lr)
        return Restored(sr=(self.ending(self.features(x)) + x)[..., :h, :w])


def windows(patch: Sequence[int] | None, levels: int) -> list[Window | None]:
    """Of the local pooling at resolutions 1, 1/2, ..., 1/2^levels: 1.5 times the training patch there.

    The authors find them by running the network on such a patch, padded to a multiple of 2^levels.
    """
    if patch is None:
        return [None] * (levels + 1)
    multiple = 2**levels

    def length(side: int, level: int) -> int:
        inside = (side + multiple - 1) // multiple * multiple // 2**level
        return inside * (3 * side // 2) // side

    return [(length(patch[0], level), length(patch[1], level)) for level in range(levels + 1)]


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of the authors' code, whose names are those used here but for `module.`, of any size.

    Raises:
        ValueError: if the first or the last layer is missing; the rest is left to `load_state_dict`.
    """
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name in ("intro.weight", "ending.weight"):
        if name not in state:
            raise ValueError(f"not the official NAFNet weights: missing {name}")
    return dict(state)
