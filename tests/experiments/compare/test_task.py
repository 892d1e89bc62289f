"""task=compare on the command line, and runs read back from W&B."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from datamodules.errors import InputError
from experiments.compare import read_wandb as read_wandb_module
from experiments.compare.read_runs import read_runs
from experiments.compare.read_wandb import read_wandb
from tests.conftest import Outcome
from tests.helpers.comparison_runs import GAINS, pair, write_run

Cli = Callable[..., Outcome]
CURVES = "step,epoch,train/loss,val/psnr/y_shave4\n0,0,0.5,\n10,0,0.25,21.5\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed in (1, 2):
        write_run(folder, f"ed_dsrn-seed={seed}", pair("ed_dsrn", [g + seed / 9 for g in GAINS], seed=seed), CURVES)
    run = write_run(folder, "srn", pair("ed_srn", [g / 2 for g in GAINS], seed=0), CURVES)
    network = {"_target_": "networks.ed_dsrn.EDDSRN", "widths": [4, 4, 4, 4], "n_units": 1}
    (run / "config.yaml").write_text(json.dumps({"model": network, "label": "ed_srn"}))
    return folder


def test_folder_of_a_comparison(cli: Cli, runs: Path, tmp_path: Path) -> None:
    folders = ["runs/ed_dsrn-seed\\=1", "runs/ed_dsrn-seed\\=2", "runs/srn"]
    outcome = cli("task=compare", f"runs=[{','.join(folders)}]", "name=both")
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith("comparison: runs/both\npage: runs/both/index.html\n")
    folder = tmp_path / "runs" / "both"
    names = {f"comparison.{kind}" for kind in ("md", "tex", "csv", "json")} | {"index.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "comparison.md").read_text() in outcome.out
    with (folder / "comparison.csv").open() as file:
        values = {(line["method"], line["metric"]): float(line["value"]) for line in csv.DictReader(file)}
    assert values["ed_dsrn", "psnr"] == pytest.approx(22.2 + 1.2 + 1.5 / 9)
    found = json.loads((folder / "comparison.json").read_text())
    (own,) = (method for method in found["methods"] if method["label"] == "ed_dsrn")
    assert [run["seed"] for run in own["runs"]] == [1, 2]
    assert own["runs"][0]["curves"]["val/psnr/y_shave4"] == [[10, 21.5]]
    (other,) = (method for method in found["methods"] if method["label"] == "ed_srn")
    assert other["parameters"] is not None
    assert 1_000 < other["parameters"] < 100_000
    assert found["newest"] == "2026-11-01T10:00:00+00:00"
    before = (folder / "comparison.json").read_text()
    assert cli("task=compare", "runs=[runs/ed*,runs/srn]", "name=both", "shown=1").status == 0
    assert (folder / "comparison.json").read_text() == before


def test_a_damaged_picture_leaves_the_earlier_comparison_whole(cli: Cli, runs: Path) -> None:
    folder, pictures = runs / "both", runs / "srn" / "images" / "set5"
    pictures.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(pictures / "baby_sr.png")
    assert cli("task=compare", "runs=[runs/ed*,runs/srn]", "name=both").status == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    content = bytearray((pictures / "baby_sr.png").read_bytes())
    content[content.index(b"IDAT")] ^= 0xFF
    for damaged in (content, content[:50]):
        (pictures / "baby_sr.png").write_bytes(damaged)
        found = cli("task=compare", "runs=runs/srn", "name=both")
        assert found.status == 1
        assert found.err.splitlines()[-1].startswith("runs/srn/images/set5/baby_sr.png: not a readable picture (")
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("change", [{"cascade": ["a", "b"]}, {"ckpt": "other.ckpt"}, {"label": "ed_dsrn"}])
def test_parameters_of_another_network_are_not_shown(runs: Path, change: dict[str, Any]) -> None:
    (source,) = read_runs([runs / "srn"])
    assert source.parameters
    path = runs / "srn" / "config.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (source,) = read_runs([runs / "srn"])
    assert source.parameters is None


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        ([], 2, "runs: empty, expected run folders: task=compare runs=[runs/A,runs/B]"),
        (["runs=[runs/srn,runs/gone]"], 1, "no such run folder: runs/gone"),
        (["runs=runs/x*"], 1, "runs=runs/x*: fits no folder with results.json"),
        (["runs=[runs/srn]", "name=srn"], 1, "runs/srn: a run of this name exists"),
        (["runs=[runs/srn]", "suites=x"], 1, "suites=x: no such record in these runs, there is none"),
        (["runs=[runs/srn]", "suits=x"], 2, "did you mean suites?"),
        (["runs=[runs/srn]", "wandb=me/there"], 1, "W&B is offline by WANDB_MODE"),
        (["wandb=there"], 1, "wandb=there: expected ENTITY/PROJECT"),
    ],
)
def test_bad_input(cli: Cli, runs: Path, overrides: list[str], status: int, message: str) -> None:
    outcome = cli("task=compare", *overrides)
    assert outcome.status == status
    assert message in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


class Artifact:
    """Stands for wandb's: type, name, date, and files that `download` puts into a folder."""

    def __init__(self, folder: Path, created_at: str, kind: str = "results") -> None:
        self.folder, self.created_at, self.type, self.name = folder, created_at, kind, f"results-{folder.name}:v0"

    def download(self, root: str) -> str:
        return str(shutil.copytree(self.folder, root))


def serve(monkeypatch: pytest.MonkeyPatch, *runs: list[Artifact]) -> list[str]:
    asked: list[str] = []

    def api_runs(project: str) -> list[Any]:
        asked.append(project)
        if project == "me/nothing":
            raise ValueError("Could not find\n project")
        return [SimpleNamespace(logged_artifacts=lambda found=found: found) for found in runs]

    monkeypatch.setattr(read_wandb_module, "api_or_refuse", lambda purpose: SimpleNamespace(runs=api_runs))
    return asked


def test_runs_from_wandb(monkeypatch: pytest.MonkeyPatch, runs: Path, tmp_path: Path) -> None:
    """A run that logged twice counts once, with the newest results; other artifacts are passed over."""
    old = write_run(tmp_path / "old", "srn", pair("ed_srn", [0.0] * 5))
    first = [Artifact(runs / "srn", "2026-11-03"), Artifact(old, "2026-11-02"), Artifact(old, "2026-11-09", "model")]
    asked = serve(monkeypatch, first, [Artifact(runs / "ed_dsrn-seed=1", "2026-11-01")])
    found = read_wandb("me/project", [])
    assert asked == ["me/project"]
    assert [run.name for run in found] == ["ed_dsrn-seed=1", "srn"]  # from the oldest on
    found = found[1:]
    assert found[0].records[1].means["psnr"] == pytest.approx(22.2 + 0.6)
    assert found[0].folder is None
    assert found[0].curves["train/loss"] == [(0, 0.5), (10, 0.25)]
    assert found[0].parameters
    assert [source.name for source in read_wandb("me/project", ["ed_dsrn-seed=1"])] == ["ed_dsrn-seed=1"]
    with pytest.raises(InputError, match=r"runs=x: no such run in me/project, there is ed_dsrn-seed=1, srn"):
        read_wandb("me/project", ["x"])


def test_runs_of_wandb_that_are_not_asked_for_may_be_damaged(
    monkeypatch: pytest.MonkeyPatch, runs: Path, tmp_path: Path
) -> None:
    diverged = write_run(tmp_path / "x", "bad", pair("ed_srn", [math.nan] * 5))
    older = write_run(tmp_path / "y", "srn", pair("ed_srn", [math.nan] * 5))
    serve(
        monkeypatch,
        [Artifact(older, "2026-11-01"), Artifact(runs / "srn", "2026-11-03")],
        [Artifact(diverged, "2026-11-02")],
    )
    assert [run.name for run in read_wandb("me/project", ["srn"])] == ["srn"]
    with pytest.raises(InputError, match=r"me/project, artifact results-bad:v0: .* is nan"):
        read_wandb("me/project", [])
    monkeypatch.setattr(Artifact, "download", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match=r"^wandb=me/project: cannot be read \(division by zero\)"):
        read_wandb("me/project", ["srn"])


def test_wandb_without_results(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    with pytest.raises(InputError, match=r"^wandb=me/project: no run there has results"):
        read_wandb("me/project", [])
    with pytest.raises(InputError, match=r"me/nothing: cannot be read \(Could not find project\)"):
        read_wandb("me/nothing", [])
