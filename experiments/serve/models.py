"""What a visitor may choose from: trained runs, checkpoints, published weights, models without weights."""

import itertools
import logging
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import ConfigError, InputError
from experiments.models import asked_use, chosen_checkpoint, judged_by
from experiments.named_network import model_is_named, named_runs, run_folders
from experiments.restore import Restorer
from experiments.restore.arguments import restorer_options
from experiments.zoo import catalogue

log = logging.getLogger(__name__)

KEPT = 4  # networks in memory at once

Loader = Callable[..., Restorer]
Checkpoints = dict[str, Loader]  # of a model, by name; the one that is taken by default comes first


def models_of(cfg: DictConfig) -> "Models":
    """What `run=`, `ckpt=`, `weights=` and `model=` name; without any of them, all runs of `runs_dir` and the zoo.

    What is named must be loadable, one checkpoint of each model. Of runs that are only found, those in front of the
    first one that can be loaded are left out, with a printed line; the others are loaded when a visitor asks for them.

    Raises:
        InputError: if a run has no checkpoint, or there is no run at all.
    """
    load = partial(Restorer.load, **restorer_options(cfg))
    if named := _named(cfg, load):
        models = Models(named)
        for model in models.names:  # what cannot be loaded is said now, not to the first visitor who asks for it
            models.load(model, models.checkpoints(model)[0])
        return models
    runs: dict[str, Checkpoints] = {}
    models = Models(runs)
    for folder in sorted({file.parent.parent for file in Path(cfg.runs_dir).glob("*/checkpoints/*.ckpt")}):
        try:
            runs[folder.name] = _of_run(cfg, folder, load)
            if len(runs) == 1:
                models.load(folder.name, models.checkpoints(folder.name)[0])
        except (InputError, ConfigError) as error:
            runs.pop(folder.name, None)
            print(f"not served: {error}", flush=True)
    for name in sorted(catalogue.names(), key=lambda name: name != catalogue.PHOTOGRAPHS):
        add(runs, name, {name: partial(load, f"{catalogue.PREFIX}{name}")})
    if not runs:
        raise InputError(
            f"{cfg.runs_dir}: no run with a checkpoint there that can be loaded: give what to serve with run=FOLDER, "
            "ckpt=FILE or model=NAME weights=FILE"
        )
    return models


def _named(cfg: DictConfig, load: Loader) -> dict[str, Checkpoints]:
    named: dict[str, Checkpoints] = {}
    option, config = HydraConfig.get().runtime.choices["model"], OmegaConf.to_container(cfg.model, resolve=True)
    run_folders(cfg)  # says which are not there
    for name in dict.fromkeys(named_runs(cfg)):
        if catalogue.is_address(name):
            add(named, _shown(name), {_shown(name): partial(load, name)})
        else:
            add(named, Path(name).name, _of_run(cfg, Path(name), load))
    if cfg.ckpt:
        add(named, Path(cfg.ckpt).name, {Path(cfg.ckpt).stem: partial(load, cfg.ckpt)})
    if cfg.weights and model_is_named():
        add(named, option, {_shown(cfg.weights): partial(load, cfg.weights, config)})
    elif cfg.weights:
        add(named, _shown(cfg.weights), {Path(_shown(cfg.weights)).stem: partial(load, cfg.weights)})
    elif model_is_named("model"):
        add(named, option, {"no weights": partial(load, None, config)})
    return named


def _shown(weights: str) -> str:
    """The name of weights, of a file with its ending; without the commit of an address."""
    path = weights.removeprefix(catalogue.PREFIX)
    return Path(path.partition("@")[0] if catalogue.is_address(weights) else path).name


def _of_run(cfg: DictConfig, folder: Path, load: Loader) -> Checkpoints:
    """All checkpoints of a run, first the one that it is judged by."""
    use = judged_by(folder, asked_use(cfg))
    files = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda file: (file.stem != use, file))
    if not files:
        chosen_checkpoint(folder, use)  # says what to do
    return {file.stem: partial(load, file) for file in files}


def add(models: dict[str, Checkpoints], name: str, checkpoints: Checkpoints) -> None:
    """Another model; of two that have one name the second is called NAME (2)."""
    names = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
    models[next(free for free in names if free not in models)] = checkpoints


class Models:
    """Networks to choose from, of which the last that were asked for are kept."""

    def __init__(self, choices: dict[str, Checkpoints]) -> None:
        self._choices = choices
        self._load = lru_cache(KEPT)(lambda model, checkpoint: choices[model][checkpoint]())
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self._choices)

    def checkpoints(self, model: str) -> list[str]:
        return list(self._choices.get(model, {}))

    def restorer(self, model: str, checkpoint: str) -> Restorer:
        """The network, for a visitor.

        Raises:
            InputError: if there is no such model, or cannot be loaded; why and where the file is, is for the log.
        """
        if checkpoint not in self.checkpoints(model):
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
            return self._load(model, checkpoint)
