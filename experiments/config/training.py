"""What has to fit before a network is trained: data, degradation, network, loss and optimiser, none of them run."""

import math
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import ConfigError
from datamodules.sources import splits_of, training_set_of
from experiments.config.compose import default_degradation
from experiments.config.construct import build_procedure, construct, instantiate, refused_as
from experiments.config.errors import locate

# Arguments of Lightning's Trainer that may only be what they are without being set, and what there is instead.
_ANSWERED_HERE = {
    "max_steps": ((-1,), "trainer.max_epochs= and data.samples_per_epoch="),
    "val_check_interval": ((None, 1.0), "shorter epochs, data.samples_per_epoch="),
    "overfit_batches": ((0.0,), "debug=one_batch"),
    "callbacks": ((None,), "callbacks="),
    "logger": ((None,), "logger="),
    "plugins": ((None,), "trainer.precision=, trainer.devices= or torchrun"),
    "use_distributed_sampler": ((False,), "nothing: each process has its share of the images"),
    "enable_checkpointing": ((False,), "checkpoint.use=, checkpoint.every_n_steps="),
}


def check_training(cfg: DictConfig) -> None:
    """A data set, a network, its inputs, its loss, its protocols and the degradation have to fit each other.

    Raises:
        ConfigError: one line, as in `experiments.config.check.check`.
    """
    _check_splits(cfg)
    for name, (values, instead) in _ANSWERED_HERE.items():
        if (found := cfg.trainer.get(name, values[0])) not in values:
            raise ConfigError(f"trainer.{name}: found {found}, which the suite answers for itself: use {instead}")
    degradation = construct(cfg, "degradation")
    check_inputs(cfg, degradation)
    check_transforms(cfg)
    _check_validation(cfg)
    network = construct(cfg, "model", meta=True)
    if not network.trainable:
        part = network.learned_part
        but = "" if part is network else f" but {type(part).__name__}, which is trained by itself"
        weights = " weights=FILE" * any(True for _ in network.parameters())
        raise ConfigError(
            f"model={cfg.label} has nothing to train{but}: measure it with task=evaluate model={cfg.label}{weights}"
        )
    _check_optimizer(cfg)
    if cfg.callbacks:
        construct(cfg, "callbacks")
    _check_network(cfg, network, degradation)
    procedure = _check_procedure(cfg, network, degradation)
    _check_branches(cfg, type(network).__name__, procedure, degradation)
    with refused_as("protocol"):  # borders that depend on the scale have to be whole pixels
        for protocol in instantiate(cfg.protocol).values():
            for scale in degradation.scales:
                protocol.at(scale)


def _check_splits(cfg: DictConfig) -> None:
    """Said before anybody looks for the images of a test set to train on, or downloads them."""
    with refused_as("data"):
        source = instantiate(cfg.data.source) if "source" in cfg.data else None
    if "train" not in splits_of(source):
        data, training = cfg.choices.data, training_set_of(source)
        raise ConfigError(
            f"data: {data} is a test set, it has no images for training: choose data={training} for training, and "
            f"measure the run by task=evaluate run=RUN data={data}"
        )


def _check_validation(cfg: DictConfig) -> None:
    """No checkpoint may be chosen by images that it is then tested on."""
    source = cfg.data.get("source") or cfg.data  # a data module of somebody's own need not have any
    on_test = source.get("train_on_all") and getattr(locate(source._target_), "all_validates_on_test", False)
    chooses = ["checkpoint.use=last"] * (cfg.checkpoint.use != "last")
    chooses += ["callbacks=none, without early_stopping"] * ("early_stopping" in (cfg.callbacks or {}))
    if on_test and chooses:
        raise ConfigError(
            f"data.source.train_on_all: validation of data={cfg.choices.data} is then on test images, by which no "
            f"checkpoint may be chosen: set {' and '.join(chooses)} (found checkpoint.use={cfg.checkpoint.use})"
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
        own = default_degradation(str(cfg.choices.data))
        raise ConfigError(
            f"degradation: {cfg.choices.degradation} makes its inputs from the sharp images and would ignore the "
            f"degraded ones of data={cfg.choices.data}: choose degradation={own}, or another one that starts from them"
        )
    if starts_from_files and not paired:
        raise ConfigError(
            f"degradation: {cfg.choices.degradation} starts from degraded images, data={cfg.choices.data} has sharp "
            "ones only: choose a degradation that makes them, such as degradation=ed_dsrn, or data with both, such as "
            "data=paired_folder"
        )


def check_transforms(cfg: DictConfig) -> None:
    """Own transforms of training crops, tried on one of the size of `data.patch`.

    Raises:
        ConfigError: names the first that is none of albumentations', is refused by it, or changes the size of a crop.
    """
    if not (nodes := cfg.data.get("transforms")):
        return
    from datamodules.augmentation import Transforms

    made: list[Any] = []
    for number, node in enumerate(nodes):
        try:
            made.append(instantiate(node) if OmegaConf.is_config(node) else node)
        except Exception as error:  # other people's constructors
            key = f"data.transforms.{number}"
            reason = str(error.__cause__ or error).partition("For further information")[0]  # of pydantic's address
            raise ConfigError(f"{key}: {node.get('_target_')}: {reason}", key=key) from error
    with refused_as("data.transforms"):
        Transforms(made, cfg.data.patch)


def scale_mistake(network: Any, degradation: Any) -> str | None:
    """What is wrong with the scales; a network that takes the scale as an input works at several."""
    scales, several = list(degradation.scales), "scale" in network.inputs
    if set(scales) <= set(network.scales) and (several or len(scales) == 1):
        return None
    return (
        f"{type(network).__name__} enlarges x{', x'.join(map(str, network.scales))}, degradation.scale is "
        f"{scales[0] if len(scales) == 1 else scales}: "
        + ("take scales that it knows" if several else "they must be equal")
    )


def shared_blur(degradation: Any, option: str) -> str:
    """Why a degradation whose kernels share the image does not provide `kernel`."""
    return (
        f"one blur for the whole image; degradation={option} blurs every image by {degradation.count} kernels that "
        "share it (it provides kernels, weights)"
    )


def input_mistake(name: str, inputs: Collection[str], degradation: Any, option: str) -> str | None:
    """What is wrong with the inputs of a network, called `name`, under a degradation, the `option` of its group."""
    from networks.base import STAND_INS

    missing = [field for field in inputs if {field, STAND_INS.get(field)}.isdisjoint(degradation.provides)]
    if not missing:
        return None
    if missing[0] == "kernel" and "kernels" in degradation.provides:
        return (
            f"{name} needs 'kernel', {shared_blur(degradation, option)}: choose model=dmbsr, a model that takes no "
            "kernel, or degradation=usrnet_train"
        )
    line = (
        f"{name} takes {missing[0]!r}, which degradation={option} does not provide "
        f"(it provides {', '.join(degradation.provides)}): choose another degradation="
    )
    ways = {
        "kernel": "data.source.kernels of data=paired_folder, data.source.kernels=stored of data=div2krk",
        "noise_level": "data.source.noise_level of data=paired_folder",
    }
    if type(degradation).__name__ == "AsStored" and missing[0] in ways:
        line += f", or set {ways[missing[0]]}"
    return line


def _check_network(cfg: DictConfig, network: Any, degradation: Any) -> None:
    """What the network makes of the scale, the patches and the kernels of the degradation, and of gray images."""
    name, option = type(network).__name__, cfg.choices.degradation
    if mistake := scale_mistake(network, degradation):
        raise ConfigError(f"model: {mistake}")
    check_patch(cfg, degradation, network)
    if cfg.data.get("gray") and network.channels != 1:
        raise ConfigError(f"data.gray: {name} as configured takes colour images: set data.gray=false")
    if network.has_basis and degradation.kernels is None:
        raise ConfigError(
            f"model: {name} learns what kernels there are, degradation={option} draws none: choose another "
            "degradation=, such as degradation=gaussian_21"
        )


def network_step(network: Any, degradation: Any) -> int:
    """What sharp crops have to be divisible by for a network; one for several scales counts in sharp pixels."""
    return network.size_multiple * (1 if "scale" in network.inputs else degradation.scale)


def check_patch(cfg: DictConfig, degradation: Any, network: Any = None) -> None:
    """The sharp crop has to shrink to whole pixels, and to a size that the network can halve as often as it does."""
    patch, steps = cfg.data.get("patch"), {f"degradation={cfg.choices.degradation}": degradation.multiple}
    if network is not None:
        steps[type(network).__name__] = network_step(network, degradation)
    step, cut = math.lcm(*steps.values()), 2 * degradation.margin
    if patch is not None and (patch <= cut or (patch - cut) % step):
        causes = ", ".join(f"{multiple} for {cause}" for cause, multiple in steps.items())
        beside = f" and {cut} more, which degradation.margin cuts off," * (cut > 0)
        raise ConfigError(
            f"data.patch: found {patch}, expected a multiple of {step}{beside} ({causes}): "
            f"the nearest is data.patch={max(step, round((patch - cut) / step) * step) + cut}"
        )


def _check_optimizer(cfg: DictConfig) -> None:
    """Optimisers and schedulers check their values when they are made: try them with a parameter that costs nothing."""
    import torch

    from lightning_modules.optim.schedules import wants_length

    with refused_as("optimizer"):
        optimizer = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    if cfg.scheduler:
        with refused_as("scheduler"):
            make = instantiate(cfg.scheduler)
            scheduler = make(optimizer, **({"total_steps": 10**9} if wants_length(make) else {}))
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError(
                "scheduler: found ReduceLROnPlateau, which waits for a score, expected one that counts epochs or "
                "steps: choose another, such as scheduler=cosine, or callbacks=early_stopping"
            )


def _check_procedure(cfg: DictConfig, network: Any, degradation: Any) -> Any:
    """The training procedure around a network without memory, which checks its options, and what it asks of others."""
    import torch

    from networks.ops.meta import shapes_alone

    if cfg.trainer.max_epochs is None and not cfg.procedure.get("stages"):
        raise ConfigError("trainer.max_epochs: found null, expected the number of epochs (only stages know theirs)")
    construct(cfg, "loss")
    with refused_as("procedure"):
        module = build_procedure(cfg, network, [])
    if module.continues and not cfg.weights:
        raise ConfigError(
            f"weights: found null, this recipe goes on with a trained {type(network).__name__}: train one first, by "
            "model= of the same network without a GAN, and set weights=runs/NAME/checkpoints/best.ckpt; "
            "procedure.continues=false starts from nothing all the same"
        )
    _check_validations(cfg.trainer.check_val_every_n_epoch, cfg.trainer.max_epochs or module.epochs, module)
    if module.automatic_optimization:
        return module
    channels, side = 1 if cfg.data.get("gray") else 3, cfg.data.patch - 2 * degradation.margin
    try:
        with shapes_alone():
            module.discriminator.to("meta")(torch.zeros(2, channels, side, side))
    except (ValueError, RuntimeError) as error:
        shape = f"{side}x{side} of {channels} channels (data.patch without degradation.margin)"
        raise ConfigError(f"procedure.discriminator: does not take crops of {shape}: {error}") from error
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


def _check_validations(every: int | None, epochs: int, module: Any) -> None:
    """Without a validation there is no best checkpoint; scores of the stages do not compare."""
    if every is None:
        raise ConfigError("trainer.check_val_every_n_epoch: found null, expected a number of epochs")
    key = f"trainer.check_val_every_n_epoch: found {every}"
    if every > epochs:
        raise ConfigError(f"{key}, expected at most the {epochs} epochs of the training: set it lower")
    stage_of = getattr(module, "at", None)
    if stage_of and stage_of(epochs // every * every - 1)[0] != stage_of(epochs - 1)[0]:
        raise ConfigError(
            f"{key}, which leaves no validation in the last stage, of {epochs} epochs in all: set it lower"
        )


def _check_branches(cfg: DictConfig, name: str, procedure: Any, degradation: Any) -> None:
    """Inputs and targets of every stage have to come from the degradation, and its branches from the network."""
    from lightning_modules.losses.multi_branch import TARGETS

    option = cfg.choices.degradation
    for needs in procedure.requirements():
        stage = f" in stage {needs.stage}" if needs.stage else ""
        if mistake := input_mistake(name + stage, needs.inputs, degradation, option):
            raise ConfigError(f"model: {mistake}")
        for branch in needs.terms:
            if branch not in needs.outputs:
                raise ConfigError(
                    f"{needs.where}.{branch}: {name}{stage} has no such branch as configured "
                    f"(it returns {', '.join(needs.outputs)}): choose another loss= or give the network the branch"
                )
            if TARGETS[branch] not in degradation.provides:
                if TARGETS[branch] == "kernel" and "kernels" in degradation.provides:
                    raise ConfigError(
                        f"{needs.where}.{branch}: needs 'kernel', {shared_blur(degradation, option)}: choose a model "
                        "that estimates no kernel, or degradation=usrnet_train"
                    )
                raise ConfigError(
                    f"{needs.where}.{branch}: needs {TARGETS[branch]!r}, which degradation={option} does not provide "
                    f"(it provides {', '.join(degradation.provides)})"
                )
