"""Restoring photographs on the CPU by every engine and precision that there is: the whole way, and the bare network.

    python -m experiments.benchmarks.restore [--model ed_dsrn_base] [--size 1000 700] [--photographs 20] [--rounds 5]
    python -m experiments.benchmarks.restore --weights runs/NAME --output engines.md

Photographs of scikit-image, mirrored to the size. All ways take turns in every round; printed are medians with the
smallest and the largest, in milliseconds a photograph:

* `alone`: the engine called directly with the same graph, on the tiles of a photograph one after the other; of torch
  the network. `contiguous` is torch without channels_last.
* `Restorer`: `Restorer.restore` from array to array.
* `files`: as task=restore does it, from PNG to PNG.

`files / alone` is what everything around the network costs, `of torch` the time of the files against that of torch in
float32, and `from torch` how far the results are from its, in dB. Without `--weights` the weights are random, on which
times do not depend. int8 is measured where task=export formats=[int8] has made a graph of the weights.
"""

import argparse
import copy
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.errors import InputError
from experiments.benchmarks.restore_memory import mirrored
from experiments.benchmarks.timing import figure, in_turns, machine, spread
from experiments.config.compose import compose_model
from experiments.engines.names import Engine, Precision
from experiments.engines.runtimes import OPEN, TRIED
from experiments.export.exportable import Exportable
from experiments.export.graph import graph, int8_graph
from experiments.models import Model, load
from experiments.restore import Restorer
from experiments.restore.image_buffer import as_input
from experiments.restore.manifest import Manifest
from experiments.restore.paths import plan
from experiments.restore.pipeline import restore_all
from experiments.restore.receptive_field import alignment
from experiments.restore.restore_file import Work
from experiments.restore.tiling import choose_tiling, spans
from lightning_modules.checkpoints.checkpoint import build_network
from networks.base import RestorationNetwork

CONTIGUOUS = "torch float32 contiguous"
TORCH = "torch float32"


def random_weights(model: str) -> Model:
    torch.manual_seed(0)
    network = build_network(compose_model(model), model).eval()
    return Model(model, lambda _: network, network.scales)


def restorers(model: Model, scale: int, chosen: Sequence[str]) -> dict[str, Restorer]:
    """Those that there are of the chosen engines, by engine and precision; why one is left out is printed."""
    engines: list[tuple[Engine, Precision]] = [("torch", "float32"), ("torch", "bf16")]
    engines += [(name, precision) for precision, names in TRIED.items() for name in names]  # type: ignore[misc]
    found = {}
    for engine, precision in engines:
        name = f"{engine} {precision}"
        if engine not in chosen and name != TORCH:
            continue
        try:
            restorer = Restorer(model, "cpu", precision, engine=engine)
            restorer.prepare(scale)
            restorer.restore(mirrored(64, 64), scale)  # compares with torch
        except InputError as error:
            print(f"left out: {name}: {error}", flush=True)
        else:
            found[name] = restorer
    return found


def tiles_of(image: np.ndarray, restorer: Restorer, network: RestorationNetwork, scale: int) -> list[Tensor]:
    """What the network is given of an image, [1, 3, h, w] each."""
    size = (image.shape[0], image.shape[1])
    tiling = choose_tiling(size, scale, alignment(network, scale), lambda: restorer.field(scale))
    whole = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    rows, columns = (spans(length, tiling) for length in size)
    return [whole[..., row.start : row.stop, column.start : column.stop].clone() for row in rows for column in columns]


def alone(network: RestorationNetwork, scale: int, tiles: list[Tensor], name: str) -> Callable[[], object]:
    """The engine by itself."""
    engine, precision, *layout = name.split()
    if engine != "torch":
        exportable = Exportable(network, scale)
        made = int8_graph(exportable) if precision == "int8" else graph(exportable)
        assert made is not None
        run = OPEN[engine](made, precision)  # type: ignore[arg-type]  # one of TRIED
        arrays = [tile.numpy() for tile in tiles]
        return lambda: [run({"lr": array}) for array in arrays]
    if layout:
        network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    inputs = tiles if layout else [as_input(tile, torch.device("cpu"), network.takes_gray) for tile in tiles]

    def by_torch() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            for tile in inputs:
                network(lr=tile)

    return by_torch


def from_files(restorer: Restorer, scale: int, folder: Path, name: str) -> Callable[[], None]:
    """As task=restore, anew every time."""

    def restore() -> None:
        target, items, _ = plan([str(folder / "in")], str(folder / name), "lossless", [])
        with Manifest(target, {}) as manifest:
            work_on = partial(Work, restorer=restorer, arguments={"scale": scale}, manifest=manifest)
            if restore_all(items, work_on, set(), False, print):
                raise RuntimeError("a photograph could not be restored, see above")

    return restore


def decibels(found: np.ndarray, expected: np.ndarray) -> str:
    """Between two results of 8 bit."""
    error = np.square(found.astype(np.float64) - expected).mean()
    return "equal" if error == 0 else f"{10 * math.log10(255**2 / error):.1f}"


def table(measured: Mapping[str, Mapping[str, list[float]]], distances: Mapping[str, str]) -> str:
    """A row for every engine and precision in Markdown."""
    lines = [
        "| engine | alone, ms | Restorer, ms | files, ms | files / alone | of torch | from torch, dB |",
        "| --- " * 7 + "|",
    ]
    middle = {name: {kind: statistics.median(times) for kind, times in of.items()} for name, of in measured.items()}
    for name, of in measured.items():
        cells = [spread(of[kind]) if kind in of else "" for kind in ("alone", "Restorer", "files")]
        if "files" in of:
            files = middle[name]["files"]
            cells += [figure(files / middle[name]["alone"]), figure(files / middle[TORCH]["files"]), distances[name]]
        lines.append(f"| {' | '.join([name, *cells, *[''] * (6 - len(cells))])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ed_dsrn_base", help="option of conf/model/, with random weights")
    parser.add_argument("--weights", help="run folder or checkpoint, instead")
    parser.add_argument("--size", type=int, nargs=2, default=(1000, 700), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--photographs", type=int, default=1, help="in a folder, for `files`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=(every := get_args(Engine)[1:]),
        default=every,
        help="besides torch in float32; all stay in memory, where those of a large network may be too many",
    )
    parser.add_argument("--output", type=Path, help="file for the table besides")
    args = parser.parse_args()
    model = load(args.weights) if args.weights else random_weights(args.model)
    scale = model.scales[-1]
    if (inputs := model.network(scale).inputs) != ("lr",):
        parser.error(f"{model.name} takes {', '.join(inputs)}: expected a network that takes the image alone")
    found = restorers(model, scale, args.engines)
    network, image = found[TORCH].prepare(scale), mirrored(*args.size)
    tiles = tiles_of(image, found[TORCH], network, scale)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "in").mkdir()
        for number in range(args.photographs):
            Image.fromarray(image).save(folder / "in" / f"{number}.png")
        ways: dict[str, Callable[[], object]] = {}
        for name in [*found, *([CONTIGUOUS] if "torch" in args.engines else [])]:
            ways[f"{name}|alone"] = alone(network, scale, tiles, name)
        for name, restorer in found.items():
            ways[f"{name}|Restorer"] = lambda restorer=restorer: restorer.restore(image, scale)  # type: ignore[misc]
            ways[f"{name}|files"] = from_files(restorer, scale, folder, name)
        times = in_turns(ways, args.rounds)
    measured: dict[str, dict[str, list[float]]] = {}
    for way, of_way in times.items():
        name, _, kind = way.partition("|")
        count = args.photographs if kind == "files" else 1
        measured.setdefault(name, {})[kind] = [value / count for value in of_way]
    results = {name: np.asarray(restorer.restore(image, scale).sr) for name, restorer in found.items()}
    distances = {name: decibels(result, results[TORCH]) for name, result in results.items()}
    about = (
        f"{model.name} x{scale}, {args.photographs} photograph(s) of {args.size[0]}x{args.size[1]} in {len(tiles)} "
        f"tile(s), {args.rounds} rounds; {machine('cpu')}"
    )
    report = f"{about}\n\n{table(measured, distances)}\n"
    print(report, end="", flush=True)
    if args.output:
        args.output.write_text(report, "utf-8")


if __name__ == "__main__":
    main()
