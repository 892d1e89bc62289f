"""What an evaluation goes through: data sets times the grid of a suite, each cell a config of its own.

A suite (conf/suite/NAME.yaml) names its data sets, its degradation, its protocols, and a grid: lists of values, laid
out like the config keys that they are for.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from datamodules.errors import ConfigError, InputError
from datamodules.image_datamodule import ImageDataModule
from experiments.config.check import check
from experiments.config.compose import compose, overridden_keys
from experiments.config.errors import did_you_mean, listing


@dataclass
class Cell:
    """One data set under one degradation.

    Attributes:
        cfg: the whole config, with the values of the cell in it.
        degradation: the option of its group, for messages.
        suite: name of the suite, if any.
        values: of the grid, by dotted config key.
        datamodule: filled by `open_data`.
    """

    cfg: DictConfig
    degradation: str
    suite: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    datamodule: ImageDataModule | None = None

    def __str__(self) -> str:
        values = "".join(f" {key}={value}" for key, value in self.values.items())
        return f"data={self.cfg.choices.data}{values}"


def plan(cfg: DictConfig) -> list[Cell]:
    """The cells of a suite, set by set, checked but for their data.

    Raises:
        ConfigError: for a grid that does not fit the config, or `data.` overrides that cannot be for every set.
    """
    keys = overridden_keys()
    cells = []
    for name in _sets(cfg, keys):
        one, choices = (cfg, {}) if name is None else compose(f"data={name}")
        with open_dict(one):
            one.name = cfg.name
        if name is not None:
            check(one, choices)
        grid = grid_of(one, keys)
        for values in itertools.product(*grid.values()):
            cell = Cell(copy.deepcopy(one), str(one.choices.degradation), one.suite.name)
            for key, value in zip(grid, values, strict=True):
                OmegaConf.update(cell.cfg, key, value)
                cell.values[key] = value
            cells.append(cell)
    return cells


def _sets(cfg: DictConfig, keys: Sequence[str]) -> list[str | None]:
    """The options of data=; None is the one that the config has already."""
    if "data" in keys:
        return [None]
    sets = list(cfg.suite.sets)
    single = [key for key in keys if key in ("data.root", "data.variant") or key.startswith("data.source.")]
    if single and len(sets) > 1:
        raise ConfigError(
            f"{single[0]}: suite {cfg.suite.name} measures on {', '.join(sets)}: say which one is meant, such as "
            f"data={sets[0]} {single[0]}=..., or put all of them below data_dir="
        )
    return sets


def grid_of(cfg: DictConfig, keys: Sequence[str]) -> dict[str, list[Any]]:
    """The lists of values by dotted key. A key that the command line sets has that value alone.

    Raises:
        ConfigError: for a key that the config does not have, or values that are no list.
    """
    found = {}
    for key, values in _leaves(OmegaConf.to_container(cfg.suite.get("grid") or OmegaConf.create({}), resolve=True)):
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or last not in node:
            known = [str(name) for name in node if not str(name).startswith("_")] if node is not None else []
            what = f"{parent} has {listing(known)}" if known else f"there is no {parent}"
            near = did_you_mean(last, known)
            raise ConfigError(
                f"suite.grid.{key}: no such key in the config (data={cfg.choices.data}, "
                f"degradation={cfg.choices.degradation}): {what}{near}"
            )
        if not isinstance(values, list) or not values:
            raise ConfigError(f"suite.grid.{key}: found {values!r}, expected a list of values: [{values}]")
        found[key] = values
        if key in keys:
            value = OmegaConf.select(cfg, key)
            found[key] = [OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value]
    return found


def _leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [leaf for name, child in node.items() for leaf in _leaves(child, f"{path}.{name}" if path else str(name))]


def degradation_of(cell: Cell) -> Any:
    """The degradation of a cell.

    Raises:
        ConfigError: for values that it refuses.
        InputError: for files that it lacks, such as kernels.
    """
    return _made(cell, "degradation")


def _made(cell: Cell, node: str) -> Any:
    try:
        return hydra.utils.instantiate(cell.cfg[node], _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            raise ConfigError(f"{node}, {cell}: {str(cause).splitlines()[0]}") from error
        if isinstance(cause, InputError):
            raise cause from error
        raise


def open_data(cells: Sequence[Cell]) -> None:
    """Find and decode the images of all cells.

    Raises:
        InputError: for data that are missing; of a suite with what it needs and the ways out.
        ConfigError: for values that the degradation refuses.
    """
    prepared = []
    for cell in cells:
        datamodule = _made(cell, "data")
        try:
            source = (cell.cfg.choices.data, str(cell.cfg.data.source))
            if source not in prepared:
                datamodule.prepare_data()
                prepared.append(source)
            datamodule.setup("test")
        except InputError as error:
            if cell.suite is None:
                raise
            sets = list(dict.fromkeys(str(other.cfg.choices.data) for other in cells))
            ways = "measure one set alone with data=SET data.root=FOLDER, or put all below one folder and set data_dir="
            raise InputError(
                f"{error}; suite={cell.suite} measures on {', '.join(sets)}, {cell.cfg.choices.data} is not usable: "
                f"{ways}"
            ) from error
        cell.datamodule = datamodule
