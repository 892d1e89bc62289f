"""What cannot be under SLURM, said before a job waits in the queue, or a training for processes that never come."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from datamodules.errors import ConfigError
from experiments.config.errors import did_you_mean, listing


def check_tasks(trainer: DictConfig) -> None:
    """Each device has one task of SLURM, and `srun` starts them; outside of SLURM, and under torchrun, all is well.

    Raises:
        ConfigError: one line that names the number found on both sides and how to change either.
    """
    if "SLURM_NTASKS" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        return
    tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_JOB_NUM_NODES") or 1)
    per_node = os.environ.get("SLURM_NTASKS_PER_NODE")
    by_srun, name = "SLURM_STEP_ID" in os.environ, os.environ.get("SLURM_JOB_NAME")
    if name in ("bash", "interactive") and not (by_srun and tasks > 1):  # a shell, in which processes are started here
        return
    if tasks > 1 and not by_srun:
        raise ConfigError(
            f"SLURM: the job has {tasks} tasks and runs this command once: put srun before it, as "
            "experiments/slurm/train.sbatch does"
        )
    if tasks > 1 and per_node is None:
        raise ConfigError(
            f"SLURM: the job has {tasks} tasks by --ntasks: say how many run on each of the {nodes} node(s) with "
            f"--ntasks-per-node={tasks // nodes}"
        )
    devices, wanted = _number(trainer.devices), trainer.get("num_nodes") or 1
    if devices is None:
        return
    if nodes != wanted:
        raise ConfigError(
            f"trainer.num_nodes: found {wanted}, the job of SLURM has {nodes} node(s): set trainer.num_nodes={nodes}, "
            f"or submit with --nodes={wanted}"
        )
    found = int(per_node or tasks)
    if devices != found:
        raise ConfigError(
            f"trainer.devices: found {trainer.devices}, the job of SLURM has {found} task(s) on each node: set "
            f"trainer.devices={found}, or submit with --ntasks-per-node={devices}"
        )


def _number(devices: object) -> int | None:
    """How many devices a value of `trainer.devices` asks for; None for as many as there are tasks."""
    if isinstance(devices, int | str):
        return int(devices) if str(devices).isdigit() else None
    return len(list(devices))  # type: ignore[call-overload]  # a list of their numbers


def check_launcher(choices: Mapping[str, Any]) -> None:
    """Hydra forgets its launcher without -m.

    Raises:
        ConfigError: if this is no job of SLURM, though hydra/launcher=slurm has asked for one.
    """
    if choices.get("hydra/launcher") == "slurm" and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:
        raise ConfigError("hydra/launcher=slurm: without -m this would not become a job of SLURM: python run.py -m ...")


def check_request(parameters: Mapping[str, Any]) -> None:
    """What `hydra/launcher=slurm` asks for, before anything is submitted.

    Args:
        parameters: the keys of hydra.launcher.

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
    asked = subprocess.run(["sinfo", "--noheader", "--format=%P"], capture_output=True, text=True)
    if asked.returncode:
        raise ConfigError(f"hydra/launcher=slurm: SLURM does not answer: {asked.stderr.strip()}")
    shown = asked.stdout.split()
    known, wanted = [name.rstrip("*") for name in shown], parameters.get("partition")
    if wanted is None and not any(name.endswith("*") for name in shown):
        raise ConfigError(
            f"hydra.launcher.partition: a value is required, this cluster has no default: {listing(known)}"
        )
    for name in str(wanted or "").split(","):
        if name and name not in known:
            raise ConfigError(
                f"hydra.launcher.partition: found {name!r}, this cluster has {listing(known)}"
                + did_you_mean(name, known)
            )
