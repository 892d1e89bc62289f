"""task=restore by several processes: each photograph once, and the results of one process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Outcome, photograph

ROOT = Path(__file__).parents[3]
BICUBIC = ["task=restore", "model=bicubic", "scale=2", "trainer.accelerator=cpu", "input=in"]


@pytest.mark.slow
def test_processes_take_each_photograph_once(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(5):
        Image.fromarray(photograph(12, 14, seed)).save(tmp_path / "in" / f"{seed}.png")
    (tmp_path / "in" / "3.png").write_text("broken")  # of which the second process has to tell the first
    command = [sys.executable, ROOT / "run.py", *BICUBIC, "output=shared", "trainer.devices=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr
    *_, told, last = done.stderr.splitlines()
    assert told.startswith("in/3.png: ")
    assert last == "1 of 5 photographs could not be restored, see above; the others are in shared"
    lines = {
        file.name: [json.loads(line)["name"] for line in file.read_text().splitlines()]
        for file in (tmp_path / "shared").glob(".restored*.jsonl")
    }
    assert lines == {".restored.jsonl": ["0.png", "2.png", "4.png"], ".restored.1.jsonl": ["1.png"]}
    assert cli(*BICUBIC, "output=alone").status == 1
    for name in ("0.png", "1.png", "2.png", "4.png"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    Image.fromarray(photograph(12, 14, 3)).save(tmp_path / "in" / "3.png")
    outcome = cli(*BICUBIC, "output=shared")
    assert outcome.out == "restored: 5 in shared, 4 of them before\n", outcome.err
    assert [file.name for file in (tmp_path / "shared").glob(".*")] == [".restored.jsonl"]
