"""How closely exported networks agree with the networks, at full size.

    python -m experiments.benchmarks.exports [--models ed_dsrn srn] [--scale 4]

Every option of conf/model/ with its initial weights (seed 0; statistics of normalisation layers drawn at random) is
written as ONNX and as a torch program, each read back and compared at the three sizes of `task=export`.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from experiments.config import CONF
from experiments.config.compose import compose_model
from experiments.export.exportable import Exportable, ExportError, record
from experiments.export.formats import write_onnx, write_program
from lightning_modules.checkpoints.checkpoint import build_network
from networks.base import RestorationNetwork

WRITERS = {"onnx": write_onnx, "program": write_program}


def initial(model: str) -> RestorationNetwork:
    """A network as training would begin with it, in evaluation mode."""
    torch.manual_seed(0)
    network = build_network(compose_model(model, ["++degradation.scale=4"]), f"model={model}").eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    if network.has_basis:
        side = network.kernel_side
        network.fit_basis(torch.rand(4 * side, side**2).softmax(1).view(-1, 1, side, side), seed=0)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=sorted(file.stem for file in (CONF / "model").glob("*.yaml")))
    parser.add_argument("--scale", type=int, default=4, help="of models for several")
    args = parser.parse_args()
    print("| model | format | MB | 37 x 53 | 64 x 48 | 2 x 33 x 50 |\n| --- | --- | --- | --- | --- | --- |")
    for model in args.models:
        exportable = Exportable(initial(model), args.scale)
        about = {"label": model, "scale": args.scale}
        for name, write in WRITERS.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "exported.pt2"
                try:
                    differences = write(exportable, path, about, record(exportable))
                    cells = [f"{path.stat().st_size / 1e6:.1f}", *(f"{value:.1e}" for value in differences.values())]
                except ExportError as error:
                    cells = [f"refused: {error}", "", "", ""]
                print(f"| {model} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
