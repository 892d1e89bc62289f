"""Averaged weights and early stopping through the command line: what is measured, kept, named and refused."""

import csv
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_modules.checkpoints.checkpoint import load_network
from tests.conftest import Outcome
from tests.helpers.results import read_records

Cli = Callable[..., Outcome]


def test_the_average_is_what_is_validated_tested_and_evaluated(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    fast = ["optimizer.lr=1e-2", "data.samples_per_epoch=16", "trainer.max_epochs=1"]
    assert cli(*tiny, *fast, "callbacks=ema", "callbacks.ema.decay=0.9").status == 0
    assert cli(*(c for c in tiny if not c.startswith("name=")), *fast, "name=plain").status == 0
    run, plain = tmp_path / "runs" / "tiny", tmp_path / "runs" / "plain"
    last, best = (torch.load(run / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("last", "best"))
    other = torch.load(plain / "checkpoints" / "last.ckpt", weights_only=True)
    # The training itself is the same.
    for name, value in last["ema"]["training"].items():
        assert torch.equal(value, other["state_dict"][f"network.{name}"])
    network, _ = load_network(run / "checkpoints" / "last.ckpt")
    for name, value in network.state_dict().items():
        assert torch.equal(value, best["state_dict"][f"network.{name}"])
    assert any(not torch.equal(value, network.state_dict()[name]) for name, value in last["ema"]["training"].items())

    def psnr(folder: Path) -> float:
        return next(r["psnr"] for r in read_records(folder / "results.json") if r["model"] == "ed_dsrn")

    with (run / "metrics.csv").open() as file:
        validated = [float(row["val/psnr/y_shave4"]) for row in csv.DictReader(file) if row["val/psnr/y_shave4"]]
    assert validated == [last["callbacks"]["LastAndBest"]["best_score"]]
    assert validated != [other["callbacks"]["LastAndBest"]["best_score"]]
    tested = psnr(run)
    assert tested != psnr(plain)
    assert cli("task=evaluate", "run=runs/tiny", "data.num_workers=0").status == 0
    assert psnr(run) == tested


def test_a_run_is_not_continued_without_its_average(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    assert cli(*tiny, "callbacks=ema", "trainer.max_epochs=1").status == 0
    for change in ([], ["callbacks=ema", "callbacks.ema.decay=0.5"]):
        outcome = cli(*tiny, *change, "resume=auto")
        assert outcome.status == 1
        assert "runs/tiny: callbacks.ema" in outcome.err
        assert "continue with the old value, or start a new run with name=..." in outcome.err
    assert cli(*tiny, "callbacks=ema", "resume=auto").status == 0


def test_early_stopping_ends_with_the_test_of_the_best(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    rest = ["optimizer.lr=1e-30", "trainer.max_epochs=9", "callbacks=[ema,early_stopping]"]
    stop = "callbacks.early_stopping.patience=2"
    outcome = cli(*(c for c in tiny if not c.startswith("name=")), *rest, stop)
    assert outcome.status == 0, outcome.err
    assert "no better val/psnr/y_shave4 in 2 validations: stopping" in outcome.err
    assert "epoch 3/9" in outcome.err
    assert "epoch 4/9" not in outcome.err
    assert "gain" in outcome.out
    (run,) = (tmp_path / "runs").iterdir()
    assert "callbacks=_ema,early_stopping_-callbacks.early_stopping.patience=2" in run.name
    # The same command again has nothing to do but to look at the results.
    outcome = cli(*(c for c in tiny if not c.startswith("name=")), *rest, stop, "resume=auto")
    assert outcome.status == 0, outcome.err
    assert "epoch" not in outcome.err
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12


def test_values_out_of_range_are_refused_before_anything_is_read(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    for change, line in (
        (["callbacks=ema", "callbacks.ema.decay=1.0"], "callbacks: decay is 1.0, expected 0 to below 1"),
        (["nonfinite.max_skips=-1"], "nonfinite.max_skips: found -1, expected greater than or equal to 0"),
    ):
        outcome = cli(*tiny, *change)
        assert outcome.status == 2
        assert outcome.err == f"{line}\n"
        assert not (tmp_path / "runs").exists()
