"""The callbacks, each in a Lightning run of a one-weight model or by itself."""

import logging
import math
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.errors import InputError, Interrupted
from lightning_modules.callbacks import interrupt, sheets
from lightning_modules.callbacks.checkpointing import LastAndBest
from lightning_modules.callbacks.epoch_log import EpochLog
from lightning_modules.callbacks.interrupt import SIGNALS, StopOnSignal
from lightning_modules.callbacks.sheets import ValidationSheets
from lightning_modules.loggers.csv import MetricsCSV
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.plots.sheet import Tile, result_rows
from networks.restored import Restored

MONITOR = "val/score"


class Module(pl.LightningModule):
    """One weight, which counts the steps. The validation of epoch e scores `scores[e]`; losses come from `losses`."""

    stage: str | None = None
    stages = ""

    @property
    def in_last_stage(self) -> bool:
        return not self.stages or self.stage == self.stages[-1]

    def __init__(self, scores: list[float], losses: Callable[[int], float] = float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scores, self.losses = scores, losses

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        # The gradient is -1: SGD with a rate of 1 counts.
        return -self.weight + self.weight.detach() + self.losses(self.global_step)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log(MONITOR, self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def make_trainer(folder: Path, callbacks: list[pl.Callback], epochs: int, **options: Any) -> pl.Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        num_sanity_val_steps=1,
        **(quiet | options),
    )


def fit(trainer: pl.Trainer, module: Module, ckpt_path: Path | None = None) -> None:
    steps = DataLoader(torch.zeros(3))  # type: ignore[arg-type]  # three steps an epoch
    trainer.fit(module, steps, DataLoader(torch.zeros(1)), ckpt_path=ckpt_path, weights_only=True)  # type: ignore[arg-type]


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Without what Lightning says, where it does."""
    return [record for record in caplog.records if record.name.startswith("lightning_modules")]


def step_of(path: Path) -> int:
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"]["weight"] == checkpoint["global_step"]
    return checkpoint["global_step"]


def test_best_is_the_best_and_last_the_last(tmp_path: Path) -> None:
    keeper = LastAndBest(str(tmp_path), MONITOR)
    fit(make_trainer(tmp_path, [keeper], 4), Module([3.0, 5.0, 5.0, 4.0]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert step_of(tmp_path / "best.ckpt") == 6  # the second epoch; an equal score later does not count
    assert step_of(tmp_path / "last.ckpt") == 12
    assert keeper.best_score == 5.0


def test_a_first_validation_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    keeper = LastAndBest(str(tmp_path), MONITOR)
    with pytest.raises(InputError, match="is not a number after epoch 1: the network makes NaN of an image"):
        fit(make_trainer(tmp_path, [keeper], 4), Module([math.nan, 3.0, 5.0, 4.0]))
    fit(make_trainer(tmp_path, [keeper], 4), Module([3.0, math.nan, 5.0, 4.0]))  # a later one may pass
    assert step_of(tmp_path / "best.ckpt") == 9


def test_best_score_is_remembered_when_a_run_continues(tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, [LastAndBest(str(tmp_path), MONITOR)], 1), Module([5.0]))
    scores = [0.0, 4.0, 6.0]
    for epochs, best in ((2, 3), (3, 9)):
        keeper = LastAndBest(str(tmp_path), MONITOR)
        fit(make_trainer(tmp_path, [keeper], epochs), Module(scores), tmp_path / "last.ckpt")
        assert step_of(tmp_path / "best.ckpt") == best
        assert step_of(tmp_path / "last.ckpt") == 3 * epochs
    assert keeper.best_score == 6.0


class Staged(Module):
    """Changes its stage as the letters say, one an epoch."""

    def __init__(self, scores: list[float], stages: str) -> None:
        super().__init__(scores)
        self.stages = stages

    @property
    def stage(self) -> str:
        return self.stages[self.current_epoch]


def test_scores_of_an_earlier_stage_do_not_count(tmp_path: Path) -> None:
    keeper = LastAndBest(str(tmp_path), MONITOR)
    fit(make_trainer(tmp_path, [keeper], 4), Staged([9.0, 3.0, 5.0, 4.0], "abbb"))
    assert step_of(tmp_path / "best.ckpt") == 9
    assert keeper.state_dict() == {"best_score": 5.0, "stage": "b"}


@pytest.mark.parametrize(("stopped", "best"), [(1, 6), (2, 6), (3, 6)])
def test_stage_of_the_best_score_is_remembered_when_a_run_continues(tmp_path: Path, stopped: int, best: int) -> None:
    """Interrupted before the stage changes, right after, and with a worse score since."""
    for epochs in (stopped, 4):
        keeper = LastAndBest(str(tmp_path), MONITOR)
        path = tmp_path / "last.ckpt"
        module = Staged([9.0, 6.0, 5.0, 4.0], "abbb")
        fit(make_trainer(tmp_path, [keeper], epochs), module, path if path.exists() else None)
    assert step_of(tmp_path / "best.ckpt") == best
    assert keeper.state_dict() == {"best_score": 6.0, "stage": "b"}


def test_validation_every_second_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = []

    class Watch(LastAndBest):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            written.append((self.best.exists() and step_of(self.best), step_of(self.last)))

    with caplog.at_level(logging.INFO, "lightning_modules"):
        keepers: list[pl.Callback] = [EpochLog(MONITOR), Watch(str(tmp_path), MONITOR)]
        fit(make_trainer(tmp_path, keepers, 5, check_val_every_n_epoch=2), Module([9.0, 3.0, 9.0, 5.0, 9.0]))
    assert written == [(False, 3), (6, 6), (6, 9), (12, 12), (12, 15)]
    # Only an epoch that was validated has a score to show.
    shown = [re.search(r"val/score (\S+) dB \(best (\S+)\)", record.message) for record in ours(caplog)]
    assert [match and match.groups() for match in shown] == [None, ("3.00", "3.00"), None, ("5.00", "5.00"), None]


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 3, 4, 6]), (0, [3, 6])])
def test_last_inside_an_epoch(tmp_path: Path, every: int, steps: list[int]) -> None:
    """Never at an epoch's last step, where the validation is still to come: the epoch end writes then."""
    seen = []

    class Watch(LastAndBest):
        def save_last(self, trainer: pl.Trainer) -> None:
            super().save_last(trainer)
            seen.append(step_of(self.last))

    fit(make_trainer(tmp_path, [Watch(str(tmp_path), MONITOR, every, 0)], 2), Module([1.0, 2.0]))
    assert seen == steps


def test_last_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(
        "lightning_modules.callbacks.checkpointing.time", SimpleNamespace(monotonic=lambda: next(clock))
    )

    class Watch(LastAndBest):
        def save_last(self, trainer: pl.Trainer) -> None:
            super().save_last(trainer)
            seen.append(step_of(self.last))

    # A minute passes whenever the clock is read: at the start, after each step, after each write.
    fit(make_trainer(tmp_path, [Watch(str(tmp_path), MONITOR, 0, 2.0)], 1), Module([1.0]))
    assert seen == [2, 3]


def test_epoch_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning_modules"):
        fit(make_trainer(tmp_path, [EpochLog(MONITOR)], 2), Module([30.0, 29.5]))
    lines = [re.sub(r"\d+\.\d s$", "T s", record.message) for record in ours(caplog)]
    assert lines == [
        "epoch 1/2, step 3, loss 1.00000, val/score 30.00 dB (best 30.00), T s",
        "epoch 2/2, step 6, loss 4.00000, val/score 29.50 dB (best 30.00), T s",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "lightning_modules"):  # where batches are added up it is the same loss
        trainer = make_trainer(tmp_path, [EpochLog(MONITOR)], 1, accumulate_grad_batches=3)
        fit(trainer, Module([30.0], lambda _: 2.0))
    assert "step 1, loss 2.00000, " in caplog.text
    again = EpochLog(MONITOR)
    again.load_state_dict({"best": 30.0})
    assert again.state_dict() == {"best": 30.0, "stage": None}


class Send(pl.Callback):
    """Sends signals to this process during the second step."""

    def __init__(self, *signals: signal.Signals) -> None:
        self.signals = signals

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            for number in self.signals:
                os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What happens at a signal is the same after every run, however it ended: one test must not decide for the next."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def test_handlers_come_back_after_training(tmp_path: Path) -> None:
    found = []

    def mine(signum: int, frame: Any) -> None: ...

    for number in SIGNALS:
        before = signal.signal(number, mine)
        fit(make_trainer(tmp_path, [StopOnSignal(LastAndBest(str(tmp_path), MONITOR))], 1), Module([1.0]))
        found.append(signal.signal(number, before))
    assert found == [mine] * 4


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140)],
)
def test_signal_finishes_the_step_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(interrupt, "mark_preempting", told.append)
    saved: list[int] = []

    class Keeper(LastAndBest):
        def save_last(self, trainer: pl.Trainer) -> None:
            saved.append(trainer.global_step)
            super().save_last(trainer)

    keeper, logger = Keeper(str(tmp_path), MONITOR), MetricsCSV(tmp_path)
    trainer = make_trainer(tmp_path, [keeper, StopOnSignal(keeper), Send(number)], 2, logger=logger)
    with pytest.raises(Interrupted) as error:
        fit(trainer, Module([1.0, 2.0]))
    assert error.value.exit_status == status
    assert step_of(tmp_path / "last.ckpt") == 2
    assert saved == [2]  # with the rows of the loggers before it
    assert told == ([] if number == signal.SIGINT else [logger])


def test_signal_waits_for_the_end_of_an_accumulation(tmp_path: Path) -> None:
    """Gradients that are half summed up are in no checkpoint."""

    class SendEarly(Send):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    keeper = LastAndBest(str(tmp_path), MONITOR)
    trainer = make_trainer(tmp_path, [keeper, StopOnSignal(keeper), SendEarly()], 2, accumulate_grad_batches=2)
    with pytest.raises(Interrupted):
        fit(trainer, Module([1.0, 2.0]))
    assert step_of(tmp_path / "last.ckpt") == 1


def test_machine_that_repeats_itself_is_heard_once(tmp_path: Path) -> None:
    keeper = LastAndBest(str(tmp_path), MONITOR)
    repeated = Send(signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1)
    with pytest.raises(Interrupted, match="SIGUSR1"):
        fit(make_trainer(tmp_path, [keeper, StopOnSignal(keeper), repeated], 2), Module([1.0, 2.0]))
    assert step_of(tmp_path / "last.ckpt") == 2


def test_ctrl_c_after_a_signal_stops_at_once(tmp_path: Path) -> None:
    stop = StopOnSignal(LastAndBest(str(tmp_path), MONITOR))
    with pytest.raises(Interrupted) as error:
        fit(make_trainer(tmp_path, [stop, Send(signal.SIGTERM, signal.SIGINT)], 2), Module([1.0, 2.0]))
    assert error.value.exit_status == 130
    assert not (tmp_path / "last.ckpt").exists()


def test_signal_at_an_epoch_end_waits_for_the_validation(tmp_path: Path) -> None:
    class SendLate(Send):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    stop = StopOnSignal(LastAndBest(str(tmp_path), MONITOR))
    with pytest.raises(Interrupted):
        fit(make_trainer(tmp_path, [LastAndBest(str(tmp_path), MONITOR), stop, SendLate()], 2), Module([1.0, 2.0]))
    assert step_of(tmp_path / "last.ckpt") == step_of(tmp_path / "best.ckpt") == 3


class Pictures:
    """A logger that takes pictures."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        assert [type(image).__name__ for image in images] == ["Image"]
        self.taken.append((key, step))


def test_validation_sheets_reach_the_loggers_that_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    hr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    lr = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    callback = ValidationSheets(Protocol("y", "y", 4), "mine", images=2, every_n_epochs=2)
    pictures = Pictures()
    titles: list[str] = []

    def watched(tiles: list[Tile], *arguments: Any) -> Any:
        titles.extend(tile.title for tile in tiles)
        return result_rows(tiles, *arguments)

    monkeypatch.setattr(sheets, "result_rows", watched)
    for epoch, sanity in ((0, True), (0, False), (1, False), (2, False), (3, False)):
        trainer: Any = SimpleNamespace(
            current_epoch=epoch, sanity_checking=sanity, loggers=[object(), pictures], global_step=10 * epoch
        )
        for i in range(3):
            batch = Batch(hr, [f"image{i}"], torch.tensor([i]), torch.tensor([i]), lr=lr, scale=4)
            callback.on_validation_batch_end(trainer, None, {"restored": Restored(sr=hr)}, batch, i)  # type: ignore[arg-type]
    assert pictures.taken == [(f"val/image{i}", step) for step in (0, 10, 30) for i in (0, 1)]  # epochs 1, 2 and 4
    assert titles[:4] == ["input", "bicubic", "mine", "ground truth"]
