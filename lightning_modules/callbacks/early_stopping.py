"""Stops a training that no longer improves."""

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)


class StopEarly(EarlyStopping):
    """Lightning's early stopping by the validation score that chooses the best checkpoint.

    It decides before `last.ckpt` of the epoch is written, so that a run which is continued counts on, and one that had
    stopped stays so. Of training in stages it concerns the last one: scores of different stages do not compare.

    Args:
        patience: validations in succession without a better score.
        min_delta: dB by which a score has to be better.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}, expected at least 1 validation")
        if min_delta < 0:
            raise ValueError(f"min_delta is {min_delta}, expected dB >= 0")
        # An infinite score is that of an image restored exactly.
        super().__init__("", min_delta, patience, False, "max", check_finite=False, check_on_train_epoch_end=False)

    @property
    def state_key(self) -> str:
        return type(self).__qualname__  # the monitor is not known before the training

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self.monitor = pl_module.monitor

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})  # it may be another one now

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.in_last_stage:
            super().on_validation_end(trainer, pl_module)
        if trainer.should_stop:
            rank_zero_only(log.info)("no better %s in %d validations: stopping", self.monitor, self.wait_count)
