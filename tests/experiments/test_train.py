"""Whole runs through the command line, in this process."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image

from datamodules.batch import as_float
from datamodules.degradations.pipelines import EDDSRNDegradation
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources.folder import Folder
from lightning_modules.checkpoints.checkpoint import load_network
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr
from tests.conftest import Outcome
from tests.helpers.results import read_records

Cli = Callable[..., Outcome]


class StopAt(pl.Callback):
    """Breaks off after a training step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


class Poison(pl.Callback):
    """Makes the weights, and with them the next loss, NaN."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            next(pl_module.parameters()).data.fill_(float("nan"))


class PressCtrlC(pl.Callback):
    """Sends SIGINT to this process during a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


def callback(kind: type, step: int) -> str:
    return f"+callbacks.test={{_target_: {kind.__module__}.{kind.__name__}, step: {step}}}"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_behind(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    outcome = cli(*tiny)
    assert outcome.status == 0, outcome.err
    run = tmp_path / "runs" / "tiny"
    assert sorted(p.name for p in run.iterdir() if not p.name.startswith(".")) == [
        "checkpoints",
        "config.yaml",
        "images",
        "meta.json",
        "metrics.csv",
        "results.json",
    ]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["widths"] == [4, 4, 4, 4]
    assert config["optimizer"]["lr"] == 5e-4
    assert json.loads((run / "meta.json").read_text())["versions"]["torch"]
    assert [int(r["step"]) for r in rows(run / "metrics.csv") if r["train/loss"]] == list(range(8))
    assert sum(bool(r["val/psnr/y_shave4"]) for r in rows(run / "metrics.csv")) == 2

    records = read_records(run / "results.json")
    assert [(r["model"], r["branch"], r["protocol"]["name"]) for r in records] == [
        (m, b, p) for b in ("sr", "deblurred") for m in ("bicubic", "ed_dsrn") for p in ("y_shave4", "rgb_shave4")
    ]
    assert "gain" in outcome.out
    image = next(iter(records[2]["images"]))
    with Image.open(run / "images" / "photographs" / f"{image}_sr.png") as result:
        assert result.size == (96, 80)
    with Image.open(run / "images" / "photographs" / f"{image}.png") as sheet:
        assert sheet.width > 1500

    # The network alone, rebuilt from the checkpoint, reproduces the reported value.
    network, _ = load_network(run / "checkpoints" / "best.ckpt")
    data = ImageDataModule(
        Folder(str(tmp_path / "photographs")), EDDSRNDegradation(), seed=9, patch=16, cache_dir=str(tmp_path / "cache")
    )
    data.setup("test")
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    with torch.no_grad():
        value = psnr(network(lr=batch.lr).sr, as_float(batch.hr), Protocol("y_shave4", "y", 4))
    assert value.item() == pytest.approx(records[2]["psnr"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 4, 5, 7])
def test_resumed_run_equals_the_uninterrupted_one(cli: Cli, tiny: list[str], tmp_path: Path, step: int) -> None:
    """Crash in mid-epoch, at an epoch's last step and right after it; the learning rate changes between epochs."""
    common = [*tiny, "checkpoint.every_n_steps=1", "scheduler.step_size=1", "trainer.max_epochs=3"]
    whole = [c for c in common if not c.startswith("name=")]
    assert cli(*whole, "name=whole").status == 0
    with pytest.raises(RuntimeError, match="crash"):
        cli(*common, callback(StopAt, step))
    outcome = cli(*common, "resume=auto")
    assert outcome.status == 0, outcome.err
    assert "continuing" in outcome.err
    for name in ("last", "best"):
        a, b = (weights(tmp_path / "runs" / run / "checkpoints" / f"{name}.ckpt") for run in ("whole", "tiny"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (rows(tmp_path / "runs" / run / "metrics.csv") for run in ("whole", "tiny"))
    # Lightning logs a step after the hook in which its checkpoint is written: at a crash there, that row is lost.
    steps = [int(r["step"]) for r in b if r["train/loss"]]
    assert steps in (list(range(12)), [s for s in range(12) if s != step - 1])
    values = [[r["val/psnr/y_shave4"] for r in c if r["val/psnr/y_shave4"]] for c in (a, b)]
    assert values[0] == values[1]
    assert len(values[0]) == 3


@pytest.mark.slow
def test_finished_run_is_only_tested_again(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    assert cli(*tiny).status == 0
    before = weights(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt")
    refused = cli(*tiny)
    assert refused.status == 1
    assert "exists already: continue it with resume=auto" in refused.err
    again = cli(*tiny, "resume=auto")
    assert again.status == 0
    assert "gain" in again.out
    after = weights(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    outcome = cli(*tiny, "checkpoint.every_n_steps=1", callback(Poison, 6))
    assert outcome.status == 1
    assert "step 7: the loss is not a finite number, no update (1 so far)" in outcome.err
    assert "the weights are no finite numbers any more (step 7): lower optimizer.lr" in outcome.err
    kept = weights(tmp_path / "runs" / "tiny" / "checkpoints" / "best.ckpt")
    assert all(torch.isfinite(v).all() for v in kept.values())


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    outcome = cli(*tiny, callback(PressCtrlC, 6))
    assert outcome.status == 130
    assert "resume=auto continues" in outcome.err
    last = torch.load(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6  # the step was finished, in mid-epoch
    assert cli(*tiny, "resume=auto").status == 0
    assert cli(*[c for c in tiny if not c.startswith("name=")], "name=whole").status == 0
    a, b = (weights(tmp_path / "runs" / run / "checkpoints" / "last.ckpt") for run in ("whole", "tiny"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_training_lowers_the_loss(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    more = ["model.widths=[8,8,8,8]", "optimizer.lr=2e-3", "data.samples_per_epoch=120", "trainer.max_epochs=1"]
    assert cli(*tiny, *more).status == 0
    loss = [float(r["train/loss"]) for r in rows(tmp_path / "runs" / "tiny" / "metrics.csv") if r["train/loss"]]
    assert len(loss) == 60
    assert np.mean(loss[-10:]) < 0.8 * np.mean(loss[:10])


def test_gray_and_small_images_train_too(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 33), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"gray{i}.png")
    assert cli(*tiny).status == 0


def test_parts_of_an_epoch_that_hold_no_batch(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    for split, part in (("train", 0.2), ("val", 0.1)):
        found = cli(*tiny, f"trainer.limit_{split}_batches={part}")
        assert found.status == 1
        left = r"of the \d+ batches of a process leaves none" if split == "train" else "leaves no validation image"
        said = rf"trainer\.limit_{split}_batches: found {part}, which {left}: set "
        assert re.match(said, found.err.splitlines()[-1]), found.err
        assert [*(tmp_path / "runs").glob("*")] == []


def test_images_too_small_to_be_measured_are_found_before_the_training(
    cli: Cli, tiny: list[str], make_photographs: Callable[..., Path], tmp_path: Path
) -> None:
    icons = make_photographs(count=2, height=18, name="icons")
    found = cli(*tiny, f"data.source.test_root={icons}")
    assert found.status == 1
    assert "image is 96x18 (and " in found.err.splitlines()[-1]
    assert "smaller than the 20 pixels that protocol= needs: give larger images" in found.err.splitlines()[-1]
    assert [*(tmp_path / "runs").glob("*")] == []
