"""A network of the suite whose result an engine computes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from experiments.engines.names import Engine, Precision
from experiments.engines.runtimes import INSTALL, OPEN, TRIED, EngineError, Run, installed
from experiments.export.exportable import TOLERANCE, Exportable, ExportError, largest_difference
from experiments.export.graph import graph, int8_graph
from networks.base import RestorationNetwork, Wrapped
from networks.restored import Restored

CHECKED = 96  # pixels of a side of what is compared with torch: the middle of the first image
LEAST_PSNR = 30.0  # dB between a reduced precision and torch; less is no rounding any more


class _NotMade(Exception):
    """There is no graph yet."""


def accelerated(
    network: RestorationNetwork, scale: int, engine: Engine, precision: Precision, make: bool = True
) -> RestorationNetwork | None:
    """The network, in evaluation mode on the CPU, computed by an engine; of a cascade each of the two.

    Args:
        scale: that it will be called with.
        engine: "auto": the first one of `TRIED` that agrees with torch on the first image, else torch.
        make: without it, nothing is recorded.

    Returns:
        None where there is no graph yet and none is to be made.

    Raises:
        InputError: if an engine that is asked for by name cannot compute the network.
    """

    def convert(part: RestorationNetwork) -> RestorationNetwork:
        if engine == "auto" and not any(True for _ in part.parameters()):
            return part  # few operations, which torch does as quickly
        at = scale if scale in part.scales else part.scales[0]
        return ComputedNetwork(part, at, engine, precision, make)

    try:
        return network.converted(convert).eval()
    except _NotMade:
        return None


def computed_by(network: RestorationNetwork) -> tuple[str, list[str]]:
    """Which engines compute a network, such as "openvino", and a sentence on each choice; known once it has run."""
    parts = [part for part in network.modules() if isinstance(part, ComputedNetwork)]
    engines = dict.fromkeys(part.engine for part in parts)
    return "+".join(engines) or "torch", list(dict.fromkeys(part.note for part in parts if part.note))


class ComputedNetwork(Wrapped):
    """A network that an engine computes, chosen on the first image: inputs and outputs as of `network`.

    The graph is for colour images and one scale: others are computed by torch.

    Attributes:
        engine: which one has computed the last images, "torch" before any.
        note: a sentence that says so, with the difference from torch, or the reason for torch.
    """

    def __init__(
        self, network: RestorationNetwork, scale: int, engine: Engine, precision: Precision, make: bool
    ) -> None:
        super().__init__(network)
        self.periodic, self.whole_image = network.periodic, network.whole_image
        self.smallest_side, self.kernel_side = network.smallest_side, network.kernel_side
        self.asked, self.precision, self.fixed_scale = engine, precision, scale
        self.engine, self.note = self._chosen = ("torch", "")
        self._run: Run | None = None
        exportable = Exportable(network, scale)
        self._graph: Path | None = None
        self.fields, self.made = exportable.inputs, exportable.outputs
        tried = [name for name in TRIED[precision] if engine in ("auto", name)]
        self._left = [name for name in tried if installed(name)]
        if engine == "torch":
            return
        try:
            if not self._left:
                raise EngineError(f"none of {', '.join(tried)} is installed: {INSTALL}")
            found = int8_graph(exportable) if precision == "int8" else graph(exportable, make)
        except (EngineError, ExportError) as error:
            self._refused([f"{type(network).__name__} {error}" if isinstance(error, ExportError) else str(error)])
            return
        if found is None:
            raise _NotMade
        self._graph = found

    def forward(self, lr: Tensor, **others: Any) -> Restored:
        fields = {"lr": lr, **others}
        if self._graph and (lr.shape[1] != 3 or others.get("scale", self.fixed_scale) != self.fixed_scale):
            self.engine = "torch"
            self.note = f"Computed by torch: the graph is for colour images, enlarged by {self.fixed_scale}."
            return self._by_torch(fields, self.precision)
        if "weights" in fields:  # one for the whole image stands for a map
            size = [self.fixed_scale * side for side in lr.shape[-2:]]
            fields["weights"] = fields["weights"].expand(-1, -1, *size)
        if self._left:
            self._choose(fields)
        self.engine, self.note = self._chosen
        return self._by_torch(fields, self.precision) if self._run is None else self._by_engine(self._run, fields)

    def _by_torch(self, fields: Mapping[str, Any], precision: Precision) -> Restored:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            result: Restored = self.network(**fields)
        return result

    def _by_engine(self, run: Run, fields: Mapping[str, Any]) -> Restored:
        values = {name: np.ascontiguousarray(fields[name].float().numpy()) for name in self.fields}
        results: dict[str, Any] = dict(zip(self.made, map(torch.from_numpy, run(values)), strict=True))
        return Restored(**results)

    def _choose(self, fields: Mapping[str, Any]) -> None:
        """Take the first engine whose result of a part of the images agrees with torch.

        Raises:
            InputError: if the one that is asked for does not.
        """
        part = self._part(fields)
        expected, reasons = self._by_torch(part, "float32"), list[str]()
        assert self._graph is not None
        for name in self._left:
            try:
                run = OPEN[name](self._graph, self.precision)
                agreement = self._agreement(self._by_engine(run, part), expected)
            except EngineError as error:
                reasons.append(f"{name} {error}")
                continue
            self._run, self._left = run, []
            self._chosen = (
                name,
                f"Computed by {name} in {self.precision}, {agreement} from torch on a part of the first image.",
            )
            return
        self._left = []
        self._refused(reasons)

    def _refused(self, reasons: list[str]) -> None:
        reason = "; ".join(reasons)
        if self.asked != "auto" or self.precision == "int8":  # in which torch does not compute
            key, found = ("precision", self.precision) if self.asked == "auto" else ("engine", self.asked)
            raise InputError(f"{key}: found {found}: {reason}", key=key)
        self._left, self._chosen = [], ("torch", f"Computed by torch: {reason}.")
        self.engine, self.note = self._chosen

    def _part(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The middle of the first image, and what belongs to it."""
        height, width = fields["lr"].shape[-2:]
        top, left = (max(0, length - CHECKED) // 2 for length in (height, width))

        def cut(name: str, value: Any) -> Any:
            if name not in ("lr", "weights"):
                return value[:1] if isinstance(value, Tensor) else value
            s = value.shape[-1] // width
            rows, columns = (slice(s * start, s * (start + CHECKED)) for start in (top, left))
            return value[:1, :, rows, columns].contiguous()

        return {name: cut(name, value) for name, value in fields.items()}

    def _agreement(self, found: Restored, expected: Restored) -> str:
        """How closely two results agree, in words.

        Raises:
            EngineError: if it is not closely enough.
        """
        if self.precision == "float32":
            pairs = [(getattr(found, name), getattr(expected, name)) for name in self.made]
            worst = max(largest_difference(one, other) for one, other in pairs)
            if worst > TOLERANCE:
                raise EngineError(f"differs from torch by {worst:.1e}, allowed {TOLERANCE:.0e}")
            return f"at most {worst:.1e}"
        psnr = -10 * (found.sr.clamp(0, 1) - expected.sr.clamp(0, 1)).square().mean().log10().item()
        if not psnr >= LEAST_PSNR:
            raise EngineError(f"is {psnr:.1f} dB from torch in {self.precision}, at least {LEAST_PSNR:.0f} expected")
        return f"{psnr:.1f} dB"
