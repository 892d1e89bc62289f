"""What cannot be under SLURM, said before a job waits in the queue, or a training for processes that never come."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from datamodules.errors import ConfigError


def check_tasks(trainer: DictConfig) -> None:
    """Each device has one task of SLURM, and `srun` starts them; outside of SLURM, and under torchrun, all is well.

    Raises:
        ConfigError: one line that names the number found on both sides and how to change either.
    """
    variables = os.environ
    if "SLURM_NTASKS" not in variables or "TORCHELASTIC_RUN_ID" in variables:
        return
    tasks, nodes = int(variables["SLURM_NTASKS"]), int(variables.get("SLURM_JOB_NUM_NODES") or 1)
    by_srun = "SLURM_STEP_ID" in variables
    if variables.get("SLURM_JOB_NAME") in ("bash", "interactive") and not (by_srun and tasks > 1):
        return  # a shell, in which processes are started here
    if tasks > 1 and not by_srun:
        raise ConfigError(
            f"SLURM: the job has {tasks} tasks and runs this command once: put srun before it, as "
            "experiments/slurm/train.sbatch does"
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
