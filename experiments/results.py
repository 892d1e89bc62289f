"""Records of evaluations: `results.json`, and the table a person reads."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from experiments.run_folder import write_text
from lightning_modules.metrics import Protocol

Scores = Mapping[str, Mapping[str, tuple[float, float]]]  # protocol -> image -> (psnr, ssim)
# What makes two records the same measurement; a later one replaces the earlier.
_KEY = ("model", "dataset", "split", "degradation", "suite_seed", "protocol", "checkpoint")


def records(scores: Scores, protocols: Sequence[Protocol], **facts: Any) -> list[dict[str, Any]]:
    """One record a protocol: the facts that identify the measurement, means over images, and the per-image values."""
    result = []
    for protocol in protocols:
        images = scores[protocol.name]
        if not images:
            continue
        result.append(
            {
                **facts,
                "protocol": asdict(protocol),
                "psnr": math.fsum(p for p, _ in images.values()) / len(images),
                "ssim": math.fsum(s for _, s in images.values()) / len(images),
                "images": {name: {"psnr": p, "ssim": s} for name, (p, s) in images.items()},
            }
        )
    return result


def add_records(path: Path, new: Sequence[Mapping[str, Any]]) -> None:
    """Merge records into a `results.json`; a record of the same measurement is replaced.

    Raises:
        InputError: if the file is there but damaged, or cannot be written.
    """
    old = read_records(path) if path.exists() else []
    keys = {_key(record) for record in new}
    merged = [record for record in old if _key(record) not in keys] + list(new)
    write_text(path, json.dumps(merged, indent=2) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a `results.json`; identical images have a PSNR of `Infinity`, which Python's json reads back."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}): move it away and evaluate again") from error


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record.get(name) for name in _KEY], sort_keys=True)


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Plain-text table: a row a model, PSNR and SSIM under each protocol, and the gain of two rows."""
    protocols = list(dict.fromkeys(record["protocol"]["name"] for record in measured))
    models = list(dict.fromkeys(record["model"] for record in measured))
    value = {(r["model"], r["protocol"]["name"]): (r["psnr"], r["ssim"]) for r in measured}
    width = max(len("model"), *(len(model) for model in models))
    column = max(20, *(len(name) + 3 for name in protocols))
    lines = [
        " " * width + "".join(f"{name:>{column}}" for name in protocols),
        f"{'model':{width}}" + f"{'PSNR dB':>{column - 9}}{'SSIM':>9}" * len(protocols),
    ]
    lines.append("-" * len(lines[0]))
    for model in models:
        cells = (value.get((model, name)) for name in protocols)
        lines.append(
            f"{model:{width}}"
            + "".join(f"{c[0]:>{column - 9}.2f}{c[1]:>9.4f}" if c else f"{'-':>{column}}" for c in cells)
        )
    if len(models) == 2 and all((m, p) in value for m in models for p in protocols):
        gains = [tuple(b - a for a, b in zip(value[models[0], p], value[models[1], p], strict=True)) for p in protocols]
        lines.append(f"{'gain':{width}}" + "".join(f"{g[0]:>+{column - 9}.2f}{g[1]:>+9.4f}" for g in gains))
    return "\n".join(lines)
