"""NAFNet for joint deblurring and super-resolution: a variant of this suite, not a published network.

The features of NAFNet (see `networks.nafnet`) at low resolution go two ways: the published last layer makes the
deblurred image, further blocks, a pixel shuffle and the bicubic enlargement the super-resolved one. So published
weights of NAFNet can begin a training.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from networks.nafnet import NAFBody, blocks
from networks.nafnet import import_official as import_official  # of NAFNet: they begin the body and the branch
from networks.ops.options import check_choice
from networks.ops.resize import bicubic_resize, pad_to_multiple
from networks.restored import Restored


class NAFNetSR(NAFBody):
    """NAFNet with a second, enlarging head.

    Input `lr` [B, 3, h, w] in [0, 1], any size (padded to a multiple of 2^len(enc) inside). Output `sr`
    [B, 3, scale*h, scale*w] and, with the deblurring branch, `deblurred` [B, 3, h, w], both about [0, 1]. The channel
    attention looks at the whole image, so that tiles approximate it.

    Args:
        width, enc, mid, dec, local_pooling: see `networks.nafnet.NAFNet`; patches are those of the low resolution.
        scale: 2, 3 or 4.
        sr_blocks: blocks of the enlarging head alone, before it enlarges; 0 or more.
        deblur_branch: whether it returns `deblurred`, made by NAFNet's own last layer.
        global_residual: what is added to the super-resolved image: the enlarged input, or nothing.
        padding: what continues a photograph up to that multiple: zeros, as in NAFNet, or its border, repeated. Small
            networks that have seen neither in training fail at zeros.
        head_gain: factor on the initial weights of the two output layers; below 1 the network starts close to what is
            added to its outputs, which helps short trainings.
    """

    added = "sr_"

    def __init__(
        self,
        width: int = 32,
        enc: Sequence[int] = (1, 1, 1, 28),
        mid: int = 1,
        dec: Sequence[int] = (1, 1, 1, 1),
        scale: int = 4,
        sr_blocks: int = 1,
        deblur_branch: bool = True,
        global_residual: Literal["bicubic", "none"] = "bicubic",
        head_gain: float = 1.0,
        local_pooling: Sequence[int] | None = None,
        padding: Literal["zeros", "replicate"] = "zeros",
    ) -> None:
        super().__init__(width, enc, mid, dec, local_pooling, deblur_branch)
        check_choice("scale", scale, (2, 3, 4))
        check_choice("global_residual", global_residual, ("bicubic", "none"))
        if sr_blocks < 0:
            raise ValueError(f"sr_blocks is {sr_blocks}, expected 0 or more")
        check_choice("padding", padding, ("zeros", "replicate"))
        self.scale, self.padding = scale, padding
        self.outputs = ("sr", "deblurred") if deblur_branch else ("sr",)
        self.global_residual = global_residual

        self.sr_blocks = blocks(width, sr_blocks, self.windows[0])
        steps = (2, 2) if scale == 4 else (scale,)
        self.sr_up = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(width, s * s * width, 3, padding=1), nn.PixelShuffle(s)) for s in steps)
        )
        self.sr_out = nn.Conv2d(width, 3, 3, padding=1)
        for head in (self.sr_out, self.ending):
            if head is not None:
                head.weight.data.mul_(head_gain)

    def padded(self, lr: Tensor) -> Tensor:
        return pad_to_multiple(lr, self.size_multiple, "constant" if self.padding == "zeros" else "replicate")

    def forward(self, lr: Tensor) -> Restored:
        h, w = lr.shape[-2:]
        x = self.padded(lr)
        shared = self.features(x)
        sr = self.sr_out(self.sr_up(self.sr_blocks(shared)))[..., : self.scale * h, : self.scale * w]
        if self.global_residual == "bicubic":
            sr = sr + bicubic_resize(lr, self.scale)
        if self.ending is None:
            return Restored(sr=sr)
        return Restored(sr=sr, deblurred=(self.ending(shared) + x)[..., :h, :w])
