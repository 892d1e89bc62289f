"""Leaves out updates that are not numbers, and stops training when they do not end."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

from datamodules.errors import InputError

log = logging.getLogger(__name__)


class SkipNonFinite(pl.Callback):
    """Skips the update of a NaN or infinite loss or gradient: weights, optimiser and running statistics stay.

    All processes skip together. The number of steps with a skipped update is logged as `train/skipped` from the first
    one on. An optimiser passes over what has no gradient; under float16 its scaler skips the same steps and lowers its
    scale, which may take 16 of them at the start. Comes before the callbacks that write checkpoints: they then have its
    counts.

    Args:
        max_skips: steps in succession that may be skipped; one more stops the training. 0 stops at the first.

    Raises:
        InputError: in training, after more than `max_skips` steps in succession, and for weights that are no numbers
            when a checkpoint is about to be written.
    """

    def __init__(self, max_skips: int = 20) -> None:
        self.max_skips = max_skips
        self.skipped = self.in_succession = 0
        self.losses_finite: Tensor | None = None  # those of the update that is being computed
        self.reasons: list[str] = []  # why updates of this step were skipped
        self.updates = 0
        self.statistics: list[Tensor] = []
        self.before: list[Tensor] = []  # the same, before the first batch of the update
        self.begun = False  # whether that batch has been

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_succession": self.in_succession}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped, self.in_succession = state["skipped"], state["in_succession"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        norms = (module for module in pl_module.modules() if isinstance(module, _BatchNorm))
        self.statistics = [buffer for module in norms for buffer in module.buffers()]
        self.before = [buffer.clone() for buffer in self.statistics]
        self.begun = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.begun and self.statistics:
            torch._foreach_copy_(self.before, self.statistics)
        self.begun = True

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        finite = torch.isfinite(loss.detach()).all()
        self.losses_finite = finite if self.losses_finite is None else self.losses_finite & finite

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        loss_finite = self.losses_finite is None or bool(self.losses_finite)
        self.losses_finite = None
        self.updates += 1
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = loss_finite and bool(torch.isfinite(get_total_norm(gradients, float("inf"))))
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        self.reasons.append("a gradient" if loss_finite else "the loss")
        for parameter in parameters:
            parameter.grad = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.updates:  # gradients of further batches are to come
            return
        reasons, self.reasons, self.updates = self.reasons, [], 0
        self.in_succession = self.in_succession + 1 if reasons else 0
        if reasons:
            self.skipped += 1
            if self.statistics:
                torch._foreach_copy_(self.statistics, self.before)
            text = "step %d: %s is not a finite number, no update (%d so far)"
            rank_zero_only(log.warning)(text, trainer.global_step, reasons[0], self.skipped)
        self.begun = False
        if self.skipped:
            pl_module.log("train/skipped", float(self.skipped))
        if self.in_succession > self.max_skips:
            steps = f"in {self.in_succession} steps in succession " if self.max_skips else ""
            raise InputError(
                f"{reasons[0]} was not a finite number {steps}(step {trainer.global_step}): lower optimizer.lr, set "
                "trainer.gradient_clip_val (procedure.clip with a GAN), or train in float32; the last checkpoint, of "
                "weights that are numbers, is kept"
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A finite gradient can still be too large for the numbers of the weights."""
        weights = [p.detach() for p in pl_module.parameters() if p.requires_grad]
        if not torch.isfinite(get_total_norm(weights, float("inf"))):
            raise InputError(
                f"the weights are no finite numbers any more (step {trainer.global_step}): lower optimizer.lr; the "
                "last checkpoint with finite ones is kept"
            )
