"""What `task=compare` reads of each run: its records, its training curves, where it came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.compare.types import Run
from experiments.config.construct import construct
from experiments.results.records import EvaluationRecord, read_curves, read_mapping, read_records
from experiments.runtime.saved_config import to_build
from lightning_modules.checkpoints.untrusted import bounded, escaped

MOST_POINTS = 1000  # of a curve: more cannot be seen


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read every run folder.

    Raises:
        InputError: a folder is missing, was never evaluated, holds results of an older format or values that are no
            numbers, or two runs have one name.
    """
    sources: dict[str, Run] = {}
    for folder in folders:
        source = read_run(folder, str(folder))
        first = sources.setdefault(source.name, source)
        if first is not source:
            raise InputError(
                f"{source.where}: a second run named {source.name}, beside {first.where}: give each run once, and "
                "rename one of the folders if they are different"
            )
    return list(sources.values())


def read_run(folder: Path, where: str) -> Run:
    """One run folder, which messages call `where`.

    Raises:
        InputError: it was never evaluated, or a record lacks a key or holds a value that is no number.
    """
    if not folder.is_dir():
        raise InputError(f"{where}: no such run folder: runs are folders below runs_dir=")
    records = read_records(folder / "results.json")
    if not records:
        raise InputError(f"{where}: results.json holds no records: measure the run by task=evaluate run={where}")
    for record in records:
        _check(record, where)
    network = next((record for record in records if not record.is_baseline), records[0])
    meta = read_mapping(folder / "meta.json")
    config = _config(folder, network.model)
    commit = str(meta.get("git_commit", ""))[:12]
    return Run(
        name=folder.resolve().name,
        folder=folder,
        seed=network.seed,
        checkpoint=network.checkpoint,
        checkpoint_sha256=network.checkpoint_sha256,
        created=str(meta.get("created", "")),
        commit=commit + ("+" if commit and meta.get("git_dirty") else ""),
        curves=curves(folder / "metrics.csv"),
        where=where,
        parameters=_parameters(config, folder),
        network=config.get("model"),
        records=records,
    )


def _check(record: EvaluationRecord, where: str) -> None:
    place = f"{record.model} on {record.dataset} by {record.protocol_name}"
    if not record.images:
        raise InputError(f"{where}: {place}: no images: evaluate the run again")
    for metric in record.metrics:
        for image, values in record.images.items():
            value = values.get(metric)
            if not isinstance(value, (int, float)) or math.isnan(value):
                raise InputError(
                    f"{where}: {place}: {metric} of image {image} is {value}, expected a number: "
                    "evaluate the run again, or omit it if its training diverged"
                )


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Training loss and validation metrics of a `metrics.csv`, thinned to at most 1000 points each."""
    return {
        name: points[:: -(-len(points) // MOST_POINTS)]
        for name, points in read_curves(path).items()
        if name.startswith(("val/", "train/loss"))
    }


def _config(folder: Path, label: str) -> dict[str, Any]:
    """The config of a run; {} where its network is not what was measured, as of a cascade or a file of weights."""
    config = read_mapping(folder / "config.yaml")
    other = config.get("label") != label or any(config.get(key) for key in ("cascade", "ckpt", "run"))
    return {} if other else config


def _parameters(config: Mapping[str, Any], folder: Path) -> int | None:
    """Parameters of the network of a config, built without memory; None where the code has changed since."""
    try:
        model = to_build(config, "model", str(folder / "config.yaml"))
        with bounded():
            network = construct(OmegaConf.create({"model": escaped(model)}), "model", meta=True)
        return sum(parameter.numel() for parameter in network.parameters())
    except Exception:  # an old config against today's code: any error is possible, and the count is only an extra
        return None
