"""How configs are composed, besides that of the command line."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from datamodules.errors import ConfigError
from experiments.config import CONF
from experiments.config.arguments import in_quotes
from experiments.config.check import take_text
from experiments.config.errors import explain_hydra_error
from experiments.runtime.environment import prepare_environment

_lock = threading.Lock()  # Hydra's state is global


def compose(*more: str) -> tuple[DictConfig, Mapping[str, Any]]:
    """The config of this command line with more overrides, and the options that were chosen for its groups.

    Raises:
        ConfigError: for an option that does not exist, or keys that one of the options does not have.
    """
    hydra_config = HydraConfig.get()
    name, overrides = hydra_config.job.config_name or "config", [*hydra_config.overrides.task, *more]
    with _explained():
        cfg = hydra.compose(name, [*_own_folders(), *overrides], return_hydra_config=True)
    choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
        for group in ("data", "degradation", "experiment"):  # the resolver knows only the choices of the command line
            cfg.choices[group] = choices[group]  # type: ignore[index,call-overload]  # a mapping
        take_text(cfg, overrides)
    return cfg, choices  # type: ignore[return-value]  # a mapping


def _own_folders() -> list[str]:
    """The override for folders with one's own configs: overrides of the task lack it, other ranks --config-dir too."""
    given = [source for source in HydraConfig.get().runtime.config_sources if "command-line" in source.provider]
    folders = ",".join(in_quotes(f"{source.schema}://{source.path}") for source in given)
    return [f"hydra.searchpath=[{folders}]"] if given else []


@contextmanager
def _explained() -> Iterator[None]:
    """What Hydra raises over a mistake, as the one line that it comes down to."""
    try:
        yield
    except Exception as error:
        line = explain_hydra_error(error, CONF)
        if line is None:
            raise
        raise ConfigError(line) from error


def compose_model(option: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of an option of conf/model/, as plain values; works inside and outside of `run.py`.

    Args:
        option: name of a file in conf/model/.
        overrides: as on the command line, such as "model.scale=2".

    Raises:
        ConfigError: if there is no such option, or an override does not fit it.
    """
    prepare_environment()
    version.setbase("1.3")
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))  # not that of `run.py`, of which there is only one
    with _explained(), _lock:
        cfg = loader.load_configuration("config", [f"model={option}", *overrides], RunMode.RUN)
        config = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def default_degradation(data: str) -> str:
    """The option of conf/degradation/ that the file of an option of conf/data/ names, where no recipe names another.

    "none" for a file that is not in conf/data/.
    """
    version.setbase("1.3")
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    with _lock:
        try:
            cfg = loader.load_configuration("config", ["model=bicubic", f"data={data}"], RunMode.RUN)
        except HydraException:  # somebody's own, in a folder of `hydra.searchpath`
            return "none"
    return str(cfg.hydra.runtime.choices.degradation)
