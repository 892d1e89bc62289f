"""The processes of an evaluation: how many there are, what device each has, and where they meet."""

import os
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import DictConfig


def start(trainer: DictConfig) -> torch.device:
    """Join the other processes, or start them (`trainer.devices`, `trainer.num_nodes`); returns this one's device.

    Under `torchrun` and `srun` the processes are there already, and their number is what those were told.
    """
    devices, nodes = launched() or (trainer.get("devices", "auto"), trainer.get("num_nodes", 1))
    several = nodes != 1 or devices not in (1, "1", "auto")
    fabric = Fabric(
        accelerator=trainer.accelerator, devices=devices, num_nodes=nodes, strategy="ddp" if several else "auto"
    )
    fabric.launch()
    return fabric.device


def launched() -> tuple[Any, int] | None:
    """Processes a node and number of nodes, where a launcher has made them."""
    if TorchElasticEnvironment.detect():
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return local, int(os.environ["WORLD_SIZE"]) // local
    if SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None


def rank() -> int:
    """Number of this process, 0 for one alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier(device: torch.device) -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier(device_ids=[device.index or 0] if device.type == "cuda" else None)


def end() -> None:
    """Take leave of the other processes; without it one of them may abort at its exit."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
