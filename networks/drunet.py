"""DRUNet: a denoiser that is told the noise level, the prior of DPIR (`networks.dpir`).

K. Zhang, Y. Li, W. Zuo, L. Zhang, L. Van Gool, R. Timofte, "Plug-and-play image restoration with deep denoiser prior",
TPAMI 2021. It is the prior of USRNet with more residual blocks.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from networks.base import RestorationNetwork
from networks.ops.meta import shapes_alone
from networks.ops.options import check_choice, check_positive, check_widths
from networks.ops.published import renamed
from networks.restored import Restored
from networks.usrnet import Prior, initialise


class DRUNet(RestorationNetwork):
    """DRUNet; the defaults have 32.641 M parameters, none of them a bias.

    Inputs: `lr` [B, C, h, w], about [0, 1], noisy, any size; `noise_level` [B, 1, 1, 1], standard deviation of the
    noise on the [0, 1] scale. Output: `sr` [B, C, h, w], about [0, 1], not clamped. With `channels=1` the channels of
    an image are restored each by itself.

    Args:
        channels: 3 or 1 (gray).
        widths: channels at resolutions 1, 1/2, 1/4, 1/8.
        n_blocks: residual blocks at each resolution and direction.
        pad_multiple: images are continued by repetition at the bottom and right until it divides their sides; a
            multiple of 8. The published results are those of 16.
        residual: what is computed is added to the input, which lets short trainings start from there; the paper does
            not. The parameters are called `correction.*` then, else `unet.*`, so that neither is taken for the other.

    Raises:
        ValueError: if the images have another number of channels.
    """

    inputs = ("lr", "noise_level")
    scale = 1

    def __init__(
        self,
        channels: Literal[1, 3] = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        n_blocks: int = 4,
        pad_multiple: int = 16,
        residual: bool = False,
    ) -> None:
        super().__init__()
        check_choice("channels", channels, (1, 3))
        check_widths(widths, 4)
        check_positive(n_blocks=n_blocks, pad_multiple=pad_multiple)
        if pad_multiple % Prior.size_multiple:
            raise ValueError(f"pad_multiple is {pad_multiple}, expected a multiple of {Prior.size_multiple}")
        self.channels, self.size_multiple, self.residual = channels, pad_multiple, residual
        unet = Prior(widths, n_blocks, channels, pad_multiple)
        if residual:
            self.correction = unet
        else:
            self.unet = unet
        initialise(self)

    def forward(self, lr: Tensor, noise_level: Tensor) -> Restored:
        channels = lr.shape[1]
        if self.channels not in (1, channels):
            raise ValueError(
                f"the images have {channels} channels, expected {self.channels} as the option channels says"
            )
        # With one channel, every channel of every image is an image of its own, with the noise level of the image.
        images = lr.reshape(-1, self.channels, *lr.shape[-2:])
        level = noise_level.to(lr.dtype).repeat_interleave(channels // self.channels, 0)
        restored = images + self.correction(images, level) if self.residual else self.unet(images, level)
        return Restored(sr=restored.reshape(lr.shape))


def _official_name(own: str) -> str:
    own = own.replace("unet.", "m_")
    # "body" is a part of the network as well as of a block: only the block's is called "res".
    return re.sub(r"(?<=\d)\.body\.", ".res.", own)


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the authors' code, with four blocks at each place, under the names used here."""
    with shapes_alone():
        own_names = DRUNet(widths=(1, 1, 1, 1)).state_dict()
    return renamed(state, {_official_name(name): name for name in own_names}, "official DRUNet")
