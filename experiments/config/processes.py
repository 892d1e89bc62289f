"""What has to fit before processes are started: devices, nodes, and what a launcher has made already."""

import os
from typing import Any

from omegaconf import DictConfig, ListConfig

from datamodules.errors import ConfigError


def check_processes(cfg: DictConfig) -> None:
    """Compare `trainer.devices` and `trainer.num_nodes` with this machine and with the launcher, if there is one.

    Raises:
        ConfigError: one line that names the key, what was found and what to do.
    """
    import torch
    from lightning_fabric.accelerators import CUDAAccelerator
    from pytorch_lightning.accelerators import AcceleratorRegistry

    from experiments.runtime.launchers import count_devices, launched

    trainer = cfg.trainer
    accelerator, devices, nodes = trainer.accelerator, trainer.get("devices", 1), trainer.get("num_nodes", 1)
    _check_devices(devices)
    kinds = {"auto": (), "gpu": ("cuda", "mps")}.get(accelerator, (accelerator,))
    if kinds and not any(AcceleratorRegistry[kind]["accelerator"].is_available() for kind in kinds):
        raise ConfigError(
            f"trainer.accelerator: found {accelerator!r}, which this machine does not have: "
            "trainer.accelerator=auto takes what there is"
        )
    on_gpus = accelerator in ("gpu", "cuda", "auto") and CUDAAccelerator.is_available()
    gpus = torch.cuda.device_count() if on_gpus else 0
    outside = launched()
    count, machines = outside or (count_devices(accelerator, devices), 1)
    if outside is None and nodes != 1:
        raise ConfigError(
            f"trainer.num_nodes: found {nodes}, but this process was started by itself: start one on every node by "
            "torchrun --nnodes or srun, or by hydra/launcher="
        )
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if outside and "TORCHELASTIC_RUN_ID" not in os.environ and tasks != count * machines:
        raise ConfigError(
            f"SLURM: srun started {tasks} tasks on {machines} nodes: every node needs as many: set --ntasks-per-node"
        )
    if outside and ((isinstance(devices, int) and devices not in (1, -1, count)) or nodes not in (1, machines)):
        raise ConfigError(
            f"trainer.devices: found {devices} on trainer.num_nodes={nodes}, but the launcher started {count} "
            f"process(es) on each of {machines} node(s): give it the same numbers, or set trainer.devices=auto "
            "trainer.num_nodes=1"
        )
    if isinstance(devices, ListConfig) and max(devices) >= gpus:
        raise ConfigError(f"trainer.devices: found {devices}, but {gpus} GPUs are in use, numbered from 0")
    if on_gpus and count > gpus:
        where = f"the launcher started {count} processes" if outside else f"found {devices}"
        raise ConfigError(
            f"trainer.devices: {where}, this machine shows {gpus} GPU(s): one process a GPU (of SLURM, ask for GPUs by "
            "node and not by task: every task has to see all of its node)"
        )


def _check_devices(devices: Any) -> None:
    numbers = list(devices) if isinstance(devices, ListConfig) else None
    if numbers is None:
        fine = devices in ("auto", -1) or (isinstance(devices, int) and devices >= 1)
    else:
        fine = 0 < len(numbers) == len(set(numbers)) and all(isinstance(d, int) and d >= 0 for d in numbers)
    if not fine:
        raise ConfigError(
            f"trainer.devices: found {devices!r}, expected a number of processes, a list of GPUs such as [0,2], or auto"
        )
