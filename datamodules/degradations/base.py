"""The written contract: what the suite asks of a degradation."""

import inspect
import math
from collections.abc import Callable, Sequence

from torch import Tensor

from datamodules.batch import Batch
from datamodules.degradations.kernels import check_law, sample_dan_gaussian, sample_isotropic
from networks.ops.options import check_kernel_size

Kernels = Callable[..., Tensor]  # [B] -> [B, 1, k, k]; with a parameter `point` they heed `Batch.point`


class Degradation:
    """Completes a `Batch` on its device; the same keys (and group) give the same result.

    Attributes:
        inputs: batch fields that it starts from; with `lr` among them, from degraded files.
        provides: batch fields that are filled afterwards.
        scales: all ratios of the sides of `hr` to those of `lr`, of which each batch has one.
        scale: their least common multiple: the ratio, where there is only one.
        multiple: what the sides of sharp images have to be divisible by; more than `scale` where they shrink more in
            between.
        margin: pixels that are cut off sharp images on every side, a multiple of `multiple`.
        count: kernels of an image, which share it where they are more than 1.
        has_points: whether it heeds `Batch.point`.
        kernels: draws the kernels of random keys; None: it draws none, or none that explain the result.
        reduction: "decimate" where `lr` has every s-th pixel; None: it has no such choice.
        file_scale: ratio of the sizes of the files, where it starts from degraded ones.

    Args:
        scale: one or several.
        multiple: see there; of the scale as well.

    Raises:
        ValueError: for an option outside those that the docstring of its class names.
    """

    inputs: tuple[str, ...] = ("hr",)
    provides: tuple[str, ...]
    margin: int = 0
    count: int = 1
    has_points: bool = False
    kernels: Kernels | None = None
    reduction: str | None = None
    file_scale: int = 1

    def __init__(self, scale: int | Sequence[int] = 1, multiple: int = 1) -> None:
        self.scales = [scale] if isinstance(scale, int) else list(scale)
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"scale is {scale}, expected integers of at least 1")
        if multiple < 1:
            raise ValueError(f"multiple is {multiple}, expected at least 1")
        self.scale = math.lcm(*self.scales)
        self.multiple = math.lcm(self.scale, multiple)

    def __call__(self, batch: Batch) -> Batch:
        raise NotImplementedError

    def take(self, kernels: Kernels) -> None:
        """Draw the kernels by this. Raises ValueError for its size or its ranges, which it would find out late."""
        parameters = inspect.signature(kernels).parameters
        options = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
        if "size" in options:
            check_kernel_size(**{"kernels.size": options["size"]})
        law = {name: options[name] for name in ("low", "high", "noise") if name in options}
        if getattr(kernels, "func", kernels) in (sample_isotropic, sample_dan_gaussian) and {"low", "high"} <= {*law}:
            check_law("kernels.", **law)
        self.kernels, self.has_points = kernels, "point" in parameters

    def draw(self, batch: Batch) -> Tensor:
        """The kernels of a batch: drawn by its keys, or those at its point, where they heed such a thing."""
        assert self.kernels is not None
        return self.kernels(batch.key, point=batch.point) if self.has_points else self.kernels(batch.key)
