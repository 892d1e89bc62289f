"""Training in stages through the command line: whole, broken off and continued, and cut short."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from experiments import train
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


class CrashInStep(pl.Callback):
    """Breaks off after a training step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


class CrashBetween(CrashInStep):
    """Breaks off before the first step of an epoch: the checkpoint of the epoch before is written."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None: ...

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


def callback(kind: type, step: int) -> str:
    return f"+callbacks.test={{_target_: {kind.__module__}.{kind.__name__}, step: {step}}}"


@pytest.fixture
def staged(make_photographs: Callable[..., Path]) -> list[str]:
    """Overrides of a Cooperative run in three stages of 2, 1 and 2 epochs of two steps."""
    return [
        "model=cooperative",
        "model.widths=[4,4,4,4]",
        "model.n_units=1",
        "degradation=cooperative_old",
        "data=folder",
        f"data.root={make_photographs(6, 40, 32)}",
        "data.patch=32",
        "data.batch_size=2",
        "data.samples_per_epoch=4",
        "data.num_workers=0",
        "procedure.stages.deblur.epochs=2",
        "procedure.stages.superres.epochs=1",
        "procedure.stages.joint.epochs=2",
        "+procedure.stages.joint.step=1",
        "+procedure.stages.joint.decay=0.5",
        "~procedure.stages.all",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "checkpoint.every_n_steps=1",
        "logger=none",
    ]


def checkpoint(tmp_path: Path, run: str, name: str) -> dict[str, Any]:
    return torch.load(tmp_path / "runs" / run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_equal(a: Any, b: Any) -> None:
    """Two checkpoints, down to the bits of all tensors."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def rows(tmp_path: Path, run: str, column: str) -> list[tuple[str, str]]:
    with (tmp_path / "runs" / run / "metrics.csv").open() as file:
        return [(row["step"], row[column]) for row in csv.DictReader(file) if row[column]]


@pytest.mark.slow
def test_continued_runs_equal_the_uninterrupted_one(
    cli: Cli, staged: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the first stage, in its last step, right after it, and in the second stage."""
    monkeypatch.setattr(train.Measurement, "run", lambda *_, **__: [])  # the test at the end, which is not looked at
    outcome = cli(*staged, "name=whole")
    assert outcome.status == 0, outcome.err
    assert "epoch 5/5, step 10" in outcome.err  # without trainer.max_epochs the stages make the length
    stages = [value for _, value in rows(tmp_path, "whole", "train/stage")]
    assert stages == ["0.0"] * 4 + ["1.0"] * 2 + ["2.0"] * 4
    best = checkpoint(tmp_path, "whole", "best")
    assert (best["stage"], best["config"]["model"]["branch"]) == ("joint", "both")

    for kind, step in ((CrashInStep, 3), (CrashInStep, 4), (CrashBetween, 4), (CrashInStep, 5)):
        run = f"{kind.__name__}{step}"
        with pytest.raises(RuntimeError, match="crash"):
            cli(*staged, f"name={run}", callback(kind, step))
        broken = checkpoint(tmp_path, run, "last")
        # The checkpoint of an epoch's last step waits for the validation.
        assert broken["global_step"] == (3 if (kind, step) == (CrashInStep, 4) else step)
        outcome = cli(*staged, f"name={run}", "resume=auto")
        assert outcome.status == 0, outcome.err
        assert f"continuing runs/{run} after step {broken['global_step']}" in outcome.err
        for name in ("last", "best"):
            found, expected = (checkpoint(tmp_path, r, name) for r in (run, "whole"))
            for key in ("state_dict", "optimizer_states", "lr_schedulers", "stage", "epoch", "global_step"):
                assert_equal(found[key], expected[key])
        assert rows(tmp_path, run, "val/psnr/y_shave0") == rows(tmp_path, "whole", "val/psnr/y_shave0")


def test_a_smaller_number_of_epochs_stops_early(cli: Cli, staged: list[str], tmp_path: Path) -> None:
    """The network that is tested has the options of the stage that it was validated in."""
    outcome = cli(*staged, "name=short", "trainer.max_epochs=1")
    assert outcome.status == 0, outcome.err
    best = checkpoint(tmp_path, "short", "best")
    assert (best["global_step"], best["stage"], best["config"]["model"]["branch"]) == (2, "deblur", "deblur")
    again = cli("task=evaluate", "run=runs/short")
    assert again.status == 0, again.err
    # Continued over the end of the stage.
    outcome = cli(*staged, "name=short", "trainer.max_epochs=3", "resume=auto")
    assert outcome.status == 0, outcome.err
    assert checkpoint(tmp_path, "short", "best")["stage"] == "superres"
