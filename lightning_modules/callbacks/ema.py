"""Exponential moving average of the network's weights."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.checkpoints.checkpoint import PREFIX
from lightning_modules.restoration import RestorationModule


class EMA(pl.Callback):
    """Averages the network's weights; validation, its pictures and every checkpoint's weights are the average.

    After an update of the weights w the average a becomes decay * a + (1 - decay) * w; the first one copies w. Floating
    buffers, such as the statistics of batch normalisation, are averaged alike, whole numbers are copied. There is none
    of a discriminator. Until the first update nothing is averaged, and everything sees the weights themselves.

    `state_dict` of a checkpoint holds the average, `ema` the weights in training and the number of updates; a run
    continues from both.

    Lightning's `EMAWeightAveraging` validates weights that never trained before its first update, counts updates that
    were skipped, misses the update of the step whose checkpoint is written by a callback before it, averages (and
    copies) a discriminator too, and lets a run continue without its average.

    Args:
        decay: from 0, no memory, to below 1.
        start: optimiser steps before the first update.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, expected 0 to below 1")
        if start < 0:
            raise ValueError(f"start is {start}, expected a number of steps >= 0")
        self.decay, self.start = decay, start
        self.updates = 0
        self.average: dict[str, Tensor] = {}  # empty before the first update
        self.training: dict[str, Tensor] = {}  # the weights in training, while the average stands in for them

    def on_train_start(self, trainer: pl.Trainer, pl_module: RestorationModule) -> None:  # type: ignore[override]
        state = pl_module.network.state_dict()
        self.average = {name: value.to(state[name].device) for name, value in self.average.items()}

        # Not at a batch's end: other callbacks have written a checkpoint by then, and not every batch has an update.
        def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            updated = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
            if updated and trainer.global_step >= self.start:
                self.update(pl_module)

        trainer.optimizers[0].register_step_post_hook(look)  # a GAN's second is the discriminator's

    @torch.no_grad()
    def update(self, pl_module: RestorationModule) -> None:
        """Take the present weights into the average."""
        state = pl_module.network.state_dict()
        self.updates += 1
        if not self.average:
            self.average = {name: value.clone() for name, value in state.items()}
            return
        floating = [name for name, value in state.items() if value.is_floating_point()]
        averages, weights = [self.average[name] for name in floating], [state[name] for name in floating]
        torch._foreach_lerp_(averages, weights, 1 - self.decay)
        for name in state.keys() - set(floating):
            self.average[name].copy_(state[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: RestorationModule) -> None:  # type: ignore[override]
        if self.average:
            self.training = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
            pl_module.network.load_state_dict(self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: RestorationModule) -> None:  # type: ignore[override]
        if self.training:
            pl_module.network.load_state_dict(self.training)
            self.training = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self.average:
            return
        state = checkpoint["state_dict"]
        training = self.training or {name: state[PREFIX + name] for name in self.average}
        checkpoint["state_dict"] = state | {PREFIX + name: value for name, value in self.average.items()}
        checkpoint["ema"] = {"updates": self.updates, "training": training}

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: RestorationModule,  # type: ignore[override]
        checkpoint: dict[str, Any],
    ) -> None:
        if "ema" not in checkpoint:  # of a step before the first update
            return
        self.updates, training = checkpoint["ema"]["updates"], checkpoint["ema"]["training"]
        self.average = {name: checkpoint["state_dict"][PREFIX + name].clone() for name in training}
        pl_module.network.load_state_dict(training)
