"""The check of a composed config before any data is read: every node by itself, then the rules between nodes."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from experiments.config_check import check_root, check_targets, group_files
from experiments.config_errors import ConfigError

# The root keys of conf/config.yaml with their types; groups are mappings.
ROOT: dict[str, Any] = {
    **dict.fromkeys(
        ("task", "model", "data", "degradation", "loss", "optimizer", "trainer", "protocol"),
        dict,
    ),
    **dict.fromkeys(("scheduler", "logger", "callbacks"), dict | None),
    "seed": int,
    "name": str,
    "runs_dir": str,
    "run_dir": str,
    "data_dir": str,
    "resume": Literal["never", "auto"],
    "channels_last": bool,
    "compile": bool,
    "checkpoint": dict,
    "validation_sheets": dict,
    "run": str | None,
    "ckpt": str | None,
    "label": str,
    "choices": dict,
}
# Nodes that a constructor in the code takes as keywords.
_KEYWORDS = {
    "checkpoint": "lightning_modules.callbacks.checkpointing.LastAndBest",
    "validation_sheets": "lightning_modules.callbacks.sheets.ValidationSheets",
}


def check(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Verify the whole config.

    Raises:
        ConfigError: one line that names the file or key, what was found, what is allowed and what to do.
    """
    # Hydra records no choice for groups of which several options are taken.
    sources = {"protocol": "conf/protocol/", **group_files(choices)}
    check_root(cfg, ROOT)
    check_targets(cfg, sources)
    extra = OmegaConf.create({k: {"_target_": t, "_partial_": True, **cfg[k]} for k, t in _KEYWORDS.items()})
    check_targets(extra, dict.fromkeys(_KEYWORDS, "conf/config.yaml"))
    if not cfg.protocol:
        raise ConfigError("protocol: empty, expected at least one option of conf/protocol/: protocol=[y_shave4]")
    degradation = _construct(cfg, "degradation")
    if cfg.task._target_.endswith("train.run"):
        _check_patch(cfg, degradation)
        _check_training(cfg, degradation)


def _construct(cfg: DictConfig, node: str) -> Any:
    """Build a cheap part of the experiment to have its own checks run; networks on the meta device, without memory."""
    import hydra
    import torch

    try:
        with torch.device("meta"):
            return hydra.utils.instantiate(cfg[node], _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            text = str(cause).splitlines()[0]
            raise ConfigError(text if text.startswith(f"{node}.") else f"{node}: {text}") from error
        raise


def _check_patch(cfg: DictConfig, degradation: Any) -> None:
    patch, scale = cfg.data.get("patch"), getattr(degradation, "scale", 1)
    if patch is None:
        return
    if patch < 1 or patch % scale:
        near = max(scale, round(patch / scale) * scale)
        raise ConfigError(
            f"data.patch: found {patch}, expected a multiple of degradation.scale={scale}: "
            f"the nearest is data.patch={near}"
        )
    for key in ("batch_size", "samples_per_epoch"):
        if cfg.data.get(key, 1) < 1:
            raise ConfigError(f"data.{key}: found {cfg.data[key]}, expected at least 1")


def _check_training(cfg: DictConfig, degradation: Any) -> None:
    """A network, its inputs, its loss and the degradation have to fit each other."""
    network = _construct(cfg, "model")
    loss = _construct(cfg, "loss")
    _construct_partial(cfg, "optimizer")
    from lightning_modules.losses import TARGETS

    name, provides = type(network).__name__, degradation.provides
    if network.scale != degradation.scale:
        raise ConfigError(
            f"model: {name} enlarges x{network.scale}, degradation.scale is {degradation.scale}: they must be equal"
        )
    if missing := [field for field in network.inputs if field not in provides]:
        raise ConfigError(
            f"model: {name} takes {missing[0]!r}, which degradation={cfg.choices.degradation} does not provide "
            f"(it provides {', '.join(provides)}): choose another degradation="
        )
    for branch in loss.terms:
        if branch not in network.outputs:
            raise ConfigError(
                f"loss.terms.{branch}: {name} has no such branch as configured "
                f"(it returns {', '.join(network.outputs)}): "
                "choose another loss= or give the network the branch"
            )
        if TARGETS[branch] not in provides:
            raise ConfigError(
                f"loss.terms.{branch}: needs {TARGETS[branch]!r}, which degradation={cfg.choices.degradation} "
                f"does not provide (it provides {', '.join(provides)})"
            )
    lr_patch = cfg.data.patch // degradation.scale
    if lr_patch % network.divisor:
        step = network.divisor * degradation.scale
        near = max(step, round(cfg.data.patch / step) * step)
        raise ConfigError(
            f"data.patch: {cfg.data.patch} gives low-resolution crops of {lr_patch}, {name} works on multiples of "
            f"{network.divisor}: the nearest is data.patch={near}"
        )


def _construct_partial(cfg: DictConfig, node: str) -> None:
    """Optimisers check their values when they get parameters: give them one that costs nothing."""
    import hydra
    import torch

    make = hydra.utils.instantiate(cfg[node], _convert_="all")
    if "params" in inspect.signature(make).parameters:
        try:
            make([torch.nn.Parameter(torch.zeros(1))])
        except ValueError as error:
            raise ConfigError(f"{node}: {error}") from error
