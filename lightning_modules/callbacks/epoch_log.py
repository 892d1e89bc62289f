"""One line an epoch, for terminals and job logs alike."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from lightning_modules.callbacks.throughput import Throughput

log = logging.getLogger(__name__)


class EpochLog(pl.Callback):
    """Logs epoch, step, mean training loss, the monitored validation value, the seconds taken and the speed.

    Args:
        monitor: logged validation value to show, in dB.
        throughput: measures the speed; None leaves it out.
    """

    def __init__(self, monitor: str, throughput: Throughput | None = None) -> None:
        self.monitor, self.throughput = monitor, throughput
        self.best = float("-inf")
        self.stage: str | None = None  # scores of different stages do not compare
        self.losses: list[Any] = []
        self.validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not at the start of an epoch: a run that continues inside one never sees it.
        self._begin()

    def _begin(self) -> None:
        self.started = time.monotonic()
        self.losses = []
        self.validated = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach()
        self.losses.append(loss * trainer.accumulate_grad_batches)  # by which Lightning has divided it

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._report(trainer, pl_module.stage)
        self._begin()

    @rank_zero_only
    def _report(self, trainer: pl.Trainer, stage: str | None) -> None:
        # Lightning already counts the epoch as begun, not as done.
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, step {trainer.global_step}"
        if stage is not None:
            text += f", stage {stage}"
        if stage != self.stage:
            self.stage, self.best = stage, float("-inf")
        if self.losses:
            text += f", loss {sum(float(x) for x in self.losses) / len(self.losses):.5f}"
        # Lightning keeps the value of an earlier epoch where this one has no validation.
        if self.validated and self.monitor in trainer.callback_metrics:
            value = float(trainer.callback_metrics[self.monitor])
            self.best = max(self.best, value)
            text += f", {self.monitor} {value:.2f} dB (best {self.best:.2f})"
        speed = self.throughput.epoch_text() if self.throughput else ""
        log.info("%s, %.1f s%s", text, time.monotonic() - self.started, f", {speed}" if speed else "")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "stage": self.stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.stage = state["best"], state.get("stage")
