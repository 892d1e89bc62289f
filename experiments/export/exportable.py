"""A network as a plain function of tensors, recorded for images of any size, and the check of what was written."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

from networks.base import RestorationNetwork

TOLERANCE = 1e-4
# Batch, height and width of the inputs of the check: odd; whole multiples of what the networks divide by; neither.
SIZES = ((1, 37, 53), (1, 64, 48), (2, 33, 50))
RECORDED = (2, 29, 45)  # equal to none of them, and to no multiple: equal sizes could be mistaken for one
KERNEL = 9  # side of the kernels of the check
COUNT = 3  # of them, where several share an image
SMALLEST_TRANSFORM = 16  # pixels of a side; smaller images are folded and extended in other ways than larger ones
OUTPUTS = ("sr", "deblurred", "kernel")


class ExportError(Exception):
    """Why a network is not written in a format: the end of a sentence that begins with the two."""


class Exportable(nn.Module):
    """A network of the suite that takes only tensors, by name, and returns a dict of tensors.

    Inputs by name: `lr` [B, 3, h, w], RGB in [0, 1]; `kernel` [B, 1, kh, kw], sum 1, and `noise_level` [B, 1, 1, 1] on
    the [0, 1] scale where the network takes them; where it takes several kernels, `kernels` [B, K, kh, kw] and
    `weights` [B, K, scale*h, scale*w], sum 1 over K. Outputs: those of `Restored` that it returns, `sr` first; the
    estimates of coarser scales and codes are omitted.

    Args:
        network: in evaluation mode.
        scale: of a network that takes it as an input; fixed from here on.
    """

    def __init__(self, network: RestorationNetwork, scale: int | None) -> None:
        super().__init__()
        self.network = network
        self.settled = {"scale": scale} if "scale" in network.inputs else {}
        self.scale = network.scales[0] if scale is None else scale
        self.inputs = tuple(name for name in network.inputs if name != "scale")
        self.outputs = tuple(name for name in OUTPUTS if name in network.outputs)

    @cached_property
    def program(self) -> ExportedProgram:
        """Recorded once for all formats that need it."""
        return record(self)

    def forward(
        self,
        lr: Tensor,
        kernel: Tensor | None = None,
        noise_level: Tensor | None = None,
        kernels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        fields = {"lr": lr, "kernel": kernel, "noise_level": noise_level, "kernels": kernels, "weights": weights}
        restored = self.network(**{name: fields[name] for name in self.inputs}, **self.settled)
        return {name: getattr(restored, name) for name in self.outputs}

    def fields(self, batch: int, height: int, width: int) -> dict[str, Tensor]:
        """Random inputs, the same in every call."""
        random = torch.Generator().manual_seed(height * 1000 + width)
        kernel = torch.rand(batch, KERNEL * KERNEL, generator=random).softmax(1)
        fields = {
            "lr": torch.rand(batch, 3, height, width, generator=random),
            "kernel": kernel.view(batch, 1, KERNEL, KERNEL),
            "noise_level": 0.05 * torch.rand(batch, 1, 1, 1, generator=random),
        }
        if "kernels" in self.inputs:
            kernels = torch.rand(batch, COUNT, KERNEL * KERNEL, generator=random).softmax(2)
            size = (self.scale * height, self.scale * width)
            fields["kernels"] = kernels.view(batch, COUNT, KERNEL, KERNEL)
            fields["weights"] = torch.rand(batch, COUNT, *size, generator=random).mul(4).softmax(1)
        return {name: fields[name] for name in self.inputs}

    @property
    def least_side(self) -> int:
        """Of the images that the graph is for, in pixels."""
        transforms = not {"kernel", "kernels"}.isdisjoint((*self.inputs, *self.outputs))
        # To torch an axis of length 1 is a case of its own.
        return max(SMALLEST_TRANSFORM, self.network.kernel_side) if transforms else 2

    def dimensions(self) -> dict[str, dict[int, Any]]:
        """The axes of the inputs that may have any length, by the names that they get."""
        least = self.least_side
        batch, height, width = Dim("batch", min=1), Dim("height", min=least), Dim("width", min=least)
        count = Dim("count", min=1)
        axes: dict[str, dict[int, Any]] = {
            "lr": {0: batch, 2: height, 3: width},
            "kernel": {0: batch, 2: Dim("kernel_height", min=1), 3: Dim("kernel_width", min=1)},
            "noise_level": {0: batch},
            "kernels": {0: batch, 1: count, 2: Dim("kernel_height", min=1), 3: Dim("kernel_width", min=1)},
            "weights": {0: batch, 1: count, 2: self.scale * height, 3: self.scale * width},
        }
        return {name: axes[name] for name in self.inputs}


def record(exportable: Exportable) -> ExportedProgram:
    """The network as a graph of torch operations for images of any size.

    Raises:
        ExportError: if what it does depends on the values of the image, or torch.export does not get through.
    """
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # brings sympy, and takes a while

    fields = exportable.fields(*RECORDED)
    try:
        # Torch would otherwise settle for the sizes at hand wherever an operation is quicker for some of them. The
        # option is not public; were it gone, the check of sizes would tell.
        oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with quiet(), torch.no_grad(), oblivious:
            exportable(**fields)  # fills caches of constants with real tensors, not with those of the recording
            return torch.export.export(
                exportable,
                (),
                fields,
                dynamic_shapes=exportable.dimensions(),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except GuardOnDataDependentSymNode as error:
        raise ExportError("takes steps that depend on the values of the image, which a graph cannot") from error
    except Exception as error:  # of many types, most of them internal
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].split("! For more", 1)[0]
        raise ExportError(f"torch.export does not get through it: {reason}") from error


class _RefuseTransforms(TorchDispatchMode):
    """Ends what runs inside at a Fourier transform, such as aten._fft_r2c.default."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "fft_" in str(func):
            raise ExportError("computes Fourier transforms, which go into a program but not into an ONNX file")
        return func(*args, **(kwargs or {}))


def refuse_transforms(exportable: Exportable) -> None:
    """Raise ExportError for a network with Fourier transforms; a small image tells, much sooner than recording does."""
    side = max(SMALLEST_TRANSFORM, exportable.least_side)
    as_recorded = patch.object(torch.compiler, "is_exporting", return_value=True)  # DMBSR does without them then
    with torch.no_grad(), as_recorded, _RefuseTransforms():
        exportable(**exportable.fields(1, side, side))


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """The largest one of two images, relative to the largest value where that exceeds 1; inf if one is no number."""
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1)
    return difference.item() if difference.isfinite() else float("inf")


def compare(
    exportable: Exportable,
    restore: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """The largest difference between the network and another form of it at each of `SIZES`, by size.

    Of outputs that exceed 1 it is relative to the largest value.

    Raises:
        ExportError: if one is above `tolerance`, not a number, of another shape, or the other form fails.
    """
    differences: dict[str, float] = {}
    for size in SIZES:
        batch, height, width = size
        shown = f"{batch} x {height} x {width}" if batch > 1 else f"{height} x {width}"
        fields = exportable.fields(*size)
        with torch.no_grad():
            expected = exportable(**fields)
            try:
                restored = restore(fields)
            except Exception as error:
                raise ExportError(f"fails for images of {shown}: {(str(error).splitlines() or [''])[0]}") from error
        worst = 0.0
        for name, value in expected.items():
            if restored[name].shape != value.shape:
                raise ExportError(
                    f"{name} is {list(restored[name].shape)} for images of {shown}, expected {list(value.shape)}"
                )
            worst = max(worst, largest_difference(restored[name], value))
        if worst > tolerance:
            raise ExportError(f"differs from the network by {worst:.1e} for images of {shown}, allowed {tolerance:.0e}")
        differences[shown] = worst
    return differences


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what the exporters print; what matters is in their exceptions and in the check."""
    silent = io.StringIO()
    before = logging.root.manager.disable
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
