"""What may be compared, what is refused and how, and the scores of a comparison."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from experiments.compare.page.crops import picture
from experiments.compare.read_runs import MOST_POINTS, curves
from experiments.compare.types import to_json
from experiments.config.compose import compose_model
from experiments.results.pictures import MADE_OF
from tests.helpers.comparison_runs import (
    DEGRADATION,
    GAINS,
    IMAGES,
    OTHER_PROTOCOL,
    PROTOCOL,
    compared,
    pair,
    refusal,
    two,
    write_run,
)


def test_means_ranks_gains(tmp_path: Path) -> None:
    found = compared(*two(tmp_path))
    assert [m.label for m in found.methods] == ["bicubic", "ed_dsrn", "ed_srn"]
    assert found.reference == "bicubic"
    (table,) = found.tables
    (benchmark,) = table.benchmarks
    assert benchmark.images == IMAGES
    psnr = benchmark.scores["psnr"]
    assert {label: score.mean for label, score in psnr.items()} == pytest.approx(
        {"bicubic": 22.2, "ed_dsrn": 23.4, "ed_srn": 22.8}
    )
    assert {label: score.rank for label, score in psnr.items()} == {
        "bicubic": None,
        "ed_dsrn": "best",
        "ed_srn": "second",
    }
    assert psnr["ed_dsrn"].images["bird"] == 25.0
    gain = psnr["ed_dsrn"].gain
    assert gain is not None
    assert (gain.second, gain.wins, gain.better) == ("bicubic", 5, "ed_dsrn")
    assert gain.mean == pytest.approx(1.2)
    assert psnr["bicubic"].gain is None
    best = benchmark.best["psnr"]
    assert (best.first, best.second, best.better) == ("ed_dsrn", "ed_srn", "ed_dsrn")
    assert best.mean == pytest.approx(0.6)
    assert benchmark.timings["ed_dsrn"].seconds == pytest.approx(0.7)
    assert "bicubic" not in benchmark.timings
    assert any("5 images" in note for note in table.notes)


def test_seeds_are_pooled(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, f"ed_dsrn-div2k-seed={seed}", pair("ed_dsrn", [g + seed for g in GAINS], seed=seed))
        for seed in (1, 2, 3)
    ]
    found = compared(*folders, write_run(tmp_path, "other", pair("ed_srn", GAINS, seed=0)))
    method = found.method("ed_dsrn")
    assert [run.seed for run in method.runs] == [1, 2, 3]
    assert method.setting == "ed_dsrn-div2k"
    score = found.tables[0].benchmarks[0].scores["psnr"]["ed_dsrn"]
    assert score.seeds == pytest.approx({f"ed_dsrn-div2k-seed={s}": 23.4 + s for s in (1, 2, 3)})
    assert score.mean == pytest.approx(25.4)
    assert score.images["baby"] == pytest.approx(25.0)
    assert score.gain is not None
    assert score.gain.high - score.gain.low > 1.5  # the seeds lie 1 dB apart


def test_one_model_in_two_settings_is_told_apart(tmp_path: Path) -> None:
    a = write_run(tmp_path, "base-alpha=0-seed=1", pair("ed_dsrn", GAINS, seed=1))
    b = write_run(tmp_path, "base-alpha=1-seed=1", pair("ed_dsrn", [0.0, *GAINS[1:]], seed=1))
    found = compared(a, b, reference="base-alpha=0-seed=1")
    assert [m.label for m in found.methods] == ["bicubic", "base-alpha=0", "base-alpha=1"]
    assert found.reference == "base-alpha=0"
    difference = found.tables[0].benchmarks[0].best["psnr"]
    assert (difference.better, difference.ties) == (None, 4)  # one image in five does not make a method better
    assert "no such method, there is bicubic, base-alpha=0" in refusal([a, b], reference="nobody")


def test_two_checkpoints_of_a_run(tmp_path: Path) -> None:
    records = [*pair("ed_dsrn", GAINS), pair("ed_dsrn", [0.1] * 5, checkpoint="checkpoints/last.ckpt")[1]]
    found = compared(write_run(tmp_path, "a", records))
    assert [m.label for m in found.methods] == ["bicubic", "ed_dsrn [best.ckpt]", "ed_dsrn [last.ckpt]"]


def test_filters(tmp_path: Path) -> None:
    records = [[*pair(m, GAINS), *pair(m, GAINS, dataset="set14"), *pair(m, GAINS, **OTHER_PROTOCOL)] for m in "mn"]
    folders = [write_run(tmp_path, name, found) for name, found in zip("ab", records, strict=True)]
    assert [t.title for t in compared(*folders).tables] == ["no suite, y_shave4", "no suite, rgb_shave4"]
    (table,) = compared(*folders, datasets=["set14"]).tables
    assert [b.dataset for b in table.benchmarks] == ["set14"]
    (table,) = compared(*folders, protocols=["rgb_shave4"]).tables
    assert table.protocol["name"] == "rgb_shave4"
    assert "datasets=set9: no such record in these runs, there is set14, set5" in refusal(folders, datasets=["set9"])
    assert "suites=s: no such record in these runs, there is none" in refusal(folders, suites=["s"])


def test_branches_have_tables_of_their_own(tmp_path: Path) -> None:
    """And a metric that only the records name is shown with its direction."""
    branch = {"branch": "deblurred"}
    records = [
        [*pair(model, gains), *pair(model, gains[::-1], **branch)] for model, gains in (("m", GAINS), ("n", [0.0] * 5))
    ]
    for record in [record for found in records for record in found[:2]]:
        record |= {"higher_is_better": {"rase": False}, "rase": record["psnr"]}
        record["images"] = {name: {**values, "rase": values["psnr"]} for name, values in record["images"].items()}
    found = compared(*(write_run(tmp_path, name, own) for name, own in zip("ab", records, strict=True)))
    assert [(t.title, t.branch) for t in found.tables] == [
        ("no suite, y_shave4", "sr"),
        ("no suite, deblurred y_shave4", "deblurred"),
    ]
    scores = [table.benchmarks[0].scores for table in found.tables]
    assert [s["psnr"]["m"].images["bird"] for s in scores] == [23.0 + GAINS[1], 23.0 + GAINS[-2]]
    assert "bicubic is the input itself" in found.tables[1].notes[0]
    assert [list(s) for s in scores] == [["psnr", "ssim", "rase"], ["psnr", "ssim"]]
    ranks = {metric: {label: score.rank for label, score in scores[0][metric].items()} for metric in ("psnr", "rase")}
    assert ranks["psnr"]["m"] == "best"
    assert (ranks["rase"]["m"], ranks["rase"]["n"]) == ("second", "best")


def test_equal_and_infinite_values(tmp_path: Path) -> None:
    perfect = write_run(tmp_path, "p", pair("m", [math.inf, *GAINS[1:]]))
    found = compared(perfect, write_run(tmp_path, "q", pair("n", GAINS)))
    scores = found.tables[0].benchmarks[0].scores["psnr"]
    assert (scores["m"].mean, scores["m"].gain, scores["m"].rank) == (math.inf, None, "best")
    assert scores["n"].gain is not None
    assert json.loads(to_json(found))["tables"][0]["benchmarks"][0]["scores"]["psnr"]["m"]["mean"] is None


def test_a_difference_below_the_printed_digits_is_not_claimed(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", pair("m", [g + 0.003 for g in GAINS]))
    found = compared(a, write_run(tmp_path, "b", pair("n", GAINS)))
    best = found.tables[0].benchmarks[0].best["psnr"]
    assert (best.first, best.wins, best.low > 0, best.better) == ("m", 5, True, None)


def test_lower_is_better(tmp_path: Path) -> None:
    records = []
    for model, value in (("m", 0.2), ("n", 0.3)):
        found = pair(model, GAINS)
        for r in found:
            r["lpips"] = value
            for i, scores in enumerate(r["images"].values()):
                scores["lpips"] = (value if r["model"] != "bicubic" else 0.5) + 0.01 * i
        records.append(found)
    found = compared(*(write_run(tmp_path, name, r) for name, r in zip("ab", records, strict=True)))
    (benchmark,) = found.tables[0].benchmarks
    assert {label: s.rank for label, s in benchmark.scores["lpips"].items()} == {
        "m": "best",
        "n": "second",
        "bicubic": None,
    }
    assert benchmark.best["lpips"].better == "m"


def grid(model: str, scales: Sequence[int], kernels: Sequence[int], gain: float) -> list[dict[str, Any]]:
    found = []
    for scale, kernel in itertools.product(scales, kernels):
        cell = {"degradation.scale": scale, "degradation.kernels.number": kernel}
        degradation = {"scale": scale, "kernels": {"number": kernel}}
        changes = {"suite": "s", "cell": cell, "degradation": degradation, "scale": scale}
        found += pair(model, [gain + kernel + i for i in range(5)], **changes)
    return found


def test_averages_over_kernels(tmp_path: Path) -> None:
    full = write_run(tmp_path, "full", grid("usrnet", (2, 4), (0, 1, 2), 1.0))
    half = write_run(tmp_path, "half", grid("vdsr", (4,), (0, 1), 0.5))
    (table,) = compared(full, half).tables
    assert len(table.benchmarks) == 6
    by_scale = {average.cell["degradation.scale"]: average for average in table.averages}
    assert by_scale[2].count == 3
    assert set(by_scale[2].scores["psnr"]) == {"bicubic", "usrnet"}
    assert by_scale[2].scores["psnr"]["usrnet"].mean == pytest.approx(22.2 + 2 + 1 + 1)
    assert by_scale[4].count == 2  # kernels that both have
    assert by_scale[4].scores["psnr"]["usrnet"].mean == pytest.approx(22.2 + 2 + 1 + 0.5)
    assert by_scale[4].scores["psnr"]["usrnet"].images["baby"] == pytest.approx(22 + 1 + 0.5)
    assert by_scale[4].best["psnr"].mean == pytest.approx(0.5)
    assert by_scale[4].best["psnr"].better == "usrnet"


def test_scales_are_never_averaged(tmp_path: Path) -> None:
    (table,) = compared(write_run(tmp_path, "a", grid("usrnet", (2, 3, 4), (0,), 1.0))).tables
    assert table.averages == []


def test_few_folders_are_said(tmp_path: Path) -> None:
    found = compared(*two(tmp_path, *2 * [{"names": ("a/1", "a/2", "b/1", "b/2", "c/1")}]))
    assert (
        "intervals over 3 folders of 5 images are rough: the bootstrap makes them too narrow" in found.tables[0].notes
    )


def test_published_beside_measured(tmp_path: Path) -> None:
    gopro = {"suite": "lr_gopro", "dataset": "gopro_blur_gamma", "protocol": {**PROTOCOL, "name": "gfn"}}
    gopro["degradation"] = {"_target_": "datamodules.degradations.pipelines.GOPRODegradation", "factor": 4}
    found = compared(write_run(tmp_path, "a", pair("gfn", GAINS, **gopro)))
    (benchmark,) = found.tables[0].benchmarks
    score = benchmark.scores["psnr"]["gfn"]
    assert score.published is not None
    assert score.published.method == "GFN, repository"
    assert score.delta == pytest.approx(23.4 - 27.810232)
    assert {f.method for f in benchmark.published} >= {"SCGAN", "GFN, paper", "GFN, repository"}
    assert any("uncertain" in note for note in found.tables[0].notes)
    other = compared(write_run(tmp_path, "b", pair("gfn", GAINS, **gopro | {"protocol": PROTOCOL})))
    assert other.tables[0].benchmarks[0].published == []


@pytest.mark.parametrize(("kernels", "comparable"), [("twelve", False), ("usrnet12", True)])
def test_published_on_other_kernels_has_no_difference(tmp_path: Path, kernels: str, comparable: bool) -> None:
    records = []
    for number in range(12):
        suite = {"_target_": f"datamodules.degradations.kernel_files.{kernels}"}
        degradation = {"scale": 3, "noise": 0.01, "storage": "trunc8", "kernels": {"suite": suite, "number": number}}
        cell = {"degradation.scale": 3, "degradation.noise": 0.01, "degradation.kernels.number": number}
        changes = {"suite": "usrnet_table1", "dataset": "bsd68", "protocol": {**PROTOCOL, "name": "rgb_shave_s2"}}
        records += pair("usrnet", GAINS, cell=cell, degradation=degradation, **changes)
    (table,) = compared(write_run(tmp_path, "a", records)).tables
    (average,) = table.averages
    assert sorted(f.method for f in average.published) == ["IRCNN", "USRNet", "USRNet, trained independently"]
    own = next(f for f in average.published if f.method == "USRNet")
    assert own.value == pytest.approx(26.77, abs=0.006)
    assert len(table.benchmarks[8].published) == 2
    for score in (table.benchmarks[8].scores["psnr"]["usrnet"], average.scores["psnr"]["usrnet"]):
        assert (score.delta is not None) == comparable
    assert any("no difference is given" in note for note in table.notes) != comparable


@pytest.mark.parametrize(
    ("options", "doubt"),
    [
        ({"scale": 4}, None),
        ({"newer": 1}, "model.newer=1, published with None: no difference is given"),
        (
            {"widths": [8, 16, 32, 32]},
            "model.widths=[8, 16, 32, 32], published with [64, 128, 256, 512]: no difference",
        ),
        (None, "the options of its network are not known: the difference holds if they are the published ones"),
    ],
)
def test_a_network_of_another_size_is_not_the_published_one(
    tmp_path: Path, options: dict[str, Any] | None, doubt: str | None
) -> None:
    run = write_run(tmp_path, "a", pair("ed_dsrn", GAINS, suite="ed_dsrn_table1", dataset="set14"))
    if options is not None:
        node = {**compose_model("ed_dsrn"), **options}
        del node["up_kernel"]  # as if it were a newer option
        (run / "config.yaml").write_text(yaml.safe_dump({"label": "ed_dsrn", "model": node}))
    (table,) = compared(run).tables
    given = table.benchmarks[0].scores["psnr"]["ed_dsrn"].published
    assert (given is not None) == (doubt is None or "holds" in doubt)
    assert [doubt in note for note in table.notes if "ed_dsrn" in note] == ([True] if doubt else [])


def test_two_published_rows_of_one_model(tmp_path: Path) -> None:
    changes = {"suite": "ed_dsrn_table1", "dataset": "set14"}
    (table,) = compared(write_run(tmp_path, "a", pair("srresnet", GAINS, **changes))).tables
    assert table.benchmarks[0].scores["psnr"]["srresnet"].published is None
    assert any("srresnet may be SRResNet or SRResNet, fine-tuned" in note for note in table.notes)


def test_pictures(tmp_path: Path) -> None:
    cell = {"degradation.scale": 2, "degradation.kernels.number": 0}
    found = compared(write_run(tmp_path, "a", pair("usrnet", GAINS, suite="s", cell=cell, names=("x/1", *IMAGES[1:]))))
    (benchmark,) = found.tables[0].benchmarks
    assert benchmark.folder == "set5/scale=2,number=0"
    method, baseline = found.method("usrnet"), found.method("bicubic")
    assert picture([method], benchmark, "x/1") is None
    folder = tmp_path / "a" / "images" / "set5" / "scale=2,number=0"
    folder.mkdir(parents=True)
    for kind in ("sr", "hr", "input"):
        (folder / f"x_1_{kind}.png").touch()
    assert picture([method], benchmark, "x/1") == folder / "x_1_sr.png"
    assert picture([baseline], benchmark, "x/1", "input") == folder / "x_1_input.png"
    assert picture([method], benchmark, "x/1", "hr") == folder / "x_1_hr.png"
    assert picture([method], benchmark, 300 * "x") is None, "a name that no file can have"


def test_curves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert curves(path) == {}
    path.write_text("step,epoch,train/loss,val/psnr/y_shave4,lr\n0,0,0.5,,1\n10,0,0.25,21.5,1\n20,1,nan,22.0,1\nto")
    assert curves(path) == {"train/loss": [(0, 0.5), (10, 0.25)], "val/psnr/y_shave4": [(10, 21.5), (20, 22.0)]}
    path.write_text("step,epoch,train/loss\n" + "".join(f"{i},0,{i}\n" for i in range(2500)))
    thinned = curves(path)["train/loss"]
    assert len(thinned) <= MOST_POINTS
    assert (thinned[0], thinned[-1][0] >= 2490) == ((0, 0.0), True)


def test_published_figures_of_another_scale_stay_away(tmp_path: Path) -> None:
    other = {"suite": "ed_dsrn_table1", "dataset": "set14", "scale": 2}
    other["degradation"] = {**DEGRADATION, "scale": 2}
    found = compared(write_run(tmp_path, "a", pair("ed_dsrn", GAINS, **other)))
    assert found.tables[0].benchmarks[0].scores["psnr"]["ed_dsrn"].published is None


def test_pictures_of_a_later_measurement_are_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", pair("ed_dsrn", GAINS))
    pictures = run / "images" / "set5"
    pictures.mkdir(parents=True)
    for kind in ("sr", "input"):
        Image.new("RGB", (8, 8)).save(pictures / f"baby_{kind}.png")
    found = compared(run)
    (method,) = (m for m in found.methods if m.label == "ed_dsrn")
    benchmark = found.tables[0].benchmarks[0]
    of = {"degradation": DEGRADATION, "suite_seed": 0, "checkpoint_sha256": "0123456789abcdef"}
    for made_of, result, enlarged in (
        (None, True, True),
        (of, True, True),
        ({**of, "checkpoint_sha256": "x"}, False, True),
        ({**of, "self_ensemble": True}, False, True),
        ({**of, "engine": "openvino", "precision": "int8"}, False, True),
        ({**of, "suite_seed": 1}, False, False),
        ({**of, "degradation": {**DEGRADATION, "sigma": [4.0, 4.0]}}, False, False),
    ):
        if made_of:
            (pictures / MADE_OF).write_text(json.dumps(made_of))
        assert (picture([method], benchmark, "baby") is not None) == result
        assert (picture([method], benchmark, "baby", "input") is not None) == enlarged


def test_few_seeds_are_said(tmp_path: Path) -> None:
    found = compared(*(write_run(tmp_path, f"a-seed={n}", pair("ed_dsrn", GAINS, seed=n)) for n in (1, 2)))
    assert "of a method with 2 trained seeds an interval covers the images" in " ".join(found.tables[0].notes)
