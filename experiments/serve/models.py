"""What a visitor may choose from: trained runs, checkpoints, published weights, models without weights."""

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import ConfigError, InputError
from experiments.models import asked_use, chosen_checkpoint, model_is_named, run_folders
from experiments.restore import Restorer
from experiments.runtime.speed import settle

log = logging.getLogger(__name__)

KEPT = 4  # networks in memory at once


@dataclass(frozen=True)
class Entry:
    """One network that can be chosen.

    Attributes:
        model: what it is called: a run, or an option of conf/model/.
        checkpoint: which of its files.
        file: of the weights; None for a model that has none.
        option: of conf/model/, the one of the config, for files that do not know their network.
    """

    model: str
    checkpoint: str
    file: Path | None
    option: str | None = None


def models_of(cfg: DictConfig) -> "Models":
    """What `run=`, `ckpt=` and `model=` with or without `weights=` name; without any of them, all runs of `runs_dir`.

    What is named must be loadable, one checkpoint of each model. Of runs that are only found, those in front of the
    first one that can be loaded are left out, with a printed line; the others are loaded when a visitor asks for them.

    Raises:
        InputError: if a run has no checkpoint, or there is no run at all.
    """
    named, load = _told_apart(_named(cfg)), loader(cfg)
    if named:
        models = Models(named, load)
        for model in models.names:  # what cannot be loaded is said now, not to the first visitor who asks for it
            models.load(model, models.checkpoints(model)[0])
        return models
    entries = _below(cfg)
    for place, entry in enumerate(entries):
        models = Models(entries[place:], load)
        try:
            models.load(entry.model, entry.checkpoint)
            return models
        except (InputError, ConfigError) as error:
            print(f"not served: {error}", flush=True)
    raise InputError(
        f"{cfg.runs_dir}: no run with a checkpoint there{' that can be loaded' if entries else ''}: give what to serve "
        "with run=FOLDER, ckpt=FILE or model=NAME weights=FILE"
    )


def _named(cfg: DictConfig) -> list[Entry]:
    entries = [entry for folder in run_folders(cfg) for entry in _of_run(cfg, folder)]
    if cfg.ckpt:
        entries.append(Entry(Path(cfg.ckpt).name, Path(cfg.ckpt).stem, Path(cfg.ckpt)))
    option = str(HydraConfig.get().runtime.choices["model"])
    if cfg.weights:
        file = Path(cfg.weights)
        entries.append(
            Entry(option, file.name, file, option) if model_is_named() else Entry(file.name, file.stem, file)
        )
    elif model_is_named("model"):
        entries.append(Entry(option, "no weights", None, option))
    return entries


def _of_run(cfg: DictConfig, folder: Path) -> list[Entry]:
    """All checkpoints of a run, first the one that it is judged by."""
    chosen = chosen_checkpoint(folder, asked_use(cfg))
    files = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda file: (file != chosen, file))
    return [Entry(folder.name, file.stem, file) for file in files]


def _below(cfg: DictConfig) -> list[Entry]:
    entries = []
    for folder in sorted({file.parent.parent for file in Path(cfg.runs_dir).glob("*/checkpoints/*.ckpt")}):
        try:
            entries += _of_run(cfg, folder)
        except InputError as error:
            print(f"not served: {error}", flush=True)
    return entries


def _told_apart(entries: list[Entry]) -> list[Entry]:
    """Models of one name from several folders are counted, in the order of the command line: tiny, tiny (2)."""
    folders: dict[str, list[Path | None]] = {}
    apart = []
    for entry in dict.fromkeys(entries):
        folder = entry.file.parent if entry.file else None
        same = folders.setdefault(entry.model, [])
        if folder not in same:
            same.append(folder)
        number = same.index(folder) + 1
        apart.append(entry if number == 1 else replace(entry, model=f"{entry.model} ({number})"))
    return apart


def loader(cfg: DictConfig) -> Callable[[Entry], Restorer]:
    """Loads entries onto the device and in the precision of `trainer.accelerator` and `trainer.precision`."""
    settle(cfg)
    model: Any = OmegaConf.to_container(cfg.model, resolve=True)
    device = "cuda" if str(cfg.trainer.accelerator) == "gpu" else str(cfg.trainer.accelerator)
    options: dict[str, Any] = {
        "device": device,
        "precision": "bf16" if str(cfg.trainer.precision).startswith("bf16") else "32",
        "self_ensemble": cfg.self_ensemble,
    }

    def load(entry: Entry) -> Restorer:
        return Restorer.load(entry.file, model=model if entry.option else None, **options)

    return load


class Models:
    """Entries by model and checkpoint, and the networks last asked for.

    Args:
        found: at least one.
        load: makes the network of an entry.
    """

    def __init__(self, found: Sequence[Entry], load: Callable[[Entry], Restorer]) -> None:
        self._entries = {(entry.model, entry.checkpoint): entry for entry in found}
        self._load = functools.lru_cache(KEPT)(load)
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(model for model, _ in self._entries))

    def checkpoints(self, model: str) -> list[str]:
        return [checkpoint for name, checkpoint in self._entries if name == model]

    def restorer(self, model: str, checkpoint: str) -> Restorer:
        """The network, for a visitor.

        Raises:
            InputError: if there is no such model, or cannot be loaded; why and where the file is, is for the log.
        """
        if (model, checkpoint) not in self._entries:
            raise InputError(f"{model}, {checkpoint}: not served here: choose one of {', '.join(self.names)}")
        try:
            return self.load(model, checkpoint)
        except (InputError, ConfigError) as error:
            log.error("%s, %s: %s", model, checkpoint, error)
            raise InputError(
                f"{model}, {checkpoint}: cannot be loaded, the server has noted why: choose another"
            ) from error

    def load(self, model: str, checkpoint: str) -> Restorer:
        """The network, loaded unless it is one of the last that were asked for."""
        with self._lock:
            return self._load(self._entries[model, checkpoint])
