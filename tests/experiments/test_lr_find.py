"""task=lr_find: a range test of the learning rate."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.errors import InputError
from experiments.lr_find import turning
from lightning_modules.restoration import RestorationModule
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


def test_rates_and_losses_are_those_of_the_training(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    trained = cli(*tiny, "name=trained", "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
    assert trained.status == 0, trained.err
    with (tmp_path / "runs" / "trained" / "metrics.csv").open() as file:
        first = next(float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"])
    found = cli("task=lr_find", *tiny, "name=found", "steps=40", "lr_min=1e-5", "lr_max=1")
    assert found.status == 0, found.err
    assert "lr_find: runs/found/lr_find.html\nleast loss at a rate of " in found.out
    assert sorted(file.name for file in (tmp_path / "runs" / "found").iterdir()) == ["lr_find.csv", "lr_find.html"]
    with (tmp_path / "runs" / "found" / "lr_find.csv").open() as file:
        rows = [(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert len(rows) == 40
    # Lightning's rates: 1e-5 at first, then by 1e5 ** (1 / 40) a step; its mean of the losses so far, of decay 0.98.
    expected = [1e-5, *(1e-5 * 1e5 ** (i / 40) for i in range(2, 41))]
    assert [rate for rate, _ in rows] == pytest.approx(expected, rel=1e-6)
    assert rows[0][1] == pytest.approx(0.02 * first / (1 - 0.98**2), rel=1e-6)


def test_what_a_recipe_may_have_besides(
    cli: Cli, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that are added up, a schedule that wants to know its length, a dry run; nothing is validated."""

    def refuse(*_: object) -> None:
        raise RuntimeError("validated")

    monkeypatch.setattr(RestorationModule, "validation_step", refuse)
    schedule = "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR ~scheduler.step_size ~scheduler.gamma"
    words = f"trainer.accumulate_grad_batches=2 +trainer.fast_dev_run=true {schedule} +scheduler.max_lr=0.01"
    found = cli("task=lr_find", *tiny, "name=found", "steps=30", "lr_max=1", *words.split())
    assert found.status == 0, found.err
    assert len((tmp_path / "runs" / "found" / "lr_find.csv").read_text().splitlines()) == 31


def test_steps_that_an_epoch_does_not_hold(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    found = cli("task=lr_find", *tiny, "name=found", "steps=30", "trainer.accumulate_grad_batches=3")
    assert found.status == 1
    said = "trainer.accumulate_grad_batches: found 3, expected a divisor of the batches of an epoch, 4: "
    assert found.err.splitlines()[-1].startswith(said), found.err
    assert [*(tmp_path / "runs").iterdir()] == []


def test_turning() -> None:
    rates = [10.0 ** (i - 15) for i in range(15)]
    start = [0.0] * 10  # not looked at
    assert turning(rates, [*start, 3, 2, -1, 4, math.nan]) == 1e-3
    for end, said in (([1, 2, 3, 4, 5], "lr_min: "), ([5, 4, 3, 2, 1], "lr_max: ")):
        with pytest.raises(InputError, match=said):
            turning(rates, [*start, *end])
    assert turning(rates, [*start, 5, 4, 3, math.nan, math.nan]) == 1e-3  # no higher rate would show more
    with pytest.raises(InputError, match="lr_min: the loss was not a number soon after"):
        turning(rates, [*start, *[math.nan] * 5])
    with pytest.raises(InputError, match=r"^the loss is not a number"):
        turning(rates, [math.nan] * 15)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lr_min=1", "lr_min: found 1, expected less than lr_max, which is 0.1"),
        ("steps=5", "steps: found 5"),
        ("experiment=quick_gfn", "procedure: StagedModule has a learning rate for each"),
    ],
)
def test_refusals(cli: Cli, words: str, said: str) -> None:
    outcome = cli("task=lr_find", *words.split())
    assert outcome.status == 2
    assert outcome.err.startswith(said), outcome.err
