"""Checkpoints: plain tensors and containers, written atomically, from which the network alone can be rebuilt."""

import os
from pathlib import Path
from typing import Any

import hydra
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import nn

from datamodules.errors import InputError

PREFIX = "network."


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target and renames, so that a checkpoint is complete or absent whenever the process dies."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            part.unlink(missing_ok=True)
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

    Raises:
        InputError: if the file is missing, damaged, or no checkpoint of this suite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; a run keeps checkpoints/last.ckpt and checkpoints/best.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its zip reader and unpickler raise
        size = path.stat().st_size
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({size:,} bytes, {type(error).__name__}): "
            "it is truncated or another kind of file; use the other one of last.ckpt and best.ckpt, or copy it again"
        ) from error
    if (
        not isinstance(checkpoint, dict)
        or "state_dict" not in checkpoint
        or "model" not in checkpoint.get("config", {})
    ):
        raise InputError(
            f"{path}: holds no 'config' and 'state_dict' of this suite; published weights have importers of their own"
        )
    return checkpoint


def build_network(model: dict[str, Any], where: str) -> nn.Module:
    """Instantiate a model config; all its targets lie in `networks`, for a checkpoint must not call anything else.

    Raises:
        InputError: if the config names another target or does not fit its network.
    """
    for target in _targets(model):
        if not target.startswith("networks."):
            raise InputError(f"{where}: model config names {target!r}, expected a class in networks/")
    try:
        return hydra.utils.instantiate(model, _convert_="all")
    except Exception as error:
        raise InputError(f"{where}: cannot build {model.get('_target_')}: {str(error).splitlines()[0]}") from error


def _targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    return [target for value in node for target in _targets(value)] if isinstance(node, list) else []


def load_weights(network: nn.Module, checkpoint: dict[str, Any], where: str) -> None:
    """Load the network's part of a checkpoint, complete or not at all.

    Raises:
        InputError: if names or shapes differ: the checkpoint is one of another model.
    """
    state = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
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
            f"{where}: a checkpoint of another model: it holds {checkpoint['config']['model'].get('_target_')}, "
            f"which does not fit {type(network).__name__} as configured ({len(missing)} tensors missing, "
            f"{len(surplus)} unexpected, {len(wrong)} of another shape; first: {first})"
        )
    network.load_state_dict(state)


def load_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the trained network of a checkpoint, in evaluation mode on the CPU, and return it with the checkpoint.

    Raises:
        InputError: see `read_checkpoint`, `build_network`, `load_weights`.
    """
    checkpoint = read_checkpoint(path)
    network = build_network(checkpoint["config"]["model"], str(path))
    load_weights(network, checkpoint, str(path))
    return network.eval(), checkpoint
