"""Runs that were made before modules, classes and keys got their present names: tests/data/older.

Both were trained on six images of `photograph` by the code of 22 November 2026: `ed_dsrn`, with its export, and
`usrnet`, which was measured on four cells of a suite.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from experiments.compare.build import compare
from experiments.compare.page.crops import picture
from experiments.compare.read_runs import read_runs
from experiments.models import of_run
from experiments.restore import Restorer
from experiments.results.pictures import MADE_OF
from experiments.results.tables import cell_folder
from experiments.runtime.saved_config import MOVED, renamed
from experiments.sweeps.table import score_of_finished
from lightning_modules.checkpoints.checkpoint import build_network
from tests.conftest import Outcome, photograph
from tests.experiments.config.test_configs import compose
from tests.helpers.results import read_records

OLDER = Path(__file__).resolve().parents[1] / "data" / "older"
DATA = ["data=folder", "data.root=photographs", "data.num_workers=0", "trainer.accelerator=cpu", "pictures=none"]
TRAINING = [
    *("data.patch=32", "data.batch_size=2", "data.samples_per_epoch=4", "trainer.log_every_n_steps=1", "logger=none"),
    *("model=ed_dsrn", "model.widths=[4,4,4,4]", "model.n_units=1", "scheduler=multistep"),
    *("scheduler.milestones=[3]", "scheduler.warmup=1"),
]
Cli = Callable[..., Outcome]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "photographs").mkdir()
    for i in range(6):
        Image.fromarray(photograph(80, 96, i)).save(tmp_path / "photographs" / f"image{i}.png")
    return Path(shutil.copytree(OLDER, tmp_path / "runs"))


def test_a_training_goes_on(cli: Cli, runs: Path) -> None:
    found = cli(*DATA, *TRAINING, "trainer.max_epochs=3", "name=ed_dsrn", "resume=auto")
    assert found.status == 0, found.err
    checkpoint = torch.load(runs / "ed_dsrn" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert "continuing" in found.err + found.out


def test_a_sweep_takes_it_for_finished(runs: Path) -> None:
    overrides = [*DATA, *TRAINING, "trainer.max_epochs=2", "name=ed_dsrn", "label=x", "choices=null"]
    cfg: Any = OmegaConf.to_container(compose(*overrides, f"runs_dir={runs}"), resolve=True)
    assert score_of_finished(cfg) == json.loads((runs / "ed_dsrn" / "meta.json").read_text())["finished"]["score"]
    cfg["data"]["patch"] = 64
    assert score_of_finished(cfg) is None


def test_its_pictures_are_found(runs: Path) -> None:
    (source,) = read_runs([runs / "usrnet"])
    record = source.records[-1]
    folder = runs / "usrnet" / "images" / record.dataset / cell_folder(record.cell)
    folder.mkdir(parents=True)
    (folder / "image3_sr.png").touch()
    saved = read_records(runs / "usrnet" / "results.json")[-1]
    assert saved["cell"] == record.cell
    (folder / MADE_OF).write_text(json.dumps({name: saved[name] for name in record.made_of if name in saved}))
    comparison = compare([source], "one", chosen={})
    benchmark = next(b for b in comparison.tables[0].benchmarks if b.cell == record.cell)
    method = next(m for m in comparison.methods if not m.baseline)
    assert picture([method], benchmark, "image3") == folder / "image3_sr.png"


@pytest.mark.slow
def test_what_was_measured_is_known(cli: Cli, runs: Path) -> None:
    """The cells are measured anew, as the images lie elsewhere, and take the places of the older records."""
    path = runs / "usrnet" / "results.json"
    before = {str((r["model"], r["cell"])): r["psnr"] for r in read_records(path)}
    grid = ["kernels.number=[0,7]", "noise=[0.01]", "scale=[2,4]"]
    cells = [f"suite.grid.degradation.{axis}" for axis in grid]
    theirs = "degradation.kernels.suite._target_=datamodules.degradations.kernel_files.twelve"
    found = cli("task=evaluate", "run=runs/usrnet", "suite=usrnet_table1", *DATA, *cells, theirs)
    assert found.status == 0, found.err
    records = read_records(path)
    assert {r["degradation"]["kernels"]["suite"]["_target_"] for r in records} == {
        "datamodules.degradations.kernel_files.twelve"
    }
    after = {str((r["model"], r["cell"])): r["psnr"] for r in records}
    assert len(records) == len(after) == 8
    assert after == pytest.approx(before, abs=1e-3)


@pytest.mark.slow
def test_it_is_compared_with_what_is_measured_today(cli: Cli, runs: Path) -> None:
    found = cli("task=evaluate", "model=bicubic", "name=today", *DATA)
    assert found.status == 0, found.err
    found = cli("task=compare", "runs=[runs/ed_dsrn,runs/today]", "name=both")
    assert found.status == 0, found.err
    assert (runs / "both" / "index.html").is_file()


def test_it_restores_and_is_exported(cli: Cli, runs: Path) -> None:
    image = torch.rand(3, 21, 34)
    results = [Restorer.load(runs / "ed_dsrn"), Restorer.load(runs / "ed_dsrn/export/ed_dsrn.safetensors")]
    first, second = (restorer.restore(image).sr for restorer in results)
    assert torch.equal(first, second)
    shutil.rmtree(runs / "ed_dsrn" / "export")
    assert cli("task=export", "run=runs/ed_dsrn", "formats=[safetensors]").status == 0
    again = Restorer.load(runs / "ed_dsrn/export/ed_dsrn.safetensors").restore(image).sr
    assert torch.equal(first, again)


def test_what_was_the_small_network_stays_it(tmp_path: Path) -> None:
    """`model=dan_usrnet` used to be what is `dan_usrnet_tiny` now: its runs hold the numbers, their experiments too."""
    small = {"n_iter": 6, "widths": [16, 32, 64, 64], "n_blocks": 2, "hyper_width": 32}
    config = {
        "_target_": "networks.dan_usrnet.DANUSRNet",
        "scale": 2,
        "n_loops": 4,
        "code_dim": 10,
        "kernel_size": 21,
        "restorer": small,
        "estimator": {"width": 32, "n_blocks": 5},
        "kernel_init": "mean",
        "detach": True,
        "supervise": "last",
        "head": "code",
        "phase": "joint",
    }
    network = build_network(config, "dan_usrnet")
    network.fit_basis(torch.rand(30, 1, 21, 21).flatten(1).softmax(1).view(30, 1, 21, 21), seed=0)
    saved = {"label": "dan_usrnet", "choices": {"model": "dan_usrnet"}, "model": config, "seed": 0}
    (tmp_path / "checkpoints").mkdir()
    OmegaConf.save(OmegaConf.create(saved), tmp_path / "config.yaml")
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save(
        {"state_dict": state, "config": saved, "global_step": 1, "epoch": 0}, tmp_path / "checkpoints" / "best.ckpt"
    )
    model = of_run(tmp_path)
    assert model.label == "dan_usrnet"
    assert sum(p.numel() for p in model.network(None).parameters()) == 878_928
    assert OmegaConf.to_container(compose("model=dan_usrnet_tiny", "degradation.scale=2").model, resolve=True) == config
    for experiment, n_iter in (("quick_dan_usrnet", 4), ("ablation_dan_usrnet", 6)):
        assert compose(f"experiment={experiment}").model.restorer == {**small, "n_iter": n_iter}
    for experiment in ("dan_usrnet_a", "dan_usrnet_b"):
        assert compose(f"experiment={experiment}").model.restorer == compose("model=dan_usrnet").model.restorer


@pytest.mark.parametrize("module", MOVED)
def test_moved_names(module: str) -> None:
    import importlib

    importlib.import_module(MOVED[module])
    saved: dict[str, Any] = {"loss": [{"_target_": f"{module}.Name", "x": 1}], "label": f"{module}.Name"}
    assert renamed(saved) == {"loss": [{"_target_": f"{MOVED[module]}.Name", "x": 1}], "label": f"{module}.Name"}
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module)
