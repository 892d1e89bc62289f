"""The parts of an experiment, made of the nodes of a config; what a part refuses is a mistake in its node."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import ConfigError, InputError, OptionError
from lightning_modules.checkpoints.untrusted import escaped


def instantiate(node: DictConfig, *arguments: Any, **options: Any) -> Any:
    """What a node of the config describes, with its lists and mappings as those of Python."""
    import hydra

    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if "${" in str(plain):  # in a path, not to be resolved: Hydra resolves twice
        node = OmegaConf.create(escaped(escaped(plain)))
    return hydra.utils.instantiate(node, *arguments, _convert_="all", **options)


@contextlib.contextmanager
def refused_as(node: str) -> Iterator[None]:
    """What a part of the experiment refuses is a mistake in this node of the config."""
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, ValueError) else error.__cause__  # Hydra wraps what a constructor raises
        if isinstance(cause, OptionError):
            raise ConfigError(str(cause), key=cause.key) from error
        if isinstance(cause, ValueError):
            raise ConfigError(f"{node}: {str(cause).splitlines()[0]}", key=node) from error
        if isinstance(cause, InputError):  # a file that it reads, such as weights
            raise cause from error
        if lacking := re.search(r"missing \d+ required .*?'(\w+)'", str(error)):  # of what is only made here
            key = f"{node}.{lacking[1]}"
            raise ConfigError(f"{key}: a value is required: set it on the command line: +{key}=...", key=key) from error
        raise


def construct(cfg: DictConfig, node: str, *, meta: bool = False) -> Any:
    """Build a part of the experiment, which checks its options; `meta` takes no memory, for networks only to look at.

    Raises:
        ConfigError: for an option that the part refuses.
        InputError: for a file that it cannot read.
    """
    from networks.base import RestorationNetwork
    from networks.ops.meta import shapes_alone

    with refused_as(node), shapes_alone() if meta else contextlib.nullcontext():
        part = instantiate(cfg[node])
    if node == "degradation" and type(part).__name__ == "AsStored":  # what files hold besides, it hands on
        source = cfg.data.get("source") or {}
        known = {"kernel": source.get("kernels"), "noise_level": source.get("noise_level")}
        part.provides += tuple(field for field, value in known.items() if value is not None)
    if node == "model" and not isinstance(part, RestorationNetwork):
        raise ConfigError(
            f"model._target_: found {cfg.model._target_}, expected a class that derives from "
            "networks.base.RestorationNetwork: see docs/extending.md"
        )
    return part


def build_procedure(cfg: DictConfig, network: Any, protocols: list[Any], **options: Any) -> Any:
    """The training procedure around a network."""
    return instantiate(cfg.procedure)(
        network,
        protocols,
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler) if cfg.scheduler else None,
        **options,
    )
