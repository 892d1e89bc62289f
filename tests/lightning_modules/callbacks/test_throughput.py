"""The split of a training step, on a clock that only moves where the test says so."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules.callbacks import throughput as module
from lightning_modules.callbacks.device_speed import HostClock, ceiling, peak_memory
from lightning_modules.callbacks.epoch_log import EpochLog
from lightning_modules.callbacks.throughput import PARTS, Throughput


class Fake:
    """Time that passes by `spend` alone; how often the device was waited for."""

    def __init__(self) -> None:
        self.time, self.waits = 100.0, 0

    def now(self) -> float:
        return self.time

    mark = now

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def catch_up(self) -> None:
        self.waits += 1

    def spend(self, seconds: float) -> None:
        self.time += seconds


class Images(Dataset[Tensor]):
    def __init__(self, clock: Fake, count: int) -> None:
        self.clock, self.count = clock, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.clock.spend(0.5)
        return torch.full((4,), float(index))


class SlowSGD(torch.optim.SGD):
    clock: Fake

    def step(self, closure: Any = None) -> Any:
        # Not by super().step, which calls the hooks of its own as soon as any plain SGD has been made in this process.
        loss = None if closure is None else torch.enable_grad()(closure)()
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.data.add_(parameter.grad, alpha=-self.param_groups[0]["lr"])
        self.clock.spend(4)
        return loss


class Module(pl.LightningModule):
    """Batches of two: 1 s of loading, 2 s of degradation, 8 s of network, 4 s and 1 s of optimiser."""

    stage: str | None = None

    def __init__(self, clock: Fake) -> None:
        super().__init__()
        self.clock, self.layer = clock, nn.Linear(4, 3, bias=False)

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        self.clock.spend(2)
        return batch

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.clock.spend(8)
        return self.layer(batch).sum()

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        self.clock.spend(1)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.clock.spend(1000)

    def configure_optimizers(self) -> Any:
        optimizer = SlowSGD(self.parameters(), lr=1e-3)
        optimizer.clock = self.clock
        return optimizer


class TwoOptimizers(Module):
    """Manual optimisation as of a GAN: the network's turn, then 3 s and 2 s of optimiser of the discriminator."""

    def __init__(self, clock: Fake) -> None:
        super().__init__(clock)
        self.automatic_optimization = False
        self.other = nn.Linear(4, 1, bias=False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        first, second = self.optimizers()
        self.clock.spend(8)
        loss = self.layer(batch).sum()
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        self.clock.spend(3)
        second.zero_grad()
        self.manual_backward(self.other(batch).sum())
        self.trainer.strategy.optimizer_step(second.optimizer, lambda: None)
        return loss.detach()

    def configure_optimizers(self) -> Any:
        found = [SlowSGD(self.layer.parameters(), lr=1e-3), SlowSGD(self.other.parameters(), lr=1e-3)]
        found[0].clock = found[1].clock = self.clock
        return found


class Lines(Logger):
    """Keeps what it is told."""

    name = version = ""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        found = {name.removeprefix("speed/"): v for name, v in metrics.items() if name.startswith("speed/")}
        if found:
            self.lines.append((int(step or 0), found))


class SlowCallback(pl.Callback):
    def __init__(self, clock: Fake) -> None:
        self.clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.spend(4)


def train(made: Module, clock: Fake, *callbacks: pl.Callback, batches: int = 9, **options: Any) -> tuple[Any, Lines]:
    lines, callback = Lines(), Throughput(clock)
    options = {"max_epochs": 1, "log_every_n_steps": 4, **options}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=lines,
        callbacks=[callback, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=1,
        **options,
    )
    loader = DataLoader(Images(clock, 2 * batches), batch_size=2)
    trainer.fit(made, loader, DataLoader(Images(clock, 2)))
    return callback, lines


@pytest.fixture(autouse=True)
def known_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ceiling", lambda *_: 12.0)


def parts(found: dict[str, float]) -> dict[str, float]:
    """Seconds of a step by part."""
    return {part: pytest.approx(found["step_ms"] / 1e3 * found[f"{part}_percent"] / 100, abs=1e-3) for part in PARTS}


def test_every_part_has_its_time() -> None:
    clock = Fake()
    _, lines = train(Module(clock), clock, SlowCallback(clock))
    (first, found), (second, _), *_ = lines.lines
    assert (first, second) == (3, 7)  # Lightning numbers from 0
    assert parts(found) == {"wait": 1, "degradation": 2, "network": 8, "optimizer": 5, "other": 4}
    assert found["step_ms"] == pytest.approx(20_000)
    assert found["patches_per_second"] == pytest.approx(2 / 20)
    # Forward 2*2*4*3 operations, and the gradient of the weights as many: 48 of 96 in 20 s of 12 a second.
    assert found["ceiling_percent"] == pytest.approx(100 * 96 / 20 / 12)


def test_validation_is_no_part_of_a_step() -> None:
    clock = Fake()
    _, lines = train(Module(clock), clock, max_epochs=3, batches=4, val_check_interval=2)
    found = [line for _, line in lines.lines if "step_ms" in line]
    assert len(found) == 3
    assert [line["step_ms"] for line in found] == [pytest.approx(16_000)] * 3


def test_two_optimizers_in_manual_optimisation() -> None:
    clock = Fake()
    _, lines = train(TwoOptimizers(clock), clock)
    # Clipping by hand is the module's own affair: 4 s twice, and 8 + 3 s of network.
    assert parts(lines.lines[0][1]) == {"wait": 1, "degradation": 2, "network": 11, "optimizer": 8, "other": 0}


def test_accumulated_batches_are_steps_of_the_network_alone() -> None:
    clock = Fake()
    _, lines = train(Module(clock), clock, batches=16, accumulate_grad_batches=2)
    found = [line for _, line in lines.lines if "step_ms" in line]
    assert len(found) == 2
    # The second line: four updates in eight batches.
    assert parts(found[1]) == {"wait": 1, "degradation": 2, "network": 8, "optimizer": 2.5, "other": 0}
    assert found[1]["patches_per_second"] == pytest.approx(2 / 13.5)


def test_device_is_waited_for_at_log_steps_only() -> None:
    clock = Fake()
    train(Module(clock), clock, batches=16, log_every_n_steps=8)
    assert clock.waits == 2


def test_marks_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PENDING", 10)
    clock = Fake()
    callback, lines = train(Module(clock), clock, batches=16, log_every_n_steps=16)
    assert clock.waits > 3  # three marks a step
    assert not callback.pending
    assert parts(lines.lines[0][1]) == {"wait": 1, "degradation": 2, "network": 8, "optimizer": 5, "other": 0}


class Stages(Module):
    """Two layers more in the second epoch."""

    def __init__(self, clock: Fake) -> None:
        super().__init__(clock)
        self.more = nn.Linear(3, 3, bias=False)

    @property
    def stage(self) -> str:
        return "ab"[self.current_epoch]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.clock.spend(8)
        x = self.layer(batch)
        return (self.more(x) if self.stage == "b" else x + 0 * self.more.weight.sum()).sum()


def test_operations_are_counted_in_every_stage() -> None:
    clock = Fake()
    _, lines = train(Stages(clock), clock, max_epochs=2, batches=8)
    shares = [line["ceiling_percent"] for _, line in lines.lines if "ceiling_percent" in line]
    first = 2 * 2 * 2 * 4 * 3
    second = first + 3 * 2 * 2 * 3 * 3  # in the second layer the gradient of the input as well
    assert [share * 16 * 12 / 100 for share in shares] == pytest.approx([first, first, second, second])


def test_minutes_go_on_when_a_run_continues() -> None:
    clock = Fake()
    callback, lines = train(Module(clock), clock, max_epochs=1, batches=4)
    minutes = next(line["minutes"] for _, line in lines.lines if "minutes" in line)
    assert minutes == pytest.approx((4 * 16 + 2 * 1002.5) / 60)  # validation included
    again = Throughput(clock)
    again.load_state_dict(callback.state_dict())
    assert again.minutes() == callback.minutes()


def test_epoch_line_tells_the_speed(caplog: pytest.LogCaptureFixture) -> None:
    clock = Fake()
    callback = Throughput(clock)
    with caplog.at_level(logging.INFO, "lightning_modules"):
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=[callback, EpochLog("none", callback)],
            max_epochs=2,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(Module(clock), DataLoader(Images(clock, 8), batch_size=2))
    wanted = "0.1 patches/s, wait 6 %, degradation 12 %, 50 % of the ceiling, peak "
    assert [wanted in record.message for record in caplog.records] == [True, True]


def test_weights_and_profiler_are_as_without_it(tmp_path: Path) -> None:
    """Counting operations watches the first step; it does not change it."""
    weights = []
    for callbacks in ([], [Throughput()]):
        torch.manual_seed(0)
        clock = Fake()
        made = Module(clock)
        made.layer = nn.Sequential(
            nn.Conv1d(1, 5, 3), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Flatten(), nn.Linear(10, 3)
        )  # type: ignore[assignment]
        made.training_step = lambda batch, batch_idx, net=made.layer: net(batch[:, None]).square().sum()  # type: ignore[method-assign]
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            max_epochs=1,
            profiler="simple",
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(made, DataLoader(Images(clock, 8), batch_size=2))
        weights.append(torch.cat([p.detach().flatten() for p in made.state_dict().values()]))
        assert type(trainer.profiler).__name__ == "SimpleProfiler"  # type: ignore[attr-defined]
        assert "run_training_batch" in trainer.profiler.summary()  # type: ignore[attr-defined]
    assert torch.equal(weights[0], weights[1])


def test_ceiling_and_memory_are_plausible() -> None:
    generator = torch.get_rng_state()
    assert 1e8 < ceiling.__wrapped__("cpu", torch.get_num_threads(), "32-true") < 1e14
    assert torch.equal(torch.get_rng_state(), generator)
    memory = peak_memory(torch.device("cpu"))
    assert memory is None or 50e6 < memory < 1e12


def test_host_clock_measures_seconds() -> None:
    clock = HostClock()
    start = clock.mark()
    assert 0 <= clock.seconds(start, clock.mark()) < 60
