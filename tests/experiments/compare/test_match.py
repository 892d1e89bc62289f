"""Comparisons that are refused, each in one line that names the difference."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.comparison_runs import (
    BICUBIC,
    DEGRADATION,
    GAINS,
    OTHER_PROTOCOL,
    PROTOCOL,
    compared,
    pair,
    record,
    refusal,
    two,
    write_run,
)

SIGMA = {"degradation": {**DEGRADATION, "sigma": [1.5, 1.5]}}
OTHER_NAMES = {"names": ("baby", "bird", "butterfly", "head", "x")}
OTHER_SHAVE = {"protocol": {**PROTOCOL, "shave": 0}}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, OTHER_PROTOCOL, r'protocol\.name is "y_shave4" in .*a and "rgb_shave4" in .*b' ),
        ({}, OTHER_SHAVE, r"protocol\.shave is 4 in .*a and 0 in .*b "),
        ({"suite": "x"}, {"suite": "y"}, r'suite is "x" in .*a and "y" in .*b' ),
        ({"suite": "x"}, {}, r'suite is "x" in .*a and none in .*b' ),
        ({}, {"dataset": "set14"}, r'dataset is "set5" in .*a and "set14" in .*b' ),
        ({"cell": {"n": 1}}, {"cell": {"n": 2}}, r"cell\.n is 1 in .*a and 2 in .*b"),
        ({}, {"suite_seed": 7}, r"suite_seed is 0 in .*a and 7 in .*b \(no suite, set5, y_shave4\)"),
        ({}, SIGMA, r"degradation\.sigma is \[1\.0, 2\.0\] in .* and \[1\.5, 1\.5\]"),
        ({}, {"degradation": {**DEGRADATION, "noise": 0.1}}, r"degradation\.noise is absent in .* and 0\.1 in"),
        ({}, {"split": "val"}, r'split is "test" in .* and "val" in'),
        ({}, OTHER_NAMES, r"b: no image woman in no suite, set5, y_shave4 \(5 images\)"),
        ({}, {"self_ensemble": True}, r"self_ensemble is true in .*b and false in .*a.* mixed_ensemble=true"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, first: dict[str, Any], second: dict[str, Any], message: str) -> None:
    assert re.search(message, found := refusal(two(tmp_path, first, second))), found


def test_same_image_names_but_other_inputs(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    content = json.loads((b / "results.json").read_text())
    content["records"][0]["images"]["head"]["psnr"] += 0.009
    (b / "results.json").write_text(json.dumps(content))
    compared(a, b)
    content["records"][0]["images"]["head"]["psnr"] += 0.009
    (b / "results.json").write_text(json.dumps(content))
    message = refusal([a, b])
    assert "image head has 25.0180 dB here and 25.0000 dB there" in message


def test_inputs_that_cannot_be_checked_are_named(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", pair("ed_dsrn", GAINS))
    b = write_run(tmp_path, "b", pair("ed_srn", GAINS)[1:])
    assert any("the inputs of b could not be checked" in note for note in compared(a, b).notes)


def test_difference_in_a_suite_is_refused_even_beside_comparable_records(tmp_path: Path) -> None:
    """A suite is one set of inputs; what differs is no detail to be left out."""
    other = {**DEGRADATION, "sigma": [3.0, 3.0]}
    a = write_run(tmp_path, "a", [*pair("m", GAINS), *pair("m", GAINS, suite="s")])
    b = write_run(tmp_path, "b", [*pair("n", GAINS), *pair("n", GAINS, suite="s", degradation=other)])
    assert "degradation.sigma" in refusal([a, b])


def test_difference_outside_a_suite_is_left_out_and_named(tmp_path: Path) -> None:
    """Each training tests itself on its own degradation; that does not stand in the way of a common suite."""
    other = {**DEGRADATION, "sigma": [3.0, 3.0]}
    a = write_run(tmp_path, "a", [*pair("m", GAINS), *pair("m", GAINS, suite="s")])
    b = write_run(tmp_path, "b", [*pair("n", GAINS, degradation=other), *pair("n", GAINS, suite="s")])
    found = compared(a, b)
    assert [table.suite for table in found.tables] == ["s"]
    assert any(note.startswith("left out: degradation.sigma is [1.0, 2.0] in") for note in found.notes)


def test_a_third_run_that_shares_nothing(tmp_path: Path) -> None:
    third = write_run(tmp_path, "c", pair("vdsr", GAINS, dataset="set14"))
    message = refusal([*two(tmp_path), third])
    assert re.search(r'dataset is "set14" in .*c and "set5" in .*a', message), message


def test_path_of_a_file_is_no_difference(tmp_path: Path) -> None:
    one, other = ({"path": path, "scale": scale} for path, scale in (("/a/k.mat", 4), ("/b/k.mat", 4.0)))
    compared(*two(tmp_path, {"degradation": one}, {"degradation": other}))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("gone", "no such run folder"),
        ("empty", "results.json: no such file: measure the run first"),
    ):
        assert message in refusal([a, tmp_path / folder])
    assert "a second run named a" in refusal([a, b, a])
    (tmp_path / "x").mkdir()
    twin = write_run(tmp_path / "x", "a", pair("ed_dsrn", GAINS))
    assert f"{twin}: a second run named a, beside {a}" in refusal([a, twin])
    (b / "results.json").write_text(json.dumps([record("m", BICUBIC)]))
    assert "expected format 2" in refusal([a, b])
    (b / "results.json").write_text(json.dumps({"format": 2, "records": []}))
    assert "holds no records" in refusal([a, b])
    (b / "results.json").write_text(json.dumps({"format": 2, "records": [{"model": "m"}]}))
    assert "a record has no 'dataset'" in refusal([a, b])


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    bad = write_run(tmp_path, "bad", pair("ed_dsrn", [1.0, math.nan, 1.0, 1.0, 1.0]))
    assert "bad: ed_dsrn on set5 by y_shave4: psnr of image bird is nan" in refusal([bad])


def test_one_seed_twice(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, name, pair("ed_dsrn", GAINS, seed=0)) for name in ("base", "base-seed=0")]
    assert "seed 0 of base a second time" in refusal(folders)


def test_self_ensemble(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    c = write_run(tmp_path, "c", [*pair("vdsr", GAINS), pair("vdsr", [g + 0.2 for g in GAINS], self_ensemble=True)[1]])
    found = compared(a, b, c)
    assert [m.label for m in found.methods] == ["bicubic", "ed_dsrn", "ed_srn", "vdsr"]
    assert any("self_ensemble=true" in note for note in found.notes)
    both = compared(a, b, c, mixed_ensemble=True)
    assert [m.label for m in both.methods][-2:] == ["vdsr", "vdsr (self-ensemble)"]
    assert both.method("vdsr (self-ensemble)").self_ensemble


def test_a_run_of_bicubic_alone_with_another_seed(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", pair("ed_dsrn", GAINS))
    b = write_run(tmp_path, "b", [record("bicubic", BICUBIC, suite_seed=7)])
    assert re.search(r"suite_seed is 7 in .*b and 0 in .*a", refusal([a, b]))


def test_seeds_with_other_metrics(tmp_path: Path) -> None:
    first, second = (pair("ed_dsrn", GAINS, seed=n) for n in (1, 2))
    for values in first[1]["images"].values():
        values["lpips"] = 0.1
    first[1]["lpips"] = 0.1
    runs = [write_run(tmp_path, f"a-seed={n + 1}", records) for n, records in enumerate((first, second))]
    assert "evaluate the seeds of a method with the same metrics" in refusal(runs)


def test_a_run_with_the_ensemble_alone(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, f"a-seed={n}", pair("ed_dsrn", GAINS, seed=n, self_ensemble=n == 2)) for n in (1, 2)]
    assert re.search(r"self_ensemble is true in .*a-seed=2 and false in .*a-seed=1", refusal(runs))


@pytest.mark.parametrize("seeds", [(None, None), (1, 2)])
def test_a_metric_of_another_model_is_left_out_and_named(tmp_path: Path, seeds: tuple[int | None, int | None]) -> None:
    """LPIPS of AlexNet and of VGG, of two methods and of two seeds of one."""
    runs = []
    for seed, state in zip(seeds, ("alex", "vgg"), strict=True):
        records = pair("ed_dsrn", GAINS, seed=seed, files={"sharp": f"of {state}", "lpips": state})
        for one in records:
            one["lpips"] = 0.1
            for values in one["images"].values():
                values["lpips"] = 0.1
        name = f"a-seed={seed}" if seed else state
        runs.append(write_run(tmp_path, name, records))
    found = compared(*runs)
    assert [list(benchmark.scores) for benchmark in found.tables[0].benchmarks] == [["psnr", "ssim"]]
    assert [note for note in found.notes if "lpips" in note] == [
        f"left out: lpips on set5, measured with another model or other options in {runs[1]} than in {runs[0]}: "
        "evaluate both with the same metric=[lpips]"
    ]
    assert "lpips" in compared(runs[0]).tables[0].benchmarks[0].scores


@pytest.mark.parametrize("what", ["kernels", "noise_levels", "kernels.path"])
def test_networks_that_were_told_other_things(tmp_path: Path, what: str) -> None:
    a, b = two(tmp_path, {"files": {what: "one", "sharp": "x"}}, {"files": {what: "other", "sharp": "y"}})
    assert f"{b}: {what} has other content than in {a} (no suite, set5, y_shave4)" in refusal([a, b])
    older = write_run(tmp_path, "older", pair("vdsr", GAINS))  # kept no states
    compared(a, older)
