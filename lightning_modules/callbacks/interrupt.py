"""Stops training at a signal without losing a step."""

import logging
import signal
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from datamodules.errors import SIGNALS, Interrupted
from lightning_modules.callbacks.checkpointing import LastAndBest, between_updates
from lightning_modules.loggers.wandb import mark_preempting

log = logging.getLogger(__name__)


class StopOnSignal(pl.Callback):
    """At a signal finish the step, write `last.ckpt` and raise `Interrupted`; at the second Ctrl-C stop at once.

    The handler only sets a flag, and the ranks agree on it at a batch end: a handler that saves or synchronises itself
    waits for ranks that are inside a collective operation. Comes after `LastAndBest` in the list of callbacks, which
    has then written the epoch's checkpoint. In a validation the signal waits for its end: there is no state in between
    to continue from.

    Args:
        checkpoints: writes `last.ckpt`.
    """

    def __init__(self, checkpoints: LastAndBest) -> None:
        self.checkpoints = checkpoints
        self.received: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise Interrupted(signum)
        self.received = self.received or signum

    # Not in setup and teardown: between those Lightning has a handler of its own, and would put back the wrong one.
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in SIGNALS:
            self.previous[number] = signal.signal(number, self._handle)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 >= trainer.num_training_batches or not between_updates(trainer, batch_idx):
            return
        if self._agreed(trainer):
            self.checkpoints.save_last(trainer)
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._agreed(trainer):
            self._stop(trainer)

    def _agreed(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        # Not every rank need have been told; a machine's signal outweighs SIGINT, whose number is lower.
        told = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        signum = int(trainer.strategy.reduce(told, reduce_op="max"))
        if signum != signal.SIGINT:
            for logger in trainer.loggers:
                mark_preempting(logger)
        if trainer.is_global_zero:
            log.warning("stopped; wrote %s: the same command with resume=auto continues here", self.checkpoints.last)
        raise Interrupted(signum, saved=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._agreed(trainer):  # told after the end of the last epoch has asked
            self._stop(trainer)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()
