"""What on the command line names a network; none is loaded, and nothing is imported, to tell."""

from omegaconf import DictConfig

from datamodules.errors import ConfigError
from experiments.config.arguments import overridden_keys
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


def without_folder(cfg: DictConfig) -> bool:
    """Whether a network is named that has no run folder."""
    return not cfg.run or any(map(catalogue.is_address, named_runs(cfg)))


def model_is_named(*groups: str) -> bool:
    """Whether the command line has `model=` or options of it, by themselves or in an experiment."""
    return any(key.split(".")[0] in (groups or ("model", "experiment")) for key in overridden_keys())
