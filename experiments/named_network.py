"""What on the command line names a network; none is loaded, and nothing is imported, to tell."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from datamodules.errors import ConfigError, InputError
from experiments.config.arguments import as_one, command, overridden_keys
from experiments.config.errors import listing
from experiments.zoo import catalogue


def refuse_several(cfg: DictConfig) -> None:
    """The network of a task is named once; only `run=` of one folder goes with `ckpt=`, one of its checkpoints.

    Raises:
        ConfigError: if several of them are given.
    """
    given = [name for name in ("run", "cascade", "weights") if cfg.get(name)]  # not every task has all of these keys
    of_run = isinstance(cfg.run, str) and given == ["run"] and not catalogue.is_address(cfg.run)
    given += ["ckpt"] if cfg.ckpt and not of_run else []
    if len(given) > 1:
        names = " and ".join(f"{name}=" for name in given)
        raise ConfigError(f"{names}: each says which network is meant: give one of them")


def named_runs(cfg: DictConfig) -> list[str]:
    """What `run=` names, one or several: folders, and networks that have none, as zoo:NAME."""
    return [cfg.run] if isinstance(cfg.run, str) else list(cfg.run or [])


def run_folders(cfg: DictConfig) -> list[Path]:
    """The folders that `run=` names, one or several.

    Raises:
        InputError: as `named_folders`.
    """
    folders = [name for name in named_runs(cfg) if not catalogue.is_address(name)]
    return named_folders("run", folders, Path(cfg.runs_dir))


def named_folders(key: str, names: Sequence[str], runs_dir: Path) -> list[Path]:
    """The folders that a key names.

    Raises:
        InputError: if some are not there, but others that were probably meant; if several are not there, with all.
    """
    parts = [part for name in names for part in ([name] if Path(name).exists() else name.split(","))]
    there = {folder.name: str(folder) for folder in sorted(runs_dir.glob("*")) if (folder / "config.yaml").is_file()}
    known = {name: f"{catalogue.PREFIX}{name}" for name in catalogue.names() if key == "run"} | there
    near = {part: difflib.get_close_matches(Path(part).name, known, n=1) for part in parts if not Path(part).exists()}
    meant = [known[near[part][0]] if near.get(part) else part for part in parts]
    if meant != [*names] and (len(parts) > len(names) or all(near.values())):
        raise InputError(
            f"{key}={','.join(names)}: no such run folder: did you mean: {command(f'{key}={as_one(meant)}')}", key=key
        )
    if len(near) > 1 or (near and there):
        has = f"which has {listing(there)}" if there else "where there is none"
        raise InputError(f"{key}: no such run folder: {', '.join(near)}: they are below runs_dir={runs_dir}, {has}")
    return [Path(name) for name in names]


def without_folder(cfg: DictConfig) -> bool:
    """Whether a network is named that has no run folder."""
    return not cfg.run or any(map(catalogue.is_address, named_runs(cfg)))


def model_is_named(*groups: str) -> bool:
    """Whether the command line has `model=` or options of it, by themselves or in an experiment."""
    return any(key.split(".")[0] in (groups or ("model", "experiment")) for key in overridden_keys())
