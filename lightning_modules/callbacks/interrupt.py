"""Stops training at a signal without losing a step."""

import logging
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal asked the process to stop; `exit_status` is what a shell expects then (128 + signal)."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_status = 128 + signum


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    """Signal handler for the phases in which there is nothing to save."""
    raise Interrupted(signum)


class StopOnSignal(pl.Callback):
    """At SIGINT or SIGTERM finish the step, write `last.ckpt` and raise `Interrupted`; at the second stop at once.

    The handler only sets a flag, and the ranks agree on it at a batch end: a handler that saves or synchronises itself
    waits for ranks that are inside a collective operation. Comes after `LastAndBest` in the list of callbacks, which
    has then written the epoch's checkpoint.

    Args:
        checkpoint: path of `last.ckpt`.
    """

    def __init__(self, checkpoint: str, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.checkpoint = checkpoint
        self.signals = signals
        self.received: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(signum)
        self.received = signum

    # Not in setup and teardown: between those Lightning has a handler of its own, and would put back the wrong one.
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in self.signals:
            self.previous[number] = signal.signal(number, self._handle)

    def _agreed(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < trainer.num_training_batches and self._agreed(trainer):
            trainer.save_checkpoint(self.checkpoint, weights_only=False)  # with optimiser and loop state
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._agreed(trainer):
            self._stop()

    def _stop(self) -> None:
        log.warning("stopped; wrote %s: the same command with resume=auto continues here", self.checkpoint)
        raise Interrupted(self.received or signal.SIGTERM)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()
