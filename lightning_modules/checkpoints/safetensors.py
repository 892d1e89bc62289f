"""Weights as `.safetensors`: tensors without code, readable in any language, with the model config in the metadata.

The header of such a file maps strings to strings. Ours has one entry of this suite, `deblur_sr`, a JSON object
{"format": 1, "model": {...}, "label": ..., "seed": ...}, from which the network is rebuilt as from a checkpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.io.atomic import replacing

SUFFIX = ".safetensors"
KEY = "deblur_sr"
FORMAT = 1


def save_weights(network: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
    """Write a network's weights and buffers under their names, complete or not at all.

    Args:
        network: on any device.
        path: of the file; the JSON object of its metadata is written beside it, as `.json`.
        about: that object without `format`: plain values, with the model config as `model`.

    Raises:
        InputError: if the file cannot be written.
    """
    text = json.dumps({"format": FORMAT, **about})
    # Copies: the format knows neither tensors that share memory nor memory layouts.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    try:
        with replacing(path.with_suffix(".json")) as described, replacing(path) as part:
            described.write_text(json.dumps(json.loads(text), indent=2) + "\n")
            part.write_bytes(save(tensors, {"format": "pt", KEY: text}))
    except OSError as error:
        raise InputError(f"{path}: cannot write the weights: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors by name, on the CPU, and what the file says about its model; None in files of other programs.

    Raises:
        InputError: if the file is damaged, or of a later version of this suite.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as {SUFFIX} ({path.stat().st_size:,} bytes): it is truncated or another kind of "
            "file; copy or export it again"
        ) from error
    if text is None:
        return tensors, None
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata {KEY!r} is no JSON: export it again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        version = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise InputError(f"{path}: its metadata {KEY!r} is of format {version}, expected {FORMAT}: export it again")
    return tensors, about
