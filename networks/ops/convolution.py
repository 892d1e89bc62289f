"""Layers that several systems share."""

from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that divides the resolution by `stride`; weights N(0, 2/(k*k*C_out)) as in GFN's code, biases 0."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)
    nn.init.normal_(layer.weight, 0.0, (2 / (size * size * outputs)) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """The input plus what the layers, one after the other in `body`, make of it; no activation after the sum."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
