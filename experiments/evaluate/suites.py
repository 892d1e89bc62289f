"""What an evaluation goes through: data sets times the grid of a suite, each cell a config of its own.

A suite (conf/suite/NAME.yaml) names its data sets, its degradation, its protocols, and a grid: lists of values, laid
out like the config keys of data and degradation that they are for.
"""

import contextlib
import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import ConfigError, InputError, UserError
from datamodules.image_datamodule import ImageDataModule
from experiments.config.arguments import overridden_keys
from experiments.config.check import check
from experiments.config.compose import compose
from experiments.config.construct import construct, instantiate
from experiments.config.errors import did_you_mean, listing
from experiments.runtime.run_folder import flat
from lightning_modules.checkpoints.untrusted import escaped
from lightning_modules.metrics.psnr_ssim import least_side


@dataclass
class Cell:
    """One data set under one degradation.

    Attributes:
        cfg: the whole config, with the values of the cell in it.
        values: of the grid, by dotted config key.
        saved: the config of a run, for messages, by the nodes that are from it.
        datamodule: filled by `open_data`.
    """

    cfg: DictConfig
    values: dict[str, Any] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    datamodule: ImageDataModule = field(init=False)

    @property
    def suite(self) -> str | None:
        return self.cfg.suite.name if self.cfg.suite else None

    def __str__(self) -> str:
        return " ".join([f"data={self.cfg.choices.data}", *(f"{key}={value}" for key, value in self.values.items())])

    @contextlib.contextmanager
    def named(self, node: str = "") -> Iterator[None]:
        """What is wrong with a node of the config is said of the run that it is from, if it is from one.

        Args:
            node: "": that with which the line begins.
        """
        try:
            yield
        except UserError as error:
            node = node or re.split(r"\W", str(error))[0]
            if node not in self.saved:
                raise
            raise InputError(f"{self.saved[node]}: {error}", key=error.key, file=error.file) from error


def plan(cfg: DictConfig) -> list[Cell]:
    """The cells of a suite, set by set, checked but for their data.

    Raises:
        ConfigError: for a grid that does not fit the config, or `data.` overrides that cannot be for every set.
    """
    keys = overridden_keys()
    cells = []
    for name in _sets(cfg, keys):
        of_set = cfg
        if name is not None:
            of_set, choices = compose(f"data={name}")
            of_set.name = escaped(cfg.name)
            check(of_set, choices)
        grid = grid_of(of_set, keys)
        for values in itertools.product(*grid.values()):
            cell = Cell(copy.deepcopy(of_set), dict(zip(grid, values, strict=True)))
            for key, value in cell.values.items():
                OmegaConf.update(cell.cfg, key, escaped(value))
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
    """The lists of values by dotted key. A key that the command line sets has only that value.

    Raises:
        ConfigError: for a key that the config does not have, one of the model, or values that are no list.
    """
    grid = {}
    axes = cfg.suite.get("grid")
    for key, values in flat(OmegaConf.to_container(axes, resolve=True)).items() if axes else ():
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or last not in node:
            known = [str(name) for name in node if not str(name).startswith("_")] if node is not None else []
            what = f"{parent} has {listing(known)}" if known else f"there is no {parent}"
            raise ConfigError(
                f"suite.grid.{key}: no such key in the config (data={cfg.choices.data}, "
                f"degradation={cfg.choices.degradation}): {what}{did_you_mean(last, known)}"
            )
        if parent.split(".")[0] == "model":
            raise ConfigError(f"suite.grid.{key}: cells differ by data and degradation: set {key}= for all of them")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"suite.grid.{key}: found {values!r}, expected a list of values: [{values}]")
        if key in keys:
            value = OmegaConf.select(cfg, key)
            values = [OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value]
        grid[key] = values
    return grid


def build(cell: Cell, node: str) -> Any:
    """A part of a cell.

    Raises:
        ConfigError: for values that it refuses.
        InputError: for files that it lacks, such as kernels.
    """
    try:
        return construct(cell.cfg, node)
    except ConfigError as error:
        raise ConfigError(f"{cell}: {error}") from error


def open_data(cells: Sequence[Cell]) -> None:
    """Find and decode the images of all cells.

    Raises:
        InputError: for data that are missing; of a suite with what it needs and the ways out.
        ConfigError: for values that the degradation refuses.
    """
    prepared = set()
    for cell in cells:
        cell.datamodule = build(cell, "data")
        data = cell.cfg.choices.data
        try:
            source = (data, str(cell.cfg.data.source))
            if source not in prepared:
                cell.datamodule.prepare_data()
                prepared.add(source)
            protocols = instantiate(cell.cfg.protocol).values()
            cell.datamodule.least = least_side(protocols, cell.datamodule.degradation.scales)
            cell.datamodule.setup("test")
        except InputError as error:
            if cell.suite is None:
                with cell.named("data"):
                    raise
            sets = list(dict.fromkeys(str(other.cfg.choices.data) for other in cells))
            raise InputError(
                f"{error}; suite={cell.suite} measures on {', '.join(sets)}, {data} is not usable: measure one set "
                "only with data=SET data.root=FOLDER, or put all below one folder and set data_dir="
            ) from error
