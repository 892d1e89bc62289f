"""Updates that are not numbers are left out: alone, in half precision, with two processes; and when that has an end."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.errors import InputError
from lightning_modules.callbacks.finite import SkipNonFinite

ROOT = Path(__file__).parents[3]
NAN, INF = float("nan"), float("inf")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Module(pl.LightningModule):
    """Batch normalisation and a weight under Adam; a batch that holds a bad number spoils what `spoils` says."""

    def __init__(self, spoils: str = "both") -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.weight = nn.Parameter(torch.ones(()))
        self.spoils, self.gain = spoils, 1.0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        good = torch.nan_to_num(batch, 0.0, 0.0, 0.0)
        factor = torch.where(torch.isfinite(batch), 1.0, batch).mean()
        weight = self.weight.clone()
        if self.spoils == "gradient":
            weight.register_hook(lambda gradient: gradient * factor)
        loss = (weight * self.norm(batch if self.spoils == "both" else good)[:, 0].square()).mean()
        if self.spoils == "loss":  # its gradients are finite
            loss = loss + (factor - 1)
        return loss * self.gain

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1, weight_decay=0.1)


def numbers(bad: dict[int, float], count: int = 5) -> list[Tensor]:
    """Batches of two numbers; the first of batch i is bad[i]."""
    found = list(torch.randn(count, 2, 1, generator=torch.Generator().manual_seed(0)))
    for i, value in bad.items():
        found[i][0, 0] = value
    return found


def fit(module: Module, data: list[Tensor], *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {"accelerator": "cpu", "logger": False, "max_epochs": 1}
    trainer = pl.Trainer(callbacks=list(callbacks), **{**quiet, **defaults, **options})
    trainer.fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]  # a list of batches
    return trainer


def state(module: Module, trainer: pl.Trainer) -> dict[str, Tensor]:
    found = dict(module.state_dict())
    for i, values in trainer.optimizers[0].state_dict()["state"].items():
        found |= {f"{i}.{name}": value for name, value in values.items()}
    return found


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("spoils", ["both", "loss", "gradient"])
def test_a_bad_batch_leaves_everything_as_without_it(
    spoils: str, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    skip = SkipNonFinite()
    with caplog.at_level(logging.WARNING, "lightning_modules"):
        trainer = fit(spoiled := Module(spoils), numbers({1: value, 2: value}), skip)
    without = [batch for i, batch in enumerate(numbers({})) if i not in (1, 2)]
    other = fit(clean := Module(spoils), without, SkipNonFinite())
    expected, found = state(clean, other), state(spoiled, trainer)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert found["0.step"] == found["norm.num_batches_tracked"] == 3
    assert trainer.callback_metrics["train/skipped"] == skip.skipped == 2
    assert "train/skipped" not in other.callback_metrics
    what = "a gradient" if spoils == "gradient" else "the loss"
    assert [record.message for record in caplog.records] == [
        f"step {step}: {what} is not a finite number, no update ({step - 1} so far)" for step in (2, 3)
    ]


def test_without_it_the_weights_are_lost() -> None:
    fit(module := Module(), numbers({1: NAN}))
    assert math.isnan(module.weight.item())
    assert math.isnan(module.norm.running_mean.item())


def test_of_accumulated_batches_all_are_left_out() -> None:
    trainer = fit(spoiled := Module(), numbers({1: NAN}, 4), SkipNonFinite(), accumulate_grad_batches=2)
    other = fit(clean := Module(), numbers({}, 4)[2:], SkipNonFinite(), accumulate_grad_batches=2)
    expected, found = state(clean, other), state(spoiled, trainer)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("max_skips", [0, 2])
def test_training_stops_after_too_many_in_succession(max_skips: int) -> None:
    bad = {1: NAN, 2: NAN, 4: NAN, 5: INF, 6: NAN} if max_skips else {3: NAN}
    skip = SkipNonFinite(max_skips)
    steps = r"in 3 steps in succession \(step 7\)" if max_skips else r"\(step 4\)"
    with pytest.raises(InputError, match=f"^the loss was not a finite number {steps}: lower optimizer.lr, set"):
        fit(module := Module(), numbers(bad, 9), skip)
    assert skip.skipped == len(bad)
    assert torch.isfinite(module.weight)


def test_counts_travel_in_checkpoints() -> None:
    skip, again = SkipNonFinite(3), SkipNonFinite(3)
    fit(Module(), numbers({1: NAN, 3: NAN, 4: NAN}), skip)
    again.load_state_dict(skip.state_dict())
    with pytest.raises(InputError, match="in 4 steps in succession"):
        fit(Module(), numbers({0: NAN, 1: NAN}), again)
    assert again.skipped == 5


def test_float16_counts_what_the_scaler_skips() -> None:
    """The first scales are too large for float32: gradients are infinite until the scaler has halved them."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10_000)
    skip, spoiled = SkipNonFinite(), Module()
    spoiled.gain = 12.0
    trainer = fit(spoiled, numbers({}, 8), skip, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert scaler.get_scale() == 2.0**127 / 2**skip.skipped
    assert 2 <= skip.skipped <= 6
    assert state(spoiled, trainer)["0.step"] == 8 - skip.skipped == spoiled.norm.num_batches_tracked


class Share(pl.Callback):
    """Writes the weights of every process; only the second one has a bad number in its loss."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Tensor, batch_idx: int) -> None:
        if trainer.global_rank == 1 and batch_idx == 1:
            batch[0, 0] = INF

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        torch.save(state(pl_module, trainer), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="processes cannot be forked beside CUDA")
def test_processes_skip_together(tmp_path: Path) -> None:
    # In a process of its own: what is forked from one that has computed with threads waits for them for ever.
    command = [sys.executable, "-m", "tests.lightning_modules.callbacks.test_finite", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["0.step"] == other["0.step"] == 4
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_that_overflowed_reach_no_checkpoint() -> None:
    class Overflow(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            pl_module.weight.data.fill_(INF)
            trainer.save_checkpoint("never.ckpt", weights_only=False)

    with pytest.raises(InputError, match=r"^the weights are no finite numbers any more \(step 1\): lower optimizer.lr"):
        fit(Module(), numbers({}), SkipNonFinite(), Overflow())
    assert not Path("never.ckpt").exists()


if __name__ == "__main__":
    both = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    fit(Module("loss"), numbers({}), SkipNonFinite(), Share(sys.argv[1]), **both)
