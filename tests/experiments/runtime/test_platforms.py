"""What Windows lacks: modules, signals and calls of Unix are taken away in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

WINDOWS = """
import multiprocessing.context as context
import os
import signal
import sys
from multiprocessing import resource_tracker

import hydra, pytorch_lightning, torch, torchmetrics, wandb  # others' ways around it are their own

def windows():
    for name in ("fcntl", "grp", "pwd", "resource", "termios"):
        sys.modules[name] = None
    for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "pthread_sigmask", "sigwait", "sigwaitinfo"):
        delattr(signal, name)
    lacking = ("O_NOFOLLOW", "getpgrp", "getuid", "posix_fallocate", "register_at_fork", "sched_getaffinity", "setpgid")
    for name in lacking:
        delattr(os, name)
    del context.ForkServerContext, context.ForkServerProcess
    resource_tracker._HAVE_SIGMASK = False

windows()
"""


def under_windows(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WINDOWS + body]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    """But those of benchmarks on Linux, and of the page, whose framework has modules of its own for each system."""
    for extra in ("mlflow", "tensorboard"):
        pytest.importorskip(extra)
    body = """
import importlib
import pkgutil

import run
import datamodules, experiments, lightning_modules, networks

names = []
for package in (networks, datamodules, lightning_modules, experiments):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith(("experiments.benchmarks", "experiments.sweeps.hydra", "experiments.serve.")):
            importlib.import_module(module.name)
            names.append(module.name)
import experiments.serve.temp_files
print(len(names))
"""
    done = under_windows(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


def test_what_does_not_work_there_is_said_in_a_line(tmp_path: Path) -> None:
    body = """
import logging
from pathlib import Path

logging.basicConfig(format="%(message)s")
from experiments.restore.manifest import Manifest
from experiments.runtime.lock import held
from experiments.serve.temp_files import PREFIX, remove_left

with held(Path("run/.lock")), held(Path("other/.lock")), Manifest(Path("out"), {}):
    pass
left = Path(f"{PREFIX}1")
left.mkdir()
(left / "lock").touch()
remove_left(Path("."))
print(left.exists())
"""
    done = under_windows(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "this system has no locks of files: see to it that no two processes work in one folder\n"
    assert done.stdout == "True\n", "the folder of a server that may be alive was deleted"


def test_workers_of_loaders_are_new_processes(tmp_path: Path) -> None:
    body = """
from datamodules.loaders import Loader

if __name__ == "__main__":
    loader = Loader([1, 2, 3, 4], batch_size=2, num_workers=1, collate_fn=sum)
    print(list(loader), type(loader.multiprocessing_context).__mro__[1].__name__)
"""
    done = under_windows(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[3, 7] SpawnContext\n"
