"""What a `Restorer` restores with: runs, checkpoints, exported or published weights, models without any, a cascade."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

from datamodules.errors import InputError
from experiments.config.errors import ConfigError, explain_hydra_error
from experiments.evaluate.models import chosen_checkpoint
from experiments.evaluate.suites import CONF
from experiments.runtime.environment import prepare_environment
from lightning_modules.checkpoints.checkpoint import ForeignCheckpoint, build_network, load_network, read_weights
from networks.cascade import Cascade, scales_of

_lock = threading.Lock()  # Hydra's state is global
SCALES = (1, 2, 3, 4)  # offered by models without weights that enlarge by any factor


@dataclass(frozen=True)
class Loaded:
    """A network, in evaluation mode on the CPU.

    Attributes:
        name: of the run, or of the model.
        network: builds or returns it for a scale, one of `scales`.
        scales: what it enlarges by.
    """

    name: str
    network: Callable[[int], nn.Module]
    scales: tuple[int, ...]


Source = str | Path | None | Sequence[str | Path]


def load(
    source: Source,
    model: str | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    use: str | None = None,
) -> Loaded:
    """Load what `Restorer.load` is given; see there.

    Raises:
        InputError: if a file is missing, damaged, or of another network.
        ConfigError: if there is no such option of conf/model/, or an override does not fit it.
    """
    if source is None:
        if model is None:
            raise InputError(
                "nothing to load: give a run folder, a checkpoint, weights, or model=NAME of one without any"
            )
        return _without_weights(model, overrides)
    if not isinstance(source, str | Path):
        return _cascade([str(item) for item in source], use)
    path = Path(source)
    if model is not None:
        return _weights(path, model, overrides)
    if path.is_dir():
        return _loaded(chosen_checkpoint(path, use), path.resolve().name)
    return _loaded(path)


def _loaded(file: Path, name: str | None = None) -> Loaded:
    try:
        network, checkpoint = load_network(file)
    except InputError as error:
        if isinstance(error, ForeignCheckpoint) or file.suffix == ".mat":
            raise InputError(
                f"{file}: no checkpoint of this suite: for published weights say of which model: model=NAME"
            ) from error
        raise
    label = str(checkpoint["config"].get("label", type(network).__name__))
    return Loaded(name or label, lambda _: network, scales_of(network))


def _weights(file: Path, model: str | Mapping[str, Any], overrides: Sequence[str]) -> Loaded:
    name, config = _config(model, overrides)
    network = build_network(config, f"model={name}").eval()
    read_weights(network, file)
    return Loaded(name, lambda _: network, scales_of(network))


def _without_weights(model: str | Mapping[str, Any], overrides: Sequence[str]) -> Loaded:
    name, config = _config(model, overrides)

    def network(scale: int) -> nn.Module:
        of_scale = {**config, "scale": scale} if "scale" in config else config
        built = build_network(of_scale, f"model={name}").eval()
        if any(True for _ in built.parameters()):
            raise InputError(f"model={name} has weights to load: give a run folder, a checkpoint or a file of weights")
        return built

    found = scales_of(network(1)) if "scale" not in config else SCALES
    network(found[0])
    return Loaded(name, network, found)


def _cascade(items: Sequence[str], use: str | None) -> Loaded:
    if len(items) != 2:
        raise InputError(f"a cascade of {len(items)} networks: {', '.join(items)}: expected two, one after the other")
    first, second = (_part(item, use) for item in items)
    # The one that enlarges settles the scale; the other one works at scale 1.
    after = second.scales == (1,) and first.scales != (1,)

    def network(scale: int) -> nn.Module:
        try:
            return Cascade(first.network(scale if after else 1), second.network(1 if after else scale)).eval()
        except ValueError as error:
            raise InputError(f"{items[0]} and {items[1]}: {error}") from error

    scales = first.scales if after else second.scales
    network(scales[0])
    return Loaded(f"{first.name}+{second.name}", network, scales)


def _part(item: str, use: str | None) -> Loaded:
    """One of a cascade: a run folder, a file, or the name of a model without weights."""
    if Path(item).exists() or "/" in item or Path(item).suffix:
        return load(item, use=use)
    return _without_weights(item, ())


def _config(model: str | Mapping[str, Any], overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Name and config of a model: of an option of conf/model/, or as it is given."""
    if not isinstance(model, str):
        return str(model.get("_target_", "model")).rpartition(".")[2], dict(model)
    return model, compose_model(model, overrides)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Puts aside what `run.py` has initialised, which Hydra has one of in a process."""
    before, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before  # Hydra has put a copy in the place of the instance


def compose_model(option: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of an option of conf/model/, as plain values; works inside and outside of `run.py`.

    Args:
        option: name of a file in conf/model/.
        overrides: as on the command line, such as "model.scale=2".

    Raises:
        ConfigError: if there is no such option, or an override does not fit it.
    """
    prepare_environment()
    try:
        with _lock, _own_hydra(), initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", [f"model={option}", *overrides])
            config = OmegaConf.to_container(cfg.model, resolve=True)
    except Exception as error:
        line = explain_hydra_error(error, CONF)
        if line is None:
            raise
        raise ConfigError(line) from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
