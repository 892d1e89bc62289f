"""A kill at a random moment, checkpoint writes included; KILLS=50 in the environment asks for more of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.wandb_backend import REPOSITORY

KILLS = int(os.environ.get("KILLS", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("procedure", ["supervised", "staged", "gan"])
def test_a_training_killed_again_and_again_ends_as_if_nothing_had_happened(procedure: str, tmp_path: Path) -> None:
    """With an average of the weights; the supervised one accumulates gradients. In a process that forks the others."""
    command = [sys.executable, "-m", "tests.helpers.kills", "--procedure", procedure, "--kills", str(KILLS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240 + 30 * KILLS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{procedure}: {KILLS} kills" in done.stdout
    assert "all equal to the undisturbed one" in done.stdout
