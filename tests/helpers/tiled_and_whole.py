"""Tiled against whole: every convolutional network at its full size on a photograph of 1000x700.

    python -m tests.helpers.tiled_and_whole [ed_dsrn vdsr ...] [--narrow] [--size 1000 700]

Random weights; the result is scaled to a mean of 0.5 and a standard deviation of 0.1, so that none of it is clamped
and differences count as those of an image in [0, 1]. Tiles have a side of three receptive fields, or 320. Printed is
the largest difference where neighbouring tiles are mixed ("at joints") and elsewhere. Each network runs in a process of
its own; what the memory does not hold is named and skipped.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.restore_memory import mirrored, peak_gib
from experiments.benchmarks.timing import machine
from experiments.config.compose import compose_model
from experiments.engines.names import Engine
from experiments.models import Model
from experiments.restore import Restorer
from experiments.restore.arguments import NOISE_LEVEL
from experiments.restore.receptive_field import alignment, up_to
from experiments.restore.tiling import FEATHER, choose_tiling, spans
from lightning_modules.checkpoints.checkpoint import build_network
from networks.base import RestorationNetwork, Wrapped
from networks.cascade import taken
from networks.restored import Restored

# Overrides by name. EDSR enlarges by 2 here: by 4 one of its layers has 11.5 GB of activations.
NETWORKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ed_dsrn_base", "lapsrn", "vdsr", "cooperative", "ed_dsrn", "ed_srn", "gfn", "srresnet"), ()),
    **dict.fromkeys(("edsr_baseline", "deblurcnn", "srn", "srn_gray", "srn_lstm", "scgan"), ()),
    **dict.fromkeys(("drunet", "drunet_small"), ()),
    "edsr": ("model.scale=2",),
}
# Few channels: seconds instead of many minutes, with the receptive fields and hence the tiles of the full size.
NARROW: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ed_dsrn_base", "ed_dsrn", "ed_srn", "cooperative"), ("model.widths=[8,8,8,8]",)),
    **dict.fromkeys(("srn", "srn_gray", "srn_lstm"), ("model.widths=[8,8,8]",)),
    **dict.fromkeys(("gfn", "scgan"), ("model.width=8",)),
    "drunet": ("model.widths=[8,8,8,8]",),
    "edsr": ("model.width=16",),
}


class Scaled(Wrapped):
    """A network whose result is scaled to a mean of 0.5 and a standard deviation of 0.1."""

    def __init__(self, network: RestorationNetwork, mean: Tensor, gain: Tensor) -> None:
        super().__init__(network)
        self.mean, self.gain = mean, gain
        self.outputs = ("sr",)

    def forward(self, **fields: Any) -> Restored:
        sr = self.network(**fields).sr
        return Restored(sr=sr.sub_(self.mean).mul_(self.gain).add_(0.5))


@torch.no_grad()
def scaled(network: RestorationNetwork, scale: int, image: Tensor) -> RestorationNetwork:
    """The network with its result scaled by what it makes of the upper left of an image [3, H, W]."""
    noise_level = torch.full((1, 1, 1, 1), NOISE_LEVEL)  # which a restorer takes that is told none
    fields: dict[str, Any] = {"lr": image[None, :, :128, :128], "scale": scale, "noise_level": noise_level}
    if not network.coarse_to_fine:
        sr = network(**taken(network, fields)).sr
        return Scaled(network, sr.mean(), 0.1 / sr.std())
    head: Any = network.head
    for _ in range(12):  # restored scale by scale, it cannot be wrapped; what is fed back depends on the scaling
        sr = network(fields["lr"]).sr
        gain = (0.1 / sr.std()).sqrt()
        head.get_parameter("weight").mul_(gain)
        head.get_parameter("bias").sub_(sr.mean()).mul_(gain).add_(0.5)
    return network


def compare(
    network: RestorationNetwork,
    image: Tensor,
    scale: int,
    tile: int,
    overlap: int | None = None,
    engine: Engine = "torch",
) -> dict[str, Any]:
    """Differences between the image [3, H, W] restored in tiles and as a whole."""
    height, width = image.shape[1:]
    restorer = Restorer(Model("network", lambda _: network, network.scales), engine=engine)
    whole = torch.as_tensor(restorer.restore(image, scale, tile=max(height, width)).sr)
    tiled = torch.as_tensor(restorer.restore(image, scale, tile=tile, overlap=overlap).sr)
    align = alignment(network, scale)
    tiling = choose_tiling((height, width), scale, align, lambda: restorer.field(scale), 0, tile, overlap)
    assert tiling is not None
    difference = (whole - tiled).abs().amax(0)
    at_joints = torch.zeros_like(difference, dtype=torch.bool)
    for dim, length in enumerate((height, width)):
        for span in spans(length, tiling):
            at_joints.narrow(dim, scale * span.first, scale * span.before).fill_(True)
    return {
        "field": restorer.field(scale),
        "tiles": len(spans(height, tiling)) * len(spans(width, tiling)),
        "tile": tiling.tile,
        "overlap": tiling.overlap,
        "at_joints": difference[at_joints].max().item(),
        "elsewhere": difference[~at_joints].max().item(),
        "clamped": ((whole <= 0) | (whole >= 1)).float().mean().item(),
    }


def measure(name: str, size: tuple[int, int], overrides: tuple[str, ...]) -> str:
    """The line of one network."""
    torch.manual_seed(0)
    network = build_network(compose_model(name, overrides), name).eval()
    scale = 2 if name == "vdsr" else network.scales[-1]
    image = torch.from_numpy(mirrored(*size)).permute(2, 0, 1) / 255
    field = Restorer(Model(name, lambda _: network, (scale,))).field(scale)
    assert field is not None
    tile = up_to(max(320, 3 * field + FEATHER), alignment(network, scale))
    row = compare(scaled(network, scale, image), image, scale, tile)
    return (
        f"{name} x{scale}: field {row['field']}, {row['tiles']} tiles of {row['tile']} overlapping by "
        f"{row['overlap']}: at joints {row['at_joints']:.1e}, elsewhere {row['elsewhere']:.1e}, "
        f"clamped {row['clamped']:.1%}, peak {peak_gib():.1f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="default: all")
    parser.add_argument("--size", type=int, nargs=2, default=(1000, 700), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--narrow", action="store_true", help="networks of few channels")
    args = parser.parse_args()
    overrides = NARROW if args.narrow else NETWORKS
    print(f"{args.size[0]}x{args.size[1]}, {machine('cpu')}, float32")
    for name in args.networks or overrides:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            try:
                line = process.submit(measure, name, tuple(args.size), overrides[name]).result()
            except Exception as error:  # of torch, or of a process that was killed
                line = f"{name}: skipped: {error}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
