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
from experiments.config.compose import overridden_keys
from experiments.evaluate.models import asked_use, used
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
    found, load = _told_apart(_named(cfg)), loader(cfg)
    if found:
        models = Models(found, load)
        for model in models.names:  # what cannot be loaded is said now, not to the first visitor who asks for it
            models.load(model, models.checkpoints(model)[0])
        return models
    found = _below(cfg)
    for place, entry in enumerate(found):
        models = Models(found[place:], load)
        try:
            models.load(entry.model, entry.checkpoint)
            return models
        except (InputError, ConfigError) as error:
            print(f"not served: {error}", flush=True)
    raise InputError(
        f"{cfg.runs_dir}: no run with a checkpoint there{' that can be loaded' if found else ''}: give what to serve "
        "with run=FOLDER, ckpt=FILE or model=NAME weights=FILE"
    )


def _named(cfg: DictConfig) -> list[Entry]:
    found = [entry for folder in _folders(cfg.run) for entry in _of_run(cfg, folder)]
    if cfg.ckpt:
        found.append(Entry(Path(cfg.ckpt).name, Path(cfg.ckpt).stem, Path(cfg.ckpt)))
    option = str(HydraConfig.get().runtime.choices["model"])
    if cfg.weights:
        found.append(Entry(option, Path(cfg.weights).name, Path(cfg.weights), option))
    elif any(key.split(".")[0] == "model" for key in overridden_keys()):
        found.append(Entry(option, "no weights", None, option))
    return found


def _folders(run: str | Sequence[str] | None) -> list[Path]:
    return [Path(item) for item in ([run] if isinstance(run, str) else run or [])]


def _of_run(cfg: DictConfig, folder: Path) -> list[Entry]:
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"run={folder}: no run folder (config.yaml is missing there); runs are folders below runs_dir="
        )
    files = sorted((folder / "checkpoints").glob("*.ckpt"))
    if not files:
        raise InputError(f"run={folder}: has no checkpoint yet: train it further with resume=auto")
    if len(files) > 1:
        chosen = asked_use(cfg) or used(folder)
        files.sort(key=lambda file: file.stem != chosen)
    return [Entry(folder.name, file.stem, file) for file in files]


def _below(cfg: DictConfig) -> list[Entry]:
    folders = sorted({file.parent.parent for file in Path(cfg.runs_dir).glob("*/checkpoints/*.ckpt")})
    found = []
    for folder in folders:
        if (folder / "config.yaml").is_file():
            try:
                found += _of_run(cfg, folder)
            except InputError as error:
                print(f"not served: {error}", flush=True)
    return found


def _told_apart(found: list[Entry]) -> list[Entry]:
    """Models of one name from several folders are counted, in the order of the command line: tiny, tiny (2)."""
    folders: dict[str, list[Path | None]] = {}
    apart = []
    for entry in dict.fromkeys(found):
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
        if entry.option is None:
            return Restorer.load(entry.file, **options)
        return Restorer.load(entry.file, model=model, **options)

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
        """The network, loaded unless it is one of the last that were asked for.

        Raises:
            InputError, ConfigError: if it cannot be loaded.
        """
        with self._lock:
            return self._load(self._entries[model, checkpoint])
