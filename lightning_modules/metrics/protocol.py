"""What a figure was measured on.

Published numbers differ by tenths of a decibel only because of what is measured: luma or colour, with or without the
border, before or after rounding to 8 bit. A `Protocol` names these choices, so a table can print what it compares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

SHAVES = {"s": 1.0, "1.5s": 1.5}  # pixels for each unit of the scale; "s^2" is the other form


@dataclass(frozen=True)
class Protocol:
    """What PSNR and SSIM are measured on.

    Attributes:
        name: how tables call it.
        colour: "y" compares the luma of RGB pictures, "rgb" the three channels. Pictures of one channel are luma
            already: all choices take them as they are, scaled to 0...255. So does "y" with pictures of gray files, as
            published tables do, though they have come as three equal channels; what a network makes of them counts by
            its luma in the same range ("gray", which `at` puts in the place of "y"). "y_of_rgb" compares the luma of
            these channels, whose range is 16...235: 1.3 dB more, as code has it that reads gray files as RGB.
        shave: pixels removed on each of the four sides before measuring; or "s", "1.5s", "s^2", which `at` makes a
            number for a scale.
        rounding: how picture and target become 8 bit, as if both had been written to PNG files. "round": clipped,
            halves up. "truncate": clipped, fractions cut off. Either way the luma is then rounded too, as rgb2ycbcr
            does on 8-bit input. "none": values are compared as they are, neither clipped nor rounded.
        ssim: "channels", the mean of the channels' published SSIM over whole windows; "volume", MATLAB's `ssim` of
            the H x W x 3 array, which gives larger values. See `ssim_maps`.
    """

    name: str
    colour: Literal["y", "rgb", "y_of_rgb", "gray"]
    shave: int | Literal["s", "1.5s", "s^2"]
    rounding: Literal["round", "truncate", "none"] = "round"
    ssim: Literal["channels", "volume"] = "channels"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "." in self.name:
            raise ValueError(f"a protocol needs a name without dots, got {self.name!r}")
        if self.colour not in ("y", "rgb", "y_of_rgb", "gray"):
            raise ValueError(f'colour of protocol {self.name} must be "y", "rgb" or "y_of_rgb", got {self.colour!r}')
        # bool is a kind of int, and `shave: true` in a config would otherwise shave one pixel.
        whole = isinstance(self.shave, int) and not isinstance(self.shave, bool) and self.shave >= 0
        if not whole and self.shave not in (*SHAVES, "s^2"):
            raise ValueError(
                f'shave of protocol {self.name} must be a whole number >= 0, "s", "1.5s" or "s^2", got {self.shave!r}'
            )
        if self.rounding not in ("round", "truncate", "none"):
            raise ValueError(f"rounding of protocol {self.name} must be round, truncate or none, got {self.rounding!r}")
        if self.ssim not in ("channels", "volume"):
            raise ValueError(f"ssim of protocol {self.name} must be channels or volume, got {self.ssim!r}")

    def at(self, scale: int | None, gray: bool = False) -> Protocol:
        """The protocol for a scale: `shave` is a whole number. `None`, no scale, will do if it is one already.

        Args:
            gray: whether it is for pictures of gray files (`Batch.gray`).

        Raises:
            ValueError: without a needed scale, or if it does not give whole pixels.
        """
        if gray and self.colour == "y":
            return replace(self, colour="gray").at(scale)
        if isinstance(self.shave, int):
            return self
        if scale is None:
            raise ValueError(f"protocol {self.name} shaves {self.shave} pixels, and there is no scale s")
        pixels = scale**2 if self.shave == "s^2" else SHAVES[self.shave] * scale
        if pixels != int(pixels):
            raise ValueError(
                f"protocol {self.name} shaves {self.shave} pixels, {pixels:g} for s = {scale}: expected whole pixels; "
                "choose another protocol="
            )
        return replace(self, shave=int(pixels))

    @property
    def border(self) -> int:
        """`shave` where it is a number.

        Raises:
            ValueError: if it depends on the scale still.
        """
        if not isinstance(self.shave, int):
            raise ValueError(f"protocol {self.name} shaves {self.shave} pixels: take protocol.at(scale)")
        return self.shave
