"""The check of a composed config before any data is read: every node by itself, then the rules between nodes."""

import copy
import typing
from collections.abc import Mapping
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from experiments.config.errors import ConfigError, did_you_mean, locate
from experiments.config.processes import check_processes
from experiments.config.signatures import check_root, check_targets, group_files
from experiments.config.slurm import check_launcher, check_tasks
from experiments.config.training import check_training, construct

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
    "channels_last": bool | Literal["auto"],
    "keep_memory": bool,
    "compile": bool,
    "checkpoint": dict,
    "nonfinite": dict,
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
    "input": str | list[str] | None,
    "output": str | None,
    "kernel": str | None,
    "noise_level": float | None,
    "scale": int | None,
    "tile": int | None,
    "overlap": int | None,
    "suite": dict | None,
    "pictures": Literal["sheets", "results", "none"],
    "label": str,
    "choices": dict,
}
# Nodes that a constructor in the code takes as keywords.
_KEYWORDS = {
    "checkpoint": "lightning_modules.callbacks.checkpointing.LastAndBest",
    "nonfinite": "lightning_modules.callbacks.finite.SkipNonFinite",
    "validation_sheets": "lightning_modules.callbacks.sheets.ValidationSheets",
}
_LEAST = {
    "seed": 0,
    "trainer.max_epochs": 1,
    "data.batch_size": 1,
    "data.samples_per_epoch": 1,
    "data.num_workers": 0,
    "data.timeout_minutes": 0.01,
    "checkpoint.every_n_steps": 0,
    "checkpoint.every_n_minutes": 0,
    "nonfinite.max_skips": 0,
    "validation_sheets.images": 0,
    "validation_sheets.every_n_epochs": 1,
}


def check(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Verify the whole config.

    Raises:
        ConfigError: one line that names the file or key, what was found, what is allowed and what to do.
    """
    check_launcher(choices)
    # Hydra records no choice for groups of which several options are taken.
    sources = {"protocol": "conf/protocol/", **group_files(choices)}
    _check_variant(cfg)
    if not cfg.get("protocol"):
        raise ConfigError("protocol: empty, expected at least one option of conf/protocol/: protocol=[y_shave4]")
    check_root(cfg, ROOT, sources)
    checked = cfg
    if cfg.trainer.get("precision") == "auto":  # settled before Lightning hears of it
        checked = copy.deepcopy(cfg)
        checked.trainer.precision = "32-true"
    check_targets(checked, sources)
    extra = OmegaConf.create({k: {"_target_": t, "_partial_": True, **cfg[k]} for k, t in _KEYWORDS.items()})
    check_targets(extra, dict.fromkeys(_KEYWORDS, "conf/config.yaml"))
    _check_least(cfg)
    _check_accelerator(cfg)
    if cfg.task._target_.endswith("train.run"):
        check_tasks(cfg.trainer)
    check_processes(cfg)
    _check_metrics(cfg)
    degradation = construct(cfg, "degradation")
    # The images of a profile are random, those of a restoration have no data set, and a run is measured on its own data
    # unless others are given.
    of_run = cfg.run and not cfg.suite and cfg.task._target_.endswith("evaluate.run")
    if not of_run and not cfg.task._target_.endswith(("profile.run", "restore.run", "serve.run")):
        check_inputs(cfg, degradation)
    if cfg.suite and not cfg.task._target_.endswith("evaluate.run"):
        raise ConfigError(f"suite={cfg.suite.name}: a suite is measured by task=evaluate: omit it otherwise")
    if cfg.task._target_.endswith("train.run"):
        check_training(cfg, degradation)
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
    from lightning_modules.metrics.build import FILES, build_metrics

    for name in cfg.metrics:
        if name not in FILES:
            note = ": it is measured without being asked for" if name in ("psnr", "ssim", "kernel_error") else ""
            raise ConfigError(
                f"metrics: found {name!r}{note}, expected {' or '.join(FILES)}{did_you_mean(name, FILES)}"
            )
        key, source = FILES[name]
        if cfg[key] is None:
            raise ConfigError(f"metrics: {name} needs a file: set {key}=FILE to {source}")
    build_metrics(cfg.metrics, cfg.lpips_weights, cfg.niqe_model)  # reads the files, which are kept for the measurement


def _check_protocols(cfg: DictConfig, degradation: Any) -> None:
    """Borders that depend on the scale have to be whole pixels."""
    import hydra

    for protocol in hydra.utils.instantiate(cfg.protocol, _convert_="all").values():
        for scale in degradation.scales:
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


def _check_variant(cfg: DictConfig) -> None:
    """A data set in several versions has no default; its source knows what there is to choose from."""
    if OmegaConf.is_missing(cfg.data, "variant"):
        found = typing.get_args(typing.get_type_hints(locate(cfg.data.source._target_).__init__)["variant"])
        shown = " or ".join(f"data.variant={word}" for word in found)
        raise ConfigError(f"data.variant: a value is required (conf/data/{cfg.choices.data}.yaml): set {shown}")


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
