import math
from pathlib import Path

import pytest

from datamodules.errors import InputError
from experiments.results import add_records, read_records, records, table
from lightning_modules.metrics import Protocol

Y, RGB = Protocol("y_shave4", "y", 4), Protocol("rgb_shave4", "rgb", 4)
SCORES = {
    "y_shave4": {"a": (20.0, 0.5), "b": (30.0, 0.7)},
    "rgb_shave4": {"a": (18.0, 0.4), "b": (math.inf, 1.0)},
}
FACTS = {"model": "m", "dataset": "d", "split": "test", "degradation": {}, "suite_seed": 0, "checkpoint": None}


def test_means_are_over_images() -> None:
    first, second = records(SCORES, [Y, RGB], **FACTS)
    assert first["psnr"] == 25.0
    assert first["ssim"] == pytest.approx(0.6)
    assert first["images"]["b"] == {"psnr": 30.0, "ssim": 0.7}
    assert first["protocol"]["shave"] == 4
    assert second["psnr"] == math.inf


def test_file_merges_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    add_records(path, records(SCORES, [Y, RGB], **FACTS))
    assert read_records(path)[1]["psnr"] == math.inf
    add_records(path, records({**SCORES, "y_shave4": {"a": (21.0, 0.5)}}, [Y], **FACTS))
    add_records(path, records(SCORES, [Y], **{**FACTS, "dataset": "e"}))
    assert [(r["dataset"], r["protocol"]["name"], r["psnr"]) for r in read_records(path)] == [
        ("d", "rgb_shave4", math.inf),
        ("d", "y_shave4", 21.0),
        ("e", "y_shave4", 25.0),
    ]


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[{")
    with pytest.raises(InputError, match=r"results\.json: not valid JSON"):
        add_records(path, records(SCORES, [Y], **FACTS))
    assert path.read_text() == "[{"


def test_table_shows_models_protocols_and_gain() -> None:
    better = {p: {k: (v[0] + 1.5, v[1] + 0.1) for k, v in s.items()} for p, s in SCORES.items()}
    text = table([*records(SCORES, [Y], **{**FACTS, "model": "bicubic"}), *records(better, [Y], **FACTS)])
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["y_shave4"]
    assert ["bicubic", "25.00", "0.6000"] in lines
    assert ["m", "26.50", "0.7000"] in lines
    assert ["gain", "+1.50", "+0.1000"] in lines
