"""Weights as `.safetensors`: tensors without code, readable in any language, with the model config in the metadata.

The header of such a file maps strings to strings. Ours has two entries of this suite: `deblur_sr`, a JSON object
{"format": 2, "model": {...}, "label": ..., "seed": ..., "dtype": ...}, from which the network is rebuilt as from a
checkpoint, and `sha256` of it and of all tensors. Files of format 1 have no checksum, nor have those of other programs.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.io.atomic import replacing
from lightning_modules.checkpoints.untrusted import check_plain, parse_json

SUFFIX = ".safetensors"
KEY = "deblur_sr"
FORMAT, FORMATS = 2, (1, 2)  # that is written, that are read
HALF = "float16"
LONGEST = 2**24  # bytes of a header: that of ours has 200 a tensor


def save_weights(network: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
    """Write a network's weights and buffers under their names, complete or not at all.

    Args:
        network: on any device.
        path: of the file; the JSON object of its metadata is written beside it, as `.json`.
        about: that object without `format`: plain values, with the model config as `model`. With "float16" as `dtype`
            parameters are rounded to it, which halves the file; buffers stay as they are. A network that reads them
            has parameters of its own type.

    Raises:
        InputError: if the file cannot be written, or a parameter is beyond the range of float16.
    """
    text = json.dumps({"format": FORMAT, **about})
    # Copies: the format knows neither tensors that share memory nor memory layouts.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    if about.get("dtype") == HALF:
        for name, _ in network.named_parameters(remove_duplicate=False):
            tensors[name], exact = tensors[name].half(), tensors[name]
            if not tensors[name].isfinite().all():
                raise InputError(
                    f"half: found true, but {name} goes up to {exact.abs().max():.6g}, float16 to 65504: omit half="
                )
    try:
        with replacing(path.with_suffix(".json")) as described, replacing(path) as part:
            described.write_text(json.dumps(json.loads(text), indent=2) + "\n")
            part.write_bytes(save(tensors, {"format": "pt", KEY: text, "sha256": _digest(text, tensors)}))
    except OSError as error:
        raise InputError(f"{path}: cannot write the weights: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors by name, on the CPU, and what the file says about its model; None in files of other programs.

    Raises:
        InputError: if the file is damaged, or of a later version of this suite.
    """
    try:
        with path.open("rb") as start:
            if int.from_bytes(start.read(8), "little") > LONGEST:
                raise SafetensorError("header too large")
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as {SUFFIX} ({path.stat().st_size:,} bytes): it is truncated or another kind of "
            "file; copy or export it again"
        ) from error
    if KEY not in metadata:
        return tensors, None
    about = parse_json(metadata[KEY], f"{path}: its metadata {KEY!r}", "export it again")
    if not isinstance(about, dict) or about.get("format") not in FORMATS:
        version = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise InputError(f"{path}: its metadata {KEY!r} is of format {version}, expected {FORMAT}: export it again")
    if about["format"] > 1 and metadata.get("sha256") != _digest(metadata[KEY], tensors):
        raise InputError(f"{path}: its bytes have changed since it was written: copy or export it again")
    check_plain(about, str(path), f"its metadata {KEY!r}")
    return tensors, about


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Of the description and of every tensor: its name, type, shape and bytes."""
    found = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
