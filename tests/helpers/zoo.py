"""A zoo of small networks in the place of that of the suite."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments.zoo import catalogue
from lightning_modules.checkpoints.safetensors import save_weights
from networks.baselines.edsr import EDSR

OPTIONS = {"width": 4, "n_blocks": 1}
CONFIG = {"_target_": "networks.baselines.edsr.EDSR", "scale": 2, **OPTIONS}
OVERRIDES = ["model=edsr", *(f"model.{key}={value}" for key, value in OPTIONS.items()), "degradation.scale=2"]
CARD: dict[str, Any] = {
    "network": "edsr",
    "parameters": 1,
    "recipe": ["python run.py " + " ".join([*OVERRIDES, "degradation=bicubic", "data=sample", "optimizer.lr=1e-3"])],
    "data": "none",
    "licence": "none",
    "seeds": [3],
    "steps": 1,
    "core_hours": 0.1,
    "hardware": "a core",
    "figures": [
        {"data": "two", "protocol": "y_shave4", "psnr": 20.0, "command": "python run.py task=evaluate data=sample"}
    ],
    "use": "to be tested",
    "limits": "knows nothing",
}


def fill(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """A folder with an EDSR of four channels, x2, under each name, and its card; it is the zoo until the test ends."""
    folder.mkdir()
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    facts = {"model": CONFIG, "label": "edsr", "seed": 3, "scales": [2], "inputs": ["lr"], "outputs": ["sr"]}
    for name in names:
        torch.manual_seed(0)
        file = folder / f"{name}.safetensors"
        save_weights(EDSR(scale=2, **OPTIONS), file, facts)  # type: ignore[arg-type]
        file.with_suffix(".json").unlink()
        write_card(folder, name)
    return folder


def write_card(folder: Path, name: str, **changes: Any) -> None:
    """A card that is complete, but for what is changed; None leaves a key out."""
    found = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
    card = {key: value for key, value in {**CARD, "sha256": found, **changes}.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(card))
