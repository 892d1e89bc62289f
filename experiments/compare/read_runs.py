"""What `task=compare` reads of each run: its records, its training curves, where it came from."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError
from experiments.compare.types import BASELINE, Run
from experiments.results.records import METRICS, read_records

_NEEDED = ("model", "dataset", "split", "degradation", "suite_seed", "protocol", "images", "cell", "suite")
MOST_POINTS = 1000  # of a curve: more cannot be seen


@dataclass(frozen=True)
class ComparedRun:
    """A run with its records; `where` names it in messages."""

    run: Run
    records: list[dict[str, Any]]
    where: str
    parameters: int | None = None


def read_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """Read every run folder.

    Raises:
        InputError: a folder is missing, was never evaluated, holds results of an older format or values that are no
            numbers, or two runs have one name.
    """
    sources = [read_run(folder, str(folder)) for folder in folders]
    refuse_same_names(sources)
    return sources


def refuse_same_names(sources: Sequence[ComparedRun]) -> None:
    """Two runs of one name cannot be told apart in a table."""
    seen: dict[str, ComparedRun] = {}
    for source in sources:
        if source.run.name in seen:
            first = seen[source.run.name].where
            raise InputError(
                f"{source.where}: a second run named {source.run.name}, beside {first}: give each run once, "
                "and rename one of the folders if they are different"
            )
        seen[source.run.name] = source


def read_run(folder: Path, where: str) -> ComparedRun:
    """One run folder, which messages call `where`.

    Raises:
        InputError: it was never evaluated, or a record lacks a key or holds a value that is no number.
    """
    if not folder.is_dir():
        raise InputError(f"{where}: no such run folder: runs are folders below runs_dir=")
    path = folder / "results.json"
    if not path.is_file():
        raise InputError(f"{where}: no results.json: measure it first by task=evaluate run={where}")
    records = read_records(path)
    if not records:
        raise InputError(f"{where}: results.json holds no records: measure the run by task=evaluate run={where}")
    for record in records:
        _check(record, where)
    own = next((record for record in records if not is_baseline(record)), records[0])
    meta = _mapping(folder / "meta.json")
    commit = str(meta.get("git_commit", ""))[:12]
    run = Run(
        name=folder.resolve().name,
        folder=folder,
        seed=own.get("seed"),
        checkpoint=own.get("checkpoint"),
        checkpoint_sha256=own.get("checkpoint_sha256"),
        created=str(meta.get("created", "")),
        commit=commit + ("+" if commit and meta.get("git_dirty") else ""),
        curves=curves(folder / "metrics.csv"),
    )
    return ComparedRun(run, records, where, own.get("parameters") or _parameters(folder, own["model"]))


def is_baseline(record: Mapping[str, Any]) -> bool:
    """Whether a record is bicubic enlargement of the input, which is measured along with every network."""
    return record["model"] == BASELINE and record.get("checkpoint") is None


def _check(record: Mapping[str, Any], where: str) -> None:
    for key in _NEEDED:
        if key not in record:
            raise InputError(f"{where}: a record has no {key!r}: the file is damaged, evaluate the run again")
    place = f"{record['model']} on {record['dataset']} by {record['protocol']['name']}"
    if not record["images"]:
        raise InputError(f"{where}: {place}: no images: evaluate the run again")
    for metric in metrics_of(record):
        for image, values in record["images"].items():
            value = values.get(metric)
            if not isinstance(value, (int, float)) or math.isnan(value):
                raise InputError(
                    f"{where}: {place}: {metric} of image {image} is {value}, expected a number: "
                    "evaluate the run again, or leave it out if its training diverged"
                )


def metrics_of(record: Mapping[str, Any]) -> list[str]:
    """The metrics of a record, in the order in which they are shown."""
    first = next(iter(record["images"].values()))
    return [metric for metric in METRICS if metric in record or metric in first]


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Training loss and validation metrics of a `metrics.csv`, thinned to at most 1000 points each.

    Lines that a killed run left torn are passed over; a run without the file has no curves.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file():
        return found
    with path.open(newline="", errors="replace") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if isinstance(name, str) and name.startswith(("val/", "train/loss")) and text:
                    try:
                        step, value = int(row["step"]), float(text)
                    except (KeyError, TypeError, ValueError):
                        continue
                    if math.isfinite(value):
                        found.setdefault(name, []).append((step, value))
    return {name: points[:: -(-len(points) // MOST_POINTS)] for name, points in found.items()}


def _mapping(path: Path) -> dict[str, Any]:
    """A file that only adds to a comparison: absent or damaged it adds nothing."""
    try:
        found = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _parameters(folder: Path, label: str) -> int | None:
    """Parameters of the network of a run's config, built without memory.

    None where they are not known: the code has changed since, or what was measured (a cascade, a checkpoint file) is
    not the network of the config.
    """
    config = _mapping(folder / "config.yaml")
    model = config.get("model")
    if not isinstance(model, dict) or not str(model.get("_target_", "")).startswith("networks."):
        return None
    if config.get("label") != label or config.get("cascade") or config.get("ckpt"):
        return None
    import hydra
    import torch

    try:
        with torch.device("meta"):
            network = hydra.utils.instantiate(model, _convert_="all")
        return sum(parameter.numel() for parameter in network.parameters())
    except Exception:  # an old config against today's code: any error is possible, and the count is only an extra
        return None
