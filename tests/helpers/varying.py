"""Images, kernels and maps of weights by formulas, for blur that varies over the image, and numbers of results."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.filled import waves


def images(h: int, w: int) -> Tensor:
    """Two: the second one with its channels in reverse order."""
    return torch.cat([waves(h, w), waves(h, w).flip(1)])


def three_kernels() -> Tensor:
    """[2, 3, 7, 7], Gaussians off the centre, each of another width."""
    n, p, r, c = torch.meshgrid(*(torch.arange(size).double() for size in (2, 3, 7, 7)), indexing="ij")
    rows = (r - 3 - 0.5 * p + 0.4 * n) ** 2 / (2 * (0.8 + 0.4 * p) ** 2)
    columns = (c - 3 + 0.3 * p) ** 2 / (2 * (1.5 - 0.3 * p + 0.2 * n) ** 2)
    kernels = torch.exp(-rows - columns)
    return kernels / kernels.sum((-2, -1), keepdim=True)


def three_maps(h: int, w: int) -> Tensor:
    """[2, 3, h, w], waves, sum 1."""
    n, p, r, c = torch.meshgrid(*(torch.arange(size).double() for size in (2, 3, h, w)), indexing="ij")
    q = 1 + 0.9 * torch.sin(0.11 * (p + 1) * r + 0.07 * c + 1.3 * p + 0.7 * n)
    return q / q.sum(1, keepdim=True)


def rows(t: Tensor) -> list[list[float]]:
    """Of each image: mean, standard deviation, three values."""
    return [[v.item() for v in (x.mean(), x.std(correction=0), x[0, 0, 0], x[1, 5, 7], x[2, -1, -1])] for x in t]


def near(expected: Any) -> Any:
    return [pytest.approx(row, rel=0, abs=6e-11) for row in expected]
