"""LapSRN: a Laplacian pyramid that doubles the size of the luma level by level and adds details at each.

W.-S. Lai, J.-B. Huang, N. Ahuja, M.-H. Yang, "Deep Laplacian pyramid networks for fast and accurate super-resolution",
CVPR 2017. The layers are those of the authors' published code (MatConvNet), whose up-convolutions are 3x3; in the
paper's text they are 4x4, as in the common PyTorch port (`form`).

Colour images go in and come out: the network sees their luma, Cb and Cr are
enlarged bicubically, as the authors' test code does.
"""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.luma import luma, replace_luma
from networks.ops.options import check_choice, check_positive
from networks.ops.resize import bicubic_resize
from networks.restored import Restored


def leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2, inplace=True)


def conv(inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class UpConv(nn.ConvTranspose2d):
    """3x3 transposed convolution of stride 2 to exactly twice the size: of its 2n + 1 rows and columns the last go."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x)[..., :-1, :-1]


class Level(nn.Module):
    """Features [B, width, h, w] and luma [B, 1, h, w] -> both at 2h x 2w."""

    def __init__(self, width: int, n_convs: int, official: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(n_convs):
            layers += [conv(width, width, official), leaky()]
        self.body = nn.Sequential(*layers)
        self.up = UpConv(width, width) if official else nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False)
        self.act = leaky()
        self.residual = conv(width, 1, official)
        self.image = nn.ConvTranspose2d(1, 1, 4, 2, 1, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.up(self.body(x)))  # 2h x 2w
        with torch.autocast(y.device.type, enabled=False):  # half precision would round the luma itself
            y = self.image(y.to(self.image.weight.dtype))
        return x, y + self.residual(x)


class LapSRN(RestorationNetwork):
    """LapSRN; for x4 814,242 parameters, 870,112 in the form of the port.

    Input `lr` [B, C, h, w], about [0, 1], any size, C = 3 (RGB) or 1 (luma in studio range, see `networks.ops.luma`).
    Outputs, about [0, 1]: `pyramid`, the estimates at 2, 4, ... times the size [B, C, 2h, 2w], ..., and `sr`, the last
    of them.

    Args:
        scale: 2, 4 or 8: one level for each doubling.
        form: "official" has 3x3 up-convolutions and biases, "port" 4x4 ones and no biases.
        width: channels.
        n_convs: convolutions of a level before its up-convolution.
    """

    outputs = ("sr", "pyramid")

    def __init__(
        self, scale: int = 4, form: Literal["official", "port"] = "official", width: int = 64, n_convs: int = 10
    ) -> None:
        super().__init__()
        check_choice("scale", scale, (2, 4, 8))
        check_choice("form", form, ("official", "port"))
        check_positive(width=width, n_convs=n_convs)
        self.scale = scale
        official = form == "official"
        self.first = nn.Sequential(conv(1, width, official), leaky())
        self.levels = nn.ModuleList(Level(width, n_convs, official) for _ in range(scale.bit_length() - 1))
        self.initialise(width)

    def initialise(self, width: int) -> None:
        """As the authors' code: small first weights, N(0, 2/(9 width)) else, bilinear enlargement, no biases."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif name.endswith("image.weight"):
                line = torch.tensor([0.25, 0.75, 0.75, 0.25])
                weight.data.copy_(line[:, None] * line)
            else:
                nn.init.normal_(weight, 0.0, 1e-3 if name.startswith("first") else (2 / (9 * width)) ** 0.5)

    def forward(self, lr: Tensor) -> Restored:
        y = luma(lr)
        x = self.first(y)
        pyramid: list[Tensor] = []
        for i, level in enumerate(self.levels):
            x, y = level(x, y)
            pyramid.append(replace_luma(bicubic_resize(lr, 2 ** (i + 1)), y))
        return Restored(sr=pyramid[-1], pyramid=pyramid)


PARTS = {"upconv": "up", "residual_conv": "residual", "img_up": "image"}


def _own_name(official: str, n_levels: int) -> str | None:
    """The name here of a parameter of the authors' code; they count levels from the finest, which is 1."""
    match = re.fullmatch(r"(?:input_conv|level(\d+)_(conv(\d+)|upconv|residual_conv|img_up))_([fb])", official)
    if match is None:
        return None
    level, part, number, kind = match.groups()
    suffix = "weight" if kind == "f" else "bias"
    if level is None:
        return f"first.0.{suffix}"
    prefix = f"levels.{n_levels - int(level)}"
    if number is not None:
        return f"{prefix}.body.{2 * (int(number) - 1)}.{suffix}"
    return f"{prefix}.{PARTS[part]}.{suffix}"


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of the authors' MatConvNet model (LapSRN_x2.mat, _x4, _x8) under the names and layout used here.

    Args:
        state: by their names, in MATLAB's layout: filters [height, width, in, out], those of transposed convolutions
            [height, width, out, in], without the last dimensions where they are 1.

    Shapes and completeness are not looked at: `load_state_dict` of a network with the right scale does that.

    Raises:
        ValueError: for a parameter that is none of theirs, or without any of a level.
    """
    levels = [int(found[1]) for name in state if (found := re.match(r"level(\d+)_", name))]
    names = {name: _own_name(name, max(levels, default=0)) for name in state}
    unexpected = [name for name, own in names.items() if own is None]
    if unexpected or not levels:
        raise ValueError(f"not the official LapSRN weights: unexpected {', '.join(unexpected) or 'none'}")
    own_state: dict[str, Tensor] = {}
    for name, own in names.items():
        value = state[name]
        lines = name.endswith("_b") and value.numel() == max(value.shape, default=1)  # a row or a column
        if own in own_state or not (lines or (name.endswith("_f") and value.dim() <= 4)):
            raise ValueError(
                f"not the official LapSRN weights: {name} of shape {tuple(value.shape)} is there twice, or no filter "
                "or bias"
            )
        if name.endswith("_f"):
            # Input and output channels change places in transposed convolutions, there and here.
            value = value.reshape(*value.shape, *[1] * (4 - value.dim())).permute(3, 2, 0, 1)
        own_state[str(own)] = value.reshape(-1) if name.endswith("_b") else value.contiguous()
    return own_state
