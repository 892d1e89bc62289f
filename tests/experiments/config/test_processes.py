"""Processes that cannot be are refused before any is started."""

import os
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.errors import ConfigError
from experiments.config.processes import check_processes
from experiments.runtime import launchers


def processes(**trainer: Any) -> Any:
    return OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 1, "num_nodes": 1, **trainer}})


@pytest.fixture
def nothing_launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("trainer", "variables", "message"),
    [
        ({"num_nodes": 2}, {}, "num_nodes: found 2, but this process was started by itself"),
        ({"devices": 0}, {}, "devices: found 0, expected a number of processes"),
        ({"devices": [0, 0]}, {}, r"devices: found \[0, 0\], expected a number of processes"),
        (
            {"devices": 4},
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            "devices: found 4 on trainer.num_nodes=1, but the launcher started 2 process",
        ),
        (
            {"num_nodes": 3},
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"},
            r"devices: found 1 on trainer.num_nodes=3, .* started 2 process\(es\) on each of 2 node",
        ),
    ],
)
def test_impossible_processes_are_refused(
    nothing_launched: pytest.MonkeyPatch, trainer: dict[str, Any], variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        nothing_launched.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        check_processes(processes(**trainer))


@pytest.mark.parametrize(
    ("devices", "message"), [(4, "found 4"), ([0, 2], r"found \[0, 2\], but 2 GPUs are in use, numbered from 0")]
)
def test_more_gpus_than_there_are(nothing_launched: pytest.MonkeyPatch, devices: Any, message: str) -> None:
    nothing_launched.setattr("lightning_fabric.accelerators.CUDAAccelerator.is_available", lambda: True)
    nothing_launched.setattr(torch.cuda, "device_count", lambda: 2)
    check_processes(processes(accelerator="gpu", devices="auto"))
    check_processes(processes(accelerator="gpu", devices=[0, 1]))
    with pytest.raises(ConfigError, match=message):
        check_processes(processes(accelerator="gpu", devices=devices))


def test_launchers_say_how_many_processes_there_are(nothing_launched: pytest.MonkeyPatch) -> None:
    assert launchers.launched() is None
    nothing_launched.setenv("SLURM_NTASKS", "8")  # of the job: a batch script that was not started by srun sees it too
    assert launchers.launched() is None
    nothing_launched.setenv("SLURM_STEP_NUM_TASKS", "8")
    nothing_launched.setenv("SLURM_STEP_NUM_NODES", "2")
    assert launchers.launched() == (4, 2)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}.items():
        nothing_launched.setenv(name, value)
    assert launchers.launched() == (2, 3)


def test_an_empty_variable_of_a_launcher_is_not_set(nothing_launched: pytest.MonkeyPatch) -> None:
    nothing_launched.setenv("SLURM_STEP_NUM_TASKS", "")
    nothing_launched.setenv("RANK", "")
    assert (launchers.launched(), launchers.place(), launchers.left_over()) == (None, (0, 0), None)
