"""Schedules by steps: against their formula, and stepped by Lightning with every optimiser step."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.errors import InputError
from lightning_modules.losses.multi_branch import MultiBranchLoss
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.optim.schedules import cosine, multistep, polynomial, wants_length
from lightning_modules.restoration import RestorationModule
from networks.base import RestorationNetwork
from networks.restored import Restored
from tests.lightning_modules.optim.test_parameter_rules import ADAM


def make_optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(scheduler: Any, steps: int) -> list[float]:
    """Learning rate of the first group at steps 0 to `steps`."""
    found = [scheduler.optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        found.append(scheduler.optimizer.param_groups[0]["lr"])
    return found


def test_polynomial_follows_the_formula() -> None:
    found = rates(polynomial(make_optimizer(1e-4), power=0.3, total_steps=10, end=1e-6), 12)
    # (1e-4 - 1e-6) (1 - t/10)^0.3 + 1e-6: 0.9^0.3 = 0.9688862, 0.5^0.3 = 0.8122524, 0.1^0.3 = 0.5011872
    assert found[0] == pytest.approx(1e-4)
    assert found[1] == pytest.approx(9.69197300e-5, rel=1e-6)
    assert found[5] == pytest.approx(8.14129872e-5, rel=1e-6)
    assert found[9] == pytest.approx(5.06175361e-5, rel=1e-6)
    assert found[10:] == pytest.approx([1e-6] * 3)  # behind the end it stays


def test_polynomial_keeps_the_ratio_of_groups() -> None:
    scheduler = polynomial(make_optimizer(1e-4, 1e-5), power=0.3, total_steps=4, end=1e-6)
    for _ in range(4):
        scheduler.optimizer.step()
        scheduler.step()
        fast, slow = (group["lr"] for group in scheduler.optimizer.param_groups)
        assert slow == pytest.approx(fast / 10)
    assert fast == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 0.3}, "total_steps is None, expected more optimiser steps than warmup=0"),
        ({"power": 0.3, "total_steps": 0}, "total_steps is 0"),
        ({"power": 0.0, "total_steps": 5}, "power is 0.0, expected a number > 0"),
        ({"power": 0.3, "total_steps": 5, "end": 1.0}, "end is 1.0, expected 0 to the learning rate 0.1"),
        ({"power": 0.3, "total_steps": 5, "end": -1.0}, "end is -1.0"),
    ],
)
def test_polynomial_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        polynomial(make_optimizer(0.1), **options)


def test_multistep_by_hand() -> None:
    assert rates(multistep(make_optimizer(1.0), [2, 3], 0.5), 4) == [1.0, 1.0, 0.5, 0.25, 0.25]


def test_multistep_down_to_a_floor() -> None:
    """LapSRN's rate: halved, but not below a tenth of the first one; what starts at another rate keeps its ratio."""
    optimizer = make_optimizer(1e-5)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1e-6})
    scheduler = multistep(optimizer, [1, 2, 3, 4], 0.5, floor=0.1)
    found = [[group["lr"] for group in optimizer.param_groups]]
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        found.append([group["lr"] for group in optimizer.param_groups])
    expected = [1e-5, 5e-6, 2.5e-6, 1.25e-6, 1e-6, 1e-6]
    assert [first for first, _ in found] == pytest.approx(expected)
    assert [second for _, second in found] == pytest.approx([lr / 10 for lr in expected])
    with pytest.raises(ValueError, match="floor is 2, expected 0 to 1"):
        multistep(make_optimizer(1.0), [1], floor=2)


def test_who_wants_the_length() -> None:
    assert wants_length(polynomial)
    assert wants_length(partial(polynomial, power=0.3, total_steps=None))
    assert not wants_length(partial(polynomial, power=0.3, total_steps=9))
    assert not wants_length(partial(torch.optim.lr_scheduler.StepLR, step_size=1))


class Shift(RestorationNetwork):
    inputs = ("lr",)
    outputs = ("sr",)

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def forward(self, lr: torch.Tensor) -> Restored:
        return Restored(sr=lr + self.shift)


class Rates(pl.Callback):
    """Notes the learning rate that each step is made with; saves a checkpoint after step `save`, if any."""

    def __init__(self, path: Path, save: int = 0) -> None:
        self.path, self.save = path, save
        self.found: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.found.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.save:
            trainer.save_checkpoint(self.path)


def fit(path: Path, scheduler: Any, save: int = 0, resume: bool = False) -> list[float]:
    """Learning rates of a training of three epochs of four steps."""
    samples = [
        Batch(
            hr=torch.rand(3, 16, 16), name=["x"], index=torch.tensor(i), key=torch.tensor(i), lr=torch.rand(3, 16, 16)
        )
        for i in range(4)
    ]
    module = RestorationModule(
        Shift(), [Protocol("y", "y", 0)], MultiBranchLoss({"sr": {"fn": "mse"}}), ADAM, scheduler
    )
    notes = Rates(path, save)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[notes],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(samples, collate_fn=stack)  # type: ignore[arg-type, var-annotated]  # a list will do
    trainer.fit(module, loader, ckpt_path=path if resume else None, weights_only=True)
    return notes.found


def stack(samples: list[Batch]) -> Batch:
    (one,) = samples
    assert one.lr is not None
    return Batch(hr=one.hr[None], name=one.name, index=one.index[None], key=one.key[None], lr=one.lr[None])


def test_the_module_fills_in_the_length_of_the_training(tmp_path: Path) -> None:
    found = fit(tmp_path / "a.ckpt", partial(polynomial, power=1.0, total_steps=None))
    assert found == pytest.approx([0.01 * (1 - t / 12) for t in range(12)])


def test_a_given_length_stays(tmp_path: Path) -> None:
    found = fit(tmp_path / "a.ckpt", partial(polynomial, power=1.0, total_steps=24))
    assert found == pytest.approx([0.01 * (1 - t / 24) for t in range(12)])


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1),
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=12),
        partial(torch.optim.lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3, cycle_momentum=False),
    ],
)
def test_schedules_of_torch_that_count_batches(tmp_path: Path, make: Any) -> None:
    optimizer = make_optimizer(0.01)
    by_hand = make(optimizer, **({"total_steps": 12} if wants_length(make) else {}))
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        by_hand.step()
    assert max(expected) > 0.09
    assert fit(tmp_path / "a.ckpt", make) == pytest.approx(expected)


@pytest.mark.parametrize("save", [2, 4, 6])
def test_multistep_counts_steps_also_after_a_resume(tmp_path: Path, save: int) -> None:
    make = partial(multistep, milestones=[3, 5, 9], gamma=0.5)
    whole = fit(tmp_path / "a.ckpt", make, save)
    assert whole == pytest.approx([0.01 * 0.5 ** sum(t >= m for m in (3, 5, 9)) for t in range(12)])
    assert fit(tmp_path / "a.ckpt", make, resume=True) == pytest.approx(whole[save:])


def test_cosine_by_hand() -> None:
    found = rates(cosine(make_optimizer(0.1, 0.01), total_steps=4, end=0.02), 5)
    middle = 0.02 + 0.08 * (1 + 0.5**0.5) / 2
    assert found == pytest.approx([0.1, middle, 0.06, 0.12 - middle, 0.02, 0.02])


@pytest.mark.parametrize(
    "make",
    [
        partial(cosine, total_steps=20, end=0.001),
        partial(polynomial, power=0.3, total_steps=20),
        partial(multistep, milestones=[2, 6], gamma=0.5),
        partial(multistep, milestones=[2, 6], gamma=0.5, floor=0.3),
    ],
)
def test_warm_up_rises_to_the_schedule(make: Any) -> None:
    plain, warm, none = (
        rates(make(make_optimizer(0.1, 0.01), **more), 9) for more in ({}, {"warmup": 4}, {"warmup": 0})
    )
    ramp = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    assert warm == pytest.approx([factor * rate for factor, rate in zip(ramp, plain, strict=True)])
    assert none == plain


def test_warm_up_goes_on_after_a_resume(tmp_path: Path) -> None:
    make = partial(cosine, warmup=8)
    whole = fit(tmp_path / "a.ckpt", make, 5)
    assert whole[:2] == pytest.approx([0.01 / 8, 0.02 / 8 * (1 + math.cos(math.pi / 12)) / 2])
    assert fit(tmp_path / "a.ckpt", make, resume=True) == whole[5:]


def test_a_warm_up_longer_than_the_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^scheduler: total_steps is 12, expected more optimiser steps than warmup=12"
    ):
        fit(tmp_path / "a.ckpt", partial(cosine, warmup=12))
    with pytest.raises(ValueError, match="total_steps is 4, expected more optimiser steps than warmup=9"):
        polynomial(make_optimizer(0.1), power=1.0, total_steps=4, warmup=9)
    with pytest.raises(ValueError, match=r"^warmup is -1, expected a number of steps >= 0"):
        multistep(make_optimizer(0.1), milestones=[2], warmup=-1)
    with pytest.raises(ValueError, match=r"^end is 0.2, expected 0 to the learning rate 0.1"):
        cosine(make_optimizer(0.1), total_steps=9, end=0.2)
