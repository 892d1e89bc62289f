"""Stops training when the loss is no longer a number."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.errors import InputError


class StopOnNonFiniteLoss(pl.Callback):
    """Raise `InputError` at a NaN or infinite loss, before any checkpoint can be written that contains its update.

    The value is looked at one step late, when the device has it ready anyway, and at once when a checkpoint is about to
    be written.
    """

    def __init__(self) -> None:
        self.pending: tuple[int, Tensor] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.check()
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self.pending = (trainer.global_step, loss.detach())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.check()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check()

    def check(self) -> None:
        if self.pending is None:
            return
        step, loss = self.pending
        self.pending = None
        if not torch.isfinite(loss).all():
            raise InputError(
                f"the loss became {loss.item()} at step {step}: lower optimizer.lr, set trainer.gradient_clip_val "
                "(procedure.clip with a GAN), or train in float32; the last good checkpoint is kept"
            )
