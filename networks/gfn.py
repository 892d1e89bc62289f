"""GFN: a deblurring and a super-resolving branch whose features a learned gate fuses, for x4.

X. Zhang, H. Dong, Z. Hu, W.-S. Lai, F. Wang, M.-H. Yang, "Gated Fusion Network for Joint Image Deblurring and
Super-Resolution", BMVC 2018. The layers are those of the authors' published code in its last version, which reaches
their best figure, not those of the first one; `gate_recursions=3` is the gate of the journal version (IJCV 2020).

What differs: the last convolutions of the residual blocks start smaller (`init`), because 34 of them without
normalization blow the output up to a standard deviation of 10^4 and more; sides that 4 does not divide are padded, not
stretched (`pad`).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.convolution import ResidualBlock, conv
from networks.ops.meta import shapes_alone
from networks.ops.options import check_choice
from networks.ops.published import renamed
from networks.ops.resize import bicubic_resize, pad_to_multiple
from networks.restored import Restored


def leaky(slope: float = 0.2) -> nn.LeakyReLU:
    return nn.LeakyReLU(slope, inplace=True)


def relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def block(width: int, act: nn.Module) -> ResidualBlock:
    return ResidualBlock(conv(width, width), act, conv(width, width))


class Deblur(nn.Module):
    """Features [B, width, h, w] and a deblurred image [B, 3, h, w] of an image with sides divisible by 4."""

    def __init__(self, width: int, n_blocks: int) -> None:
        super().__init__()
        c1, c2, c3 = width, 2 * width, 4 * width
        self.conv1 = nn.Sequential(conv(3, c1, 7), leaky())
        self.blocks1 = nn.Sequential(*(block(c1, relu()) for _ in range(n_blocks)))
        self.conv2 = nn.Sequential(conv(c1, c2, stride=2), relu())
        self.blocks2 = nn.Sequential(*(block(c2, relu()) for _ in range(n_blocks)))
        self.conv3 = nn.Sequential(conv(c2, c3, stride=2), relu())
        self.blocks3 = nn.Sequential(*(block(c3, relu()) for _ in range(n_blocks)))
        self.up = nn.Sequential(
            *(nn.ConvTranspose2d(c3, c2, 4, 2, 1), relu()),
            *(nn.ConvTranspose2d(c2, c1, 4, 2, 1), relu()),
            conv(c1, c1, 7),
        )
        self.head = nn.Sequential(conv(c1, c1), relu(), conv(c1, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c1 = self.conv1(x)
        c2 = self.conv2(self.blocks1(c1) + c1)  # h/2 x w/2
        c3 = self.conv3(self.blocks2(c2) + c2)  # h/4 x w/4
        features = self.up(self.blocks3(c3) + c3)
        return features, self.head(features + c1)


class SuperResolution(nn.Module):
    """Features [B, width, h, w] of an image [B, 3, h, w]."""

    def __init__(self, width: int, n_blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, width, 7), leaky())
        self.blocks = nn.Sequential(*(block(width, leaky()) for _ in range(n_blocks)))
        self.conv2 = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        return self.conv2(self.blocks(first)) + first


class GFN(RestorationNetwork):
    """Gated fusion network.

    Input `lr` [B, 3, h, w] in [0, 1], any size. Output `sr` [B, 3, 4h, 4w] and `deblurred` [B, 3, h, w], both about
    [0, 1]. The parts are `deblur` (with `deblur.head`, which makes the deblurred image), `superres`, `gating` and
    `reconstruction`.

    Args:
        gate: the deblurring features are weighted by the learned gate before they are added to the super-resolving
            ones; off, they are added once as they are, and the gate is not computed and gets no gradient. May be set
            at any time.
        gate_recursions: times the gate is applied, 1 or 3; from the second time on it sees the fused features in
            place of the super-resolving ones.
        gate_init: "official" or "identity": the gate begins as 1/gate_recursions everywhere, so that switching it on
            does not change the network's function.
        init: "official", every convolution N(0, 2/(k*k*C_out)), or "rb0.1", the same with the second convolution of
            all residual blocks times 0.1.
        pad: how sides become multiples of 4: "replicate" pads by repetition and crops the results; "official"
            stretches the image bilinearly and the results back (the authors leave the deblurred one stretched).
        width: channels of the branches.
        n_blocks: residual blocks at each resolution of the deblurring branch, and of the other two parts each.
        global_residual: "bicubic" adds the enlarged input to `sr` and the input to `deblurred`, which lets short
            trainings start from there; the paper has "none".
    """

    outputs = ("sr", "deblurred")
    scale = 4
    size_multiple = 4

    def __init__(
        self,
        gate: bool = True,
        gate_recursions: Literal[1, 3] = 1,
        gate_init: Literal["official", "identity"] = "official",
        init: Literal["rb0.1", "official"] = "rb0.1",
        pad: Literal["replicate", "official"] = "replicate",
        width: int = 64,
        n_blocks: Sequence[int] = (6, 8),
        global_residual: Literal["none", "bicubic"] = "none",
    ) -> None:
        super().__init__()
        check_choice("gate_recursions", gate_recursions, (1, 3))
        check_choice("gate_init", gate_init, ("official", "identity"))
        check_choice("init", init, ("rb0.1", "official"))
        check_choice("pad", pad, ("replicate", "official"))
        check_choice("global_residual", global_residual, ("none", "bicubic"))
        if width < 1 or len(n_blocks) != 2 or min(n_blocks) < 1:
            raise ValueError(
                f"width is {width} and n_blocks {list(n_blocks)}, expected positive and two positive numbers"
            )
        self.gate = gate
        self.gate_recursions = gate_recursions
        self.pad = pad
        self.global_residual = global_residual
        self.deblur = Deblur(width, n_blocks[0])
        self.superres = SuperResolution(width, n_blocks[1])
        # Linear: the gate may be negative or above 1.
        self.gating = nn.Sequential(conv(2 * width + 3, width), leaky(), last := conv(width, width, 1))
        self.reconstruction = nn.Sequential(
            nn.Sequential(*(block(width, relu()) for _ in range(n_blocks[1]))),
            *(conv(width, 4 * width), nn.PixelShuffle(2), leaky(0.1)),  # 2h x 2w
            *(conv(width, 4 * width), nn.PixelShuffle(2), leaky()),  # 4h x 4w
            *(conv(width, width), leaky(), conv(width, 3)),
        )
        if init == "rb0.1":
            for part in self.modules():
                if isinstance(part, ResidualBlock):
                    part.body[2].get_parameter("weight").data.mul_(0.1)
        if gate_init == "identity":
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, 1 / gate_recursions)  # type: ignore[arg-type]  # bias is there: bias=True

    @property
    def whole_image(self) -> bool:  # type: ignore[override]  # follows from `pad`
        return self.pad == "official"  # it stretches images, by what depends on their size

    def fuse(self, x: Tensor, deblurring: Tensor, features: Tensor) -> Tensor:
        """The features the image is made of: `features` plus the `deblurring` ones, gated; both [B, width, h, w]."""
        if not self.gate:
            return features + deblurring
        for _ in range(self.gate_recursions):
            features = features + self.gating(torch.cat((deblurring, x, features), 1)) * deblurring
        return features

    def forward(self, lr: Tensor) -> Restored:
        h, w = lr.shape[-2:]
        stretch = self.pad == "official"  # which changes nothing in images that have the size
        if stretch:
            size = tuple((n + self.size_multiple - 1) // self.size_multiple * self.size_multiple for n in (h, w))
            x = F.interpolate(lr, size, mode="bilinear")
        else:
            x = pad_to_multiple(lr, self.size_multiple)
        deblurring, deblurred = self.deblur(x)
        sr = self.reconstruction(self.fuse(x, deblurring, self.superres(x)))
        if stretch:
            sr = F.interpolate(sr, (self.scale * h, self.scale * w), mode="bilinear")
            deblurred = F.interpolate(deblurred, (h, w), mode="bilinear")
        sr, deblurred = sr[..., : self.scale * h, : self.scale * w], deblurred[..., :h, :w]
        if self.global_residual == "bicubic":
            sr, deblurred = sr + bicubic_resize(lr, self.scale), deblurred + lr
        return Restored(sr=sr, deblurred=deblurred)


# How names begin here and in the authors' code (the spelling is theirs); in residual blocks `body` is `layers` there.
OFFICIAL_NAMES = {
    "deblur.conv1.0.": "deblurMoudle.0.conv1.",
    "deblur.blocks1.": "deblurMoudle.0.resBlock1.",
    "deblur.conv2.": "deblurMoudle.0.conv2.",
    "deblur.blocks2.": "deblurMoudle.0.resBlock2.",
    "deblur.conv3.": "deblurMoudle.0.conv3.",
    "deblur.blocks3.": "deblurMoudle.0.resBlock3.",
    "deblur.up.0.": "deblurMoudle.0.deconv1.0.",
    "deblur.up.2.": "deblurMoudle.0.deconv2.0.",
    "deblur.up.4.": "deblurMoudle.0.deconv2.2.",
    "deblur.head.": "deblurMoudle.0.convout.",
    "superres.conv1.0.": "srMoudle.0.conv1.",
    "superres.blocks.": "srMoudle.0.resBlock.",
    "superres.conv2.": "srMoudle.0.conv2.",
    "gating.0.": "geteMoudle.0.conv1.",
    "gating.2.": "geteMoudle.0.conv2.",
    "reconstruction.0.": "reconstructMoudle.0.resBlock.",
    "reconstruction.1.": "reconstructMoudle.0.conv1.",
    "reconstruction.4.": "reconstructMoudle.0.conv2.",
    "reconstruction.7.": "reconstructMoudle.0.conv3.",
    "reconstruction.9.": "reconstructMoudle.0.conv4.",
}


def official_name(name: str) -> str:
    ours = next(prefix for prefix in OFFICIAL_NAMES if name.startswith(prefix))
    return OFFICIAL_NAMES[ours] + name.removeprefix(ours).replace(".body.", ".layers.")


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of the authors' code under the names used here, ready for `GFN().load_state_dict`.

    Args:
        state: a bare state dict of their last version; their files hold a pickled module and must be converted first.
    """
    with shapes_alone():
        names = {official_name(name): name for name in GFN().state_dict()}
    return renamed(state, names, "official GFN")
