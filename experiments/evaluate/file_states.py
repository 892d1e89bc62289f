"""By what a measurement knows whether a file has changed since."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from experiments.models import checksum
from experiments.runtime.run_folder import flat


def file_states(datamodule: ImageDataModule, cfg: DictConfig) -> dict[str, str]:
    """What tells whether a file that the values depend on has changed: images, kernels, optional metrics."""
    states = {"sharp": sharp_state(datamodule)}
    if any(datamodule.caches["test"].gray):
        states["gray"] = "luma"  # earlier versions measured them as RGB: their figures are not taken for finished
    if "test" in datamodule.inputs:
        inputs = datamodule.inputs["test"]
        states["degraded"] = _state(inputs.cache.files)
        if inputs.kernels is not None:
            states["kernels"] = _digest(inputs.kernels.numpy().tobytes())
        if inputs.noise_levels is not None:
            states["noise_levels"] = _digest(repr(inputs.noise_levels).encode())
    degradation: Any = OmegaConf.to_container(cfg.degradation, resolve=True)
    for name, value in flat(degradation).items():
        if name.endswith("path") and isinstance(value, str) and (path := Path(value).expanduser()).exists():
            files = [path] if path.is_file() else sorted(filter(Path.is_file, path.iterdir()))
            states[name] = _digest(json.dumps([(file.name, checksum(file)) for file in files]).encode())
    return {**states, **{name: _state_of_metric(node) for name, node in cfg.metric.items()}}


def sharp_state(datamodule: ImageDataModule) -> str:
    """Of the files of the sharp test images."""
    return _state(datamodule.caches["test"].files)


def _state_of_metric(node: DictConfig) -> str:
    """Of its file, or of its options."""
    file = node.get("weights") or node.get("model")
    if isinstance(file, str) and Path(file).is_file():
        return checksum(Path(file))
    return _digest(OmegaConf.to_yaml(node).encode())


def _state(paths: Sequence[Path]) -> str:
    try:
        statuses = [os.stat(file) for file in paths]
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: is gone since it was decoded: put it back, and run the same command again "
            "(after a training with resume=auto, which goes straight to the test)"
        ) from error
    states = [(str(file), status.st_size, status.st_mtime_ns) for file, status in zip(paths, statuses, strict=True)]
    return _digest(json.dumps(states).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
