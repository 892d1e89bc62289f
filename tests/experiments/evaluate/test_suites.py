"""Suites: sets times grid, what is refused before anything is measured, and going on after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import run as entry
from datamodules.degradations.kernel_files import GAUSSIAN8_WIDTHS, gaussian8
from datamodules.sources.benchmark import SETS, Name
from tests.conftest import Outcome, figures, photograph

Cli = Callable[..., Outcome]
SUITES = sorted(file.stem for file in (entry.CONF / "suite").glob("*.yaml"))
QUICK = ["task=evaluate", "data_dir=sets", "data.num_workers=0", "trainer.accelerator=cpu", "logger=none"]
BICUBIC = [*QUICK, "model=bicubic", "name=bicubic"]
PATIENCE = 240  # seconds; only processes that hang use them up
SMALL_GRID = ["suite.grid.degradation.scale=[2,3]", "suite.grid.degradation.kernels.number=[0,9]"]


def make_set(folder: Path, count: int, height: int = 62, width: int = 71) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(photograph(height + i, width, i)).save(folder / f"im{i}.png")
    return folder


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set5 and BSD68 as they are expected below data_dir; the latter has two images here, the former three."""
    small: list[tuple[Name, str, int]] = [("set5", "Set5", 3), ("bsd68", "BSD68", 2)]
    for name, folder, count in small:
        make_set(tmp_path / "sets" / folder, count)
        monkeypatch.setitem(SETS, name, SETS[name]._replace(images=count))
    return tmp_path / "sets"


def refused(outcome: Outcome, status: int, *parts: str) -> None:
    lines = [line for line in re.split(r"[\r\n]+", outcome.err) if line.strip() and not re.search(r"\d+%\|", line)]
    assert len(lines) == 1, outcome.err
    assert [part for part in parts if part not in lines[0]] == [], lines[0]
    assert outcome.status == status


@pytest.mark.slow
def test_grid_is_gone_through_and_printed(cli: Cli, sets: Path, tmp_path: Path) -> None:
    grid = [*SMALL_GRID, "suite.grid.degradation.noise=[0,0.03]"]
    outcome = cli(*BICUBIC, "suite=usrnet_table1", *grid, "pictures=results")
    assert outcome.status == 0, outcome.err
    found = figures(tmp_path / "runs" / "bicubic")
    cells = [(s, k, n) for s in (2, 3) for k in (0, 9) for n in (0, 0.03)]
    assert [tuple(r["cell"].values()) for r in found] == cells
    keys = ["degradation.scale", "degradation.kernels.number", "degradation.noise"]
    for record, (scale, number, noise) in zip(found, cells, strict=True):
        assert list(record["cell"]) == keys
        degradation = record["degradation"]
        assert (degradation["scale"], degradation["kernels"]["number"], degradation["noise"]) == (scale, number, noise)
        assert (record["suite"], record["dataset"], record["scale"]) == ("usrnet_table1", "bsd68", scale)
        assert record["protocol"]["name"] == "rgb_shave_s2"
        assert len(record["images"]) == 2
    rows = [line.split() for line in outcome.out.splitlines()]
    mean = sum(r["psnr"] for r in found[1:4:2]) / 2  # scale 2, noise, both kernels
    assert ["scale", "noise", "model", "0", "9", "mean"] in rows
    assert ["2", "0.03", "bicubic", *(f"{r['psnr']:.2f}" for r in found[1:4:2]), f"{mean:.2f}"] in rows
    # An ordinary evaluation of one cell has the same figures.
    same = ["data=bsd68", "degradation=usrnet_test", "protocol=[rgb_shave_s2]", "degradation.scale=3"]
    outcome = cli(*BICUBIC, "name=one", *same, "degradation.kernels.number=9", "degradation.noise=0.03")
    assert outcome.status == 0, outcome.err
    one = figures(tmp_path / "runs" / "one")[0]
    assert (one["suite"], one["cell"], one["images"]) == (None, {}, found[-1]["images"])
    pictures = tmp_path / "runs" / "bicubic" / "images" / "bsd68" / "scale=3,number=9,noise=0.03"
    assert sorted(file.name for file in pictures.glob("*_sr.png")) == ["im0_sr.png", "im1_sr.png"]


def test_value_on_the_command_line_leaves_one_of_an_axis(cli: Cli, sets: Path, tmp_path: Path) -> None:
    more = ["suite=usrnet_table1", "data=set5", *SMALL_GRID, "degradation.scale=4", "degradation.noise=0.02"]
    assert cli(*BICUBIC, *more, "protocol=[y_shave4,rgb_shave0]").status == 0
    found = figures(tmp_path / "runs" / "bicubic")
    assert [(r["dataset"], *r["cell"].values(), r["protocol"]["name"]) for r in found] == [
        ("set5", 4, number, 0.02, protocol) for number in (0, 9) for protocol in ("y_shave4", "rgb_shave0")
    ]


@pytest.mark.slow
def test_finished_cells_are_not_measured_again(cli: Cli, sets: Path, tmp_path: Path) -> None:
    run = [*BICUBIC, "suite=usrnet_table1", "degradation.noise=0"]
    assert cli(*run, "suite.grid.degradation.scale=[2]", "suite.grid.degradation.kernels.number=[0,9]").status == 0
    path = tmp_path / "runs" / "bicubic" / "results.json"
    content = json.loads(path.read_text())
    content["records"][0]["psnr"] = 99.0  # nobody may touch it
    path.write_text(json.dumps(content))
    outcome = cli(*run, *SMALL_GRID)
    assert outcome.status == 0, outcome.err
    assert "2 of 4 cells are in results.json already and are not measured again" in outcome.err
    found = figures(path.parent)
    assert [r["psnr"] for r in found].count(99.0) == 1
    assert "99.00" in outcome.out
    assert len(found) == 4


def test_several_runs_each_keep_their_own(cli: Cli, runs: Path, sets: Path) -> None:
    shutil.copytree(runs / "tiny", runs / "other")
    for name in ("tiny", "other"):
        (runs / name / "results.json").unlink()
    both = f"run=[{runs / 'tiny'},{runs / 'other'}]"
    outcome = cli(*QUICK, both, "suite=ed_dsrn_table1", "data=set5")
    assert outcome.status == 0, outcome.err
    found = [figures(runs / name) for name in ("tiny", "other")]
    assert found[0] == found[1]
    rows = [(r["model"], r["protocol"]["name"], r["suite"]) for r in found[0]]
    assert rows == [(m, p, "ed_dsrn_table1") for m in ("bicubic", "ed_dsrn") for p in ("y_shave4", "rgb_shave4")]
    network = found[0][2]
    assert (network["seed"], network["checkpoint"]) == (0, "checkpoints/best.ckpt")
    assert re.fullmatch("[0-9a-f]{16}", network["checkpoint_sha256"])
    assert network["degradation"]["sigma"] == [1.0, 2.0]  # the suite's, not what the run was trained on
    # Rows are told apart by the runs' names, and bicubic has one.
    firsts = [line.split()[0] for line in outcome.out.splitlines() if re.match(r"(bicubic|tiny|other|ed_dsrn) ", line)]
    assert firsts == ["bicubic", "tiny", "other"]
    # Newer weights: measured again, and the older record goes.
    checkpoint = runs / "tiny" / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["note"] = 1
    torch.save(content, checkpoint)
    outcome = cli(*QUICK, both, "suite=ed_dsrn_table1", "data=set5")
    assert "1 of 2 cells" in outcome.err
    assert len(figures(runs / "tiny")) == 4
    assert figures(runs / "tiny")[2]["checkpoint_sha256"] != network["checkpoint_sha256"]


@pytest.mark.slow
def test_cascade_of_a_model_without_weights_and_a_run(cli: Cli, runs: Path, sets: Path, tmp_path: Path) -> None:
    run = runs / "tiny"
    more = ["suite=ed_dsrn_table1", "data=set5", "name=both"]
    # Bicubic enlarges by what the degradation reduced: here it has to leave the size as it is.
    refused(cli(*QUICK, f"cascade=[bicubic,{run}]", *more), 1, "cascade: Bicubic enlarges x4", "put a network first")
    for first in (run, run / "checkpoints" / "best.ckpt"):
        outcome = cli(*QUICK, f"cascade=[{first},bicubic]", *more)
        assert outcome.status == 0, outcome.err
    found = figures(tmp_path / "runs" / "both")
    cascades = [r for r in found if r["model"] == "ed_dsrn+bicubic"]
    assert len(cascades) == 2 * 1  # both protocols; the file is the same one, however it was given
    sha = figures(run)[2]["checkpoint_sha256"]
    assert {r["checkpoint_sha256"] for r in cascades} == {sha}
    assert {r["seed"] for r in cascades} == {0}


@pytest.mark.slow
def test_missing_set_is_named_before_anything_is_measured(cli: Cli, sets: Path, tmp_path: Path) -> None:
    outcome = cli(*BICUBIC, "suite=usrnet_bicubic")
    refused(
        outcome,
        1,
        "sets/Set14: not found, expected the 14 images of set14",
        "suite=usrnet_bicubic measures on set5, set14, bsd100, urban100, set14 is not usable",
        "data=SET data.root=FOLDER",
        "data_dir=",
    )
    assert not (tmp_path / "runs").exists()


def test_one_root_for_several_sets(cli: Cli, sets: Path) -> None:
    refused(cli(*BICUBIC, "suite=usrnet_bicubic", "data.root=sets/Set5"), 2, "data.root: suite", "data=set5 data.root=")


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "status", "parts"),
    [
        (["suite=usrnet_tabel1"], 2, ["suite=usrnet_tabel1: no such option", "did you mean usrnet_table1?"]),
        (
            ["suite=usrnet_table1", "+suite.grid.degradation.nois=[0]"],
            2,
            ["suite.grid.degradation.nois: no such key", "degradation=usrnet_test", "did you mean noise?"],
        ),
        (["suite=usrnet_table1", "+suite.grid.degradatio.noise=[0]"], 2, ["suite.grid.degradatio.noise: no such key"]),
        (["suite=usrnet_table1", "+suite.grid.model.scale=[2]"], 2, ["suite.grid.model.scale: cells differ by data"]),
        (["suite=usrnet_table1", "suite.grid.degradation.noise=0.01"], 2, ["expected a list of values: [0.01]"]),
        (
            ["suite=usrnet_table1", "suite.grid.degradation.kernels.number=[12]"],
            2,
            ["data=bsd68 degradation.scale=2", "kernels.number=12", "degradation: number is 12"],
        ),
        (
            ["suite=usrnet_table1", "task=train", "model=ed_dsrn"],
            2,
            ["suite: unknown key in task=train: known to task=evaluate"],
        ),
        (
            [
                *("suite=usrnet_table1", "+degradation.kernels.suite.path=none/kernels_12.mat"),
                *("+degradation.kernels.suite.download=false",),
                "degradation.kernels.suite._target_=datamodules.degradations.kernel_files.usrnet12",
            ],
            1,
            ["none/kernels_12.mat: not found, expected USRNet's kernels_12.mat: set download=true, or put https"],
        ),
        (["suite=gopro", "data_dir=nowhere"], 2, ["data.variant: a value is required", "data.variant=blur_gamma"]),
        (["cascade=[bicubic]"], 2, ["cascade: found ['bicubic'], expected two"]),
        (["cascade=[bicubic,bicubics]"], 2, ["model=bicubics: no such option", "did you mean bicubic?"]),
        (["cascade=[bicubic,runs/none]"], 1, ["cascade: runs/none: not there, expected a run folder"]),
        (["cascade=[bicubic,ed_dsrn]", "data=set5"], 1, ["model=ed_dsrn has weights to load"]),
        (["cascade=[bicubic,bicubic]", "run=runs/x"], 2, ["run= and cascade=: each says which network is meant"]),
        (["pictures=all"], 2, ["pictures: found 'all'", "'sheets'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_refused_in_one_line(
    cli: Cli, sets: Path, tmp_path: Path, overrides: list[str], status: int, parts: list[str]
) -> None:
    refused(cli(*BICUBIC, *overrides), status, *parts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_runs_that_cannot_be_measured(cli: Cli, runs: Path, sets: Path) -> None:
    run = runs / "tiny"
    twin = runs / "elsewhere" / "tiny"
    shutil.copytree(run, twin)
    refused(cli(*QUICK, f"run=[{run},{twin}]"), 1, f"run={twin}: two runs are called tiny, the other is {run}")
    outcome = cli(*QUICK, f"run=[{run}]", "suite=usrnet_table1")
    refused(
        outcome,
        1,
        "suite=usrnet_table1, data=bsd68 degradation.scale=2 degradation.kernels.number=0 degradation.noise=0: ",
        "ed_dsrn cannot be measured: EDDSRN enlarges x4",
        "; degradation.scale=4 to measure some of the cells",
    )
    results = run / "results.json"
    results.write_text("[]")
    refused(cli(*QUICK, f"run={run}", "suite=ed_dsrn_table1", "data=set5"), 1, f"{results}: results of format 1")
    (run / "checkpoints" / "best.ckpt").unlink()
    refused(cli(*QUICK, f"run=[{run}]"), 1, "tiny/checkpoints/best.ckpt: no such checkpoint", "ckpt=FILE")


def test_one_kernel_does_not_explain_blur_that_varies(cli: Cli, sets: Path, tmp_path: Path) -> None:
    outcome = cli("task=evaluate", "model=wiener", "suite=varying", "data=set5")
    cell = "suite=varying, data=set5 degradation.scale=1 degradation.sharpness=2 degradation.noise=0: "
    refused(outcome, 1, f"{cell}wiener cannot be measured: Wiener needs 'kernel', one blur for the whole image; ")
    assert outcome.err.endswith("choose model=dmbsr, a model that takes no kernel, or degradation=usrnet_train\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("suite", SUITES)
def test_suite_says_what_it_is(suite: str) -> None:
    text = (entry.CONF / "suite" / f"{suite}.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    assert found["suite"]["name"] == suite
    options = {file.stem for file in (entry.CONF / "data").glob("*.yaml")}
    assert set(found["suite"]["sets"]) <= options
    chosen = {key.removeprefix("override /"): value for entry in found["defaults"] for key, value in entry.items()}
    assert chosen["data"] == found["suite"]["sets"][0]
    assert set(chosen) == {"data", "degradation", "protocol"}


def test_widths_of_gaussian8() -> None:
    """Variances of the kernels, by their second moments: sampled Gaussians of at least 0.8 pixels keep theirs."""
    for scale, (low, high) in GAUSSIAN8_WIDTHS.items():
        suite = gaussian8(scale)
        offset = torch.arange(21, dtype=torch.float64) - 10
        variances = (suite.kernels[:, 0].double().sum(1) * offset**2).sum(1)
        assert len(suite.names) == 8
        expected = [low + i * (high - low) / 7 for i in range(8)]
        assert variances.sqrt().tolist() == pytest.approx(expected, abs=0.02)  # 21 pixels cut off the widest
    with pytest.raises(ValueError, match="scale is 1, expected one of 2, 3, 4"):
        gaussian8(1)


@pytest.mark.slow
def test_two_processes_finish_what_a_killed_one_began(tmp_path: Path) -> None:
    """SIGKILL in mid-cell; then two ranks, whose shares differ in size, go on; then all is equal to one whole run."""
    make_set(tmp_path / "photographs", 5, 96, 100)
    grid = ["suite.grid.degradation.scale=[2]", "suite.grid.degradation.kernels.number=[0,10]", "degradation.noise=0"]
    options = [*QUICK, "model=bicubic", "suite=usrnet_table1", "data=folder", "data.root=photographs", *grid]
    options += ["data.source.holdout=false", "pictures=none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.killed_evaluation", str(tmp_path), *options],
        cwd=Path(entry.__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DEBLUR_SR_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # one rank may wait for ever for another that failed
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert output.count("mean") == 3  # of the two ranks, one prints
    found = figures(tmp_path / "runs" / "killed")
    assert found == figures(tmp_path / "runs" / "whole") == figures(tmp_path / "runs" / "ranks")
    assert [r["cell"]["degradation.kernels.number"] for r in found] == [0, 10]
    assert all(list(r["images"]) == [f"im{i}" for i in range(5)] for r in found)
    assert not list((tmp_path / "runs").glob("*/.unfinished-*"))
