"""Weights and inputs by formulas that any implementation can repeat; the numbers that fixtures state of a result."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

PERIOD = 1000003
RESIDUES = (torch.arange(PERIOD) * 2654435761 % PERIOD).double()


def filling(name: str, shape: torch.Size, j: int, gain: float) -> Tensor:
    """The j-th tensor: element i is (2654435761 i + 40503 j + 12345) mod PERIOD, centred, scaled to the inputs."""
    n = shape.numel()
    u = RESIDUES.repeat(-(-n // PERIOD))[:n] + (j * 40503 + 12345) % PERIOD
    u = torch.where(u < PERIOD, u, u - PERIOD) / PERIOD - 0.5
    scale = 0.02 if name.endswith("bias") else gain * (12 * shape[0] / n) ** 0.5
    return (scale * u).view(shape)


def fill(network: Network, gain: float) -> Network:
    """All weights and biases, in order of definition."""
    for j, (name, tensor) in enumerate(network.state_dict().items()):
        tensor.copy_(filling(name, tensor.shape, j, gain))
    return network


def waves(h: int, w: int, n: int = 1, channels: int = 3) -> Tensor:
    """Images [n, channels, h, w]: 0.5 + 0.4 sin(0.3 y + 0.2 x + c + 1.7 n)."""
    axes = (torch.arange(size, dtype=torch.float64) for size in (n, channels, h, w))
    b, c, y, x = torch.meshgrid(*axes, indexing="ij")
    return 0.5 + 0.4 * torch.sin(0.3 * y + 0.2 * x + c + 1.7 * b)


def off_centre_kernel() -> Tensor:
    """[1, 1, 25, 25], neither centred nor symmetric."""
    i = torch.arange(25, dtype=torch.float64)
    kernel = torch.exp(-((i[:, None] - 11) ** 2) / 4.5 - (i - 12.5) ** 2 / 12.5)
    return (kernel / kernel.sum())[None, None]


def statistics(t: Tensor) -> list[float]:
    """Mean, standard deviation of all, three values of the first image; two of the last if there are several."""
    last = t.shape[1] - 1
    found = [t.mean(), t.std(correction=0), t[0, 0, 0, 0], t[0, min(1, last), 5, 7], t[0, last, -1, -1]]
    if len(t) > 1:
        found += [t[1, 0, 0, -1], t[1, last, -1, 0]]
    return [number.item() for number in found]
