"""Runs of several command lines, each by one process and by two ranks; the variables are those that torchrun sets.

    python -m tests.helpers.rank_runs FOLDER FILE.json

The file has a list of {"name", "alone", "ranks"}: overrides for the one process and for the two. Every process is a
fork of this one, which has imported everything.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import experiments.train  # noqa: F401  # once, for all
import run
from datamodules.errors import InputError


class Record(pl.Callback):
    """Saves what a training computes: the gradients of its first step, the losses of all, and the weights at its end.

    Args:
        out: file name; the rank is appended.
        double: compute in float64, on the same float32 batches.
    """

    def __init__(self, out: str, double: bool = False) -> None:
        self.out, self.double = out, double
        self.losses: list[float] = []
        self.gradients: dict[str, torch.Tensor] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if self.double:
            pl_module.network.double().register_forward_pre_hook(in_double, with_kwargs=True)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.gradients is None:
            named = pl_module.network.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        found = {"losses": self.losses, "gradients": self.gradients, "weights": pl_module.network.state_dict()}
        torch.save(found, f"{self.out}.{trainer.global_rank}")


class Fail(pl.Callback):
    """Lets one rank fail before a training step.

    Args:
        rank: which one.
        step: number of the step, from 1.
        how: name of a signal that it gets; "data" for an error such as that of a lost file.
    """

    def __init__(self, rank: int, step: int, how: str) -> None:
        self.rank, self.step, self.how = rank, step, how

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step + 1 == self.step:
            if self.how == "data":
                raise InputError("lost.png: no such file")
            os.kill(os.getpid(), getattr(signal, self.how))


def in_double(network: Any, arguments: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    return arguments, {name: value.double() if torch.is_tensor(value) else value for name, value in fields.items()}


def call(jobs: list[list[str]], log: str, variables: dict[str, str]) -> None:
    """Run command lines one after the other, as a sweep does, with all that they print in a file."""
    os.environ.update(variables)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for overrides in jobs:
        sys.argv = ["run.py", *overrides]
        try:
            status = run.main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        if status:
            print("failed", overrides, file=sys.stderr, flush=True)
            os._exit(status)
    sys.exit(0)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def main() -> int:
    folder, jobs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    os.chdir(folder)
    torch.set_num_threads(1)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "test"}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    arguments: list[tuple[Any, ...]] = [([job["alone"] for job in jobs], "alone.log", {})]
    for rank in ("0", "1"):
        arguments.append(
            ([job["ranks"] for job in jobs], f"rank{rank}.log", {"RANK": rank, "LOCAL_RANK": rank} | common)
        )
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=call, args=one) for one in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
