"""Tiled against whole: every convolutional network at its full size on a photograph of 1000x700.

    python -m experiments.benchmarks.tiles [ed_dsrn vdsr ...] [--narrow] [--size 1000 700] [--json FILE]

Random weights; the result is scaled to a mean of 0.5 and a standard deviation of 0.1, so that none of it is clamped
and differences count as those of an image in [0, 1]. Tiles have a side of three receptive fields, or 320. Printed is
the largest difference where neighbouring tiles are mixed ("at joints") and elsewhere. Each network runs in a process of
its own; what the memory does not hold is named and skipped.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.restore_memory import GIB, mirrored
from experiments.config.compose import compose_model
from experiments.models import Model
from experiments.restore import Restorer
from experiments.restore.receptive_field import alignment, up_to
from experiments.restore.tiling import FEATHER, choose_tiling, spans
from lightning_modules.checkpoints.checkpoint import build_network
from lightning_modules.host_memory import resident
from networks.base import RestorationNetwork, Wrapped
from networks.cascade import taken
from networks.restored import Restored

# Name, overrides. EDSR enlarges by 2 here: by 4 one layer of it alone has 11.5 GB of activations.
NETWORKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ed_dsrn_base", "lapsrn", "vdsr", "cooperative", "ed_dsrn", "ed_srn", "gfn", "srresnet"), ()),
    **dict.fromkeys(("edsr_baseline", "deblurcnn", "srn", "srn_gray", "srn_lstm", "scgan"), ()),
    "edsr": ("model.scale=2",),
}
# Few channels: seconds instead of many minutes, with the receptive fields and hence the tiles of the full size.
NARROW: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ed_dsrn_base", "ed_dsrn", "ed_srn", "cooperative"), ("model.widths=[8,8,8,8]",)),
    **dict.fromkeys(("srn", "srn_gray", "srn_lstm"), ("model.widths=[8,8,8]",)),
    **dict.fromkeys(("gfn", "scgan"), ("model.width=8",)),
    "edsr": ("model.width=16",),
}
VDSR_SCALE = 2


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
    fields = {"lr": image[None, :, :128, :128], "scale": scale}
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


def compare(network: RestorationNetwork, image: Tensor, scale: int, tile: int, overlap: int | None) -> dict[str, Any]:
    """Differences between the image [3, H, W] restored in tiles and as a whole; of both the result and the time."""
    height, width = image.shape[1:]
    restorer = Restorer(Model("network", lambda _: network, network.scales))
    start = time.perf_counter()
    plain = restorer.restore(image, scale, tile=max(height, width)).sr
    middle = time.perf_counter()
    tiled = restorer.restore(image, scale, tile=tile, overlap=overlap).sr
    end = time.perf_counter()
    assert isinstance(plain, Tensor)
    assert isinstance(tiled, Tensor)

    align = alignment(network, scale)
    tiling = choose_tiling((height, width), scale, align, lambda: restorer.field(scale), 0, tile, overlap)
    assert tiling is not None
    difference = (plain - tiled).abs().amax(0)
    at_joints = torch.zeros_like(difference, dtype=torch.bool)
    for dim, length in enumerate((height, width)):
        for span in spans(length, tiling):
            at_joints.narrow(dim, scale * span.first, scale * span.before).fill_(True)
    return {
        "field": restorer.field(scale),
        "tile": tiling.tile,
        "overlap": tiling.overlap,
        "tiles": len(spans(height, tiling)) * len(spans(width, tiling)),
        "at_joints": difference[at_joints].max().item(),
        "elsewhere": difference[~at_joints].max().item(),
        "clamped": ((plain <= 0) | (plain >= 1)).float().mean().item(),
        "seconds_whole": round(middle - start, 1),
        "seconds_tiled": round(end - middle, 1),
    }


def measure(name: str, size: tuple[int, int], narrow: bool) -> dict[str, Any]:
    """One network, in this process."""
    torch.manual_seed(0)
    overrides = NARROW[name] if narrow else NETWORKS[name]
    network = build_network(compose_model(name, overrides), name).eval()
    scale = VDSR_SCALE if name == "vdsr" else network.scales[-1]
    image = torch.from_numpy(mirrored(*size)).permute(2, 0, 1) / 255
    field = Restorer(Model(name, lambda _: network, (scale,))).field(scale)
    assert field is not None
    tile = up_to(max(320, 3 * field + FEATHER), alignment(network, scale))
    found = compare(scaled(network, scale, image), image, scale, tile, None)
    peak = round((resident("VmHWM") or 0) / GIB, 1)
    return {"network": " ".join((name, *overrides)), "scale": scale, **found, "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="default: all")
    parser.add_argument("--size", type=int, nargs=2, default=(1000, 700), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--narrow", action="store_true", help="networks of few channels")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = (args.size[0], args.size[1])
    if args.here:
        print(json.dumps(measure(args.networks[0], size, args.narrow)))
        return
    found = []
    print(f"{size[0]}x{size[1]}, float32 on the CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    for name in args.networks or (NARROW if args.narrow else NETWORKS):
        command = [sys.executable, "-m", "experiments.benchmarks.tiles", name, "--here", "--size", *map(str, size)]
        command += ["--narrow"] if args.narrow else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["killed: not enough memory"])[-1]
            print(f"{name:14s} skipped (status {done.returncode}): {reason}", flush=True)
            continue
        one = json.loads(done.stdout.splitlines()[-1])
        found.append(one)
        print(
            f"{one['network']:20s} x{one['scale']} field {one['field']:4d}, {one['tiles']:2d} tiles of "
            f"{one['tile']:4d} overlapping by {one['overlap']:3d}: at joints {one['at_joints']:.1e}, elsewhere "
            f"{one['elsewhere']:.1e}, clamped {one['clamped']:.1%}, {one['seconds_whole']:.0f} s whole, "
            f"{one['seconds_tiled']:.0f} s tiled, peak {one['peak_gib']} GiB",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
