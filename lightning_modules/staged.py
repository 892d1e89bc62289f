"""Training in stages: what trains, on which input, with which loss and learning rate, and for how long."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from datamodules.batch import Batch
from datamodules.errors import InputError
from lightning_modules.losses.multi_branch import MultiBranchLoss
from lightning_modules.optim.parameter_rules import is_number, make_optimizer, select
from lightning_modules.restoration import Requirement, RestorationModule
from networks.base import RestorationNetwork


@dataclass
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

    epochs: int
    lr: float | None = None
    step: int = 0
    decay: float = 1.0
    train: str | Sequence[str] = "*"
    network: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    terms: dict[str, dict[str, Any]] | None = None


def read_stages(network: RestorationNetwork, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Stage]:
    """Stages of a config, in their order, checked against the network.

    Raises:
        ValueError: for no stage, an unknown key, a value of another type or out of range, a part, an option or an input
            that the network has not.
    """
    if not stages:
        raise ValueError("stages is empty, expected at least one stage")
    return {name: _read_stage(network, f"stages.{name}", values) for name, values in stages.items()}


def _read_stage(network: RestorationNetwork, where: str, values: Mapping[str, Any]) -> Stage:
    known = [f.name for f in fields(Stage)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: found {values!r}, expected {', '.join(known)}")
    if unknown := set(values) - set(known):
        raise ValueError(f"{where}: unknown key {min(unknown)}, expected {', '.join(known)}")
    if "epochs" not in values:
        raise ValueError(f"{where}: has no epochs, expected how long it lasts")
    stage = Stage(**values)
    for key, fits, expected in (
        ("epochs", _is_count(stage.epochs) and stage.epochs >= 1, "at least 1"),
        ("lr", stage.lr is None or (is_number(stage.lr) and stage.lr > 0), "a learning rate > 0 or null"),
        ("step", _is_count(stage.step), "a number of epochs, or 0"),
        ("decay", is_number(stage.decay) and 0 < stage.decay <= 1, "a factor in (0, 1]"),
        ("network", isinstance(stage.network, Mapping), "options of the network"),
        ("inputs", isinstance(stage.inputs, Mapping), "batch fields by input of the network"),
        ("terms", stage.terms is None or isinstance(stage.terms, Mapping), "terms of a loss or null"),
    ):
        if not fits:
            raise ValueError(f"{where}.{key}: found {getattr(stage, key)!r}, expected {expected}")
    try:
        select(network, stage.train)
    except ValueError as error:
        raise ValueError(f"{where}.train: {error}") from error
    _try_options(network, where, stage)
    return stage


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _try_options(network: RestorationNetwork, where: str, stage: Stage) -> None:
    """Set the options of a stage, look at the inputs that the network then has, and set them back."""
    name = type(network).__name__
    # What the constructor takes and keeps under that name; a part of the network may have the name of its options.
    kept = {*vars(network), *dir(type(network))}
    known = [option for option in inspect.signature(type(network).__init__).parameters if option in kept]
    for option in stage.network:
        if option not in known:
            raise ValueError(
                f"{where}.network.{option}: {name} has no such option that a stage can set; it has {', '.join(known)}"
            )
    before = {option: getattr(network, option) for option in stage.network}
    try:
        set_options(network, stage.network)
        inputs = network.inputs
    except ValueError as error:
        raise ValueError(f"{where}.network: {error}") from error
    finally:
        set_options(network, before)
    if unknown := set(stage.inputs) - set(inputs):
        raise ValueError(f"{where}.inputs.{min(unknown)}: {name} has no such input; it has {', '.join(inputs)}")


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
        ValueError: for stages that do not fit the network.
    """

    leaves_parameters_out = True

    def __init__(
        self, network: RestorationNetwork, *args: Any, stages: Mapping[str, Mapping[str, Any]], **options: Any
    ) -> None:
        super().__init__(network, *args, **options)
        if self.make_scheduler is not None:
            raise ValueError("stages bring their own learning rates: set scheduler=none")
        self.stages = read_stages(network, stages)
        self.losses = {name: self._loss(name, stage) for name, stage in self.stages.items()}
        self.resting = {name for name, p in network.named_parameters() if not p.requires_grad}
        for name, stage in self.stages.items():
            if not select(network, stage.train).keys() - self.resting:
                raise ValueError(f"stages.{name}.train: the rules of parameters= freeze all of it, nothing is left")
        self.initial = {option: getattr(network, option) for s in self.stages.values() for option in s.network}

    def _loss(self, name: str, stage: Stage) -> MultiBranchLoss | None:
        if stage.terms is None:
            return self.loss
        try:
            return MultiBranchLoss(stage.terms)
        except ValueError as error:
            raise ValueError(str(error).replace("loss.terms", f"stages.{name}.terms", 1)) from error

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
        found = []
        for name, stage in self.stages.items():
            set_options(self.network, self.initial | stage.network)
            loss = self.losses[name]
            found.append(
                Requirement(
                    where=f"procedure.stages.{name}.terms" if stage.terms is not None else "loss.terms",
                    inputs=tuple(stage.inputs.get(i, i) for i in self.network.inputs),
                    outputs=self.network.outputs,
                    terms=tuple(loss.terms) if loss else (),
                    stage=name,
                )
            )
        set_options(self.network, self.initial)
        return found

    def _enter(self, name: str) -> None:
        """Set network, loss and trainable parameters as a stage wants them."""
        self.stage = name
        stage = self.stages[name]
        set_options(self.network, self.initial | stage.network)
        training = select(self.network, stage.train).keys() - self.resting
        for parameter_name, parameter in self.network.named_parameters():
            parameter.requires_grad_(parameter_name in training)
            parameter.grad = None  # an optimiser leaves alone what has no gradient
        self.loss = self.losses[name]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self.make_optimizer is None:
            raise ValueError("this module was made for evaluation: it has no optimizer")
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
        self.stage = checkpoint.get("stage")
        if self.stage is not None and self.stage not in self.stages:
            raise InputError(
                f"the checkpoint is of stage {self.stage!r}, expected one of {', '.join(self.stages)}: "
                "continue with the stages it was trained in"
            )
