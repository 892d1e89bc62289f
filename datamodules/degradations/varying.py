"""Blur that varies over the image: several kernels share it, by maps of weights without hard edges.

The model is that of C. Laroche, A. Almansa, M. Tassano, "Deep model-based super-resolution with non-uniform blur", WACV
2023: the image is blurred by each kernel, the results are weighted pixel by pixel and summed, then reduced. There, the
weights are objects of a segmented data set; here, they are smooth random fields, which any sharp image will do for.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from datamodules.batch import Batch, as_float
from datamodules.degradations.base import Kernels
from datamodules.degradations.blur import Boundary, blur_decimate
from datamodules.degradations.keyed_random import bits, normal, uniform
from datamodules.degradations.pipelines import ClassicalDegradation
from datamodules.degradations.resample import bicubic_resize


def spline_taps(n: int, cell: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The uniform cubic B-spline at the middles of n pixels: first of four control points [n], their weights [n, 4].

    Args:
        cell: pixels from one control point to the next; control point 1 lies at the edge of the first pixel.
    """
    t = (torch.arange(n, dtype=torch.float64, device=device) + 0.5) / cell
    f = t - t.floor()
    taps = [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]
    return t.floor().long(), torch.stack(taps, 1) / 6


def smooth_fields(keys: Tensor, count: int, size: tuple[int, int], cell: int) -> Tensor:
    """Random fields [B, count, H, W] (float64) of random keys [B], twice differentiable, of normal control points."""
    rows, columns = (math.ceil(n / cell) + 3 for n in size)
    fields = normal(keys, "varying/weights", (count, rows, columns)).double()
    return _interpolated(_interpolated(fields.mT, size[0], cell).mT, size[1], cell)


def _interpolated(lines: Tensor, n: int, cell: int) -> Tensor:
    """[..., control points] -> [..., n]."""
    first, taps = spline_taps(n, cell, lines.device)
    values = taps[:, 0] * lines[..., first]
    for i in range(1, 4):  # products of such small matrices round differently in batches of another size
        values += taps[:, i] * lines[..., first + i]
    return values


def weight_maps(keys: Tensor, count: int, size: tuple[int, int], cell: int, sharpness: Tensor) -> Tensor:
    """Weights [B, count, H, W] (float32), positive, sum 1: the softmax of smooth fields times `sharpness` [B]."""
    fields = smooth_fields(keys, count, size, cell)
    return (sharpness.double().view(-1, 1, 1, 1) * fields).softmax(1).float()


class SpatiallyVaryingDegradation(ClassicalDegradation):
    """Blur by kernels that share the image, then reduction, then noise: y = (sum_p w_p (x * k_p)) down + n.

    Fills `lr`, `kernels`, `weights`, `noise_level`, `scale`, and cuts `hr` by the margin. Every kernel is drawn by a
    key of its own, which depends on that of the sample and its number alone.

    Args:
        kernels, scale, reduction, boundary, noise, storage, multiple: as of `ClassicalDegradation`. Values at given
            points of a range (`Batch.point`) are not heeded: all kernels of an image would be the same.
        count: kernels of an image.
        cell: pixels between the control points of the fields of weights.
        sharpness: how sharply one kernel gives way to the next: 2 drifts slowly, as of a turning camera or a lens, at
            32 there are regions with soft edges, as of moving objects. A number, or the range [low, high] from which it
            is drawn for every image, its logarithm evenly.
        margin: pixels that are cut off on every side after the blur, so that borders have true neighbours; a multiple
            of what the sides are cut to multiples of. 0: the exact circular model, with boundary=circular.
        still: probability that the first kernel is none at all: something stands still.
        mean_kernel: fills `kernel` too, with the kernel averaged over the image by the weights: the nearest that a
            network can be told which knows one blur for the whole image, to set it beside one that knows them all.
    """

    provides: tuple[str, ...] = ("hr", "lr", "kernels", "weights", "noise_level", "scale")

    def __init__(
        self,
        kernels: Kernels,
        scale: int | Sequence[int] = 4,
        reduction: Literal["decimate", "bicubic"] = "decimate",
        boundary: Boundary = "circular",
        noise: float | Literal["usrnet"] = 0.0,
        storage: Literal["float", "eight_bit", "trunc8"] = "float",
        multiple: int = 1,
        count: int = 4,
        cell: int = 64,
        sharpness: float | Sequence[float] = (2.0, 32.0),
        margin: int = 24,
        still: float = 0.0,
        mean_kernel: bool = False,
    ) -> None:
        super().__init__(kernels, scale, reduction, boundary, noise, storage, multiple)
        self.has_points = False
        limits = [sharpness, sharpness] if isinstance(sharpness, int | float) else list(sharpness)
        if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
            raise ValueError(f"sharpness is {sharpness}, expected a number above 0, or a range [low, high] of such")
        if count < 1 or cell < 1:
            raise ValueError(f"count is {count} and cell {cell}, expected at least 1")
        if margin < 0 or margin % self.multiple:
            raise ValueError(f"margin is {margin}, expected a multiple of {self.multiple}, such as {6 * self.multiple}")
        if not 0 <= still <= 1:
            raise ValueError(f"still is {still}, expected a probability from 0 to 1")
        self.count, self.cell, self.margin, self.still = count, cell, margin, still
        self.mean_kernel = mean_kernel
        if mean_kernel:
            self.provides = (*self.provides, "kernel")
        self.low, self.high = map(float, limits)

    def draw_kernels(self, keys: Tensor) -> Tensor:
        """[B, K, k, k] for keys [B]."""
        own = bits(keys, "varying/kernel", (self.count,)).flatten()
        kernels = self.kernels(own)[:, 0].unflatten(0, (len(keys), self.count)).clone()
        still = uniform(keys, "varying/still") < self.still
        kernels[still, 0] = 0
        kernels[still, 0, kernels.shape[-2] // 2, kernels.shape[-1] // 2] = 1
        return kernels

    def draw_weights(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, K, H, W] for keys [B]."""
        drawn = uniform(keys, "varying/sharpness").double()
        return weight_maps(keys, self.count, size, self.cell, self.low * (self.high / self.low) ** drawn)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        if min(hr.shape[-2:]) <= 2 * self.margin:
            raise ValueError(f"images are {hr.shape[-1]}x{hr.shape[-2]}, margin {self.margin} cuts all of them off")
        scale = self.scales[batch.group % len(self.scales)]
        kernels = self.draw_kernels(batch.key)
        weights = self.draw_weights(batch.key, (hr.shape[-2], hr.shape[-1]))

        def reduced(x: Tensor) -> Tensor:
            return self._cut(self._shared(x, kernels.to(x), weights.to(x), scale), self.margin // scale)

        lr, noise_level = self.stored_and_noisy(batch, hr, reduced)
        seen = self._cut(weights, self.margin)
        shares = seen.mean((2, 3), dtype=torch.float64)[:, :, None, None]
        return replace(
            batch,
            hr=self._cut(hr, self.margin),
            lr=lr,
            kernel=(kernels * shares).sum(1, keepdim=True).float() if self.mean_kernel else None,
            kernels=kernels,
            weights=seen,
            noise_level=noise_level,
            scale=scale,
        )

    def _shared(self, hr: Tensor, kernels: Tensor, weights: Tensor, scale: int) -> Tensor:
        # Decimation commutes with the weights, bicubic reduction does not.
        step = scale if self.reduction == "decimate" else 1
        parts = [
            blur_decimate(hr, kernels[:, p : p + 1], step, self.boundary) * weights[:, p : p + 1, ::step, ::step]
            for p in range(self.count)
        ]
        total = sum(parts[1:], parts[0])
        return total if self.reduction == "decimate" else bicubic_resize(total, scale, down=True)

    @staticmethod
    def _cut(images: Tensor, margin: int) -> Tensor:
        height, width = images.shape[-2:]
        return images[..., margin : height - margin, margin : width - margin].contiguous()
