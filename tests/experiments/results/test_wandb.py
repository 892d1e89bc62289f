"""What a multirun, an evaluation and a comparison leave on a W&B server: the real client against one on loopback."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.results.pictures import MADE_OF
from experiments.results.records import EvaluationRecord
from experiments.results.wandb import cell_rows, image_rows, summary
from lightning_modules.metrics.protocol import Protocol
from tests.conftest import photograph
from tests.helpers.wandb_backend import KEY, REPOSITORY, Backend, Run, environment

NAME = "ablation_ed_dsrn"
TINY = [
    *("data=folder", "data.root=photographs", "data.patch=32", "data.batch_size=2", "data.samples_per_epoch=4"),
    *("data.num_workers=0", "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
    *("model.widths=[4,4,4,4]", "model.n_units=1"),
]


@dataclass
class Server:
    folder: Path
    runs: dict[str, Run]
    out: str

    def named(self, end: str) -> Run:
        (run,) = [run for run in self.runs.values() if run.name.endswith(end)]
        return run


def call(folder: Path, backend: Backend, *command: str) -> str:
    env = environment(folder, WANDB_BASE_URL=backend.url, WANDB_API_KEY=KEY, WANDB_INIT_TIMEOUT="60")
    env |= {"WANDB_ERROR_REPORTING": "false", "DEBLUR_SR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    env.pop("WANDB_MODE", None)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`python run.py experiment=ablation_ed_dsrn` with two points: the experiment as it is, and average pooling."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "photographs").mkdir()
    for i in range(4):
        Image.fromarray(photograph(64 + 4 * i, 72, i)).save(folder / "photographs" / f"image{i}.png")
    with Backend() as backend:
        changes = 'hydra.sweeper.changes=["model.pooling=avg"]'
        out = call(folder, backend, sys.executable, str(REPOSITORY / "run.py"), f"experiment={NAME}", changes, *TINY)
        assert set(backend.unknown) <= {"OrganizationCoreWeaveOrganizationID"}
        yield Server(folder, backend.runs, out)


@pytest.mark.slow
def test_each_point_is_a_finished_run_of_one_group(sweep: Server) -> None:
    assert len(sweep.runs) == 2
    runs = sweep.runs.values()
    assert {(run.group, run.job_type, run.exit_code) for run in runs} == {(NAME, "train", 0)}
    assert sorted(path.name for path in (sweep.folder / "runs").glob("ablation*")) == sorted(run.name for run in runs)
    tagged = {run.config["model"]["pooling"]: "model.pooling=avg" in run.tags for run in runs}
    assert tagged == {"max": False, "avg": True}
    for run in runs:
        assert {"model:ed_dsrn", "data:folder", "seed:0", "model.n_units=1"} <= set(run.tags)
        assert len(run.values("val/psnr/y_shave4")) == 2


@pytest.mark.slow
def test_summary_agrees_with_the_files_of_the_run(sweep: Server) -> None:
    for run in sweep.runs.values():
        folder = sweep.folder / "runs" / run.name
        with (folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        psnr = [float(row["val/psnr/y_shave4"]) for row in rows if row["val/psnr/y_shave4"]]
        loss = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        assert run.summary["val/psnr/y_shave4"]["max"] == pytest.approx(max(psnr), abs=1e-6)
        assert run.summary["train/loss"]["min"] == pytest.approx(min(loss), rel=1e-6)
        assert run.summary["tested_step"] in (2, 4)
        records = json.loads((folder / "results.json").read_text())["records"]
        assert len(records) == 4
        for record in records:
            end = f"{record['protocol']['name']}/{record['model']}"
            assert run.summary[f"test/photographs/psnr/{end}"] == pytest.approx(record["psnr"])
            assert run.summary[f"test/photographs/ssim/{end}"] == pytest.approx(record["ssim"])


@pytest.mark.slow
def test_results_can_be_read_back_from_the_artifact(sweep: Server) -> None:
    for run_id, run in sweep.runs.items():
        artifact = run.artifacts[f"results-{run_id}"]
        assert (artifact.type, artifact.committed) == ("results", True)
        assert set(artifact.files) == {"results.json", "config.yaml", "meta.json", "metrics.csv"}
        for name in ("results.json", "config.yaml", "meta.json"):
            assert artifact.files[name] == (sweep.folder / "runs" / run.name / name).read_bytes()
        assert artifact.files["metrics.csv"].count(b"val/psnr/y_shave4") == 1


@pytest.mark.slow
def test_table_of_images_has_scores_gains_and_pictures(sweep: Server) -> None:
    for run in sweep.runs.values():
        (artifact,) = [a for a in run.artifacts.values() if a.type == "run_table"]
        content = json.loads(artifact.files["test/images/photographs.table.json"])
        row = dict(zip(content["columns"], content["data"][0], strict=True))
        records = json.loads((sweep.folder / "runs" / run.name / "results.json").read_text())["records"]
        bicubic, network = (r["images"][row["image"]] for r in records if r["protocol"]["name"] == "rgb_shave4")
        assert row["psnr rgb_shave4"] == network["psnr"]
        assert row["gain rgb_shave4"] == pytest.approx(network["psnr"] - bicubic["psnr"])
        picture = Image.open(io.BytesIO(artifact.files[row["picture"]["path"]]))
        assert (picture.format, picture.width) == ("JPEG", 1024)


@pytest.mark.slow
def test_uploads_wait_in_the_folder_of_the_run(sweep: Server) -> None:
    assert not list((sweep.folder / ".local").rglob("*")), "W&B wrote into the user's home"
    assert len(list((sweep.folder / "runs").glob("*/wandb/artifacts"))) == 2


def record(model: str, dataset: str, psnr: dict[str, float], **more: Any) -> EvaluationRecord:
    images = {name: {"psnr": value, "ssim": 0.5, "seconds": 2.0} for name, value in psnr.items()}
    return EvaluationRecord(model, dataset=dataset, **more).scored(Protocol("y", "y", 4), images)


def test_tables_of_a_grid(tmp_path: Path) -> None:
    cells = [{"degradation.scale": scale, "degradation.noise": 0.03} for scale in (2, 3)]
    found = [
        *(record("bicubic", "set5", {"a/b": 20.0, "c": 21.0}, cell=cell, suite="grid") for cell in cells),
        *(record("net", "set5", {"a/b": 22.5, "c": 20.0 + i}, cell=cell, suite="grid") for i, cell in enumerate(cells)),
    ]
    folder = tmp_path / "images" / "set5" / "scale=3,noise=0.03"
    folder.mkdir(parents=True)
    (folder / "a_b_sr.png").touch()
    rows = image_rows(found, tmp_path)
    assert list(rows[0]) == ["model", "scale", "noise", "image", "picture", "psnr y", "ssim y", "gain y", "seconds"]
    assert [list(row.values()) for row in rows] == [
        ["net", 2, 0.03, "a/b", None, 22.5, 0.5, 2.5, 2.0],
        ["net", 2, 0.03, "c", None, 20.0, 0.5, -1.0, 2.0],
        ["net", 3, 0.03, "a/b", folder / "a_b_sr.png", 22.5, 0.5, 2.5, 2.0],
        ["net", 3, 0.03, "c", None, 21.0, 0.5, 0.0, 2.0],
    ]
    (folder / MADE_OF).write_text(json.dumps({"checkpoint_sha256": "of another measurement"}))
    assert [row["picture"] for row in image_rows(found, tmp_path)] == [None] * 4
    found = [replace(one, files={"sharp": "of these images"}) for one in found]
    older = {name: value for name, value in found[-1].made_of.items() if name != "sharp"}
    for sharp, shown in (({"sharp": "of others"}, False), ({"sharp": "of these images"}, True), ({}, True)):
        (folder / MADE_OF).write_text(json.dumps(older | sharp))
        assert (image_rows(found, tmp_path)[2]["picture"] is not None) == shown
    cell = {"model": "net", "dataset": "set5", "protocol": "y", "scale": 3, "noise": 0.03, "psnr": 21.75, "ssim": 0.5}
    assert cell_rows(found)[3] == cell
    cells = [{**one, "kernels.number": number} for one in cells for number in (0, 1)]
    found = [record("net", "set5", {"a": float(i)}, cell=one) for i, one in enumerate(cells)]
    assert {name: value for name, value in summary(found).items() if "psnr" in name} == {
        "test/set5/psnr/y/net/scale=2,noise=0.03": 0.5,
        "test/set5/psnr/y/net/scale=3,noise=0.03": 2.5,
    }
    kernels = [record("net", "set5", {"a": psnr}, cell={"kernels.number": psnr}) for psnr in (20.0, 22.0)]
    assert summary(kernels)["test/set5/psnr/y/net"] == 21.0


def test_bicubic_alone_has_rows_and_no_gain(tmp_path: Path) -> None:
    (row,) = image_rows([record("bicubic", "set5", {"a": 20.0})], tmp_path)
    assert row == {"model": "bicubic", "image": "a", "picture": None, "psnr y": 20.0, "ssim y": 0.5, "seconds": 2.0}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An evaluation and a comparison with `logger=wandb` on the command line, and one of each without."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "runs" / "net").mkdir(parents=True)
    (folder / "runs" / "net" / "results.json").write_text("{}")
    (folder / "compare" / "crops").mkdir(parents=True)
    (folder / "compare" / "index.html").write_text("<p>")
    (folder / "compare" / "crops" / "a.csv").write_text("1")
    found = [record("bicubic", "set5", {"a": 20.0}, suite="grid"), record("net", "set5", {"a": 25.0}, suite="grid")]
    script = f"""
        import json
        import hydra
        from pathlib import Path
        from hydra.core.hydra_config import HydraConfig
        from experiments.runtime.environment import prepare_environment
        from experiments.results.records import EvaluationRecord
        from experiments.results.loggers import log_comparison, log_evaluation

        prepare_environment()
        records = json.loads({json.dumps([one.to_json() for one in found])!r})
        found = [EvaluationRecord.from_json(record, "") for record in records]
        for overrides in ([], ["logger=wandb", "logger.wandb.project=eval"]):
            with hydra.initialize_config_dir({str(REPOSITORY / "conf")!r}, version_base="1.3"):
                cfg = hydra.compose("config", ["task=evaluate", *overrides], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            cfg.name = "x"
            del cfg.hydra, cfg.label, cfg.choices
            log_evaluation(cfg, Path("runs/net"), found)
            log_comparison(cfg, Path("compare"), [{{"model": "net", "psnr": 25.0}}, {{"model": "a", "published": 3.0}}])
        """
    with Backend() as backend:
        out = call(folder, backend, sys.executable, "-c", textwrap.dedent(script))
        yield Server(folder, backend.runs, out)


@pytest.mark.slow
def test_an_evaluation_is_a_run_of_its_own_where_it_is_wanted(jobs: Server) -> None:
    assert len(jobs.runs) == 2
    run = jobs.named("net on grid")
    assert (run.job_type, run.group, run.project, run.exit_code) == ("evaluate", "grid", "eval", 0)
    assert set(run.tags) == {"model:net", "data:set5"}
    assert run.summary["test/set5/psnr/y/net"] == 25.0
    assert {a.type for a in run.artifacts.values()} == {"results", "run_table"}


@pytest.mark.slow
def test_a_comparison_travels_as_an_artifact(jobs: Server) -> None:
    run = jobs.named("compare")
    assert (run.job_type, run.exit_code) == ("compare", 0)
    artifact = run.artifacts["comparison-compare"]
    assert (artifact.type, artifact.committed) == ("comparison", True)
    assert artifact.files == {"index.html": b"<p>", "crops/a.csv": b"1"}
    (table,) = [a for a in run.artifacts.values() if a.type == "run_table"]
    content = json.loads(table.files["comparison.table.json"])
    assert content["columns"] == ["model", "psnr", "published"]
    assert content["data"] == [["net", 25.0, None], ["a", None, 3.0]]
