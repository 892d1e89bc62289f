"""The folder of a run: its stable name, who may write into it, and what is written first."""

import errno
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import ConfigError, InputError
from datamodules.installed import CHECKOUT, ROOT
from datamodules.io.atomic import part_of, replacing
from experiments.runtime.saved_config import read_mapping
from lightning_modules.loggers.agents import agent_trial

log = logging.getLogger(__name__)

# Overrides that change how or where an experiment runs, not what it computes, are no part of its name.
_UNNAMED = re.compile(
    r"^(name|group|resume|runs_dir|data_dir|task|local|run|ckpt|run_dir|pictures|metric(\..*)?"
    r"|suite\..*|hydra.*|logger.*|callbacks\.(?!ema|early_stopping).*"
    r"|data\.(num_workers|cache_dir|on_corrupt)|trainer\.(accelerator|enable_progress_bar|num_nodes))$"
)
# What has to be equal when a run is continued, and the keys in it that may differ all the same.
_IDENTITY = (
    "model",
    "procedure",
    "loss",
    "optimizer",
    "scheduler",
    "degradation",
    "data",
    "seed",
    "weights",
    "callbacks.ema",
)
# What decides how long a schedule is that has the length of the training, `scheduler.total_steps=null`.
_LENGTH = ("trainer.max_epochs", "trainer.limit_train_batches")
FREE_DATA_KEYS = {"num_workers", "timeout_minutes", "cache_dir", "root", "source"}
# Keys that an older run may lack, though what has been trained does not depend on them.
_NEW_KEYS = {"data": {"val_points", "transforms"}, "procedure": {"continues"}}
_LONGEST_NAME = 200  # bytes: of 255 that a folder may have
_PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "kornia", "albumentations", "torchmetrics", "wandb", "numpy")


def run_name(choices: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """A name that is the same for the same command: experiment or model-data, then what was overridden, sorted.

    A trial of a W&B sweep has its id at the end, as a sweep may draw the same values twice.

    Args:
        choices: the config group options in force (`model`, `data`, `experiment`).
        overrides: the overrides of the command line, as `key=value`.
    """
    named = named_overrides(overrides)
    if (weights := _named_weights(overrides)) and not choices.get("experiment") and "model" not in named:
        choices = {**choices, "model": weights}
        named.pop("weights", None)
    if choices.get("experiment"):
        base = str(choices["experiment"])
        named.pop("experiment", None)
    else:
        base = f"{choices['model']}-{choices['data']}"
        named = {k: v for k, v in named.items() if k not in ("model", "data", "experiment")}
    if "cascade" in named:
        base = f"cascade={named.pop('cascade')}-{choices['data']}"
    if choices.get("suite"):
        base = f"{base.removesuffix(choices['data'])}{choices['suite']}"
        # What its records say themselves is no part of the name: all sets and cells of a model are in one folder.
        said = re.compile(r"suite|protocol|degradation|(data|degradation)\..*")
        named = {k: v for k, v in named.items() if not said.fullmatch(k)}
    if choices.get("task") == "evaluate":
        base = f"evaluate-{base}"  # another folder than that of the training
    if choices.get("task") == "compare":
        base = "compare"
    parts = [f"{k}={_short(v) if k.endswith('root') else v}" for k, v in sorted(named.items())]
    name = re.sub(r"[^A-Za-z0-9._=,-]+", "_", "-".join([base, *parts]))
    if len(name) > 120:
        seed = next((part for part in parts if part.startswith("seed=")), "")  # seeds belong together
        rest = name.replace(f"-{seed}", "", 1) if seed else name
        name = f"{rest[:100]}-{hashlib.sha256(rest.encode()).hexdigest()[:8]}" + (f"-{seed}" if seed else "")
    trial = agent_trial()
    return f"{name}-{trial}" if trial else name


def named_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Those overrides of a command line, `key=value`, that change what an experiment computes."""
    # What is taken out (~loss.terms.deblurred) has no value.
    pairs = (item.lstrip("+~").split("=", 1) if "=" in item else (item.lstrip("~"), "removed") for item in overrides)
    return {key: value for key, value in pairs if not _UNNAMED.match(key)}


def _named_weights(overrides: Sequence[str]) -> str:
    """The names of weights in `weights=NAME` or `run=zoo:NAME`, which bring their networks; "" without any."""
    given = dict(item.split("=", 1) for item in overrides if "=" in item)
    weights = re.fullmatch(r"(?:zoo:)?(?!null$)([\w-]+)", given.get("weights", ""))
    return weights[1] if weights else "+".join(re.findall(r"\bzoo:([\w-]+)", given.get("run", "")))


def _short(path: str) -> str:
    return "_".join(Path(path.strip("'\"")).parts[-2:]).replace("/", "")


def checked_name(name: str) -> str:
    """The name of a run: that of one folder in `runs_dir`.

    Raises:
        ConfigError: if it would be another folder, or none.
    """
    odd = "/" in name or name.startswith(".") or name.strip() != name or not name.isprintable()
    if odd or not name or len(os.fsencode(name)) > _LONGEST_NAME:
        shown = name if len(name) <= 40 else f"{name[:40]}... ({len(name)} letters)"
        raise ConfigError(
            f"name: found {shown!r}, expected the name of one folder in runs_dir= ({_LONGEST_NAME} bytes at most, no "
            "slash, no dot in front, no space at an end): choose another, or leave name= out"
        )
    return name


def check_run(
    run_dir: Path, config: Mapping[str, Any], resume: str, raw: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Whether a training may begin or continue in this folder; returns the `meta.json` of one that is there.

    Args:
        raw: the config with its interpolations, by which mistakes name the keys that were given.

    Raises:
        InputError: if the name is taken (and resume is not "auto"), or if the folder belongs to another configuration.
    """
    if not (run_dir / "config.yaml").exists():
        left = [*(run_dir / "checkpoints").glob("*.ckpt"), *run_dir.glob("metrics.csv")]
        if left:
            raise InputError(
                f"{run_dir}: has no config.yaml, but {left[0].relative_to(run_dir)} of a run: put config.yaml back, or "
                "give the new run another name with name=..."
            )
        return {}
    if resume != "auto":
        raise InputError(
            f"{run_dir}: this run exists already: continue it with resume=auto, "
            "or give the new one another name with name=..."
        )
    _check_same(run_dir, config, raw or {})
    return read_mapping(run_dir / "meta.json")


def open_run(
    run_dir: Path,
    config: Mapping[str, Any],
    resume: str,
    step: int = 0,
    images: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Create the folder of a training run, or enter it to continue, and return its `meta.json`.

    Args:
        step: at which the training begins or goes on.
        images: digests of those of `train` and `val`.

    Raises:
        InputError: as `check_run`, if the validation images are others, or if the folder cannot be written.
    """
    if meta := check_run(run_dir, config, resume):
        _check_images(run_dir, meta.get("images", {}), images or {})
        meta.pop("finished", None)
        meta["continued"] = [*meta.get("continued", []), _now()]
        for name in ("config.yaml", "meta.json", "metrics.csv"):  # of a run that was killed while it wrote
            part_of(run_dir / name).unlink(missing_ok=True)
    else:
        meta = describe()
    meta["images"] = dict(images or {})
    # By which a job knows itself when SLURM starts it again, and since which of its restarts it has begun at this step.
    place = {"slurm_job": os.environ.get("SLURM_JOB_ID"), "slurm_step": step}
    if not place.items() <= meta.items():
        meta |= place | {"slurm_since": int(os.environ.get("SLURM_RESTART_COUNT") or 0)}
    write_text(run_dir / "meta.json", json.dumps(meta, indent=2) + "\n")
    write_text(run_dir / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
    return meta


def close_run(run_dir: Path, **outcome: Any) -> None:
    """Note in `meta.json` that the run has trained and tested, and with what outcome: a sweep skips it from now on."""
    from datamodules import distributed

    if distributed.rank() > 0:
        return
    meta = read_mapping(run_dir / "meta.json") | {"finished": {"at": _now(), **outcome}}
    write_text(run_dir / "meta.json", json.dumps(meta, indent=2) + "\n")


def without_new_keys(config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without the keys that the code which saved `before` did not have, and that decide nothing in it."""
    config = dict(config)
    for section, keys in _NEW_KEYS.items():
        lacking = keys - (before.get(section) or {}).keys()
        if config.get(section):
            config[section] = {
                key: value
                for key, value in config[section].items()
                if key not in lacking or (key == "transforms" and value)  # which decide, where there are any
            }
    return config


def _check_same(run_dir: Path, config: Mapping[str, Any], raw: Mapping[str, Any]) -> None:
    before = read_mapping(run_dir / "config.yaml")
    first, now = (next(iter((c.get("protocol") or {}).items()), None) for c in (before, config))
    if first and now and first != now:
        raise InputError(
            f"{run_dir}: the first protocol, which chooses the best checkpoint, was {first[0]} in this run and is "
            f"{now[0]}{', with other options,' * (first[0] == now[0])} now: keep it in front, or start a new run with "
            "name=..."
        )
    old, new = flat(before), flat(without_new_keys(config, before))
    free = tuple(f"data.{key}." for key in FREE_DATA_KEYS)
    fills_in = "scheduler.total_steps" in new or str(new.get("scheduler._target_")).endswith(".OneCycleLR")
    follows_length = fills_in and new.get("scheduler.total_steps") is None and new.get("scheduler.epochs") is None
    same = tuple(f"{part}." for part in (*_IDENTITY, *(_LENGTH if follows_length else ())))
    for key in [*old, *new]:
        counts = f"{key}.".startswith(same) and not f"{key}.".startswith(free)
        if counts and old.get(key) != new.get(key):
            given = _given(key, flat(raw))
            follows = f" ({key} follows it)" if given != key else ""
            raise InputError(
                f"{run_dir}: {given} was {old.get(given, old.get(key))!r} in this run and is "
                f"{new.get(given, new.get(key))!r} now{follows}: "
                "continue with the old value, or start a new run with name=..."
            )


def _check_images(run_dir: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Scores of other images do not compare; a folder that has moved is the same."""
    changed = [split for split in before if split in now and before[split] != now[split]]
    if "val" in changed:
        raise InputError(
            f"{run_dir}: the validation images (data.root, trainer.limit_val_batches) are others than those by which "
            "the best checkpoint of this run was chosen: put them back, or start a new run with name=..."
        )
    if changed:
        log.warning("%s: the training images are others than before", run_dir)


def _given(key: str, raw: Mapping[str, Any]) -> str:
    """The key that a value comes from by the interpolations of a config."""
    for part, value in raw.items():
        source = re.fullmatch(r"\$\{([\w.]+)\}", str(value))
        if source and f"{key}.".startswith(f"{part}."):
            return _given(source[1] + key.removeprefix(part), raw)
    return key


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """The values of nested mappings by their full keys."""
    if not isinstance(node, Mapping) or not node:
        return {path: node}
    below = [flat(child, f"{path}.{key}" if path else str(key)) for key, child in node.items()]
    return {key: value for leaves in below for key, value in leaves.items()}


def describe() -> dict[str, Any]:
    """What `meta.json` holds: commit, versions, machine, command, and the identity of the run's W&B record."""
    import torch

    from datamodules import distributed

    return {
        "created": _now(),
        "command": " ".join(sys.argv),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (_PACKAGES if CHECKOUT else ("deblur-sr", *_PACKAGES))},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "wandb_id": agent_trial() or secrets.token_hex(4),
    }


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically.

    Raises:
        InputError: if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """What to say of a file or folder that the system does not let be written."""
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
        return InputError(
            f"{path}: its file system has no locks ({error.strerror}), without which two processes could write there: "
            "mount it with locks (flock), or choose another runs_dir="
        )
    return InputError(
        f"{path}: cannot be written: {error.strerror}: free space, fix the permissions, or choose another runs_dir="
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str:
    if not CHECKOUT:  # a repository around an installed wheel is another one
        return ""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
