"""What has started this process, and how many there are to be."""

import os
from typing import Any

from omegaconf import ListConfig

from datamodules.errors import ConfigError
from experiments.runtime.child_processes import PORT

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # what libraries take for the number of a process, whoever has set it


def launched() -> tuple[int, int] | None:
    """Processes a node and number of nodes, where a launcher has made them.

    Raises:
        ConfigError: for variables that no launcher sets so.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = number("LOCAL_WORLD_SIZE"), number("WORLD_SIZE")
        return local, world // local
    # Of the step, which `srun` has made: SLURM_NTASKS is there in a batch script too, which is one process.
    if (tasks := number("SLURM_STEP_NUM_TASKS", default=1)) > 1:
        nodes = number("SLURM_STEP_NUM_NODES", default=1)
        return tasks // nodes, nodes
    return None


def place() -> tuple[int, int]:
    """The number of this process among all, and among those of its node: all that decides is who made them.

    Variables that are left over from another launcher do not count.

    Raises:
        ConfigError: as `launched`.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        names = ("RANK", "LOCAL_RANK")
    elif launched():
        names = ("SLURM_PROCID", "SLURM_LOCALID")
    elif PORT in os.environ:
        names = ("LOCAL_RANK", "LOCAL_RANK")
    else:
        return 0, 0
    rank, local = (number(name, least=0) for name in names)
    return rank, local


def left_over() -> str | None:
    """What to say of a variable that would make this process, which was started by itself, one of several."""
    if launched() or "TORCHELASTIC_RUN_ID" in os.environ or PORT in os.environ:
        return None
    names = [name for name in _RANKS if os.environ.get(name, "0") not in ("", "0")]
    shown = ", ".join(f"{name}={os.environ[name]}" for name in names)
    return f"{shown}: set by no launcher (torchrun, srun) of this process, which works by itself" if names else None


def number(name: str, default: int | None = None, least: int = 1) -> int:
    """A variable that a launcher sets. Raises ConfigError if it is no number."""
    text = os.environ.get(name) or ("" if default is None else str(default))
    if not text.isdecimal() or int(text) < least:
        found = f"found {text!r}" if text else "is not set"
        raise ConfigError(
            f"{name}: {found}, expected the number that a launcher sets: start the processes by torchrun or srun, or "
            "unset TORCHELASTIC_RUN_ID, or SLURM_STEP_NUM_TASKS and SLURM_NTASKS, which are left over of them"
        )
    return int(text)


def count_devices(accelerator: str, devices: Any) -> int:
    """How many processes `trainer.devices` means on this machine; all GPUs for "auto" and -1, without one a process."""
    if isinstance(devices, list | ListConfig):
        return len(devices)
    if devices in ("auto", -1):
        import torch

        return torch.cuda.device_count() or 1 if accelerator in ("auto", "gpu", "cuda") else 1
    return int(devices)
