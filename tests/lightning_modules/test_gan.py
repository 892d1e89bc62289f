"""Adversarial training: its losses, one step looked at closely, schedules, what is refused."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.errors import InputError
from lightning_modules.callbacks.finite import SkipNonFinite
from lightning_modules.gan import GANModule, discriminator_loss, generator_loss
from lightning_modules.losses.multi_branch import MultiBranchLoss
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.optim.schedules import multistep
from networks.base import RestorationNetwork
from networks.discriminators import Discriminator96
from networks.restored import Restored

BATCHES = 3
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


class Enlarge(RestorationNetwork):
    """The smallest network: one convolution behind a nearest enlargement by 4."""

    inputs = ("lr",)
    outputs = ("sr",)
    scale = 4
    size_multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=4)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, lr: Tensor) -> Restored:
        return Restored(sr=self.conv(self.up(lr)))


class Distance(nn.Module):
    """Stands in for the perceptual loss."""

    def forward(self, restored: Tensor, target: Tensor) -> Tensor:
        return (restored.mean() - target.mean()).abs()


def batches(dtype: torch.dtype = torch.float32) -> list[Batch]:
    random = torch.Generator().manual_seed(7)
    numbers = torch.arange(2)
    return [
        Batch(
            hr=torch.rand(2, 3, 32, 32, generator=random, dtype=dtype),
            lr=torch.rand(2, 3, 8, 8, generator=random, dtype=dtype),
            name=["a", "b"],
            index=numbers,
            key=numbers,
            scale=4,
        )
        for _ in range(BATCHES)
    ]


def make_module(
    optimizer: Callable[..., Any] | None = None,
    d_optimizer: Callable[..., Any] | None = None,
    discriminator: nn.Module | None = None,
    **options: Any,
) -> GANModule:
    torch.manual_seed(0)
    options = {"loss": MultiBranchLoss({"sr": {"fn": "l1", "weight": 2.0}}), "gan_weight": 0.3, **options}
    return GANModule(
        Enlarge(),
        [Protocol("y", "y", 0)],
        optimizer=optimizer or partial(torch.optim.Adam, lr=1e-2),
        d_optimizer=d_optimizer or partial(torch.optim.Adam, lr=1e-3),
        discriminator=discriminator or Discriminator96(width=2, patch=32),
        **options,
    )


class Record(pl.Callback):
    """Weights and gradients at every optimiser step, what is logged, learning rates."""

    def __init__(self) -> None:
        self.steps: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.logged: list[dict[str, float]] = []
        self.outputs: list[float] = []
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, _: Any) -> None:
        self.steps.append(
            (
                {k: v.detach().clone() for k, v in pl_module.named_parameters()},
                {k: v.grad.clone() for k, v in pl_module.named_parameters() if v.grad is not None},
            )
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        self.outputs.append(outputs["loss"].item())
        self.rates.append([o.param_groups[0]["lr"] for o in trainer.optimizers])
        self.resting = [name for name, p in pl_module.named_parameters() if not p.requires_grad]


def fit(module: GANModule, data: list[Batch] | None = None, **options: Any) -> tuple[Record, pl.Trainer]:
    record = Record()
    callbacks = [record, *options.pop("callbacks", [])]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {"accelerator": "cpu", "logger": False, "max_epochs": 1}
    trainer = pl.Trainer(callbacks=callbacks, **{**quiet, **defaults, **options})
    trainer.fit(module, DataLoader(data or batches(), batch_size=None))  # type: ignore[arg-type]  # a list of batches
    return record, trainer


def test_losses_by_hand() -> None:
    """real 1, 3; fake 0, -1: the means are 2 and -0.5."""
    real = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    fake = torch.tensor([[0.0], [-1.0]], dtype=torch.float64)

    def minus_log_sigmoid(x: float) -> float:
        return math.log(1 + math.exp(-x))

    d = sum(minus_log_sigmoid(x) for x in (1.5, 3.5)) / 2 + sum(minus_log_sigmoid(x) for x in (2, 3)) / 2
    g = sum(minus_log_sigmoid(x) for x in (-1.5, -3.5)) / 2 + sum(minus_log_sigmoid(x) for x in (-2, -3)) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(d / 2, rel=1e-12)
    assert generator_loss(real, fake).item() == pytest.approx(g / 2, rel=1e-12)
    # Equally good images: the logarithm of 2 for both.
    assert discriminator_loss(real, real[[0, 1]] * 0 + 2).item() == pytest.approx(
        (minus_log_sigmoid(1) + minus_log_sigmoid(-1) + 2 * math.log(2)) / 4, rel=1e-12
    )


def test_gradients_of_the_losses() -> None:
    random = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(4, 1, dtype=torch.float64, generator=random, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(discriminator_loss, (real, fake))
    assert torch.autograd.gradcheck(lambda f: generator_loss(real.detach(), f), (fake,))
    assert torch.autograd.grad(generator_loss(real, fake), (real, fake), allow_unused=True)[0] is None


def test_one_step_changes_each_network_once() -> None:
    module = make_module()
    record, trainer = fit(module)
    assert len(record.steps) == 2 * BATCHES
    states = [weights for weights, _ in record.steps] + [{k: v.detach() for k, v in module.named_parameters()}]

    def moved(i: int, part: str) -> bool:
        return any(not torch.equal(states[i][k], states[i + 1][k]) for k in states[i] if k.startswith(part))

    for i in range(2 * BATCHES):
        assert moved(i, "network.") == (i % 2 == 0)
        assert moved(i, "discriminator.") == (i % 2 == 1)
    # The steps that count are the network's, one a batch.
    assert trainer.global_step == BATCHES
    assert record.resting == []


@pytest.mark.parametrize("perceptual", [None, Distance()])
def test_gradients_and_logs_of_a_step(perceptual: Any) -> None:
    """Every number of the second step again, from the weights before it: a gradient of another step would show."""
    module = make_module(perceptual=perceptual, perceptual_weight=0.7).double()
    data = batches(torch.float64)
    record, _ = fit(module, data, precision="64-true")
    batch, logged = data[1], record.logged[1]
    (before_g, grads_g), (before_d, grads_d) = record.steps[2:4]

    copy = make_module().double()

    def load(weights: dict[str, Tensor]) -> None:
        for name, p in copy.named_parameters():
            p.data.copy_(weights[name])

    load(before_g)
    sr = copy.network(batch.lr).sr
    l1 = (sr - batch.hr).abs().mean()
    adversarial = generator_loss(copy.discriminator(batch.hr), copy.discriminator(sr))
    total = 2 * l1 + 0.3 * adversarial
    if perceptual is not None:
        total = total + 0.7 * (sr.mean() - batch.hr.mean()).abs()
        assert logged["train/perceptual"] == pytest.approx((sr.mean() - batch.hr.mean()).abs().item(), rel=1e-6)
    total.backward()
    for name, p in copy.network.named_parameters():
        torch.testing.assert_close(grads_g[f"network.{name}"], p.grad, rtol=1e-10, atol=1e-14)
    # float32 is what Lightning logs.
    assert logged["train/loss"] == pytest.approx(total.item(), rel=1e-6)
    assert logged["train/loss_sr"] == pytest.approx(l1.item(), rel=1e-6)
    assert logged["train/gan_g"] == pytest.approx(adversarial.item(), rel=1e-6)
    assert record.outputs[1] == pytest.approx(total.item(), rel=1e-12)

    copy.zero_grad()
    load(before_d)
    real, fake = copy.discriminator(batch.hr), copy.discriminator(sr.detach())  # as made before the update
    d_loss = discriminator_loss(real, fake)
    d_loss.backward()
    for name, p in copy.discriminator.named_parameters():
        torch.testing.assert_close(grads_d[f"discriminator.{name}"], p.grad, rtol=1e-10, atol=1e-14)
    assert logged["train/gan_d"] == pytest.approx(d_loss.item(), rel=1e-6)
    assert logged["train/d_real"] == pytest.approx(real.mean().item(), rel=1e-6)
    assert logged["train/d_fake"] == pytest.approx(fake.mean().item(), rel=1e-6)
    # No stray gradients: in the step of one network, those of the other are still what they were in its own.
    for name, grad in record.steps[1][1].items():
        if name.startswith("discriminator."):
            assert torch.equal(grads_g[name], grad)
    for name, grad in grads_g.items():
        if name.startswith("network."):
            assert torch.equal(grads_d[name], grad)


def test_network_gradient_by_finite_differences() -> None:
    module = make_module().double()
    data = batches(torch.float64)
    record, _ = fit(module, data[:1], precision="64-true")
    copy = make_module().double()
    with torch.no_grad():
        for place in ((0, 0, 0, 0), (2, 1, 1, 2)):
            values = []
            for step in (1e-6, -1e-6):
                copy.network.conv.weight.data.copy_(record.steps[0][0]["network.conv.weight"])  # type: ignore[union-attr, operator]
                copy.network.conv.weight[place] += step  # type: ignore[union-attr, index, operator]
                sr = copy.network(data[0].lr).sr
                gan = generator_loss(copy.discriminator(data[0].hr), copy.discriminator(sr))
                values.append((2 * (sr - data[0].hr).abs().mean() + 0.3 * gan).item())
            difference = (values[0] - values[1]) / 2e-6
            assert difference == pytest.approx(record.steps[0][1]["network.conv.weight"][place].item(), rel=1e-4)


def test_schedules_count_epochs_or_steps() -> None:
    by_epoch, _ = fit(make_module(scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1)), max_epochs=2)
    assert [r[0] for r in by_epoch.rates] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-3, 1e-4])
    assert [r[1] for r in by_epoch.rates] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5])
    by_step, _ = fit(make_module(scheduler=partial(multistep, milestones=[2, 5], gamma=0.1)), max_epochs=2)
    assert [r[0] for r in by_step.rates] == pytest.approx([1e-2, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])
    assert [r[1] for r in by_step.rates] == pytest.approx([1e-3, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5])


def test_a_loss_of_the_discriminator_that_is_no_number_is_skipped_too() -> None:
    module = make_module()
    before = {k: v.clone() for k, v in module.discriminator.state_dict().items()}

    class Poison(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            if optimizer is trainer.optimizers[0]:
                self.weight = next(pl_module.discriminator.parameters())
                self.value = self.weight.detach().clone()
                self.weight.data.fill_(float("nan"))

        def on_train_batch_end(self, *_: Any) -> None:
            self.weight.data.copy_(self.value)

    skip = SkipNonFinite(max_skips=1)
    with pytest.raises(InputError, match=r"^the loss was not a finite number in 2 steps in succession \(step 2\)"):
        fit(module, callbacks=[Poison(), skip])
    assert skip.skipped == 2
    assert all(torch.equal(before[k], v) for k, v in module.discriminator.state_dict().items())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"accumulate_grad_batches": 2}, r".* not supported .* `Trainer\(accumulate_grad_batches=2\)`"),
        ({"gradient_clip_val": 0.5}, r".* not supported .* `Trainer\(gradient_clip_val=0\.5\)`"),
    ],
)
def test_what_lightning_cannot_do_with_two_optimisers(options: dict[str, Any], line: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"^{line}"):
        fit(make_module(), **options)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"gan_weight": -1.0}, "gan_weight is -1.0, expected a weight >= 0"),
        ({"perceptual_weight": -0.5}, "perceptual_weight is -0.5, expected a weight >= 0"),
        ({"clip": 0.0}, "clip is 0.0, expected a norm > 0 or null"),
    ],
)
def test_bad_options(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        make_module(**options)
