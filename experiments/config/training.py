"""What has to fit before a network is trained: data, degradation, network, loss and optimiser, none of them run."""

import contextlib
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig

from datamodules.errors import ConfigError, InputError, OptionError
from datamodules.sources import splits_of
from experiments.config.errors import locate


def construct(cfg: DictConfig, node: str, *, meta: bool = False) -> Any:
    """Build a part of the experiment, which checks its options; `meta` takes no memory, for networks only to look at.

    Raises:
        ConfigError: for an option that the part refuses.
        InputError: for a file that it cannot read.
    """
    import hydra
    import torch

    from networks.base import RestorationNetwork

    try:
        with torch.device("meta") if meta else contextlib.nullcontext():
            part = hydra.utils.instantiate(cfg[node], _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, OptionError):
            raise ConfigError(str(cause), key=cause.key) from error
        if isinstance(cause, ValueError):
            raise ConfigError(f"{node}: {str(cause).splitlines()[0]}", key=node) from error
        if isinstance(cause, InputError):  # a file that it reads, such as weights
            raise cause from error
        raise
    if node == "model" and not isinstance(part, RestorationNetwork):
        raise ConfigError(
            f"model._target_: found {cfg.model._target_}, expected a class that derives from "
            "networks.base.RestorationNetwork: see docs/extending.md"
        )
    return part


def _check_splits(cfg: DictConfig) -> None:
    """Said before anybody looks for the images of a test set to train on."""
    if "source" in cfg.data and "train" not in splits_of(locate(cfg.data.source._target_)):
        data = cfg.choices.data
        raise ConfigError(
            f"data: {data} is a test set, it has no images for training: choose data=div2k for training, and measure "
            f"the run by task=evaluate run=RUN data={data}"
        )


def check_patch(cfg: DictConfig, degradation: Any) -> None:
    """The sharp crop has to shrink to whole pixels."""
    patch, scale = cfg.data.get("patch"), degradation.multiple
    if patch is None:
        return
    if patch < 1 or patch % scale:
        near = max(scale, round(patch / scale) * scale)
        raise ConfigError(
            f"data.patch: found {patch}, expected a multiple of {scale} (degradation={cfg.choices.degradation}): "
            f"the nearest is data.patch={near}"
        )


def check_inputs(cfg: DictConfig, degradation: Any) -> None:
    """Inputs come from the degradation, or with the data: then it has to start from them, not to replace them.

    Raises:
        ConfigError: if they come from both or from neither.
    """
    datamodule: Any = locate(cfg.data._target_)
    paired = "lr" in datamodule.provides
    starts_from_files = "lr" in degradation.inputs
    if paired and not starts_from_files:
        raise ConfigError(
            f"degradation: {cfg.choices.degradation} makes its inputs from the sharp images and would ignore the "
            f"degraded ones of data={cfg.choices.data}: choose degradation=none, or one that starts from them"
        )
    if starts_from_files and not paired:
        raise ConfigError(
            f"degradation: {cfg.choices.degradation} starts from degraded images, data={cfg.choices.data} has sharp "
            "ones only: choose a degradation that makes them, such as degradation=ed_dsrn, or data with both, such as "
            "data=paired_folder"
        )


def _check_protocols(cfg: DictConfig, degradation: Any) -> None:
    """Borders that depend on the scale have to be whole pixels."""
    import hydra

    for protocol in hydra.utils.instantiate(cfg.protocol, _convert_="all").values():
        for scale in degradation.scales:
            try:
                protocol.at(scale)
            except ValueError as error:
                raise ConfigError(str(error)) from error


def check_training(cfg: DictConfig) -> None:
    """A data set, a network, its inputs, its loss, its protocols and the degradation have to fit each other.

    Raises:
        ConfigError: one line, as in `experiments.config.check.check`.
    """
    degradation = construct(cfg, "degradation")
    check_inputs(cfg, degradation)
    _check_splits(cfg)
    network = construct(cfg, "model", meta=True)
    if not any(True for _ in network.parameters()):
        raise ConfigError(f"model={cfg.label} has nothing to train: measure it with task=evaluate model={cfg.label}")
    _check_optimizer(cfg)
    if cfg.callbacks:
        construct(cfg, "callbacks")
    name, provides = type(network).__name__, degradation.provides
    if mistake := scale_mistake(network, degradation):
        raise ConfigError(f"model: {mistake}")
    check_patch(cfg, degradation)
    if cfg.data.get("gray") and network.channels != 1:
        raise ConfigError(f"data.gray: {name} as configured takes colour images: set data.gray=false")
    if network.has_basis and degradation.kernels is None:
        raise ConfigError(
            f"model: {name} learns what kernels there are, degradation={cfg.choices.degradation} draws none: choose "
            "another degradation=, such as degradation=gaussian_21"
        )
    from lightning_modules.losses.multi_branch import TARGETS

    procedure = _procedure(cfg, network)
    if procedure.continues and not cfg.weights:
        raise ConfigError(
            f"weights: found null, this recipe goes on with a trained {name}: train one first, by model= of the same "
            "network without a GAN, and set weights=runs/NAME/checkpoints/best.ckpt; procedure.continues=false starts "
            "from nothing all the same"
        )
    for needs in procedure.requirements():
        stage = f" in stage {needs.stage}" if needs.stage else ""
        if mistake := input_mistake(name + stage, needs.inputs, degradation, cfg.choices.degradation):
            raise ConfigError(f"model: {mistake}")
        for branch in needs.terms:
            if branch not in needs.outputs:
                raise ConfigError(
                    f"{needs.where}.{branch}: {name}{stage} has no such branch as configured "
                    f"(it returns {', '.join(needs.outputs)}): "
                    "choose another loss= or give the network the branch"
                )
            if TARGETS[branch] not in provides:
                raise ConfigError(
                    f"{needs.where}.{branch}: needs {TARGETS[branch]!r}, which degradation={cfg.choices.degradation} "
                    f"does not provide (it provides {', '.join(provides)})"
                )
    # A network for several scales counts its size_multiple in sharp pixels.
    reduction = 1 if "scale" in network.inputs else degradation.scale
    lr_patch = cfg.data.patch // reduction
    if lr_patch % network.size_multiple:
        step = network.size_multiple * reduction
        near = max(step, round(cfg.data.patch / step) * step)
        raise ConfigError(
            f"data.patch: {cfg.data.patch} gives crops of {lr_patch}, {name} works on multiples of "
            f"{network.size_multiple}: the nearest is data.patch={near}"
        )
    _check_protocols(cfg, degradation)


def _procedure(cfg: DictConfig, network: Any) -> Any:
    """The training procedure around a network without memory, for its own checks."""
    import hydra

    if cfg.trainer.max_epochs is None and not cfg.procedure.get("stages"):
        raise ConfigError("trainer.max_epochs: found null, expected the number of epochs (only stages know theirs)")
    loss = construct(cfg, "loss")
    make = construct(cfg, "procedure")
    try:
        module = make(
            network,
            [],
            loss=loss,
            optimizer=hydra.utils.instantiate(cfg.optimizer, _convert_="all"),
            scheduler=hydra.utils.instantiate(cfg.scheduler, _convert_="all") if cfg.scheduler else None,
        )
    except OptionError as error:
        raise ConfigError(str(error), key=error.key) from error
    except ValueError as error:
        raise ConfigError(f"procedure: {error}", key="procedure") from error
    if not module.automatic_optimization:
        for key, neutral, instead in (
            ("gradient_clip_val", None, "procedure.clip"),
            ("accumulate_grad_batches", 1, "a larger data.batch_size"),
        ):
            if cfg.trainer[key] not in (None, neutral):
                raise ConfigError(
                    f"trainer.{key}: found {cfg.trainer[key]}, which {type(module).__name__} with its two optimisers "
                    f"cannot use: set trainer.{key}={'null' if neutral is None else neutral} and use {instead}"
                )
    return module


def scale_mistake(network: Any, degradation: Any) -> str | None:
    """What is wrong with the scales; a network that takes the scale as an input works at several."""
    known = list(network.scales)
    made = list(degradation.scales)
    if all(scale in known for scale in made) and ("scale" in network.inputs or len(made) == 1):
        return None
    return (
        f"{type(network).__name__} enlarges x{', x'.join(map(str, known))}, degradation.scale is "
        f"{made[0] if len(made) == 1 else made}: "
        + ("take scales that it knows" if "scale" in network.inputs else "they must be equal")
    )


def input_mistake(name: str, inputs: Collection[str], degradation: Any, option: str) -> str | None:
    """What is wrong with the inputs of a network, called `name`, under a degradation, the `option` of its group."""
    missing = [field for field in inputs if field not in degradation.provides]
    if not missing:
        return None
    return (
        f"{name} takes {missing[0]!r}, which degradation={option} does not provide "
        f"(it provides {', '.join(degradation.provides)}): choose another degradation="
    )


def _check_optimizer(cfg: DictConfig) -> None:
    """Optimisers and schedulers check their values when they are made: try them with a parameter that costs nothing."""
    import hydra
    import torch

    from lightning_modules.optim.schedules import wants_length

    node = "optimizer"
    try:
        optimizer = hydra.utils.instantiate(cfg.optimizer, _convert_="all")([torch.nn.Parameter(torch.zeros(1))])
        if cfg.scheduler:
            node = "scheduler"
            make = hydra.utils.instantiate(cfg.scheduler, _convert_="all")
            make(optimizer, **({"total_steps": 10**9} if wants_length(make) else {}))
    except ValueError as error:
        raise ConfigError(f"{node}: {error}") from error
