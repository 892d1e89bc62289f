"""Checkpoints: plain tensors and containers, from which the network can be rebuilt.

Exported weights (`.safetensors`, see `safetensors`) are read wherever a checkpoint is.
"""

import importlib
import logging
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import hydra
import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.checkpoints.matconvnet import read_parameters
from lightning_modules.checkpoints.safetensors import SUFFIX, read_tensors
from lightning_modules.checkpoints.untrusted import (
    LARGEST_OPTION,
    bounded,
    check_archive,
    check_plain,
    defined_in,
    escaped,
    targets,
)
from networks.base import RestorationNetwork
from networks.ops.meta import shapes_alone

PREFIX = "network."
log = logging.getLogger(__name__)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this suite onto the CPU, without unpickling anything but tensors and plain containers.

    Weights that `task=export` wrote come as the checkpoint of that network: `state_dict`, and `config` with `model`,
    `label` and `seed`.

    Raises:
        InputError: if the file is missing, damaged, or no checkpoint of this suite.
    """
    if not path.is_file():
        found = "a folder, not a checkpoint" if path.is_dir() else "no such checkpoint"
        raise InputError(f"{path}: {found}; a run keeps checkpoints/last.ckpt and checkpoints/best.ckpt")
    checkpoint = _read_file(path)
    if not _of_this_suite(checkpoint):
        raise InputError(
            f"{path}: holds no 'config' and 'state_dict' of this suite: for published weights say of which model: "
            "model=NAME"
        )
    config: dict[str, Any] = checkpoint["config"]
    check_plain(config, str(path))
    for key, kind in (("label", str), ("seed", int)):
        if not isinstance(config.get(key), kind | None):
            raise InputError(f"{path}: config has {key}={config[key]!r}, expected {kind.__name__}: the file is damaged")
    return checkpoint


def _read_file(path: Path) -> Any:
    """What a file holds: a checkpoint, or the state dict of another program."""
    if path.suffix == ".mat":
        return read_parameters(path)
    if path.suffix == SUFFIX:
        tensors, about = read_tensors(path)
        if about is None:
            return tensors
        return {"state_dict": {PREFIX + name: value for name, value in tensors.items()}, "config": about}
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its zip reader and unpickler raise
        why = f": {error}" if type(error) in (ValueError, zipfile.BadZipFile) else ""
        raise InputError(
            f"{path}: cannot be read as a checkpoint or as weights ({path.stat().st_size:,} bytes, "
            f"{type(error).__name__}{why}): it is damaged, truncated or another kind of file; pickled modules are not "
            f"opened: copy it again{_other(path)}"
        ) from error
    content = _unwrapped(content)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if state and _is_state_dict(state) and sum(value.nbytes for value in state.values()) > 2 * path.stat().st_size:
        raise InputError(f"{path}: its tensors share their values, and take more memory than the file: not opened")
    if _of_this_suite(content) and not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is not written as this suite writes checkpoints, with checksums: copy it again")
    return content


def _unwrapped(content: Any) -> Any:
    """The state dict that BasicSR keeps under a single name; whatever else a file holds as it is."""
    if isinstance(content, dict) and len(content) == 1:
        state = content.get("params", content.get("params_ema"))
        return state if state and _is_state_dict(state) else content
    return content


def _other(path: Path) -> str:
    """What else may be done without a checkpoint of a run, if the other one is there."""
    use = {"last.ckpt": "best", "best.ckpt": "last"}.get(path.name)
    other = path.with_name(f"{use}.ckpt")
    if use is None or not other.is_file():
        return ""
    return f"; or checkpoint.use={use} takes {use}.ckpt, and weights={other} with name=NEW trains on from it"


def _of_this_suite(checkpoint: Any) -> bool:
    config = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    model = config.get("model") if isinstance(config, dict) else None
    return isinstance(model, dict) and _is_state_dict(checkpoint.get("state_dict"))


def _is_state_dict(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(k, str) and _is_plain(v) for k, v in state.items())


def _is_plain(value: Any) -> bool:
    """Whether a tensor has its values, each in a place of its own: others take more memory than their file."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return plain and not value.is_quantized and value.nbytes <= value.untyped_storage().nbytes()


def build_network(model: dict[str, Any], where: str) -> RestorationNetwork:
    """Instantiate a model config; all its targets lie in `networks`, for a checkpoint must not call anything else.

    Raises:
        InputError: if the config names another target or does not fit its network.
    """
    check_plain(model, where, "model config", LARGEST_OPTION)
    for _, target in targets(model):
        if not defined_in(target, ["networks"]):
            raise InputError(f"{where}: model config names '{target}', expected a class in networks/")
    try:
        with bounded():
            network = hydra.utils.instantiate(escaped(escaped(model)), _convert_="all")  # it resolves twice
    except Exception as error:
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise InputError(f"{where}: cannot build {model.get('_target_')}: {reason}") from error
    if not isinstance(network, RestorationNetwork):
        raise InputError(f"{where}: model config makes a {type(network).__name__}, expected a network")
    return network


def load_weights(network: nn.Module, checkpoint: dict[str, Any], where: str) -> None:
    """Load the network's part of a checkpoint, complete or not at all.

    Raises:
        InputError: if names or shapes differ: the checkpoint is one of another model.
    """
    _load_exactly(network, *_of_network(checkpoint, where))


def _of_network(checkpoint: dict[str, Any], where: str) -> tuple[dict[str, Any], str]:
    """The network's part of the tensors, and what to say if they are of another one."""
    state = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    target = checkpoint["config"]["model"].get("_target_")
    return state, f"{where}: a checkpoint of another model: it holds {target}"


def _load_exactly(network: nn.Module, state: dict[str, Any], mistake: str) -> None:
    _refuse_misfit(network, state, mistake)
    network.load_state_dict(state)


def _refuse_misfit(network: nn.Module, state: dict[str, Any], mistake: str) -> None:
    expected = network.state_dict()
    missing = [f"missing {k}" for k in expected if k not in state]
    surplus = [f"unexpected {k}" for k in state if k not in expected]
    wrong = [
        f"{k} is {list(state[k].shape)}, expected {list(value.shape)}"
        for k, value in expected.items()
        if k in state and value.shape != state[k].shape
    ]
    if missing or surplus or wrong:
        told = ""
        if isinstance(network, RestorationNetwork):
            options = network.options_of(state)
            if options != network.options_of(expected):  # else it is something that they do not tell
                told = " ".join(f"{name}={value}" for name, value in options.items()).replace(", ", ",")
        raise InputError(
            f"{mistake}, which does not fit {type(network).__name__} as configured ({len(missing)} tensors missing, "
            f"{len(surplus)} unexpected, {len(wrong)} of another shape; first: {[*missing, *surplus, *wrong][0]})"
            + (f": its tensors are those of {told}" if told else "")
        )


def read_weights(network: RestorationNetwork, path: Path, start: bool = False) -> None:
    """Load a file of weights into a network: a checkpoint of this suite, exported weights, or published weights.

    They may be those of its `learned_part`, too.

    Published weights are state dicts under their authors' names (pickled or `.safetensors`), or networks of MatConvNet
    (`.mat`); the network's module translates them by its function `import_official`, completely, or raises ValueError.

    Args:
        start: a training starts from them: parts that the network adds to another one (`added`) keep the values that
            they have if the file has nothing of them.

    Raises:
        InputError: if the file is missing or damaged, is of another network, or the network knows no published weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights: set weights= to a checkpoint or to published weights")
    weights = _read_file(path)
    if _of_this_suite(weights):
        if weights["config"]["model"].get("_target_") != _target(network):
            network = network.learned_part
        state, mistake = _of_network(weights, str(path))
    else:
        network = network.learned_part
        state, mistake = _translated(weights, network, path), f"{path}: published weights of another size"
    own = {key: value for key, value in network.state_dict().items() if network.added and key.startswith(network.added)}
    lacking = start and own and not any(key in state for key in own)
    _load_exactly(network, {**state, **own} if lacking else state, mistake)
    if lacking:
        log.info("%s: has no %s*: %d tensors keep their initial values", path, network.added, len(own))


def _translated(weights: Any, network: RestorationNetwork, path: Path) -> dict[str, Tensor]:
    """Published weights under the names of this suite."""
    name = type(network).__name__
    translate = getattr(importlib.import_module(type(network).__module__), "import_official", None)
    if translate is None:
        raise InputError(f"{path}: not a checkpoint of this suite, and {name} has no importer for others")
    if not _is_state_dict(weights):
        raise InputError(f"{path}: holds a {type(weights).__name__}, expected a state dict: tensors by name")
    try:
        translated: dict[str, Tensor] = translate(weights)
    except ValueError as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")  # it may list hundreds of names
        raise InputError(f"{path}: not published weights of {name}: {reason}") from error
    return translated


def _target(network: nn.Module) -> str:
    return f"{type(network).__module__}.{type(network).__qualname__}"


def load_network(path: Path) -> tuple[RestorationNetwork, dict[str, Any]]:
    """Rebuild the trained network of a checkpoint, in evaluation mode on the CPU, and return it with the checkpoint."""
    checkpoint = read_checkpoint(path)
    model = checkpoint["config"]["model"]
    with shapes_alone():  # no more memory is taken than the tensors of the file have, whatever its config asks for
        _refuse_misfit(build_network(model, str(path)), *_of_network(checkpoint, str(path)))
    network = build_network(model, str(path))
    load_weights(network, checkpoint, str(path))
    return network.eval(), checkpoint
