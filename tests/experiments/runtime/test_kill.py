"""Real processes that are killed or interrupted, and continue as if nothing had happened."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from datamodules.io.atomic import part_of
from tests.conftest import figures, photograph

RUN = Path(__file__).resolve().parents[3] / "run.py"
HERE = "tests.experiments.runtime.test_kill"
PATIENCE = 240  # seconds; only a process that hangs uses them up
OVERRIDES = [
    "data=folder",
    "data.root=photographs",
    "data.patch=32",
    "data.batch_size=2",
    "data.samples_per_epoch=10",
    "data.num_workers=1",
    "model.widths=[4,4,4,4]",
    "model.n_units=1",
    "scheduler.step_size=1",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "checkpoint.every_n_steps=1",
    "logger=none",
]


class Halt(pl.Callback):
    """Stops the process at a known point and says so with a file, until a signal arrives or the test is gone.

    Args:
        marker: file to create.
        step: halt before this training step; 0: never.
        epoch: halt when this epoch has ended and its checkpoint is written; 0: never.
    """

    def __init__(self, marker: str, step: int = 0, epoch: int = 0) -> None:
        self.marker, self.step, self.epoch = Path(marker), step, epoch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            self.wait(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch + 1 == self.epoch:
            self.wait(trainer)

    def wait(self, trainer: pl.Trainer) -> None:
        parent = os.getppid()
        self.marker.touch()
        while os.getppid() == parent and not any(getattr(c, "received", None) for c in trainer.callbacks):  # type: ignore[attr-defined]
            time.sleep(0.01)


@dataclass
class Launch:
    """A `python run.py` in a process of its own."""

    process: subprocess.Popen[str]
    folder: Path
    name: str
    stopped_at: int = 0  # step of its checkpoint when it was killed

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.name

    def wait_for(self, marker: str) -> None:
        end = time.monotonic() + PATIENCE
        while not (self.folder / marker).exists():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                pytest.fail(f"never got there: {self.process.communicate()}")
            time.sleep(0.02)

    def finish(self) -> tuple[int, str]:
        """Exit status and stderr."""
        err = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, err


def launch(folder: Path, name: str, *overrides: str) -> Launch:
    command = [sys.executable, str(RUN), *OVERRIDES, f"name={name}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DEBLUR_SR_CACHE": str(folder / "cache")}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return Launch(subprocess.Popen(command, cwd=folder, env=environment, **pipes), folder, name)


def halting(name: str, **where: int) -> str:
    parts = ", ".join(f"{key}: {value}" for key, value in where.items())
    return f"+callbacks.halt={{_target_: {HERE}.Halt, marker: halted_{name}, {parts}}}"


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launch]:
    """One run that is left alone and three that are stopped, side by side; the killed ones are then continued."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "photographs").mkdir()
    for i in range(4):
        Image.fromarray(photograph(56, 48, i)).save(folder / "photographs" / f"{i}.png")
    found = {
        "whole": launch(folder, "whole"),
        "in_epoch": launch(folder, "in_epoch", halting("in_epoch", step=8)),
        "after_epoch": launch(folder, "after_epoch", halting("after_epoch", epoch=2)),
        "interrupted": launch(folder, "interrupted", halting("interrupted", step=8)),
    }
    for name in ("in_epoch", "after_epoch", "interrupted"):
        found[name].wait_for(f"halted_{name}")
        found[name].process.send_signal(signal.SIGINT if name == "interrupted" else signal.SIGKILL)
    for name in ("in_epoch", "after_epoch"):
        status, err = found[name].finish()
        assert status == -signal.SIGKILL, err
        run, step = found[name].run, last(found[name].run)["global_step"]
        # What a kill in the middle of a write leaves.
        part_of(run / "checkpoints" / "last.ckpt").write_bytes(b"half a checkpoint")
        with (run / "metrics.csv").open("a") as file:
            file.write("7,1,0.0")
        found[name] = launch(folder, name, "resume=auto")
        found[name].stopped_at = step
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("in_epoch", 7), ("after_epoch", 10)])
def test_killed_run_continues_to_the_same_weights(launches: dict[str, Launch], name: str, step: int) -> None:
    killed, whole = launches[name], launches["whole"]
    assert killed.stopped_at == step
    status, err = killed.finish()
    assert status == 0, err
    assert f"continuing runs/{name} after step {step}\n" in err
    status, err = whole.finish() if whole.process.returncode is None else (0, "")
    assert status == 0, err

    a, b = last(whole.run), last(killed.run)
    assert a["global_step"] == b["global_step"] == 15
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    moments = [state["optimizer_states"][0]["state"] for state in (a, b)]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])
    assert a["lr_schedulers"][0]["_last_lr"] == b["lr_schedulers"][0]["_last_lr"]
    rows = [list(csv.DictReader((run / "metrics.csv").open())) for run in (whole.run, killed.run)]
    validated = [[(row["step"], row["val/psnr/y_shave4"]) for row in r if row["val/psnr/y_shave4"]] for r in rows]
    assert validated[0] == validated[1]
    assert len(validated[0]) == 3
    assert figures(killed.run, "checkpoint_sha256") == figures(whole.run, "checkpoint_sha256")
    assert not list(killed.run.rglob("*.part"))


@pytest.mark.slow
def test_ctrl_c_in_a_real_process(launches: dict[str, Launch]) -> None:
    status, err = launches["interrupted"].finish()
    assert status == 130, err
    assert last(launches["interrupted"].run)["global_step"] == 8  # the step was finished
    assert "resume=auto continues here" in err
    # A worker that is ended between removing a semaphore and saying so leaves two lines of Python's resource tracker.
    said = [line for line in err.splitlines() if "resource_tracker" not in line and "warnings.warn" not in line]
    assert said[-1] == "stopped by SIGINT"
    assert "Traceback" not in err
    assert not (launches["interrupted"].run / "results.json").exists()


def test_help_in_a_real_process_needs_no_torch(tmp_path: Path) -> None:
    script = f"""
import runpy, sys
sys.argv = ["run.py", "--help"]
sys.path.insert(0, {str(RUN.parent)!r})
try:
    runpy.run_path({str(RUN)!r}, run_name="__main__")
except SystemExit as leaving:
    assert not leaving.code, leaving.code
slow = {{"torch", "pytorch_lightning", "cv2", "wandb", "kornia"}} & set(sys.modules)
assert not slow, slow
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "python run.py experiment=quickstart" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
