"""Keeps `last.ckpt` and `best.ckpt` of a run."""

import math
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from datamodules.errors import InputError
from datamodules.io.atomic import remove_parts


def between_updates(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a batch of an epoch ended an update of the weights: gradients accumulated so far are in no checkpoint."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class LastAndBest(pl.Callback):
    """Writes `last.ckpt` at every epoch end and now and then inside an epoch, and `best.ckpt` when validation improves.

    Lightning's ModelCheckpoint would need two instances and writes its mid-epoch file on the last batch too, before the
    validation of that epoch: a resume from there would skip the validation.

    Of training in stages (a module with an attribute `stage`), only scores of the present stage are compared: the first
    of a stage replaces the best of the stage before.

    Args:
        dirpath: folder of the two files.
        monitor: logged value that decides, higher is better.
        every_n_steps: optimiser steps between writes inside an epoch; 0 for none by steps.
        every_n_minutes: minutes between writes inside an epoch; 0 for none by time.
        use: which of the two the run is judged by, `chosen`: a GAN whose restored images look better scores worse, and
            the best of its checkpoints is the one that has trained least.
    """

    def __init__(
        self,
        dirpath: str,
        monitor: str,
        every_n_steps: int = 0,
        every_n_minutes: float = 15.0,
        use: Literal["best", "last"] = "best",
    ) -> None:
        self.last, self.best = Path(dirpath) / "last.ckpt", Path(dirpath) / "best.ckpt"
        self.chosen = Path(dirpath) / f"{use}.ckpt"
        self.monitor = monitor
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.best_score = -math.inf
        self.stage: str | None = None  # the stage that `best_score` is of
        self.validated = False
        self.written = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "stage": self.stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_score, self.stage = state["best_score"], state.get("stage")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            remove_parts(self.last.parent)  # of a run that was killed while it wrote

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 >= trainer.num_training_batches or not between_updates(trainer, batch_idx):
            return  # the epoch end writes, after validation
        step = trainer.global_step
        by_step = self.every_n_steps > 0 and step > 0 and step % self.every_n_steps == 0
        by_time = self.every_n_minutes > 0 and time.monotonic() - self.written >= self.every_n_minutes * 60
        if trainer.strategy.broadcast(by_step or by_time):
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.validated and self.monitor in trainer.callback_metrics:
            score = float(trainer.callback_metrics[self.monitor])
            if math.isnan(score) and self.best_score == -math.inf:  # later on, one may pass
                raise InputError(
                    f"{self.monitor} is not a number after epoch {trainer.current_epoch + 1}: the network makes NaN "
                    "of an image, and nothing is there to choose: try a lower optimizer.lr="
                )
            stage = pl_module.stage
            if score > self.best_score or stage != self.stage:
                self.best_score, self.stage = score, stage
                trainer.save_checkpoint(self.best, weights_only=False)  # as last.ckpt
        self.validated = False
        self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # or a kill right after the checkpoint loses rows from before it
        trainer.save_checkpoint(self.last, weights_only=False)  # with optimiser and loop state
        self.written = time.monotonic()
