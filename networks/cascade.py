"""Cascade: two independent networks one after the other, deblurring and super-resolution in either order.

The comparisons of ED-DSRN (Zhang et al., ICASSP 2018, Table 1) deblur the low-resolution image first, those of GFN
(Zhang et al., BMVC 2018) also enlarge first. Neither trains the two together. What they hand over is stored in 8 bit
here, as an image file between two programs is; the papers do not say.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from networks.base import RestorationNetwork
from networks.restored import Restored


class Cascade(RestorationNetwork):
    """The second network restores what the first one made.

    Which image goes on depends on what the networks are:

    * The second one enlarges: the first one's deblurred image of the input's size, which is `deblurred` if it returns
      one, and else its `sr`, for which it has to work at scale 1. A network for several scales is run at scale 1. The
      result has both images, `sr` [B, 3, scale*h, scale*w] and, as it was handed over, `deblurred` [B, 3, h, w].
    * The second one works at scale 1: the first one's `sr`. If the first one enlarges, the result has only `sr`; if it
      does not, both.

    Inputs are the batch fields that either network takes, as they are; of `lr`, the second one sees what the first one
    made of it. Attributes `scales`, `inputs`, `outputs` and `size_multiple` follow from the two.

    Args:
        first: sees the input.
        second: sees what the first one made.
        rounding: clip what is handed over to [0, 1] and round it to 8 bit. Without, gradients flow through.

    Raises:
        ValueError: if both networks enlarge and the first one has no deblurred image at the input's size.
    """

    def __init__(self, first: RestorationNetwork, second: RestorationNetwork, rounding: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.rounding = first, second, rounding
        names = [type(network).__name__ for network in (first, second)]
        self.enlarges_first = second.scales == (1,) and first.scales != (1,)
        if not self.enlarges_first and "deblurred" not in first.outputs and 1 not in first.scales:
            raise ValueError(
                f"cascade: {names[0]} enlarges x{first.scales[0]} and returns no deblurred image, {names[1]} enlarges "
                f"x{', x'.join(map(str, second.scales))} as well: put a network first that deblurs at the input's "
                "size, or one second that works at scale 1"
            )
        # Only a network that has the choice takes the scale: the first one's is settled when it deblurs.
        chooses = first if self.enlarges_first else second
        self._scales = chooses.scales
        if {"kernel", "kernels"} & {*first.inputs} and not self.enlarges_first and self.scales != (1,):
            raise ValueError(
                f"cascade: {names[0]} takes the kernel, which is one of sharp pixels, and would work on the "
                f"low resolution: put a network first that does not, or measure {names[0]} alone"
            )
        self.takes_scale = "scale" in chooses.inputs
        fields = dict.fromkeys([*first.inputs, *second.inputs])
        self.inputs = tuple(name for name in fields if name != "scale" or self.takes_scale)
        self.outputs = ("sr",) if self.enlarges_first else ("sr", "deblurred")
        self.lr_sampling = chooses.lr_sampling
        self.size_multiple = self._size_multiple()

    @property
    def scales(self) -> tuple[int, ...]:
        return self._scales

    @property
    def takes_gray(self) -> bool:
        return self.first.takes_gray and self.second.takes_gray

    def converted(self, convert: Callable[[RestorationNetwork], RestorationNetwork]) -> "Cascade":
        return Cascade(self.first.converted(convert), self.second.converted(convert), self.rounding)

    def _size_multiple(self) -> int:
        """Of the input's sides; of the result's where the scale is an input, as for any network for several scales."""
        first, second = self.first.size_multiple, self.second.size_multiple
        if self.enlarges_first and not self.takes_scale:
            return math.lcm(first, second // math.gcd(second, self.scales[0]))
        if self.takes_scale and not self.enlarges_first:
            return math.lcm(first * math.lcm(*self.scales), second)
        return math.lcm(first, second)

    def forward(self, lr: Tensor, **others: Any) -> Restored:
        fields = {"lr": lr, **others}
        known = {"scale": 1} if not self.enlarges_first else {}
        restored = self.first(**taken(self.first, {**fields, **known}))
        deblurs = not self.enlarges_first and restored.deblurred is not None
        handed_over = restored.deblurred if deblurs else restored.sr
        if self.rounding:
            handed_over = (handed_over.clamp(0, 1) * 255).round() / 255
        result = self.second(**taken(self.second, {**fields, "lr": handed_over}))
        return Restored(sr=result.sr, deblurred=None if self.enlarges_first else handed_over)


def taken(network: RestorationNetwork, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a network, of fields by name; a kernel for the whole image is one of `kernels` (`STAND_INS`)."""
    if "kernels" in network.inputs and fields.get("kernels") is None and fields.get("kernel") is not None:
        kernel = fields["kernel"]
        fields = {**fields, "kernels": kernel, "weights": kernel.new_ones(len(kernel), 1, 1, 1)}
    return {name: fields[name] for name in network.inputs}
