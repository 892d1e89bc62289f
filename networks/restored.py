"""The return value of every network."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Restored:
    """What a network made of a degraded image; a branch it does not have stays `None`.

    Losses, metrics and pictures are keyed by these names.

    Attributes:
        sr: the restored image [B, C, scale*h, scale*w], about [0, 1] (not clamped); for scale 1 the deblurred image.
        deblurred: the deblurred image at input resolution [B, C, h, w], about [0, 1].
        kernel: the estimated blur kernel [B, 1, k, k], sum 1.
        code: the reduced kernel representation of a blind method [B, d].
        pyramid: the estimates of all scales, coarsest first, each [B, C, h_i, w_i].
        earlier: what the loops before the last one made, oldest first, of a method that alternates and supervises all.
    """

    sr: Tensor
    deblurred: Tensor | None = None
    kernel: Tensor | None = None
    code: Tensor | None = None
    pyramid: list[Tensor] | None = None
    earlier: list["Restored"] | None = None
