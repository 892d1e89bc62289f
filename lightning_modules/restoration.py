"""The supervised training procedure: one network, one multi-branch loss, one optimiser."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from datamodules import distributed
from datamodules.batch import Batch
from datamodules.errors import InputError
from lightning_modules.losses.multi_branch import MultiBranchLoss
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.scores import by_image, collect, key
from lightning_modules.optim.parameter_rules import clip_gradients, freeze, make_optimizer, read_rules
from lightning_modules.optim.schedules import wants_length
from networks.base import RestorationNetwork
from networks.cascade import taken
from networks.restored import Restored

# Lightning announces hardware and sister products at INFO; warnings are what a reader needs. It sets its own level when
# it is imported, so here, where all come by that have it train or test.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


@dataclass
class Requirement:
    """What a stretch of training asks of the data, for the check before it starts.

    Attributes:
        where: config path of the loss terms.
        inputs: batch fields that the network takes.
        outputs: branches that it returns.
        terms: branches that the loss supervises.
        stage: its name, where training has several.
    """

    where: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    terms: tuple[str, ...]
    stage: str | None = None


def _wait_for(device: torch.device) -> None:
    """Until the device has done what it was told: kernels run on while Python goes on."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def compile_network(network: RestorationNetwork) -> None:
    """Compile in place: a graph for each shape of the input, each scale and each stage of a training.

    One graph for all shapes takes far longer to compile, and of USRNet Inductor cannot make one at all. Parameters that
    no loss sees get a gradient of zero instead of none.
    """
    # The graphs of all jobs of a sweep count. Beyond the limit, 8 by default, Dynamo would go on in eager mode.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit
    # This pass of Inductor (2.13) reads sums of gradients before they are made: those of SRN's LSTM come out wrong.
    network.compile(dynamic=False, options={"reorder_for_peak_memory": False})


class RestorationModule(pl.LightningModule):
    """Train and validate any network of the suite.

    Args:
        network: states the batch fields it takes in `inputs`; gets exactly those, by keyword.
        protocols: how PSNR and SSIM are measured; the first one chooses the best checkpoint.
        loss: called with (Restored, Batch); needed for training only.
        optimizer: called with the trainable parameters.
        scheduler: called with the optimiser; `None` keeps the learning rate. Stepped once an epoch, or with every step
            of the optimiser if the result says `interval = "step"` (`lightning_modules.optim.schedules`). A parameter
            `total_steps` that the config leaves out gets the length of the training.
        config: the resolved configuration as plain containers; travels in the checkpoint.
        channels_last: memory format of weights and inputs.
        compile: compile the network in place for training (its parameter names stay as they are).
        parameters: learning rate, freezing and clipping of parts of the network: see `parameters.Rule`.

    Attributes:
        validated: the scores of the validation images.

    Raises:
        ValueError: for rules that do not fit the network.
    """

    continues = False  # whether it takes a network that is trained already
    stage: str | None = None  # the one that it is in, of a training in stages; scores of different ones do not compare

    def __init__(
        self,
        network: RestorationNetwork,
        protocols: Sequence[Protocol],
        loss: MultiBranchLoss | None = None,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        config: Mapping[str, Any] | None = None,
        channels_last: bool = False,
        compile: bool = False,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.protocols = list(protocols)
        self.loss = loss
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.config = dict(config or {})
        self.length: int | float | None = None  # steps of the training, where the schedule has its length
        self.begin_validation([])
        self.rules = read_rules(network, parameters)
        freeze(network, self.rules)
        self.channels_last = channels_last
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a documented overload
        if compile:
            compile_network(self.network)

    @property
    def monitor(self) -> str:
        """The logged value that chooses the best checkpoint (higher is better)."""
        return f"val/{key('psnr', self.protocols[0])}"

    @property
    def in_last_stage(self) -> bool:
        return True

    @property
    def leaves_parameters_out(self) -> bool:
        """Whether a step may have no gradient for some of the parameters that train: several processes have to know."""
        supervised = set(self.loss.terms if self.loss else ())
        if supervised & {"sr", "pyramid"}:  # one comes out of the other
            supervised |= {"sr", "pyramid"}
        return not set(self.network.outputs) <= supervised

    def forward(self, batch: Batch) -> Restored:
        fields = taken(self.network, vars(batch))
        if self.channels_last:
            fields = {
                name: value.contiguous(memory_format=torch.channels_last)
                if isinstance(value, Tensor) and value.dim() == 4
                else value
                for name, value in fields.items()
            }
        return self.network(**fields)

    def configure_optimizers(self) -> Any:
        assert self.make_optimizer is not None  # it is there in training
        optimizer = make_optimizer(self.make_optimizer, self.network, self.rules)
        return {"optimizer": optimizer, **self.schedule(optimizer)}

    def schedule(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The scheduler of an optimiser as Lightning wants to hear of it; nothing without one."""
        make = self.make_scheduler
        if make is None:
            return {}
        length = {}
        if wants_length(make):
            self.length, before = self.trainer.estimated_stepping_batches, self.length
            if before not in (None, self.length):
                raise InputError(
                    f"scheduler: the training was {before} steps long when it began and is {self.length} now, by other "
                    "processes, trainer.accumulate_grad_batches or data.batch_size: continue with as many images to an "
                    "update, or start a new run with name=..."
                )
            length = {"total_steps": self.length}
        try:
            scheduler = make(optimizer, **length)
        except ValueError as error:  # a schedule that does not fit the length of the training
            raise InputError(f"scheduler: {error}") from error
        floor = getattr(scheduler, "eta_min", 0.0)
        if low := [g["initial_lr"] for g in optimizer.param_groups if g["initial_lr"] < floor]:
            raise InputError(
                f"scheduler.eta_min: found {floor:g}, to which a learning rate of {low[0]:g} would rise "
                "(procedure.parameters): set it lower, or choose scheduler=cosine_steps, where it is in proportion"
            )
        by_step = wants_length(make) or isinstance(scheduler, OneCycleLR | CyclicLR)  # torch's own that count batches
        interval = getattr(scheduler, "interval", "step" if by_step else "epoch")
        return {"lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        clip_gradients(self.network, self.rules)

    def requirements(self) -> list[Requirement]:
        """What training asks of the data, stage by stage."""
        terms = tuple(self.loss.terms) if self.loss else ()
        return [Requirement("loss.terms", self.network.inputs, self.network.outputs, terms)]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert self.loss is not None  # it is there in training
        parts = self.loss(self(batch), batch, self.network.encode)
        total = parts.pop("total")
        self.log("train/loss", total, prog_bar=True)
        self.log_dict({f"train/loss_{branch}": value for branch, value in parts.items()})
        return total

    def restore(self, batch: Batch) -> tuple[Restored, float]:
        """Restore in float32. Returns the result and the seconds of the forward pass for each image."""
        # Not compiled: images of every size would have to wait for a graph of their own.
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            _wait_for(self.device)
            start = time.perf_counter()
            restored = self(batch)
            _wait_for(self.device)
        return restored, (time.perf_counter() - start) / len(batch)

    def begin_validation(self, names: Sequence[str]) -> None:
        """Forget what was measured; `names` are those of all validation images, of every process."""
        self.validated = collect(names, self.protocols).to(self.device)

    def on_validation_epoch_start(self) -> None:
        self.begin_validation(self.trainer.datamodule.image_names("val"))  # type: ignore[attr-defined]  # there is one
        distributed.copy_buffers(self.network)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        restored, _ = self.restore(batch)
        self.validated.update(restored, batch)
        return {"restored": restored}

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the images: every image counts once, whatever process has measured it."""
        found = by_image(self.validated)
        titles = [key(metric, protocol) for protocol in self.protocols for metric in ("psnr", "ssim")]
        for title in [*titles, "kernel_error"]:  # the monitored one first, as in metrics.csv
            if scores := found[title]:
                name = f"val/{title}"
                self.log(name, math.fsum(scores.values()) / len(scores), prog_bar=name == self.monitor)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        if self.length is not None:
            checkpoint["schedule_length"] = self.length

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.length = checkpoint.get("schedule_length")
