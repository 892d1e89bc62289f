"""A server of W&B that is lost in mid-run: the training goes on, ends well, and says how to upload what is missing."""

import csv
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.experiments.runtime.test_kill import PATIENCE, Launch
from tests.helpers.results import read_records
from tests.helpers.wandb_backend import KEY, REPOSITORY, Backend, environment


def variables(folder: Path, backend: Backend) -> dict[str, str]:
    limits = {
        "WANDB_FINISH_TIMEOUT": "3",
        "WANDB_INIT_TIMEOUT": "60",
        "WANDB_HTTP_TIMEOUT": "2",
        "WANDB_ERROR_REPORTING": "false",
    }
    cache = {"DEBLUR_SR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return environment(folder, WANDB_BASE_URL=backend.url, WANDB_API_KEY=KEY, **limits, **cache)


@pytest.mark.slow
def test_training_outlives_a_server_that_no_longer_answers(tiny: list[str], tmp_path: Path) -> None:
    overrides = [c for c in tiny if c != "logger=none"]
    halt = "+callbacks.halt={_target_: tests.helpers.waiting.WaitBefore, step: 3}"
    answer = threading.Event()
    with Backend() as backend:
        command = [sys.executable, str(REPOSITORY / "run.py"), *overrides, halt]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = variables(tmp_path, backend)
        run = Launch(subprocess.Popen(command, cwd=tmp_path, env=env, **pipes), tmp_path, "tiny")  # type: ignore[call-overload]
        run.wait_for("halted")
        (record,) = backend.runs.values()
        for operation in ("graphql", "stream", "upload"):
            setattr(backend, operation, lambda *_: answer.wait(PATIENCE))
        (tmp_path / "go").touch()
        status, err = run.finish()
        answer.set()
    assert status == 0, err
    assert "Traceback" not in err
    assert len(read_records(run.run / "results.json")) == 8  # two of each branch, network and bicubic
    with (run.run / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]] == list(range(8))
    assert record.exit_code is None  # the server never heard of the end

    found = re.search(r"W&B did not take all results .* To upload the rest: (.+)", err)
    assert found, err
    with Backend() as backend:
        command = [sys.executable, "-m", *shlex.split(found[1])]
        subprocess.run(command, cwd=tmp_path, env=variables(tmp_path, backend), check=True, timeout=PATIENCE)
        (record,) = backend.runs.values()
    assert record.values("trainer/global_step")[-1] == 7
    assert len([v for v in record.values("train/loss") if v is not None]) == 8
    assert len(record.values("val/psnr/y_shave4")) == 2
