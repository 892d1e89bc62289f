"""The check of a composed config before any data is read: every node by itself, then the rules between nodes."""

import contextlib
import copy
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from datamodules.errors import ConfigError
from experiments.config.arguments import overridden_keys
from experiments.config.errors import group_files, locate
from experiments.config.processes import check_launcher, check_processes
from experiments.config.signatures import (
    annotations,
    check_root,
    check_targets,
    check_value,
    fits,
    origin,
    refuse_meaningless,
)
from experiments.config.tasks import refuse_foreign
from lightning_modules.checkpoints.untrusted import escaped

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # of numpy, the smallest of those that are seeded
Minutes = Annotated[float, Field(gt=0, le=1e6)]
# How much of an epoch: a number of batches, or a part.
Batches = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] | None

# The root keys of conf/config.yaml with their types; groups are mappings. Each task adds its own, the KEYS of its room.
ROOT: dict[str, Any] = {
    **dict.fromkeys(("task", "model", "data", "degradation", "procedure", "loss", "optimizer", "trainer"), dict),
    **dict.fromkeys(("protocol", "metric", "checkpoint", "validation_sheets", "choices"), dict),
    **dict.fromkeys(("scheduler", "logger", "callbacks"), dict | None),
    **dict.fromkeys(("name", "label", "runs_dir", "run_dir", "data_dir"), str),
    **dict.fromkeys(("group", "weights"), str | None),
    "seed": Seed,
    "resume": Literal["never", "auto"],
    "channels_last": bool | Literal["auto"],
    "pictures": Literal["sheets", "results", "none"],
}
# Nodes that a constructor in the code takes as keywords.
_KEYWORDS = {
    "checkpoint": "lightning_modules.callbacks.checkpointing.LastAndBest",
    "nonfinite": "lightning_modules.callbacks.finite.SkipNonFinite",
    "validation_sheets": "lightning_modules.callbacks.sheets.ValidationSheets",
}
# Values that the constructors they go to would take, and some that Lightning refuses late.
_VALUES: dict[str, Any] = {
    **dict.fromkeys(("trainer.max_epochs", "data.batch_size", "data.samples_per_epoch"), PositiveInt),
    **dict.fromkeys(("trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches"), PositiveInt),
    "validation_sheets.every_n_epochs": PositiveInt,
    "trainer.limit_test_batches": PositiveInt,
    **dict.fromkeys(("trainer.log_every_n_steps", "checkpoint.every_n_steps"), NonNegativeInt),
    **dict.fromkeys(("nonfinite.max_skips", "validation_sheets.images"), NonNegativeInt),
    "trainer.num_sanity_val_steps": Annotated[int, Field(ge=-1)],
    "trainer.gradient_clip_val": NonNegativeFloat,
    **dict.fromkeys(("trainer.limit_train_batches", "trainer.limit_val_batches"), Batches),
    # Images are float32: with weights of another type, as of bf16-true, the first convolution fails.
    "trainer.precision": Literal["auto", "32-true", "32", 32, "16-mixed", "16", 16, "bf16-mixed", "bf16"],
    "trainer.accelerator": Literal["auto", "gpu", "cpu", "cuda", "mps", "tpu"],
    "data.num_workers": Annotated[int, Field(ge=0, le=1024)],
    "data.suite_seed": Seed,
    "data.timeout_minutes": Minutes,
    "data.val_points": list[Annotated[float, Field(ge=0, le=1)]],
    "checkpoint.every_n_minutes": Literal[0] | Minutes,
    **dict.fromkeys(("scheduler.step_size", "scheduler.T_max", "degradation.kernels.size"), PositiveInt),
    "scheduler.gamma": PositiveFloat,
    "degradation.kernels.seed": Seed,
}


def check(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Verify the whole config: the keys that all tasks share, and by its `KEYS` and `check(cfg)` those of the task.

    A task that reads little of the nodes lists it in `READS`, nodes or keys with their types. Its own check comes
    first, and of the other nodes only those are looked at that the command line sets: what the others name need not be
    imported.

    Raises:
        ConfigError: one line that names the file or key, what was found, what is allowed and what to do.
    """
    check_launcher(choices)
    room = _room(cfg)
    if drop := getattr(room, "drop_unused", None):
        drop(cfg)
    keys: Mapping[str, Any] = getattr(room, "KEYS", {})  # a task of somebody's own need not have any
    for key in cfg:
        if key not in {*ROOT, *keys} and (line := refuse_foreign(str(key), cfg.task._target_)):
            raise ConfigError(line)
    # Hydra records no choice for groups of which several options are taken.
    files = group_files(choices)
    groups = {group: f"conf/{group}/" for group in ("protocol", "metric", "logger")}
    sources = {**groups, **dict.fromkeys(keys, files.get("task", "conf/task/")), **files}
    _check_variant(cfg)
    _check_named(cfg)
    if not cfg.get("protocol"):
        raise ConfigError("protocol: empty, expected at least one option of conf/protocol/: protocol=[y_shave4]")
    check_root(cfg, {**ROOT, **keys}, sources)
    refuse_meaningless(cfg, sources)
    reads: Mapping[str, Any] | None = getattr(room, "READS", None)
    check_task, nodes = getattr(room, "check", lambda _: None), {*map(str, cfg)}
    if reads is not None:
        check_task(cfg)
        nodes = {key.partition(".")[0] for key in overridden_keys() if key not in reads} | {*reads}
    checked = cfg
    if cfg.trainer.get("precision") == "auto":  # settled before Lightning hears of it
        checked = copy.deepcopy(cfg)
        checked.trainer.precision = "32-true"
    check_targets(checked, sources, nodes)
    keywords = {k: {"_target_": t, "_partial_": True, **cfg[k]} for k, t in _KEYWORDS.items() if k in {*cfg} & nodes}
    check_targets(OmegaConf.create(keywords), sources | dict.fromkeys({*keywords} - {*keys}, "conf/config.yaml"))
    for key, annotation in (_VALUES | {key: kind for key, kind in (reads or {}).items() if "." in key}).items():
        value = OmegaConf.select(cfg, key)
        if value is not None:
            check_value(key, OmegaConf.to_container(value) if OmegaConf.is_list(value) else value, annotation)
    check_processes(cfg)
    if cfg.metric:  # their files are read, and kept for the measurement
        from lightning_modules.metrics.build import build_metrics

        build_metrics(cfg.metric)
    if reads is None:
        check_task(cfg)


def take_text(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Give keys that take text what was typed, where Hydra has read something else: `name=2024`, `data.root=[1]`.

    A list of several stays one, and is refused.
    """
    given = {key.lstrip("+"): text.strip(" \t") for key, _, text in (item.partition("=") for item in overrides)}
    with contextlib.suppress(OmegaConfBaseException):  # what cannot be resolved, the check names
        given = {key: text for key, text in given.items() if not isinstance(OmegaConf.select(cfg, key), str | None)}
    if not given:
        return
    for path, value, annotation in annotations(cfg, {**ROOT, **getattr(_room(cfg), "KEYS", {})}, given):
        key = origin(cfg, path)
        if not fits(value, annotation):
            if isinstance(value, list):
                text = escaped(f"[{','.join(map(str, value))}]")
            else:  # of an interpolation what it gave
                text = str(value) if re.search(r"\$\\*{", given[key]) else given[key]
            if fits(text, annotation) and not (isinstance(value, list) and len(value) > 1):
                OmegaConf.update(cfg, key, text, merge=False)


def _room(cfg: DictConfig) -> ModuleType | None:
    """The module of the task, with its `run`, its `KEYS` and its `check`."""
    target = str(OmegaConf.select(cfg, "task._target_", default="experiments.train.run"))
    try:
        locate(target)
    except ConfigError as error:
        raise ConfigError(f"task._target_: {error}") from None
    return sys.modules.get(target.rpartition(".")[0])


def _check_named(cfg: DictConfig) -> None:
    """An option that is replaced leaves behind what recipes and overrides have set in its objects."""
    for group in ("callbacks", "metric", "logger"):
        nodes = cfg.get(group)
        for name, node in nodes.items() if OmegaConf.is_dict(nodes) else ():
            if not (OmegaConf.is_dict(node) and "_target_" in node):
                found = ",".join(map(str, node)) if OmegaConf.is_dict(node) else node
                raise ConfigError(
                    f"{group}.{name}: found {found or 'null'} and no _target_, expected an object: "
                    f"leave it out by ~{group}.{name}, or choose an option of conf/{group}/ that has it"
                )


def _check_variant(cfg: DictConfig) -> None:
    """A data set in several versions has no default; its source knows what there is to choose from."""
    if OmegaConf.is_missing(cfg.data, "variant"):
        variants = typing.get_args(typing.get_type_hints(locate(cfg.data.source._target_).__init__)["variant"])
        shown = " or ".join(f"data.variant={variant}" for variant in variants)
        raise ConfigError(f"data.variant: a value is required (conf/data/{cfg.choices.data}.yaml): set {shown}")
