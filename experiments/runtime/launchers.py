"""What has started this process, and how many there are to be."""

import os
from typing import Any

from omegaconf import ListConfig


def launched() -> tuple[int, int] | None:
    """Processes a node and number of nodes, where a launcher has made them."""
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" in variables:
        local = int(variables.get("LOCAL_WORLD_SIZE", 1))
        return local, int(variables["WORLD_SIZE"]) // local
    # Of the step, which `srun` has made: SLURM_NTASKS is there in a batch script too, which is one process.
    if int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        nodes = int(variables.get("SLURM_STEP_NUM_NODES", 1))
        return int(variables["SLURM_STEP_NUM_TASKS"]) // nodes, nodes
    return None


def count_devices(accelerator: str, devices: Any) -> int:
    """How many processes `trainer.devices` means on this machine; all GPUs for "auto" and -1, without one a process."""
    if isinstance(devices, list | ListConfig):
        return len(devices)
    if devices in ("auto", -1):
        import torch

        return torch.cuda.device_count() or 1 if accelerator in ("auto", "gpu", "cuda") else 1
    return int(devices)
