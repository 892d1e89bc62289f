"""What has to fit before processes are started, or a job waits in the queue of SLURM: devices, nodes, tasks."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from datamodules.errors import ConfigError


def check_processes(cfg: DictConfig) -> None:
    """Compare `trainer.devices` and `trainer.num_nodes` with this machine and with the launcher, if there is one.

    Raises:
        ConfigError: one line that names the key, what was found and what to do.
    """
    from experiments.runtime.launchers import count_devices, launched, number

    trainer = cfg.trainer
    accelerator, devices, nodes = trainer.accelerator, trainer.get("devices", 1), trainer.get("num_nodes", 1)
    _check_devices(devices)
    outside = launched()
    if accelerator in ("auto", "cpu") and outside is None and (devices, nodes) == (1, 1):
        return  # one process, as on every machine
    import torch

    kinds = {"auto": (), "gpu": ("cuda", "mps")}.get(accelerator, (accelerator,))
    if kinds and not any(map(_is_there, kinds)):
        raise ConfigError(
            f"trainer.accelerator: found {accelerator!r}, which this machine does not have: "
            "trainer.accelerator=auto takes what there is"
        )
    gpus = torch.cuda.device_count() if accelerator in ("gpu", "cuda", "auto") else 0
    count, machines = outside or (count_devices(accelerator, devices), 1)
    if outside is None and nodes != 1:
        raise ConfigError(
            f"trainer.num_nodes: found {nodes}, but this process was started by itself: start one on every node by "
            "torchrun --nnodes or srun, or by hydra/launcher="
        )
    tasks = number("SLURM_STEP_NUM_TASKS", default=1)
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
    if gpus and count > gpus:
        where = f"the launcher started {count} processes" if outside else f"found {devices}"
        raise ConfigError(
            f"trainer.devices: {where}, this machine shows {gpus} GPU(s): one process a GPU (of SLURM, ask for GPUs by "
            "node and not by task: every task has to see all of its node)"
        )


def _is_there(kind: str) -> bool:
    """Whether this machine has such an accelerator, by its name of Lightning's, which alone knows the rarer ones."""
    import torch

    if kind in ("cpu", "cuda"):
        return kind == "cpu" or torch.cuda.device_count() > 0
    from pytorch_lightning.accelerators import AcceleratorRegistry

    return bool(AcceleratorRegistry[kind]["accelerator"].is_available())


def _check_devices(devices: Any) -> None:
    numbers = list(devices) if isinstance(devices, ListConfig) else None
    if numbers is None:
        fine = devices in ("auto", -1) or (isinstance(devices, int) and 1 <= devices <= 1024)
    else:
        fine = 0 < len(numbers) == len(set(numbers)) and all(isinstance(d, int) and d >= 0 for d in numbers)
    if not fine:
        raise ConfigError(
            f"trainer.devices: found {devices!r}, expected a number of processes, a list of GPUs such as [0,2], or auto"
        )


def check_tasks(trainer: DictConfig) -> None:
    """Each device has one task of SLURM, and `srun` starts them; outside of SLURM, and under torchrun, all is well.

    Raises:
        ConfigError: one line that names the number found on both sides and how to change either.
    """
    from experiments.runtime.launchers import number

    variables = os.environ
    if "SLURM_NTASKS" not in variables or "TORCHELASTIC_RUN_ID" in variables:
        return
    tasks, nodes = number("SLURM_NTASKS"), number("SLURM_JOB_NUM_NODES", default=1)
    by_srun = "SLURM_STEP_ID" in variables
    if variables.get("SLURM_JOB_NAME") in ("bash", "interactive") and not (by_srun and tasks > 1):
        return  # a shell, in which processes are started here
    if tasks > 1 and not by_srun:
        raise ConfigError(
            f"SLURM: the job has {tasks} tasks and runs this command once: put srun before it, as "
            "experiments/slurm/train.sbatch does (outside of a job: unset SLURM_NTASKS)"
        )
    wanted, found = trainer.get("num_nodes") or 1, trainer.devices
    if found in ("auto", -1):  # as many as there are tasks
        return
    devices = found if isinstance(found, int) else len(found)
    if (devices * wanted, wanted) != (tasks, nodes):
        raise ConfigError(
            f"trainer.devices: found {found} on {wanted} node(s), the job of SLURM has {tasks} task(s) on {nodes}: set "
            f"trainer.devices={tasks // nodes} trainer.num_nodes={nodes}, or submit with --nodes={wanted} "
            f"--ntasks-per-node={devices}"
        )


def check_launcher(choices: Mapping[str, Any]) -> None:
    """Hydra forgets its launcher without -m.

    Raises:
        ConfigError: if this is no job of SLURM, though hydra/launcher=slurm has asked for one.
    """
    if choices.get("hydra/launcher") == "slurm" and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:
        raise ConfigError("hydra/launcher=slurm: without -m this would not become a job of SLURM: python run.py -m ...")


def check_request(parameters: Mapping[str, Any]) -> None:
    """What `hydra/launcher=slurm` asks for by the keys of hydra.launcher, before anything is submitted.

    Raises:
        ConfigError: one line with the key of hydra.launcher, the value found and what there is.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("hydra/launcher=slurm: there is no sbatch here: run this where jobs of SLURM are submitted")
    tasks, gpus = parameters.get("tasks_per_node"), parameters.get("gpus_per_node")
    if not isinstance(tasks, int) or tasks < 1:
        raise ConfigError(
            f"hydra.launcher.tasks_per_node: found {tasks!r}, expected a number, a task for each device of a node: set "
            "trainer.devices to one"
        )
    if gpus is not None and not isinstance(gpus, int):
        raise ConfigError(
            f"hydra.launcher.gpus_per_node: found {gpus!r}, expected a number; GPUs of one kind: "
            "hydra.launcher.gres=gpu:a100:4"
        )
    if gpus is not None and gpus < tasks:
        raise ConfigError(
            f"hydra.launcher.gpus_per_node: found {gpus} for {tasks} tasks, of which each needs one: set "
            f"hydra.launcher.gpus_per_node={tasks}, or trainer.devices={gpus}"
        )
