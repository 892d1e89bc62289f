"""Resident memory of a real training, epoch by epoch: it has to stay flat.

    python -m experiments.benchmarks.memory [--epochs 20] [--steps 100] [OVERRIDES]

A small ED-DSRN on random images through `run.py`, with validation, checkpoints and a loader process; further overrides
of the command line are handed on (procedure=gan, callbacks=ema, logger=wandb). Prints after every epoch what is
resident of the training process in MiB, and at the end by how much that has grown in the second half.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image

from experiments.config import CONF
from lightning_modules.host_memory import resident

OVERRIDES = (
    "data=folder data.root=photographs data.cache_dir=cache data.patch=32 data.batch_size=2 data.num_workers=1 "
    "model.widths=[4,4,4,4] model.n_units=1 trainer.accelerator=cpu trainer.enable_progress_bar=false logger=none "
    "pictures=none name=memory +callbacks.resident._target_=experiments.benchmarks.memory.Resident"
)


class Resident(pl.Callback):
    """Prints the resident memory after every epoch, and its growth from the middle of the training to the end."""

    def __init__(self) -> None:
        self.mib: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gc.collect()
        self.mib.append((resident("VmRSS") or 0) / 2**20)
        print(f"epoch {len(self.mib):3d}  step {trainer.global_step:6d}  {self.mib[-1]:8.1f} MiB resident", flush=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        middle = max(len(self.mib) // 2, 1)
        print(f"epochs {middle} to {len(self.mib)}: {self.mib[-1] - self.mib[middle - 1]:+.1f} MiB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(photographs / f"{i}.png")
        length = [f"trainer.max_epochs={args.epochs}", f"data.samples_per_epoch={2 * args.steps}"]
        command = [sys.executable, str(CONF.with_name("run.py")), *OVERRIDES.split(), *length, *more]
        return subprocess.run(command, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
