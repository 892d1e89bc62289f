"""Adversarial training as a whole: clipping, half precision, and a run that is broken off and continued."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from lightning_modules.checkpoints.checkpoint import load_network
from tests.conftest import Outcome, figures
from tests.lightning_modules.test_gan import Distance, batches, fit, make_module

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def norm(gradients: dict[str, Tensor], part: str) -> float:
    return torch.stack([g.norm() for k, g in gradients.items() if k.startswith(part)]).norm().item()


class Norms(pl.Callback):
    """Gradients as the optimisers got them."""

    def __init__(self) -> None:
        self.found: list[dict[str, Tensor]] = []

    def watch(self, module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        def look(*_: Any) -> None:
            self.found.append({k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None})

        optimizer.register_step_post_hook(look)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            self.watch(pl_module, optimizer)


def at_rest() -> dict[str, Any]:
    """A training whose weights stay, so that gradients of two of them compare; without batch normalisation, which
    makes large differences of small ones where a channel has two values."""
    torch.manual_seed(1)
    judge = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(512, 1))
    stay = partial(torch.optim.SGD, lr=0.0)
    return {"optimizer": stay, "d_optimizer": stay, "discriminator": judge}


def test_clipping_concerns_the_network_only() -> None:
    free, clipped = Norms(), Norms()
    fit(make_module(**at_rest()), callbacks=[free])
    fit(make_module(**at_rest(), clip=1e-3), callbacks=[clipped])
    for i in (0, 2, 4):
        assert norm(free.found[i], "network.") > 1e-2
        assert norm(clipped.found[i], "network.") == pytest.approx(1e-3, rel=1e-2)
        assert norm(clipped.found[i + 1], "discriminator.") == norm(free.found[i + 1], "discriminator.") > 1e-3


def test_rules_of_the_parameters_clip_and_freeze_as_well() -> None:
    clipped = Norms()
    rules = {"weight": {"match": "conv.weight", "clip": 1e-3}, "bias": {"match": "conv.bias", "freeze": True}}
    record, _ = fit(make_module(**at_rest(), parameters=rules), callbacks=[clipped])
    assert record.resting == ["network.conv.bias"]
    assert [k for k in clipped.found[0] if k.startswith("network.")] == ["network.conv.weight"]
    assert norm(clipped.found[0], "network.") == pytest.approx(1e-3, rel=1e-2)


def test_bfloat16() -> None:
    whole, half = Norms(), Norms()
    fit(make_module(**at_rest(), perceptual=Distance()), callbacks=[whole])
    record, trainer = fit(make_module(**at_rest(), perceptual=Distance()), callbacks=[half], precision="bf16-mixed")
    assert trainer.precision == "bf16-mixed"
    assert all(p.dtype == torch.float32 for p in trainer.lightning_module.parameters())
    for a, b in zip(whole.found, half.found, strict=True):
        assert a.keys() == b.keys()
        one, other = (torch.cat([gradient.flatten() for gradient in found.values()]) for found in (a, b))
        assert not torch.equal(one, other)
        assert torch.cosine_similarity(one, other, 0) > 0.999
    assert all(math.isfinite(value) for logged in record.logged for value in logged.values())


def test_float16_unscales_before_clipping_and_skips_what_overflows() -> None:
    """With torch's loss scaling, on the CPU: the scale is 2^10, the norms are those of float32."""
    free, clipped = Norms(), Norms()
    fit(make_module(**at_rest()), callbacks=[free])

    def scaled(init_scale: float) -> list[Any]:
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=10_000)
        return [MixedPrecision("16-mixed", "cpu", scaler)]

    fit(make_module(**at_rest(), clip=0.05), callbacks=[clipped], plugins=scaled(2.0**10))
    for i in (0, 2, 4):
        assert norm(free.found[i], "network.") > 0.1
        assert norm(clipped.found[i], "network.") == pytest.approx(0.05, rel=1e-3)
        ratio = norm(clipped.found[i + 1], "discriminator.") / norm(free.found[i + 1], "discriminator.")
        assert ratio == pytest.approx(1, rel=1e-2)

    module, plugins = make_module(), scaled(2.0**60)
    before = {k: v.clone() for k, v in module.named_parameters()}
    _, trainer = fit(module, batches()[:1], plugins=plugins)
    assert all(torch.equal(before[k], v) for k, v in module.named_parameters())
    assert plugins[0].scaler.get_scale() == 2.0**58  # halved for each of the two skipped steps
    assert trainer.global_step == 1


class StopAt(pl.Callback):
    """Breaks off after a training step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


PROCEDURE = [
    "procedure._target_=lightning_modules.gan.GANModule",
    "+procedure.discriminator={_target_: networks.discriminators.Discriminator96, width: 2, patch: 32}",
    "+procedure.d_optimizer={_target_: torch.optim.Adam, _partial_: true, lr: 1e-3}",
    "+procedure.clip=0.5",
    "scheduler.step_size=1",
    "checkpoint.every_n_steps=1",
    "data.samples_per_epoch=6",
    "trainer.limit_val_batches=1",
]


@pytest.mark.slow
def test_a_broken_off_run_continues_bit_for_bit(cli: Callable[..., Outcome], tiny: list[str], tmp_path: Path) -> None:
    """Epochs of three steps; broken off in the middle of the first and again at its last, before its validation."""
    for step, more in ((2, []), (3, ["resume=auto"])):
        crash = f"+callbacks.crash={{_target_: {StopAt.__module__}.StopAt, step: {step}}}"
        with pytest.raises(RuntimeError, match="crash"):
            cli(*tiny, *PROCEDURE, crash, *more)
    outcome = cli(*tiny, *PROCEDURE, "resume=auto")
    assert outcome.status == 0, outcome.err
    outcome = cli(*[item for item in tiny if not item.startswith("name=")], *PROCEDURE, "name=whole")
    assert outcome.status == 0, outcome.err

    runs = [tmp_path / "runs" / name for name in ("whole", "tiny")]
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs)
    assert a["global_step"] == b["global_step"] == 6
    parts = {key.split(".")[0] for key in a["state_dict"]}
    assert parts == {"network", "discriminator"}
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    assert len(a["optimizer_states"]) == len(a["lr_schedulers"]) == 2
    for one, other in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        for i, state in one["state"].items():
            assert all(torch.equal(state[key], other["state"][i][key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert a["lr_schedulers"] == b["lr_schedulers"]
    assert [s["last_epoch"] for s in a["lr_schedulers"]] == [2, 2]
    # A step is a batch in the table too, and none is there twice.
    tables = []
    for run in runs:
        with (run / "metrics.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    assert [int(row["step"]) for row in tables[0] if row["train/gan_d"]] == list(range(6))
    # The first crash came between the checkpoint of step 2 and its row; the second before either.
    assert [int(row["step"]) for row in tables[1] if row["train/gan_d"]] == [0, 2, 3, 4, 5]
    # Evaluation knows nothing of the discriminator.
    assert figures(runs[0], "checkpoint_sha256") == figures(runs[1], "checkpoint_sha256")
    network, _ = load_network(runs[1] / "checkpoints" / "best.ckpt")
    assert type(network).__name__ == "EDDSRN"
