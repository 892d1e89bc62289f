"""Networks on a device, as torch has them or computed by an engine: from tiles of an image to their results."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import InputError
from experiments.engines.names import Engine, Precision
from experiments.engines.network import accelerated
from experiments.models import Model
from experiments.restore.adapt import for_photographs, place_weights
from experiments.restore.coarse_to_fine import Step
from experiments.restore.image_buffer import Picture, as_input, with_channels
from experiments.restore.tiling import Span
from experiments.runtime.out_of_memory import shortage
from networks.base import RestorationNetwork
from networks.cascade import taken
from networks.restored import Restored


class Computing:
    """The network of a `Restorer` at each of its scales.

    Args:
        model: what it is.
        device: of torch; engines compute on the CPU.
        engine, precision: as of `Restorer`, checked.
    """

    def __init__(self, model: Model, device: torch.device, engine: Engine, precision: Precision) -> None:
        self.model, self.device, self.engine, self.precision = model, device, engine, precision
        self._networks: dict[int, RestorationNetwork] = {}
        self._computed: dict[int, RestorationNetwork] = {}  # by an engine

    def network(self, scale: int) -> RestorationNetwork:
        """As torch computes it, made fit for photographs."""
        if scale not in self._networks:
            network = for_photographs(self.model.network(scale)).eval().to(self.device)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a documented overload
            self._networks[scale] = network
        return self._networks[scale]

    def by_engine(self, scale: int, make: bool) -> RestorationNetwork:
        """As the engine computes it; see `Restorer.prepare`."""
        if self.engine != "torch" and scale not in self._computed:
            self.network(scale)
            make = make or self.engine != "auto"
            network = accelerated(self.model.network(scale), scale, self.engine, self.precision, make)
            if network is not None:
                self._computed[scale] = for_photographs(network).eval()
        return self._computed.get(scale) or self.network(scale)

    def tiles(
        self, network: RestorationNetwork, picture: Picture, row: Span, group: Sequence[Span], fields: Mapping[str, Any]
    ) -> Restored:
        """The network's result of tiles of equal size, those of `group` in a row.

        Raises:
            InputError: it cannot work on them, or makes values that are not finite.
        """
        parts = [picture.part(slice(row.start, row.stop), slice(column.start, column.stop)) for column in group]
        lr = as_input(torch.stack(parts), self.device, network.takes_gray)
        given: dict[str, Any] = {"lr": lr, "scale": fields.get("scale")}
        if "kernel" in fields:
            given["kernel"] = fields["kernel"].to(lr).expand(len(lr), 1, -1, -1)
        if "kernels" in fields:
            given["kernels"] = fields["kernels"].to(lr).expand(len(lr), -1, -1, -1)
            size, scale, sampling = picture.given_size, fields.get("scale", network.scales[0]), network.lr_sampling
            maps = [place_weights(fields["weights"], size, scale, row, column, sampling) for column in group]
            given["weights"] = torch.stack(maps).to(lr)
        if "noise_level" in fields:
            given["noise_level"] = lr.new_full((len(lr), 1, 1, 1), fields["noise_level"])
        with self._inference(lr):
            restored = network(**taken(network, given))
        self._refuse_not_finite(restored.sr, restored.deblurred)
        return restored

    def step(self, step: Step, blurred: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """One scale of SRN for `restore_by_scales`."""
        lr = as_input(blurred, self.device, step.network.takes_gray)
        with self._inference(lr):
            estimates, handed_on = step(lr, None if carried is None else carried.to(self.device))
        self._refuse_not_finite(estimates)
        return with_channels(estimates, blurred.shape[1]), handed_on

    def _refuse_not_finite(self, *images: Tensor | None) -> None:
        """What becomes black pixels as integers, and says nothing of what went wrong."""
        if not all(image.isfinite().all() for image in images if image is not None):
            raise InputError(
                f"{self.model.name} makes values that are not finite: its weights are damaged, or this photograph or "
                "its settings are beyond it: take other weights or settings"
            )

    @contextmanager
    def _inference(self, lr: Tensor) -> Iterator[None]:
        """What can go wrong in a network, said in one line."""
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"):
                yield
        except ValueError as error:  # it says so of an image or a kernel that it cannot work on
            raise InputError(f"{self.model.name} cannot restore this: {error}") from error
        except (RuntimeError, MemoryError) as error:
            reason = shortage(error)
            if reason is None:
                raise
            size = f"{len(lr)} of {lr.shape[3]}x{lr.shape[2]} pixels"
            raise InputError(f"out of memory ({reason}) on {size}: give a smaller tile= or batch=") from error
