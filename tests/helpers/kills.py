"""Kills a short training again and again, and compares what comes out with the training that was left alone.

    python -m tests.helpers.kills [--procedure staged] [--kills 50] [--seed 0]

Half of the SIGKILLs come at a random moment of the program, the others while a checkpoint is being written. Every start
has the same command with resume=auto; when a run gets to its end the next one begins, until all kills are spent. Each
must have the weights, averages, optimisers, schedulers, counters and figures of the undisturbed run, bit for bit, and
the same files. Ends with status 1 at the first difference.

The processes are forked from one that has imported everything, which saves seconds each; for that it must not use CUDA.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

COMMON = (
    "data=folder data.root=photographs data.cache_dir=cache data.patch=32 data.batch_size=2 data.samples_per_epoch=8 "
    "data.num_workers=1 model.widths=[4,4,4,4] model.n_units=1 trainer.accelerator=cpu trainer.log_every_n_steps=1 "
    "checkpoint.every_n_steps=1 logger=none pictures=none callbacks=ema callbacks.ema.decay=0.9 callbacks.ema.start=3 "
    "resume=auto"
)
PROCEDURES = {
    "supervised": "scheduler=cosine trainer.max_epochs=5 trainer.accumulate_grad_batches=2",
    "staged": "model=cooperative degradation=cooperative_old procedure.stages.deblur.epochs=2 "
    "procedure.stages.superres.epochs=1 procedure.stages.joint.epochs=2 +procedure.stages.joint.step=1 "
    "+procedure.stages.joint.decay=0.5 ~procedure.stages.all",
    "gan": "procedure=gan procedure.discriminator.width=2 procedure.clip=0.5 scheduler=multistep "
    "scheduler.milestones=[3,7] trainer.max_epochs=5",
}


@dataclass
class Tally:
    """What happened.

    Attributes:
        kills: SIGKILLs that hit a living process.
        in_write: those that left a checkpoint half written.
        without_checkpoint: those before the first checkpoint.
        runs: trainings that got to their end, each equal to the undisturbed one.
    """

    kills: int = 0
    in_write: int = 0
    without_checkpoint: int = 0
    runs: int = 0


def start(folder: Path, overrides: list[str]) -> int:
    """Fork a process that does `python run.py OVERRIDES` in `folder`; returns its id. Its output goes to out.txt."""
    if pid := os.fork():
        return pid
    try:
        import run

        os.chdir(folder)
        out = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["run.py", *overrides]
        status = run.main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def ended(pid: int, folder: Path, options: int = 0) -> bool:
    """Whether the process has ended; raises unless that was well or by SIGKILL."""
    found, status = os.waitpid(pid, options)
    if found and os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        raise SystemExit(f"a start did not work, status {status}:\n{(folder / 'out.txt').read_text()}")
    return bool(found)


def disturb(pid: int, folder: Path, checkpoints: Path, delay: float, writes: int) -> bool:
    """Kill a process after `delay` seconds, or in the midst of its n-th checkpoint if `writes` is not 0.

    Returns:
        False if it got to its end before.
    """
    end = time.monotonic() + delay
    seen, writing = 0, False
    while time.monotonic() < end or writes:
        present = any(checkpoints.glob("*.part"))
        seen += present and not writing
        writing = present
        if writes and seen == writes:
            break
        if ended(pid, folder, os.WNOHANG):
            return False
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def outcome(run: Path) -> dict[str, Any]:
    """Everything that must not depend on kills: both checkpoints, the figures, the names of the files."""
    found: dict[str, Any] = {}
    for name in ("last", "best"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        del checkpoint["config"]  # holds the name of the run
        del checkpoint["callbacks"]["Throughput"]  # minutes of training
        found[name] = checkpoint
    records = json.loads((run / "results.json").read_text())["records"]
    found["figures"] = [
        {k: v for k, v in record.items() if k in ("model", "protocol", "psnr", "ssim")} for record in records
    ]
    found["files"] = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    return found


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """The first place where two outcomes differ, None if they are equal to the bit."""
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"
        return next((d for k in a if (d := difference(a[k], b[k], f"{where}.{k}"))), None)
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{where}: {a} and {b}"
        pairs = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in pairs if (d := difference(x, y, f"{where}[{i}]"))), None)
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return None if equal else f"{where}: {a} and {b}"


def make_photographs(folder: Path) -> None:
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def kill_often(folder: Path, procedure: str, kills: int, seed: int = 0) -> Tally:
    """Kill a training `kills` times and finish it; raises SystemExit where something is lost.

    Args:
        folder: an empty one for everything.
        procedure: one of `PROCEDURES`.
        seed: decides the moments, as far as the machine lets it.
    """
    os.environ["WANDB_MODE"] = "offline"
    torch.set_num_threads(1)  # no thread may live where processes are forked
    overrides = [*PROCEDURES[procedure].split(), *COMMON.split()]
    make_photographs(folder / "photographs")
    ended(start(folder, [*overrides, "name=first"]), folder)  # decodes the photographs
    began = time.monotonic()
    ended(start(folder, [*overrides, "name=whole"]), folder)
    seconds = time.monotonic() - began
    whole = outcome(folder / "runs" / "whole")
    print(f"{procedure}: {whole['last']['global_step']} steps in {seconds:.1f} s undisturbed", flush=True)

    chance, tally = random.Random(seed), Tally()
    while tally.kills < kills or not tally.runs:
        name = f"disturbed{tally.runs}"
        run = folder / "runs" / name
        done = False
        while not done:
            pid = start(folder, [*overrides, f"name={name}"])
            if tally.kills == kills:
                done = ended(pid, folder)
                continue
            writes = 0 if tally.kills % 2 else chance.randint(2, 9)
            done = not disturb(pid, folder, run / "checkpoints", chance.uniform(0, 0.6 * seconds), writes)
            if not done:
                tally.kills += 1
                _look(run, tally)
        if found := difference(whole, outcome(run)):
            raise SystemExit(f"{run} after {tally.kills} kills differs from the undisturbed run: {found}")
        tally.runs += 1
    return tally


def _look(run: Path, tally: Tally) -> None:
    """What is there after a kill: whole checkpoints, or none."""
    tally.in_write += any((run / "checkpoints").glob("*.part"))
    tally.without_checkpoint += not (run / "checkpoints" / "last.ckpt").exists()
    for path in (run / "checkpoints").glob("*.ckpt"):
        torch.load(path, weights_only=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--procedure", choices=PROCEDURES, default="staged")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for module in ("run", "experiments.train", "experiments.config.check", "albumentations", "kornia", "torchmetrics"):
        __import__(module)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        tally = kill_often(Path(folder), options.procedure, options.kills, options.seed)
    print(
        f"{options.procedure}: {tally.kills} kills ({tally.in_write} in the midst of a checkpoint, "
        f"{tally.without_checkpoint} before the first one), {tally.runs} runs, all equal to the undisturbed one, "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
