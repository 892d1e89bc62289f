"""The file of results and the tables: what replaces what, and what is printed."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import InputError
from experiments.results.records import EvaluationRecord, add_records, read_records
from experiments.results.tables import grid_table, report, score_table, short_keys
from experiments.results.writers import text
from lightning_modules.metrics.build import TAKEN
from lightning_modules.metrics.protocol import Protocol

Y, RGB = Protocol("y_shave4", "y", 4), Protocol("rgb_shave4", "rgb", 4)


def scored(*values: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {name: {"psnr": p, "ssim": s} for name, (p, s) in zip("abcdef", values, strict=False)}


SCORES = {"y_shave4": scored((20.0, 0.5), (30.0, 0.7)), "rgb_shave4": scored((18.0, 0.4), (math.inf, 1.0))}
FACTS: dict[str, Any] = {
    "model": "m",
    "run": "r",
    "seed": 1,
    "checkpoint": None,
    "checkpoint_sha256": None,
    "suite": None,
    "cell": {},
    "dataset": "d",
    "split": "test",
    "scale": 4,
    "degradation": {"_target_": "x.Y", "noise": 0},
    "suite_seed": 0,
    "self_ensemble": False,
}


def make(scores: Any = SCORES, protocols: Any = (Y, RGB), **facts: Any) -> list[EvaluationRecord]:
    return [
        EvaluationRecord(**{**FACTS, **facts}).scored(protocol, scores[protocol.name])
        for protocol in protocols
        if protocol.name in scores
    ]


def test_no_metric_is_called_like_a_field() -> None:
    assert {field.name for field in fields(EvaluationRecord)} <= TAKEN


def test_means_are_over_images() -> None:
    first, second = make()
    assert first.means["psnr"] == 25.0
    assert first.means["ssim"] == pytest.approx(0.6)
    assert first.images["b"] == {"psnr": 30.0, "ssim": 0.7}
    assert first.protocol == {"name": "y_shave4", "colour": "y", "shave": 4, "rounding": "round", "ssim": "channels"}
    assert second.means["psnr"] == math.inf


def test_further_metrics_and_times() -> None:
    images = {"a": {"psnr": 1.0, "lpips": 0.5, "seconds": 2.0}, "b": {"psnr": 2.0, "lpips": 0.25, "seconds": 4.0}}
    (record,) = make({"y_shave4": images}, [Y])
    assert record.means["lpips"] == 0.375
    assert "seconds" not in record.means
    assert record.images == images
    lines = [line.split() for line in text(score_table([record])).splitlines()]
    assert lines[1] == ["model", "PSNR", "dB", "LPIPS"]
    assert lines[-1] == ["m", "1.50", "0.3750"]


def test_file_merges_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "run" / "results.json"
    add_records(path, make())
    assert json.loads(path.read_text())["format"] == 2
    assert read_records(path)[1].means["psnr"] == math.inf
    add_records(path, make({"y_shave4": scored((21.0, 0.5))}, [Y]))
    add_records(path, make(protocols=[Y], dataset="e"))
    assert [(r.dataset, r.protocol_name, r.means["psnr"]) for r in read_records(path)] == [
        ("d", "rgb_shave4", math.inf),
        ("d", "y_shave4", 21.0),
        ("e", "y_shave4", 25.0),
    ]


@pytest.mark.parametrize(
    ("change", "replaces"),
    [
        ({"checkpoint_sha256": "newer weights in the same file"}, True),
        ({"device": "another", "threads": 9, "seed": 7, "run": "renamed"}, True),
        ({"degradation": {"_target_": "x.Y", "noise": 0.0}}, True),  # as a command line may write it
        ({"checkpoint": "checkpoints/last.ckpt"}, False),
        ({"suite": "s"}, False),
        ({"cell": {"degradation.scale": 2}}, False),
        ({"scale": 2}, False),
        ({"self_ensemble": True}, False),
        ({"suite_seed": 1}, False),
        ({"degradation": {"_target_": "x.Y", "noise": 0.01}}, False),
        ({"model": "n"}, False),
    ],
    ids=str,
)
def test_what_makes_two_records_the_same_measurement(tmp_path: Path, change: dict[str, Any], replaces: bool) -> None:
    path = tmp_path / "results.json"
    add_records(path, make(protocols=[Y], checkpoint="checkpoints/best.ckpt", checkpoint_sha256="0"))
    add_records(
        path, make(protocols=[Y], **{"checkpoint": "checkpoints/best.ckpt", "checkpoint_sha256": "0", **change})
    )
    assert len(read_records(path)) == (1 if replaces else 2)


def test_kernel_files_of_one_name_are_two_measurements(tmp_path: Path) -> None:
    for path, count in (("/a/k.mat", 1), ("/a/k.mat", 1), ("/b/k.mat", 2)):
        add_records(tmp_path / "results.json", make(protocols=[Y], degradation={"kernels": {"path": path}}))
        assert len(read_records(tmp_path / "results.json")) == count


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[{")
    with pytest.raises(InputError, match=r"results\.json: not valid JSON"):
        add_records(path, make())
    assert path.read_text() == "[{"


@pytest.mark.parametrize(
    ("content", "version"), [([], 1), ([{"model": "m"}], 1), ({"format": 3, "records": []}, 3), ({"records": []}, None)]
)
def test_other_formats_are_refused_in_one_line(tmp_path: Path, content: Any, version: int | None) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_records(path)
    text = str(error.value)
    assert text.startswith(f"{path}: results of format {version}, expected format 2: move the file away and evaluate")
    assert "\n" not in text


@pytest.mark.parametrize("records", [None, {}, 3])
def test_records_that_are_no_list(tmp_path: Path, records: Any) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": 2, "records": records}))
    with pytest.raises(InputError, match=f"json: records: found {json.dumps(records)}, expected a list"):
        read_records(path)


@pytest.mark.parametrize(
    ("metric", "value", "refused"),
    [("ssim", "1e999", True), ("psnr", "-1e999", True), ("psnr", "Infinity", False), ("psnr", "NaN", False)],
)
def test_infinite_values_are_of_psnr(tmp_path: Path, metric: str, value: str, refused: bool) -> None:
    path = tmp_path / "results.json"
    add_records(path, make(protocols=[Y]))
    content = json.loads(path.read_text())
    content["records"][0]["images"]["a"][metric] = "VALUE"
    path.write_text(json.dumps(content).replace('"VALUE"', value))
    if refused:
        with pytest.raises(
            InputError, match=rf"images\.a\.{metric} of a record: found -?inf, expected a finite number"
        ):
            read_records(path)
    else:  # of equal images, and of a network that has diverged
        assert repr(read_records(path)[0].images["a"][metric]) == {"Infinity": "inf", "NaN": "nan"}[value]


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: measure the run first, by task=evaluate run="):
        read_records(tmp_path / "results.json")


def test_table_shows_models_protocols_and_gain() -> None:
    better = {p: scored(*((v["psnr"] + 1.5, v["ssim"] + 0.1) for v in s.values())) for p, s in SCORES.items()}
    printed = text(score_table([*make(model="bicubic"), *make(better, [Y])]))
    lines = [line.split() for line in printed.splitlines()]
    assert lines[0] == ["y_shave4", "rgb_shave4"]
    assert ["bicubic", "25.00", "0.6000", "∞", "0.7000"] in lines
    assert ["m", "26.50", "0.7000", "-", "-"] in lines
    assert ["gain", "+1.50", "+0.1000", "-", "-"] in lines


def test_columns_stand_under_their_heads() -> None:
    head, names, _, row = text(score_table(make())).splitlines()
    for protocol, metric in (("y_shave4", 2), ("rgb_shave4", 4)):
        end = head.index(protocol) + len(protocol)
        assert row[:end].split()[-1] == row.split()[metric]
        assert names[:end].split()[-1] == "SSIM"


def test_runs_of_one_model_are_told_apart() -> None:
    rows = [
        *make(model="bicubic", run="one"),
        *make(model="bicubic", run="two"),
        *make(run="one", checkpoint="c"),
        *make(run="two", checkpoint="c"),
        *make(run="two", checkpoint="c", self_ensemble=True),
    ]
    names = [line.split("  ")[0] for line in text(score_table(rows)).splitlines()[3:]]
    assert names == ["bicubic", "one", "two", "two (x8)"]


def grid(values: dict[tuple[int, float], float], **facts: Any) -> list[EvaluationRecord]:
    return [
        record
        for (scale, noise), psnr in values.items()
        for record in make(
            {"y_shave4": scored((psnr, 0.5))},
            [Y],
            suite="s",
            cell={"degradation.scale": scale, "degradation.noise": noise},
            scale=scale,
            **facts,
        )
    ]


def test_grid_has_the_longest_axis_across() -> None:
    values = {(2, 0.0): 30.0, (2, 0.01): 28.0, (2, 0.03): 26.0, (4, 0.0): 27.0, (4, 0.01): 25.0}
    printed = text(grid_table([*grid(values), *grid({(2, 0.0): 20.0}, model="bicubic")]))
    assert [line.split() for line in printed.splitlines()] == [
        ["PSNR", "dB,", "columns:", "noise"],
        ["scale", "model", "0", "0.01", "0.03"],
        ["-" * len(printed.splitlines()[1])],
        ["2", "m", "30.00", "28.00", "26.00"],
        ["2", "bicubic", "20.00", "-", "-"],
        ["4", "m", "27.00", "25.00", "-"],
    ]


def test_grid_of_one_axis_has_a_row_a_model() -> None:
    rows = [
        record
        for model, psnr in (("a", 10.0), ("long_name", 11.0))
        for number in (2, 3)
        for record in make({"y_shave4": scored((psnr + number, 0.5))}, [Y], model=model, cell={"x.number": number})
    ]
    assert text(grid_table(rows)).splitlines()[1].split() == ["model", "2", "3", "mean"]
    assert [line.split() for line in text(grid_table(rows)).splitlines()[3:]] == [
        ["a", "12.00", "13.00", "12.50"],
        ["long_name", "13.00", "14.00", "13.50"],
    ]


def test_report_has_a_table_for_each_set_and_protocol_of_a_grid(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    printed = report(
        [*grid({(2, 0.0): 30.0, (4, 0.0): 28.0}), *make(dataset="e"), *make(dataset="e", scale=None, suite_seed=3)],
        [tmp_path],
    )
    assert printed.count("s: d, test split, 1 image, x2/4, Y, y_shave4\n") == 1
    assert printed.count("e, test split, 2 images, x4, Y\n") == 1
    assert printed.count("e, test split, 2 images, x?, Y\n") == 1
    assert printed.endswith(f"results: {tmp_path / 'results.json'}\npictures: {tmp_path / 'images'}")


def test_short_keys() -> None:
    assert short_keys(["degradation.scale", "degradation.kernels.number"]) == {
        "degradation.scale": "scale",
        "degradation.kernels.number": "number",
    }
    assert list(short_keys(["a.x", "b.x", "c.y"]).values()) == ["a.x", "b.x", "y"]


def test_optional_metrics_stay_while_files_and_weights_do(tmp_path: Path) -> None:
    path = tmp_path / "results.json"

    def record(files: dict[str, str], **values: float) -> EvaluationRecord:
        return EvaluationRecord("bicubic", files=files).scored(Y, {"i": values})

    add_records(path, [record({"sharp": "a", "niqe": "m"}, psnr=1.0, niqe=5.0)])
    add_records(path, [record({"sharp": "a"}, psnr=2.0)])
    (kept,) = read_records(path)
    assert (kept.means, kept.images) == ({"psnr": 2.0, "niqe": 5.0}, {"i": {"psnr": 2.0, "niqe": 5.0}})
    assert kept.files == {"sharp": "a", "niqe": "m"}
    add_records(path, [record({"sharp": "a", "lpips": "alex"}, psnr=2.0, lpips=0.5)])
    (kept,) = read_records(path)
    assert kept.means == {"psnr": 2.0, "niqe": 5.0, "lpips": 0.5}
    assert kept.files == {"sharp": "a", "niqe": "m", "lpips": "alex"}
    add_records(path, [record({"sharp": "a", "lpips": "vgg"}, psnr=2.0, lpips=0.4)])
    (kept,) = read_records(path)
    assert (kept.means["lpips"], kept.files["lpips"], kept.means["niqe"]) == (0.4, "vgg", 5.0)
    add_records(path, [record({"sharp": "b"}, psnr=1.0)])
    assert "niqe" not in read_records(path)[0].means


@pytest.mark.parametrize("record", ["text", {"model": "m"}])
def test_a_damaged_record(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": 2, "records": [record]}))
    with pytest.raises(InputError, match=r"results\.json: a record has no '(model|dataset)'"):
        read_records(path)
