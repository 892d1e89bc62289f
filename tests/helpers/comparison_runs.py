"""Run folders with `results.json` for the tests of comparisons; no network is run."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import InputError
from experiments.compare.build import compare
from experiments.compare.read_runs import read_runs
from experiments.compare.types import Comparison

PROTOCOL = {"name": "y_shave4", "colour": "y", "shave": 4, "rounding": "round", "ssim": "channels"}
IMAGES = ("baby", "bird", "butterfly", "head", "woman")
DEGRADATION = {"_target_": "datamodules.degradations.pipelines.EDDSRNDegradation", "scale": 4, "sigma": [1.0, 2.0]}
OTHER_PROTOCOL = {"protocol": {**PROTOCOL, "name": "rgb_shave4", "colour": "rgb"}}
GAINS = [1.0, 2.0, 1.5, 0.5, 1.0]
BICUBIC = (22.0, 23.0, 20.0, 25.0, 21.0)


def record(model: str, values: Sequence[float], **changes: Any) -> dict[str, Any]:
    """A record with these PSNRs, SSIMs of a hundredth of them, and a second per image; `changes` replace its keys."""
    images = changes.pop("names", IMAGES[: len(values)])
    scores: dict[str, dict[str, float]] = {
        name: {"psnr": value, "ssim": min(value / 100, 1.0)} for name, value in zip(images, values, strict=True)
    }
    if model != "bicubic":
        for i, found in enumerate(scores.values()):
            found["seconds"] = 0.5 + 0.1 * i
    return {
        "model": model,
        "run": "",
        "seed": None,
        "checkpoint": None if model == "bicubic" else "checkpoints/best.ckpt",
        "checkpoint_sha256": None if model == "bicubic" else "0123456789abcdef",
        "suite": None,
        "cell": {},
        "dataset": "set5",
        "split": "test",
        "scale": 4,
        "degradation": copy.deepcopy(DEGRADATION),
        "suite_seed": 0,
        "self_ensemble": False,
        "device": "cpu",
        "threads": 2,
        "protocol": dict(PROTOCOL),
        "psnr": sum(values) / len(values),
        "ssim": min(sum(values) / len(values) / 100, 1.0),
        "images": scores,
        **changes,
    }


def write_run(folder: Path, name: str, records: Sequence[Mapping[str, Any]], curves: str = "") -> Path:
    """A run folder as an evaluation leaves it."""
    run = folder / name
    run.mkdir(parents=True)
    content = {"format": 2, "records": [{**r, "run": name} for r in records]}
    (run / "results.json").write_text(json.dumps(content))
    (run / "meta.json").write_text(json.dumps({"created": "2026-11-01T10:00:00+00:00", "git_commit": "abc" * 14}))
    if curves:
        (run / "metrics.csv").write_text(curves)
    return run


def pair(model: str, gains: Sequence[float], **changes: Any) -> list[dict[str, Any]]:
    """The records of a network that gains this much over bicubic, and of bicubic."""
    own = {"model", "seed", "self_ensemble", "checkpoint"}
    shared = {key: value for key, value in changes.items() if key not in own}
    values = [b + g for b, g in zip(BICUBIC, gains, strict=False)]
    return [record("bicubic", BICUBIC[: len(values)], **shared), record(model, values, **changes)]


def compared(*folders: Path, **options: Any) -> Comparison:
    """The comparison of these run folders."""
    chosen = {key: options.pop(key) for key in ("suites", "datasets", "protocols") if key in options}
    return compare(read_runs(folders), "test", chosen=chosen, **options)


def two(tmp_path: Path, first: dict[str, Any] | None = None, second: dict[str, Any] | None = None) -> list[Path]:
    """Two runs of one degradation, with changes in their records."""
    return [
        write_run(tmp_path, "a", pair("ed_dsrn", GAINS, **(first or {}))),
        write_run(tmp_path, "b", pair("ed_srn", [g / 2 for g in GAINS], **(second or {}))),
    ]


def refusal(folders: Sequence[Path], **options: Any) -> str:
    """The one line with which their comparison is refused."""
    with pytest.raises(InputError) as caught:
        compared(*folders, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
