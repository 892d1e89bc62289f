"""Resident memory of a real training, epoch by epoch: it has to stay flat.

    python -m experiments.benchmarks.memory [--epochs 20] [--steps 100] [OVERRIDES]

A small ED-DSRN on random images through `run.py`, with validation, checkpoints and a loader process; further overrides
of the command line are handed on (procedure=gan, callbacks=ema, logger=wandb). Prints after every epoch the resident
set of the training process, and what it and its children (loader, W&B) have written to pages of their own; MiB.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image

from experiments.config import CONF

OVERRIDES = (
    "data=folder data.root=photographs data.cache_dir=cache data.patch=32 data.batch_size=2 data.num_workers=1 "
    "model.widths=[4,4,4,4] model.n_units=1 trainer.accelerator=cpu logger=none pictures=none name=memory"
)


class Resident(pl.Callback):
    """Writes a line an epoch into a file: epoch, step, MiB resident, MiB of it and its children."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gc.collect()
        own = os.getpid()
        children = [int(child) for child in Path(f"/proc/self/task/{own}/children").read_text().split()]
        written = sum(memory_of(pid, "Private_Dirty") for pid in (own, *children))
        found = [trainer.current_epoch + 1, trainer.global_step, memory_of(own, "Rss"), written]
        with self.path.open("a") as file:
            file.write(json.dumps(found) + "\n")


def memory_of(pid: int, kind: str) -> float:
    """MiB of a process on Linux: "Rss" is all of it that is resident, "Private_Dirty" what it alone has written."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    options, more = parser.parse_known_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("photographs").mkdir()
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photographs/{i}.png")
        length = [f"trainer.max_epochs={options.epochs}", f"data.samples_per_epoch={2 * options.steps}"]
        watch = "+callbacks.resident={_target_: experiments.benchmarks.memory.Resident, path: rss}"
        command = [sys.executable, str(CONF.with_name("run.py")), *OVERRIDES.split(), *length, watch, *more]
        status = subprocess.run(command).returncode
        os.chdir(here)
        if status:
            sys.exit(status)
        lines: list[list[Any]] = [json.loads(line) for line in (Path(folder) / "rss").read_text().splitlines()]
    for epoch, step, own, family in lines:
        print(f"epoch {epoch:3d}  step {step:6d}  {own:8.1f} MiB resident  with children {family:8.1f} MiB written")
    (_, first, own, family), (_, last, own_end, family_end) = lines[len(lines) // 2 - 1], lines[-1]
    growth = f"{own_end - own:+.1f} MiB resident, with children {family_end - family:+.1f} MiB written"
    print(f"steps {first} to {last}: {growth}")


if __name__ == "__main__":
    main()
