"""Training in stages: what trains, on which input, with which loss and learning rate, and for how long."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from datamodules.batch import Batch
from datamodules.errors import InputError, OptionError
from lightning_modules.losses.multi_branch import MultiBranchLoss, read_terms
from lightning_modules.optim.parameter_rules import make_optimizer, select
from lightning_modules.options import read_options
from lightning_modules.restoration import Requirement, RestorationModule
from networks.base import RestorationNetwork


@dataclass(config=ConfigDict(strict=True))
class Stage:
    """One stage of a schedule.

    Attributes:
        epochs: its length.
        lr: learning rate at its start; `None` is the optimiser's.
        step, decay: the learning rate is multiplied by `decay` every `step` epochs of the stage; `step` 0: never.
        train: patterns of the parameter names that train; the others rest.
        network: options of the network that this stage sets, such as {"gate": False}; the other stages have what the
            network was made with.
        inputs: batch field that feeds an input of the network in place of the one of its name, in training.
        terms: terms of the loss (`losses.MultiBranchLoss`); `None` is the loss of the config.
    """

    epochs: Annotated[int, Field(ge=1, description="at least 1")]
    lr: Annotated[float | None, Field(gt=0, description="a learning rate > 0 or null")] = None
    step: Annotated[int, Field(ge=0, description="a number of epochs, or 0")] = 0
    decay: Annotated[float, Field(gt=0, le=1, description="a factor in (0, 1]")] = 1.0
    train: Annotated[str | Sequence[str], Field(description="a pattern of parameter names, or several")] = "*"
    network: Annotated[dict[str, Any], Field(description="options of the network")] = field(default_factory=dict)
    inputs: Annotated[dict[str, str], Field(description="batch fields by input of the network")] = field(
        default_factory=dict
    )
    terms: Annotated[dict[str, Any] | None, Field(description="terms of a loss or null")] = None


def read_stages(network: RestorationNetwork, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Stage]:
    """Stages of a config, in their order, checked against the network.

    Raises:
        OptionError: for no stage, an unknown key, a value of another type or out of range, a part, an option or an
            input that the network has not.
    """
    if not stages:
        raise OptionError("procedure.stages is empty, expected at least one stage", key="procedure.stages")
    return {name: _read_stage(network, f"procedure.stages.{name}", values) for name, values in stages.items()}


def _read_stage(network: RestorationNetwork, where: str, values: Mapping[str, Any]) -> Stage:
    stage = read_options(Stage, where, values)
    select(network, stage.train, f"{where}.train")
    if stage.terms is not None:
        read_terms(stage.terms, f"{where}.terms")
    _try_options(network, where, stage)
    return stage


def _try_options(network: RestorationNetwork, where: str, stage: Stage) -> None:
    """Set the options of a stage, look at the inputs that the network then has, and set them back."""
    name = type(network).__name__
    # What the constructor takes and keeps under that name; a part of the network may have the name of its options.
    kept = {*vars(network), *dir(type(network))}
    known = [option for option in inspect.signature(type(network).__init__).parameters if option in kept]
    for option in stage.network:
        if option not in known:
            key = f"{where}.network.{option}"
            raise OptionError(
                f"{key}: {name} has no such option that a stage can set; it has {', '.join(known)}", key=key
            )
    before = {option: getattr(network, option) for option in stage.network}
    try:
        set_options(network, stage.network)
        inputs = network.inputs
    except ValueError as error:
        raise OptionError(f"{where}.network: {error}", key=f"{where}.network") from error
    finally:
        set_options(network, before)
    if unknown := set(stage.inputs) - set(inputs):
        key = f"{where}.inputs.{min(unknown)}"
        raise OptionError(f"{key}: {name} has no such input; it has {', '.join(inputs)}", key=key)


def set_options(network: RestorationNetwork, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        setattr(network, option, value)


class StagedModule(RestorationModule):
    """Supervised training in stages, one after the other in a single run.

    Every stage starts with a fresh optimiser state. The best checkpoint is that of the last stage reached, for the
    scores of different stages do not compare. Validation uses the network as the stage has set it, and a checkpoint's
    config has the network's options of its stage. After the last stage its settings stay.

    Args:
        stages: by name, in order: see `Stage`.
        others: see `RestorationModule`; a scheduler is refused, for stages have their own learning rates. What the
            rules of `parameters` freeze rests in every stage.

    Raises:
        OptionError: for stages that do not fit the network.
        ValueError: if there is a scheduler too.
    """

    leaves_parameters_out = True

    def __init__(
        self, network: RestorationNetwork, *args: Any, stages: Mapping[str, Mapping[str, Any]], **options: Any
    ) -> None:
        super().__init__(network, *args, **options)
        if self.make_scheduler is not None:
            raise ValueError("stages bring their own learning rates: set scheduler=none")
        self.stages = read_stages(network, stages)
        self.losses = {
            name: self.loss if stage.terms is None else MultiBranchLoss(stage.terms)
            for name, stage in self.stages.items()
        }
        self.resting = {name for name, p in network.named_parameters() if not p.requires_grad}
        for name, stage in self.stages.items():
            if not select(network, stage.train).keys() - self.resting:
                key = f"procedure.stages.{name}.train"
                raise OptionError(f"{key}: the rules of parameters= freeze all of it, nothing is left", key=key)
        self.initial = {option: getattr(network, option) for s in self.stages.values() for option in s.network}

    @property
    def epochs(self) -> int:
        """Length of the whole training."""
        return sum(stage.epochs for stage in self.stages.values())

    @property
    def in_last_stage(self) -> bool:
        return self.stage == list(self.stages)[-1]

    def at(self, epoch: int) -> tuple[str, int]:
        """The stage of an epoch, and which of its epochs that is; what comes after the last stage prolongs it."""
        *earlier, last = self.stages
        for name in earlier:
            if epoch < self.stages[name].epochs:
                return name, epoch
            epoch -= self.stages[name].epochs
        return last, epoch

    def learning_rate(self, epoch: int, default: float) -> float:
        name, passed = self.at(epoch)
        stage = self.stages[name]
        rate = default if stage.lr is None else stage.lr
        return rate * stage.decay ** (passed // stage.step if stage.step else 0)

    def requirements(self) -> list[Requirement]:
        stages = []
        for name, stage in self.stages.items():
            set_options(self.network, self.initial | stage.network)
            loss = self.losses[name]
            stages.append(
                Requirement(
                    where=f"procedure.stages.{name}.terms" if stage.terms is not None else "loss.terms",
                    inputs=tuple(stage.inputs.get(i, i) for i in self.network.inputs),
                    outputs=self.network.outputs,
                    terms=tuple(loss.terms) if loss else (),
                    stage=name,
                )
            )
        set_options(self.network, self.initial)
        return stages

    def _enter(self, name: str) -> None:
        """Set network, loss and trainable parameters as a stage wants them."""
        self.stage = name
        stage = self.stages[name]
        set_options(self.network, self.initial | stage.network)
        training = select(self.network, stage.train).keys() - self.resting
        for parameter_name, parameter in self.network.named_parameters():
            parameter.requires_grad_(parameter_name in training)
            parameter.grad = None  # an optimiser passes over what has no gradient
        self.loss = self.losses[name]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.make_optimizer is not None  # it is there in training
        optimizer = make_optimizer(self.make_optimizer, self.network, self.rules, frozen_too=True)
        base = optimizer.defaults["lr"]
        scheduler = LambdaLR(optimizer, lambda epoch: self.learning_rate(epoch, base) / base)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def on_train_start(self) -> None:
        # A run that continues inside an epoch never sees its start; the optimiser's state stays.
        if self.stage is not None:
            self._enter(self.stage)

    def on_train_epoch_start(self) -> None:
        name, _ = self.at(self.current_epoch)
        if name == self.stage:
            return
        self._enter(name)
        self.trainer.optimizers[0].state.clear()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert self.stage is not None
        inputs = self.stages[self.stage].inputs
        batch = replace(batch, **{name: getattr(batch, source) for name, source in inputs.items()})
        self.log("train/stage", float(list(self.stages).index(self.stage)))
        total = super().training_step(batch, batch_idx)
        if not total.requires_grad:
            raise InputError(
                f"procedure.stages.{self.stage}.train: nothing of it has a part in the loss as the stage sets the "
                "network: let it train something else, or change the stage's network or terms"
            )
        return total

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["stage"] = self.stage
        if self.stage is not None:
            model = {**self.config.get("model", {}), **self.stages[self.stage].network}
            checkpoint["config"] = {**self.config, "model": model}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.stage = checkpoint.get("stage")
        if self.stage is not None and self.stage not in self.stages:
            raise InputError(
                f"the checkpoint is of stage {self.stage!r}, expected one of {', '.join(self.stages)}: "
                "continue with the stages it was trained in"
            )
