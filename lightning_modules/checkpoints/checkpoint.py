"""Checkpoints: plain tensors and containers, written atomically, from which the network alone can be rebuilt.

Exported weights (`.safetensors`, see `safetensors`) are read wherever a checkpoint is.
"""

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import nn

from datamodules.errors import InputError, folder_vanished, worker_death
from datamodules.io.atomic import replacing
from lightning_modules.checkpoints.matconvnet import read_parameters
from lightning_modules.checkpoints.safetensors import SUFFIX, read_tensors
from networks.base import RestorationNetwork

PREFIX = "network."


class ForeignCheckpoint(InputError):
    """A file that torch can read, of another program: published weights, say."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target and renames, so that a checkpoint is complete or absent whenever the process dies."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with replacing(path, sync=True) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            if not path.parent.is_dir():
                raise folder_vanished(path.parent) from error
            if isinstance(error, RuntimeError) and (death := worker_death(error)):
                raise death from error
            kept = " (the previous one is untouched)" if path.exists() else ""
            raise InputError(
                f"{path}: cannot write the checkpoint{kept}: {_cause(error)}: "
                "free disk space or choose another runs_dir=, then continue with resume=auto"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _cause(error: BaseException) -> str:
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this suite onto the CPU, without unpickling anything but tensors and plain containers.

    Weights that `task=export` wrote come as the checkpoint of that network: `state_dict`, and `config` with `model`,
    `label` and `seed`.

    Raises:
        InputError: if the file is missing, damaged, or no checkpoint of this suite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; a run keeps checkpoints/last.ckpt and checkpoints/best.ckpt")
    if path.suffix == SUFFIX:
        return _read_exported(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its zip reader and unpickler raise
        size = path.stat().st_size
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({size:,} bytes, {type(error).__name__}): "
            "it is truncated or another kind of file; use the other one of last.ckpt and best.ckpt, or copy it again"
        ) from error
    config = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ForeignCheckpoint(
            f"{path}: holds no 'config' and 'state_dict' of this suite; published weights have importers of their own",
            file=path,
        )
    return checkpoint


def _read_exported(path: Path) -> dict[str, Any]:
    tensors, about = read_tensors(path)
    if about is None or not isinstance(about.get("model"), dict):
        raise InputError(
            f"{path}: holds no model config of this suite; weights of another program are read with model=NAME weights="
        )
    return {"state_dict": {PREFIX + name: value for name, value in tensors.items()}, "config": about}


def build_network(model: dict[str, Any], where: str) -> RestorationNetwork:
    """Instantiate a model config; all its targets lie in `networks`, for a checkpoint must not call anything else.

    Raises:
        InputError: if the config names another target or does not fit its network.
    """
    for node in _walk(model):
        if isinstance(node, dict) and "_target_" in node and not _defined_in_networks(str(node["_target_"])):
            raise InputError(f"{where}: model config names '{node['_target_']}', expected a class in networks/")
        if isinstance(node, str) and "${" in node:  # an interpolation could bring in a target of its own
            raise InputError(f"{where}: model config holds the interpolation {node!r}, expected plain values")
    try:
        network = hydra.utils.instantiate(model, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise InputError(f"{where}: cannot build {model.get('_target_')}: {reason}") from error
    if not isinstance(network, RestorationNetwork):
        raise InputError(f"{where}: model config makes a {type(network).__name__}, expected a network")
    return network


def _walk(node: Any) -> Iterator[Any]:
    """The node and everything in it; keys too, for they may be interpolations as well."""
    yield node
    children = [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list | tuple) else []
    for child in children:
        yield from _walk(child)


def _defined_in_networks(target: str) -> bool:
    """Whether `target` is package.module.name of something written there; what a module imports does not count."""
    module, _, name = target.rpartition(".")
    if module.split(".")[0] != "networks":
        return False
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    own = inspect.isclass(found) or inspect.isfunction(found)
    return own and found.__module__.split(".")[0] == "networks"


def load_weights(network: nn.Module, checkpoint: dict[str, Any], where: str) -> None:
    """Load the network's part of a checkpoint, complete or not at all.

    Raises:
        InputError: if names or shapes differ: the checkpoint is one of another model.
    """
    state = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    _load_exactly(
        network,
        state,
        where,
        f"a checkpoint of another model: it holds {checkpoint['config']['model'].get('_target_')}",
    )


def _load_exactly(network: nn.Module, state: dict[str, Any], where: str, what: str) -> None:
    own = network.state_dict()
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    missing, surplus = [k for k in own if k not in state], [k for k in state if k not in own]
    if missing or surplus or wrong:
        first = (
            f"missing {missing[0]}"
            if missing
            else f"unexpected {surplus[0]}"
            if surplus
            else f"{wrong[0]} is {list(state[wrong[0]].shape)}, expected {list(own[wrong[0]].shape)}"
        )
        raise InputError(
            f"{where}: {what}, "
            f"which does not fit {type(network).__name__} as configured ({len(missing)} tensors missing, "
            f"{len(surplus)} unexpected, {len(wrong)} of another shape; first: {first})"
        )
    network.load_state_dict(state)


def read_weights(network: nn.Module, path: Path) -> None:
    """Load a file of weights into a network: a checkpoint of this suite, exported weights, or published weights.

    Published weights are state dicts under their authors' names (pickled or `.safetensors`), or networks of MatConvNet
    (`.mat`); the network's module translates them by its function `import_official`, completely or not at all.

    Raises:
        InputError: if the file is missing or damaged, is of another network, or the network knows no published weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights: set weights= to a checkpoint or to published weights")
    try:
        found = _read_file(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as weights ({path.stat().st_size:,} bytes, {type(error).__name__}): expected a "
            "state dict of plain tensors; pickled modules are not opened"
        ) from error
    if isinstance(found, dict) and "config" in found and "state_dict" in found:
        load_weights(network, read_checkpoint(path), str(path))
        return
    translate = getattr(importlib.import_module(type(network).__module__), "import_official", None)
    if translate is None:
        raise InputError(
            f"{path}: not a checkpoint of this suite, and {type(network).__name__} has no importer for others"
        )
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        raise InputError(f"{path}: holds a {type(found).__name__}, expected a state dict: tensors by name")
    try:
        state = translate(found)
    except ValueError as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")  # it may list hundreds of names
        raise InputError(f"{path}: not published weights of {type(network).__name__}: {reason}") from error
    _load_exactly(network, state, str(path), "published weights of another size")


def _read_file(path: Path) -> Any:
    """The checkpoint or the state dict in a file, whichever it holds."""
    if path.suffix == ".mat":
        return read_parameters(path)
    if path.suffix == SUFFIX:
        tensors, about = read_tensors(path)
        return tensors if about is None else read_checkpoint(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def load_network(path: Path) -> tuple[RestorationNetwork, dict[str, Any]]:
    """Rebuild the trained network of a checkpoint, in evaluation mode on the CPU, and return it with the checkpoint.

    Raises:
        InputError: see `read_checkpoint`, `build_network`, `load_weights`.
    """
    checkpoint = read_checkpoint(path)
    network = build_network(checkpoint["config"]["model"], str(path))
    load_weights(network, checkpoint, str(path))
    return network.eval(), checkpoint
