"""The average of the weights: by hand, where it is seen, what a checkpoint holds, and what does not touch it."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.callbacks.checkpointing import LastAndBest
from lightning_modules.callbacks.ema import EMA
from lightning_modules.callbacks.finite import SkipNonFinite
from lightning_modules.checkpoints.atomic_io import AtomicCheckpointIO
from tests.helpers.kills import difference
from tests.lightning_modules.test_gan import batches, make_module

STEPS = 3  # an epoch


class Counter(nn.Module):
    """A weight that a training raises by one with every update, beside batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm1d(1, affine=False)


class Module(pl.LightningModule):
    """`losses[step]` is added to the loss; `seen` has the weight of every validation."""

    monitor = "val/score"
    stage, in_last_stage = None, True  # as of `RestorationModule`

    def __init__(self, losses: dict[int, float] | None = None, bad_gradients: bool = False) -> None:
        super().__init__()
        self.network = Counter()
        self.losses, self.bad_gradients = losses or {}, bad_gradients
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        add = self.losses.get(self.global_step, 0.0)
        self.network.norm(batch.reshape(-1, 1) + self.global_step + add)
        # The gradient is -1: SGD with a rate of 1 counts.
        return -self.network.weight * (add if add and self.bad_gradients else 1) + add

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen.append(self.network.weight.item())
        self.log(self.monitor, float(self.current_epoch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = {"model": {}}  # what the suite's reader looks for


class Stop(pl.Callback):
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.batches -= 1
        if not self.batches:
            raise RuntimeError("crash")


def fit(
    folder: Path, module: pl.LightningModule, *callbacks: pl.Callback, data: Any = None, resume: bool = False, **o: Any
) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    plugins = [AtomicCheckpointIO(), *o.pop("plugins", [])]
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, "accelerator": "cpu", "logger": False, **quiet, **o}
    keeper = LastAndBest(str(folder), "val/score", every_n_steps=1)
    stop = [c for c in callbacks if isinstance(c, Stop)]
    others = [c for c in callbacks if c not in stop]
    # A callback of the user comes after the one that writes checkpoints.
    first = [c for c in others if isinstance(c, SkipNonFinite)]
    others = [c for c in others if c not in first]
    trainer = pl.Trainer(callbacks=[*first, keeper, *others, *stop], plugins=plugins, **options)
    numbers = DataLoader(torch.arange(2.0 * STEPS), batch_size=2)  # type: ignore[arg-type]
    validation = None if data else DataLoader(torch.zeros(1))  # type: ignore[arg-type]
    trainer.fit(module, data or numbers, validation, ckpt_path=folder / "last.ckpt" if resume else None)
    return trainer


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def by_hand(weights: list[float], decay: float) -> float:
    average = weights[0]
    for weight in weights[1:]:
        average = decay * average + (1 - decay) * weight
    return average


def test_average_by_hand_is_validated_and_saved(tmp_path: Path) -> None:
    module, ema = Module(), EMA(decay=0.75)
    fit(tmp_path, module, ema)
    # The weight is 1, 2, 3, ... after the updates; the average starts as the first of them.
    expected = [by_hand([1, 2, 3], 0.75), by_hand([1, 2, 3, 4, 5, 6], 0.75)]
    assert module.seen == pytest.approx(expected, rel=1e-6)
    assert expected[0] == 1.6875
    assert module.network.weight.item() == 6  # the training goes on from the weights themselves
    last, best = load(tmp_path / "last.ckpt"), load(tmp_path / "best.ckpt")
    for checkpoint in (last, best):
        assert checkpoint["state_dict"]["network.weight"].item() == pytest.approx(expected[1])
        assert checkpoint["ema"]["training"]["weight"].item() == 6
        assert checkpoint["ema"]["updates"] == 6


def test_statistics_are_averaged_and_counts_copied(tmp_path: Path) -> None:
    means: list[float] = []

    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            means.append(pl_module.network.norm.running_mean.item())

    fit(tmp_path, Module(), EMA(decay=0.9), Watch())
    state = load(tmp_path / "last.ckpt")["state_dict"]
    assert state["network.norm.running_mean"].item() == pytest.approx(by_hand(means, 0.9), rel=1e-5)
    assert state["network.norm.num_batches_tracked"] == 6


def test_nothing_is_touched_before_the_first_update(tmp_path: Path) -> None:
    module, ema = Module(), EMA(decay=0.5, start=4)
    fit(tmp_path, module, ema)
    assert module.seen == [3, by_hand([5, 6], 0.5)]
    assert ema.updates == 2
    fit(tmp_path, module := Module(), EMA(decay=0.5, start=100))
    assert module.seen == [3, 6]
    checkpoint = load(tmp_path / "last.ckpt")
    assert "ema" not in checkpoint
    assert checkpoint["state_dict"]["network.weight"] == 6


def test_accumulated_batches_are_one_update(tmp_path: Path) -> None:
    ema = EMA(decay=0.5)
    fit(tmp_path, Module(), ema, accumulate_grad_batches=2)  # of three batches: updates by two and by one
    assert ema.updates == 4
    assert ema.average["weight"].item() == by_hand([1, 1.5, 2.5, 3], 0.5)


@pytest.mark.parametrize("options", [{"losses": {1: float("nan")}}, {"losses": {1: float("inf")}}])
def test_a_skipped_update_is_none(tmp_path: Path, options: dict[str, Any]) -> None:
    ema = EMA(decay=0.5)
    module = Module(**options)
    fit(tmp_path, module, SkipNonFinite(), ema)
    assert ema.updates == 5
    assert ema.average["weight"].item() == by_hand([1, 2, 3, 4, 5], 0.5)


class Ordered(DataLoader[Any]):
    """Batches in order; the position travels in the checkpoint."""

    delivered = resume_at = 0

    def __iter__(self) -> Any:
        self.delivered, self.resume_at = self.resume_at, 0
        for batch in list(super().__iter__())[self.delivered :]:
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resume_at = state["delivered"]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.parametrize(("stopped", "scale"), [(2, None), (3, None), (4, 2.0**10), (4, 2.0**17)])
def test_generator_of_a_gan_is_averaged_and_continues_bit_for_bit(
    tmp_path: Path, stopped: int, scale: float | None
) -> None:
    """Also in float16, with a scale that grows every third update, and one that is too large at first."""

    def run(folder: str, *callbacks: pl.Callback, resume: bool = False) -> None:
        plugins = []
        if scale is not None:
            scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
            plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
        torch.manual_seed(0)
        module = make_module(config={"model": {}})
        data = Ordered(batches(), batch_size=None)  # type: ignore[arg-type]
        skip = SkipNonFinite()
        fit(tmp_path / folder, module, EMA(0.5, start=1), skip, *callbacks, data=data, resume=resume, plugins=plugins)

    run("whole")
    with pytest.raises(RuntimeError, match="crash"):
        run("broken", Stop(stopped))
    run("broken", resume=True)
    whole, broken = (load(tmp_path / name / "last.ckpt") for name in ("whole", "broken"))
    assert difference(whole, broken) is None
    assert set(whole["ema"]["training"]) == {"conv.weight", "conv.bias"}
    if scale == 2.0**17:
        assert whole["callbacks"]["SkipNonFinite"]["skipped"] in (3, 4)
    else:
        assert whole["ema"]["updates"] == 5
    assert ("MixedPrecision" in whole) == (scale is not None)


@pytest.mark.parametrize(
    ("options", "line"),
    [({"decay": 1.0}, "decay is 1.0, expected 0 to below 1"), ({"start": -1}, "start is -1, expected a number")],
)
def test_bad_options(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        EMA(**options)
