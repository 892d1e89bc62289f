"""The Python API: load a network, restore an image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from experiments.engines.names import Engine, Precision
from experiments.engines.network import computed_by
from experiments.engines.runtimes import check_engine
from experiments.models import Model, Source, load
from experiments.restore.adapt import for_photographs, place_kernel, smallest_side
from experiments.restore.arguments import checked_fields, checked_scale, choose_device, whole_number
from experiments.restore.coarse_to_fine import OneScale, restore_by_scales
from experiments.restore.computing import Computing
from experiments.restore.image_buffer import Image, Picture, Restoration, with_channels
from experiments.restore.receptive_field import alignment, receptive_field, up_to
from experiments.restore.tiling import LARGEST_MARGIN, Joined, Span, Tiling, choose_tiling, middle, restore_tiles, spans
from networks.base import RestorationNetwork
from networks.ensemble import SelfEnsemble, takes_kernels
from networks.srn import SRN

BICUBIC = {"_target_": "networks.bicubic.Bicubic", "scale": 1}  # for what is drawn, not photographed: alpha


class Restorer:
    """A network, ready to restore photographs; made by `Restorer.load`.

    Attributes:
        name: of the run, or of the model.
        inputs: batch fields that the network takes.
        scales: what it enlarges by.
        needs_kernel: whether the blur kernel has to be given.
        estimates_kernel: whether it finds the kernel itself and returns it.
        deblurs: whether it also makes a deblurred image of the input's size.
        parameters: how many numbers it has learned.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        precision: Precision = "float32",
        self_ensemble: bool = False,
        engine: Engine = "torch",
    ) -> None:
        if not isinstance(self_ensemble, bool):
            raise InputError(f"self_ensemble: found {self_ensemble!r}, expected True or False", key="self_ensemble")
        self.device = choose_device(device)
        check_engine(engine, precision, self.device)
        self.engine = "torch" if engine == "auto" and self.device.type != "cpu" else engine
        self.precision, self.self_ensemble = precision, self_ensemble
        self.name, self.scales = model.name, model.scales
        self._computing = Computing(model, self.device, self.engine, self.precision)
        self._seen: dict[int, int | None] = {}
        any_scale = self._network(self.scales[0])
        self.inputs = any_scale.inputs
        self.needs_kernel = takes_kernels(self.inputs)
        self.estimates_kernel = "kernel" in any_scale.outputs and not self.needs_kernel
        self.deblurs = "deblurred" in any_scale.outputs
        self.parameters = sum(weights.numel() for weights in any_scale.parameters())

    @classmethod
    def load(
        cls,
        source: Source = None,
        model: str | Mapping[str, Any] | None = None,
        *,
        overrides: Sequence[str] = (),
        device: str = "auto",
        precision: Precision = "float32",
        self_ensemble: bool = False,
        use: Literal["best", "last"] | None = None,
        engine: Engine = "auto",
    ) -> "Restorer":
        """Load a network.

        Args:
            source: folder of a run (see `use`), a checkpoint, weights exported as .safetensors, the name of weights or
                their address on Hugging Face (see `experiments.zoo.catalogue.weights_file`), a file of published
                weights (then `model` says of which network), None for a model without weights, or two of these or names
                of models without weights: a cascade, the second one on the result of the first.
            model: name of an option of conf/model/ (such as "usrnet_tiny" or "bicubic"), or its config as a mapping.
            overrides: of the model's config, such as "model.scale=2".
            device: "auto" (a GPU if there is one), or as torch has it.
            precision: "float32"; "bf16": convolutions in bfloat16, faster and about 50 dB from float32; "int8": 8-bit
                integers, by OpenVINO, for which `task=export formats=[int8]` has made a graph.
            self_ensemble: the mean result of the eight flips and rotations of the image; eight times the work.
            use: which checkpoint of a run; None: the one that it is judged by (`checkpoint.use` of its training).
            engine: what computes the network on a CPU: "torch", "openvino", "onnxruntime", or "auto", the first
                of the latter two that is installed and agrees with torch, else torch (see `prepare`).

        Raises:
            InputError: if a file is missing, damaged or of another network; for a device that is not there; for an
                argument of another type.
            ConfigError: if there is no such option, an override does not fit it, or a cascade is not one of two.
        """
        return cls(load(source, model, overrides, use), device, precision, self_ensemble, engine)

    def _network(self, scale: int) -> RestorationNetwork:
        return self._computing.network(scale)

    def prepare(self, scale: int, make: bool = True) -> RestorationNetwork:
        """The network that restores, computed by the engine.

        Engines need a graph of the network, which is recorded once for all and takes longer than a small photograph:
        with `engine="auto"`, `restore` does so for photographs in tiles, and callers by this for several photographs.

        Args:
            make: record it now if there is none.

        Raises:
            InputError: if an engine that was asked for by name cannot compute the network.
        """
        return self._computing.by_engine(scale, make)

    def restore(
        self,
        image: Image,
        scale: int | None = None,
        kernel: Tensor | np.ndarray | None = None,
        noise_level: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        batch: int = 1,
        progress: Callable[[int, int], None] | None = None,
        out: np.ndarray | None = None,
        kernels: Tensor | np.ndarray | None = None,
        weights: Tensor | np.ndarray | None = None,
    ) -> Restoration:
        """Restore one image.

        Args:
            image: float tensor [C, H, W] in [0, 1], or array [H, W] or [H, W, C] of uint8 or uint16 (in any
                byte order); C is 1 or 3, RGB.
            scale: one of `scales`; may be omitted where there is only one.
            kernel: [k, k], the blur in pixels of the result, applied as a convolution, its centre at index floor(k/2);
                divided by its sum. Needed by networks that take it, refused by others.
            noise_level: standard deviation of the noise on the [0, 1] scale, for networks that take it.
            tile: side of the tiles in pixels of the image, chosen by `tiling.choose_tiling` if it is omitted.
            overlap: of neighbouring tiles in pixels of the image; if it is omitted, what the network needs for a result
                equal to that of the whole image, or an approximation that the notes name.
            batch: tiles that go through the network together.
            progress: called as progress(done, all) after every batch of tiles.
            out: array of uint8 or uint16 that the result is written into instead of a new one, such as a memory map.
            kernels: instead of `kernel`, for networks that take several which share the image: [K, k, k], each as
                that; `datamodules.degradations.kernel_maps.given_kernels` reads both of a file.
            weights: [K, h, w] of the size of the image or of the result: how much each kernel counts at each pixel;
                divided by their sum.

        Raises:
            InputError: for an image, a scale, a kernel or another value that the network cannot work with.
        """
        batch = whole_number("batch", batch, 1)
        tile = None if tile is None else whole_number("tile", tile, 1)
        overlap = None if overlap is None else whole_number("overlap", overlap, 0)
        if progress is not None and not callable(progress):
            raise InputError(f"progress: found {progress!r}, expected a function of two numbers", key="progress")
        picture = Picture(image)
        scale = checked_scale(scale, self.scales, self.name)
        if out is not None:
            picture.check_room(out, scale)
        notes: list[str] = []
        fields = checked_fields(self, scale, kernel, noise_level, notes, kernels, weights)
        network = self._network(scale)
        result = Restoration(out if out is not None else picture.like(scale), scale, notes=notes)
        result.kernel = fields.get("kernel")
        if result.kernel is not None and network.lr_sampling == "corner":
            fields["kernel"] = place_kernel(result.kernel, scale)
        if "kernels" in fields and network.lr_sampling == "corner":
            fields["kernels"] = torch.stack([place_kernel(one, scale) for one in fields["kernels"]])
        self._continue(picture, network, scale, notes)

        given = fields.get("kernel", fields.get("kernels"))
        side = max([part.kernel_side for part in network.parts()] if given is None else given.shape[-2:])
        tiling = choose_tiling(
            picture.size, scale, alignment(network, scale), lambda: self.field(scale), side, tile, overlap
        )
        placed = self.estimates_kernel and network.lr_sampling == "corner"
        later = network.with_known_kernel() if tiling or placed else None
        if later:
            size = max(tiling.tile if tiling else max(picture.size), smallest_side(network))
            rows, columns = (middle(length, size) for length in picture.size)
            estimated = self._computing.tiles(network, picture, rows, [columns], fields).kernel
            assert estimated is not None
            result.kernel = estimated[0, 0].float().cpu().clone()
            if tiling:
                seen = f"{columns.stop - columns.start}x{rows.stop - rows.start}"
                notes.append(f"The kernel was estimated on the middle {seen} pixels.")
            # Trained on kernels that lie about the upper-left pixel, the loop takes that for the middle of a block.
            moved = place_kernel(result.kernel, scale) if placed else result.kernel
            network, fields = for_photographs(later), {**fields, "kernel": moved, "scale": scale}
        elif tiling and any(part.with_known_kernel() for part in network.parts()):  # of a cascade
            notes.append("Every tile estimates a kernel of its own.")
        if tiling and not tiling.exact:
            notes.append(self._approximation(tiling, scale))
        computed = network
        if tiling and self._by_scales(network):
            notes += self._not_by_engine()
            height, width = picture.size
            picture.size = (up_to(height, network.size_multiple), up_to(width, network.size_multiple))
            steps = restore_by_scales(network, picture, tiling, batch, self._computing.step, result.sr)
        else:
            computed = self.prepare(scale, make=bool(tiling))
            steps = self._restore_parts(network if later else computed, picture, fields, tiling, batch, result)
        for done, count in steps:
            if progress:
                progress(done, count)
        result.engine, said = computed_by(computed)
        notes += said
        return result

    def _continue(self, picture: Picture, network: RestorationNetwork, scale: int, notes: list[str]) -> None:
        """Repeat the last row and column of an image that is too small for the network."""
        align, least = alignment(network, scale), smallest_side(network)
        if min(picture.size) < least:
            notes.append(f"{self.name} takes images of at least {least}x{least} pixels: this one was continued to it.")
        height, width = (max(n, least) for n in picture.size)
        if self.self_ensemble:  # turned around, the network begins its blocks at the other end
            height, width = up_to(height, align), up_to(width, align)
        picture.size = (height, width)

    def field(self, scale: int) -> int | None:
        """The receptive field of the network, or of one scale of SRN, measured when it is first asked for.

        Returns:
            How many pixels of the image around a block of the result it depends on; None if they are more than 256.
        """
        if scale not in self._seen:
            network = self._network(scale)
            if self._by_scales(network):
                network = OneScale(network)
            whole = any(part.whole_image for part in network.parts())
            self._seen[scale] = None if whole else receptive_field(network, scale, LARGEST_MARGIN)
        return self._seen[scale]

    def _by_scales(self, network: RestorationNetwork) -> TypeGuard[SRN]:
        """Whether the network is restored scale by scale where the image is cut."""
        return network.coarse_to_fine and not self.self_ensemble

    def _not_by_engine(self) -> list[str]:
        """What is said of the scales of SRN, which torch computes.

        Raises:
            InputError: if another engine was asked for, or a precision that torch has not.
        """
        line = f"{self.name} is restored scale by scale in tiles, which torch computes"
        if self.engine not in ("auto", "torch") or self.precision == "int8":
            found = f"engine={self.engine} precision={self.precision}"
            raise InputError(f"found {found}: {line}: set engine=torch, or a larger tile=", key="engine")
        return [f"{line}."] if self.engine == "auto" else []

    def _approximation(self, tiling: Tiling, scale: int) -> str:
        field = self.field(scale)
        reach = f"further than {LARGEST_MARGIN} pixels, or at the whole image"
        if field is not None:
            reach = f"{field} pixels far"
        if self._by_scales(self._network(scale)):
            reach += " at each of its scales"
        tiles = f"tiles of {tiling.tile} pixels that overlap by {tiling.overlap}"
        return f"{self.name} looks {reach}: {tiles} approximate it."

    def _restore_parts(
        self,
        network: RestorationNetwork,
        picture: Picture,
        fields: Mapping[str, Any],
        tiling: Tiling | None,
        batch: int,
        result: Restoration,
    ) -> Iterator[tuple[int, int]]:
        """Restore tile by tile, or the whole, into `result`; yields how many tiles are done, and how many there are."""
        height, width = picture.size
        joined = [Joined(result.sr, result.scale, width, picture.channels)]
        if "deblurred" in network.outputs:
            result.deblurred = picture.like(1)
            joined.append(Joined(result.deblurred, 1, width, picture.channels))
        if self.self_ensemble:
            network = SelfEnsemble(network)

        def restore(row: Span, group: Sequence[Span]) -> list[Tensor]:
            restored = self._computing.tiles(network, picture, row, group, fields)
            if restored.kernel is not None and not tiling:
                result.kernel = restored.kernel[0, 0].float().cpu().clone()
            images = [restored.sr, restored.deblurred][: len(joined)]
            return [with_channels(image, picture.channels) for image in images if image is not None]

        done, count = 0, len(spans(height, tiling)) * len(spans(width, tiling))
        for tiles in restore_tiles(picture.size, tiling, batch, restore, joined):
            done += tiles
            yield done, count
