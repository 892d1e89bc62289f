"""The check of a composed config before any data is read: every node by itself, then the rules between nodes."""

import contextlib
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.sources import splits_of
from experiments.config_check import check_root, check_targets, group_files
from experiments.config_errors import ConfigError, did_you_mean, locate

# The root keys of conf/config.yaml with their types; groups are mappings.
ROOT: dict[str, Any] = {
    **dict.fromkeys(
        ("task", "model", "data", "degradation", "procedure", "loss", "optimizer", "trainer", "protocol"),
        dict,
    ),
    **dict.fromkeys(("scheduler", "logger", "callbacks"), dict | None),
    "seed": int,
    "name": str,
    "group": str | None,
    "runs_dir": str,
    "run_dir": str,
    "data_dir": str,
    "resume": Literal["never", "auto"],
    "channels_last": bool,
    "compile": bool,
    "checkpoint": dict,
    "validation_sheets": dict,
    "metrics": list[str],
    "lpips_weights": str | None,
    "niqe_model": str | None,
    "self_ensemble": bool,
    "weights": str | None,
    "run": str | list[str] | None,
    "ckpt": str | None,
    "cascade": list[str] | None,
    "runs": str | list[str] | None,
    "suite": dict | None,
    "pictures": Literal["sheets", "results", "none"],
    "label": str,
    "choices": dict,
}
# Nodes that a constructor in the code takes as keywords.
_KEYWORDS = {
    "checkpoint": "lightning_modules.callbacks.checkpointing.LastAndBest",
    "validation_sheets": "lightning_modules.callbacks.sheets.ValidationSheets",
}
_LEAST = {
    "seed": 0,
    "trainer.max_epochs": 1,
    "data.batch_size": 1,
    "data.samples_per_epoch": 1,
    "checkpoint.every_n_steps": 0,
    "checkpoint.every_n_minutes": 0,
    "validation_sheets.images": 0,
    "validation_sheets.every_n_epochs": 1,
}


def check(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Verify the whole config.

    Raises:
        ConfigError: one line that names the file or key, what was found, what is allowed and what to do.
    """
    # Hydra records no choice for groups of which several options are taken.
    sources = {"protocol": "conf/protocol/", **group_files(choices)}
    _check_variant(cfg)
    if not cfg.get("protocol"):
        raise ConfigError("protocol: empty, expected at least one option of conf/protocol/: protocol=[y_shave4]")
    check_root(cfg, ROOT, sources)
    check_targets(cfg, sources)
    extra = OmegaConf.create({k: {"_target_": t, "_partial_": True, **cfg[k]} for k, t in _KEYWORDS.items()})
    check_targets(extra, dict.fromkeys(_KEYWORDS, "conf/config.yaml"))
    _check_least(cfg)
    _check_accelerator(cfg)
    _check_metrics(cfg)
    degradation = _construct(cfg, "degradation")
    if not cfg.task._target_.endswith("profile.run"):  # its images are random: it takes no data
        _check_inputs(cfg, degradation)
    if cfg.suite and not cfg.task._target_.endswith("evaluate.run"):
        raise ConfigError(f"suite={cfg.suite.name}: a suite is measured by task=evaluate: leave it away otherwise")
    if cfg.task._target_.endswith("train.run"):
        _check_splits(cfg)
        _check_training(cfg, degradation)
        _check_protocols(cfg, degradation)
        if cfg.self_ensemble:
            raise ConfigError(
                "self_ensemble: found true, which the test at the end of a training does not do: train without, and "
                "measure by task=evaluate run=RUN self_ensemble=true"
            )


def _check_least(cfg: DictConfig) -> None:
    for key, least in _LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and value < least:
            raise ConfigError(f"{key}: found {value}, expected at least {least}")


def _check_metrics(cfg: DictConfig) -> None:
    """Optional metrics by their names, each with its file."""
    if not cfg.metrics:
        return
    from lightning_modules.extra_metrics import FILES, build

    for name in cfg.metrics:
        if name not in FILES:
            note = ": it is measured without being asked for" if name in ("psnr", "ssim", "kernel_error") else ""
            raise ConfigError(
                f"metrics: found {name!r}{note}, expected {' or '.join(FILES)}{did_you_mean(name, FILES)}"
            )
        key, source = FILES[name]
        if cfg[key] is None:
            raise ConfigError(f"metrics: {name} needs a file: set {key}=FILE to {source}")
    build(cfg.metrics, cfg.lpips_weights, cfg.niqe_model)  # reads the files, which are kept for the measurement


def _check_protocols(cfg: DictConfig, degradation: Any) -> None:
    """Borders that depend on the scale have to be whole pixels."""
    import hydra

    for protocol in hydra.utils.instantiate(cfg.protocol, _convert_="all").values():
        for scale in getattr(degradation, "scales", [degradation.scale]):
            try:
                protocol.at(scale)
            except ValueError as error:
                raise ConfigError(str(error)) from error


def _check_accelerator(cfg: DictConfig) -> None:
    from pytorch_lightning.accelerators import AcceleratorRegistry

    wanted = str(cfg.trainer.get("accelerator", "auto"))
    known = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if wanted not in known:
        near = did_you_mean(wanted, known)
        raise ConfigError(f"trainer.accelerator: found {wanted!r}, expected {' | '.join(known)}{near}")
    kinds = ("cuda", "mps") if wanted == "gpu" else (wanted,)
    if wanted != "auto" and not any(AcceleratorRegistry[kind]["accelerator"].is_available() for kind in kinds):
        raise ConfigError(
            f"trainer.accelerator: found {wanted!r}, which this machine does not have: "
            "trainer.accelerator=auto takes what there is"
        )


def _construct(cfg: DictConfig, node: str) -> Any:
    """Build a cheap part of the experiment to have its own checks run; networks on the meta device, without memory."""
    import hydra
    import torch

    try:
        # Networks alone: a degradation may compute something when it is built, which meta tensors cannot.
        with torch.device("meta") if node == "model" else contextlib.nullcontext():
            return hydra.utils.instantiate(cfg[node], _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            text = str(cause).splitlines()[0]
            raise ConfigError(text if text.startswith(f"{node}.") else f"{node}: {text}") from error
        if isinstance(cause, InputError):  # a file that it reads, such as weights
            raise cause from error
        raise


def _check_variant(cfg: DictConfig) -> None:
    """A data set in several versions has no default; its source knows what there is to choose from."""
    if OmegaConf.is_missing(cfg.data, "variant"):
        found = typing.get_args(typing.get_type_hints(locate(cfg.data.source._target_).__init__)["variant"])
        shown = " or ".join(f"data.variant={word}" for word in found)
        raise ConfigError(f"data.variant: a value is required (conf/data/{cfg.choices.data}.yaml): set {shown}")


def _check_splits(cfg: DictConfig) -> None:
    """Said before anybody looks for the images of a test set to train on."""
    if "source" in cfg.data and "train" not in splits_of(locate(cfg.data.source._target_)):
        data = cfg.choices.data
        raise ConfigError(
            f"data: {data} is a test set, it has no images for training: choose data=div2k for training, and measure "
            f"the run by task=evaluate run=RUN data={data}"
        )


def _check_inputs(cfg: DictConfig, degradation: Any) -> None:
    """Inputs come from the degradation, or with the data: then it has to start from them, not to replace them."""
    paired = "lr" in getattr(locate(cfg.data._target_), "provides", ())
    starts_from_files = "lr" in getattr(degradation, "inputs", ("hr",))
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


def _check_patch(cfg: DictConfig, degradation: Any) -> None:
    patch, scale = cfg.data.get("patch"), getattr(degradation, "multiple", getattr(degradation, "scale", 1))
    if patch is None:
        return
    if patch < 1 or patch % scale:
        near = max(scale, round(patch / scale) * scale)
        raise ConfigError(
            f"data.patch: found {patch}, expected a multiple of {scale} (degradation={cfg.choices.degradation}): "
            f"the nearest is data.patch={near}"
        )


def _check_training(cfg: DictConfig, degradation: Any) -> None:
    """A network, its inputs, its loss and the degradation have to fit each other."""
    network = _construct(cfg, "model")
    if not any(True for _ in network.parameters()):
        raise ConfigError(f"model={cfg.label} has nothing to train: measure it with task=evaluate model={cfg.label}")
    _check_optimizer(cfg)
    name, provides = type(network).__name__, degradation.provides
    if mistake := scale_mistake(network, degradation):
        raise ConfigError(f"model: {mistake}")
    _check_patch(cfg, degradation)
    if cfg.data.get("gray") and getattr(network, "channels", 3) != 1:
        raise ConfigError(f"data.gray: {name} as configured takes colour images: set data.gray=false")
    if hasattr(network, "basis") and not hasattr(degradation, "kernels"):
        raise ConfigError(
            f"model: {name} learns what kernels there are, degradation={cfg.choices.degradation} draws none: choose "
            "another degradation=, such as degradation=gaussian_21"
        )
    from lightning_modules.losses import TARGETS

    for needs in _procedure(cfg, network).requirements():
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
    # A network for several scales counts its divisor in sharp pixels.
    reduction = 1 if "scale" in network.inputs else degradation.scale
    lr_patch = cfg.data.patch // reduction
    if lr_patch % network.divisor:
        step = network.divisor * reduction
        near = max(step, round(cfg.data.patch / step) * step)
        raise ConfigError(
            f"data.patch: {cfg.data.patch} gives crops of {lr_patch}, {name} works on multiples of "
            f"{network.divisor}: the nearest is data.patch={near}"
        )


def _procedure(cfg: DictConfig, network: Any) -> Any:
    """The training procedure around a network without memory, for its own checks."""
    import hydra

    if cfg.trainer.max_epochs is None and not cfg.procedure.get("stages"):
        raise ConfigError("trainer.max_epochs: found null, expected the number of epochs (only stages know theirs)")
    loss = _construct(cfg, "loss")
    make = _construct(cfg, "procedure")
    try:
        module = make(
            network,
            [],
            loss=loss,
            optimizer=hydra.utils.instantiate(cfg.optimizer, _convert_="all"),
            scheduler=hydra.utils.instantiate(cfg.scheduler, _convert_="all") if cfg.scheduler else None,
        )
    except ValueError as error:
        # Rules and stages are named by their key below procedure.
        text = str(error)
        raise ConfigError(f"procedure{'.' if text.startswith(('parameters', 'stages.')) else ': '}{text}") from error
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
    known = list(network.scales) if "scale" in network.inputs else [network.scale]
    made = list(getattr(degradation, "scales", [degradation.scale]))
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

    from lightning_modules.schedules import wants_length

    node = "optimizer"
    try:
        optimizer = hydra.utils.instantiate(cfg.optimizer, _convert_="all")([torch.nn.Parameter(torch.zeros(1))])
        if cfg.scheduler:
            node = "scheduler"
            make = hydra.utils.instantiate(cfg.scheduler, _convert_="all")
            make(optimizer, **({"total_steps": 1} if wants_length(make) else {}))
    except ValueError as error:
        raise ConfigError(f"{node}: {error}") from error
