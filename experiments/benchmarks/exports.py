"""How closely exported networks agree with the networks, at full size.

    python -m experiments.benchmarks.exports [--models ed_dsrn srn]

Every option of conf/model/ with its initial weights (seed 0; statistics of normalisation layers drawn at random) is
written as ONNX and as a torch program, each read back and compared at the three sizes of `task=export`.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from experiments.benchmarks.train_step import compose, prepare
from experiments.config import CONF
from experiments.export.exportable import Exportable, ExportError
from experiments.export.formats import write_onnx, write_program
from networks.base import RestorationNetwork

SCALE = 4  # of models for several
WRITERS = {"onnx": write_onnx, "program": write_program}


def initial(model: str) -> RestorationNetwork:
    """A network as training would begin with it, in evaluation mode."""
    cfg = compose(model, "trainer.accelerator=cpu")
    if "scale" in cfg.degradation:
        cfg.degradation.scale = SCALE
    network = prepare(cfg).network.eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=sorted(file.stem for file in (CONF / "model").glob("*.yaml")))
    args = parser.parse_args()
    print("| model | format | MB | 37 x 53 | 64 x 48 | 2 x 33 x 50 |\n| --- | --- | --- | --- | --- | --- |")
    for model in args.models:
        exportable = Exportable(initial(model), SCALE)
        for name, write in WRITERS.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "exported.pt2"
                try:
                    differences = write(exportable, path, {"label": model, "scale": SCALE})
                    cells = [f"{path.stat().st_size / 1e6:.1f}", *(f"{value:.1e}" for value in differences.values())]
                except ExportError as error:
                    cells = [f"refused: {error}", "", "", ""]
                print(f"| {model} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
