"""What the samples of a degradation drew: the numbers behind the histograms of task=preview."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batch import Batch


@dataclass
class Statistics:
    """What many samples drew; lists are empty where the degradation yields no such thing."""

    spread: list[float] = field(default_factory=list)  # standard deviations of kernels, `kernel_spread`
    support: list[float] = field(default_factory=list)  # sides of kernels in pixels, `kernel_support`
    offset: list[float] = field(default_factory=list)  # how far off-centre kernels are, `kernel_offset`
    noise: list[float] = field(default_factory=list)  # standard deviations in levels of 0 ... 255
    scale: list[float] = field(default_factory=list)
    kernels: list[Tensor] = field(default_factory=list)  # the first ones [1, k, k]

    def add(self, batch: Batch, keep: int = 48) -> None:
        """Take over a degraded batch; `keep` kernels are kept in all."""
        if (drawn := kernels_of(batch)) is not None:
            kernels = drawn.cpu()
            self.spread += kernel_spread(kernels)
            self.support += kernel_support(kernels)
            self.offset += kernel_offset(kernels)
            self.kernels += list(kernels)[: max(0, keep - len(self.kernels))]
        if batch.noise_level is not None:
            self.noise += (255 * batch.noise_level.double()).flatten().tolist()
        if batch.scale is not None:
            self.scale += [float(batch.scale)] * len(batch)


def kernels_of(batch: Batch) -> Tensor | None:
    """All kernels of a batch [N, 1, k, k], those that share an image one after the other."""
    return batch.kernel if batch.kernels is None else batch.kernels.flatten(0, 1)[:, None]


def kernel_spread(kernels: Tensor) -> list[float]:
    """Root mean square distance from the centroid along one axis, sqrt((var_x + var_y) / 2), in pixels, of |k|.

    For a Gaussian that fits its frame it is sigma; for kernels [B, 1, k, k] one number each.
    """
    variance = np.zeros(len(kernels))
    for line in _profiles(kernels.abs()):
        index = np.arange(line.shape[1])
        variance = variance + line @ index**2 - (line @ index) ** 2
    return np.sqrt(np.maximum(variance, 0) / 2).tolist()


def kernel_support(kernels: Tensor) -> list[float]:
    """Longer side, in pixels, of the smallest box around all values of at least 1 % of the largest; one per kernel."""
    sides = []
    for kernel in kernels[:, 0].abs().numpy():
        rows, columns = np.nonzero(kernel >= 0.01 * kernel.max())
        sides.append(float(max(np.ptp(rows), np.ptp(columns)) + 1))
    return sides


def kernel_offset(kernels: Tensor) -> list[float]:
    """Distance in pixels of the centroid from index floor(k/2), to 1e-4: so far it moves the image, one per kernel."""
    x, y = (line @ (np.arange(line.shape[1]) - line.shape[1] // 2) for line in _profiles(kernels))
    return np.hypot(y, x).round(4).tolist()


def _profiles(kernels: Tensor) -> list[NDArray[np.float64]]:
    """Sums over rows and over columns of kernels [B, 1, h, w] of sum 1: [B, w] and [B, h]."""
    weights = kernels[:, 0].double()
    weights = weights / weights.sum((1, 2), keepdim=True)
    return [weights.sum(1).numpy(), weights.sum(2).numpy()]
