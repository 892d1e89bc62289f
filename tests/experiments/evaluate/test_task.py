"""task=evaluate: what is measured, on what, and where the records go."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from datamodules.errors import InputError
from experiments.evaluate.suites import Cell
from experiments.evaluate.task import Job, _moved, refuse_misfit
from experiments.models import Model
from experiments.results.records import METRICS, read_records
from tests.conftest import Outcome, figures, photograph
from tests.experiments.conftest import Trained
from tests.helpers.references import convolve, gaussian, imresize

Cli = Callable[..., Outcome]
Record = dict[str, Any]


@pytest.fixture
def run(runs: Path) -> Path:
    return runs / "tiny"


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Three photographs that no run has seen, with sides that are no multiples of four."""
    folder = tmp_path / "others"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(photograph(49 + i, 58, 100 + i)).save(folder / f"other{i}.png")
    return folder


def on(folder: Path) -> list[str]:
    return ["data=folder", f"data.root={folder}", "data.source.holdout=false", "data.num_workers=0"]


read = figures  # seconds differ from one measurement to the next


def about(records: list[Record], **facts: Any) -> list[Record]:
    return [record for record in records if all(record[key] == value for key, value in facts.items())]


def named(records: list[Record]) -> list[tuple[str, str, str]]:
    return [(r["dataset"], r["model"], r["protocol"]["name"]) for r in records]


def measure_bicubic(folder: Path, sigma: float, shave: int, colour: str) -> dict[str, float]:
    """PSNR of each image by float64 NumPy: reduce, blur, enlarge, round, take luma or RGB, leave out the border."""
    values = {}
    for file in sorted(folder.glob("*.png")):
        hr = np.asarray(Image.open(file), dtype=np.float64) / 255
        hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
        reduced = imresize(hr, 1 / 4)
        blurred = [convolve(reduced[..., c], gaussian(sigma, 21), "edge") for c in range(3)]
        restored = np.floor(imresize(np.stack(blurred, -1), 4).clip(0, 1) * 255 + 0.5)
        pair = [image[shave : image.shape[0] - shave, shave : image.shape[1] - shave] for image in (restored, hr * 255)]
        if colour == "y":
            pair = [np.floor(16.5 + image @ np.array([65.481, 128.553, 24.966]) / 255) for image in pair]
        values[file.stem] = 10 * np.log10(255**2 / np.mean((pair[0] - pair[1]) ** 2))
    return values


def test_run_on_its_own_data_repeats_the_final_test(cli: Cli, trained: Trained, run: Path) -> None:
    before = read(run)
    outcome = cli("task=evaluate", f"run={run.relative_to(run.parents[1])}")
    assert outcome.status == 0, outcome.err
    assert read(run) == before  # the records are replaced by equal ones
    assert outcome.out.split("results:")[0] == trained.out.split("results:")[0]
    assert (run / "config.yaml").read_bytes() == (trained.run / "config.yaml").read_bytes()
    assert before[0]["degradation"]["sigma"] == [1.2, 1.8]


def test_a_metric_of_torchmetrics_stands_in_tables_and_records(cli: Cli, others: Path) -> None:
    """Also when it is measured again without it, and read by a process that does not know it."""
    command = ["task=evaluate", "model=bicubic", *on(others), "pictures=none", "name=v"]
    outcome = cli(*command, "metric=[vif]")
    assert outcome.status == 0, outcome.err
    assert "VIF" in outcome.out
    METRICS.pop("vif")
    assert cli(*command).status == 0
    METRICS.pop("vif", None)
    found = read_records(Path("runs/v/results.json"))
    assert all(0 < record.means["vif"] < 1 for record in found)
    assert METRICS.pop("vif") == ("VIF", 4, 1)
    for name in ("scale", "psnr", "items", "a-b"):
        refused = cli(*command, f"+metric.{name}._target_=torchmetrics.image.UniversalImageQualityIndex")
        assert refused.status == 2
        assert f"metric.{name}: is the name of something else, or no plain word" in refused.err


@pytest.mark.slow
def test_run_on_other_data_protocol_and_degradation(cli: Cli, run: Path, others: Path) -> None:
    before = read(run)
    more = ["protocol=[rgb_shave0,y_shave4]", "degradation.sigma=[1.5,1.5]"]
    outcome = cli("task=evaluate", "run=runs/tiny", *on(others), *more)
    assert outcome.status == 0, outcome.err
    found = read(run)
    assert found[: len(before)] == before
    new = found[len(before) :]
    protocols = ("rgb_shave0", "y_shave4")
    assert named(new) == [("others", model, protocol) for model in ("bicubic", "ed_dsrn") for protocol in protocols]
    assert new[0]["degradation"] == {**before[0]["degradation"], "sigma": [1.5, 1.5]}
    assert all(list(record["images"]) == ["other0", "other1", "other2"] for record in new)
    assert sorted(path.name for path in (run / "images").iterdir()) == ["others", "photographs"]
    assert (run / "images" / "others" / "other2_sr.png").exists()
    assert "others, test split, 3 images" in outcome.out
    for record in about(new, model="bicubic"):
        protocol = record["protocol"]
        expected = measure_bicubic(others, 1.5, protocol["shave"], protocol["colour"])
        assert {name: scores["psnr"] for name, scores in record["images"].items()} == pytest.approx(expected, abs=1e-3)
        assert record["psnr"] == pytest.approx(np.mean(list(expected.values())), abs=1e-3)


def test_single_values_change_what_the_run_was_measured_on(cli: Cli, trained: Trained, run: Path) -> None:
    """data.suite_seed alone must not bring back the default data set, nor protocol the default degradation."""
    outcome = cli("task=evaluate", "run=runs/tiny", "data.suite_seed=7", "data.num_workers=0", "protocol=[rgb_shave0]")
    assert outcome.status == 0, outcome.err
    old, new = read(run)[0], read(run)[-1]
    assert (new["dataset"], new["suite_seed"], old["suite_seed"]) == ("photographs", 7, 0)
    assert new["degradation"] == old["degradation"]
    assert list(new["images"]) == list(old["images"])
    assert trained.photographs.name == "photographs"


def test_the_photographs_of_a_run_may_be_elsewhere(cli: Cli, trained: Trained, run: Path, tmp_path: Path) -> None:
    """The paths that a run has saved are whole: `data.root` alone moves them."""
    before = read(run)
    trained.photographs.rename(tmp_path / "moved")
    try:
        refused = cli("task=evaluate", "run=runs/tiny")
        outcome = cli("task=evaluate", "run=runs/tiny", "data.root=moved")
    finally:
        (tmp_path / "moved").rename(trained.photographs)
    assert f"runs/tiny/config.yaml: data.root={trained.photographs}: does not exist" in refused.err
    assert outcome.status == 0, outcome.err
    found = [record for record in read(run) if record["dataset"] == "moved"]
    assert [record["images"] for record in found] == [record["images"] for record in before]


def test_values_of_the_command_line_are_told_from_those_of_a_run(cli: Cli, run: Path) -> None:
    line = cli("task=evaluate", "run=runs/tiny", "degradation.scale=2").err
    assert "runs/tiny/config.yaml with degradation.scale= of the command line: model: EDDSRN enlarges x4" in line
    line = cli("task=evaluate", "run=runs/tiny", "data=folder", "data.root=nowhere").err
    assert line.startswith("data.root=nowhere: does not exist")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for source in ({**config["data"]["source"], "root": "elsewhere"}, "text", ["text"], None):
        config["data"] = {key: value for key, value in config["data"].items() if key != "source"}
        config["data"] |= {"source": source} if source else {}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        line = cli("task=evaluate", "run=runs/tiny", "data.root=nowhere").err
        assert "runs/tiny/config.yaml: data: has no data.root to replace: give data= besides data.root=" in line


@pytest.mark.parametrize(
    ("old", "source", "moved"),
    [
        (".", {"_target_": "a.B", "kind": "blur", "root": ".", "test": "./test"}, {"root": "new", "test": "new/test"}),
        ("/a/b/", {"root": "/a/b/", "test": "/a/b/test", "none": "/a/bc"}, {"root": "new", "test": "new/test"}),
        ("/a/b", {"root": "/a/b", "test": "/a/b//test", "none": "/a/bc"}, {"root": "new", "test": "new/test"}),
        ("/", {"root": "/", "test": "/test", "none": "a/b"}, {"root": "new", "test": "new/test"}),
    ],
)
def test_only_paths_below_the_root_are_moved(old: str, source: dict[str, str], moved: dict[str, str]) -> None:
    assert _moved({"root": old, "source": source}, "new", "config.yaml") == source | moved


@pytest.mark.parametrize(
    ("scales", "grid", "inputs", "way"),
    [
        ((3,), [2, 3, 4], ("lr",), "; degradation.scale=3 to measure some of the cells"),
        ((8,), [2, 3, 4], ("lr",), ""),
        ((2,), [2, 3], ("lr", "depth"), ""),
    ],
)
def test_a_scale_is_proposed_where_one_fits(
    scales: tuple[int, ...], grid: list[int], inputs: tuple[str, ...], way: str
) -> None:
    cfg = {
        "self_ensemble": False,
        "suite": {"name": "table", "grid": {"degradation": {"scale": grid}}},
        "choices": {"data": "set5", "degradation": "bicubic"},
        "degradation": {"_target_": "datamodules.degradations.pipelines.BicubicDegradation", "scale": 2},
    }
    network: Any = SimpleNamespace(scales=scales, inputs=inputs)
    cell = Cell(OmegaConf.create(cfg), {"degradation.scale": 2})
    job = Job(Model("net", lambda _: network, label="net"), Path("net"), cell)
    with pytest.raises(InputError, match=r"^suite=table, data=set5 degradation.scale=2: net cannot be mea") as caught:
        refuse_misfit(job)
    assert str(caught.value).endswith(way or ("must be equal" if scales == (8,) else "choose another degradation="))


@pytest.mark.slow
def test_records_name_engine_and_precision(cli: Cli, run: Path, others: Path) -> None:
    """Beside those of torch in float32, from which they differ by nothing that counts."""
    pytest.importorskip("onnxscript")
    for engine in ("torch", "onnxruntime"):
        outcome = cli("task=evaluate", "run=runs/tiny", f"engine={engine}", "pictures=none", *on(others))
        assert outcome.status == 0, outcome.err
    assert "ed_dsrn (onnxruntime float32)" in outcome.out
    of_network = about(read(run), model="ed_dsrn", dataset="others", precision="float32")
    by_torch, by_engine = (about(of_network, engine=engine) for engine in ("torch", "onnxruntime"))
    assert len(by_torch) > 0
    assert [r["psnr"] for r in by_engine] == pytest.approx([r["psnr"] for r in by_torch], abs=1e-3)
    outcome = cli("task=evaluate", "model=bicubic", "engine=onnxruntime", *on(others))
    assert "engine=onnxruntime: bicubic enlargement is the baseline and is measured plain" in outcome.err


@pytest.mark.slow
def test_checkpoint_is_measured_in_a_folder_of_its_own(cli: Cli, run: Path, others: Path) -> None:
    before = (run / "results.json").read_bytes()
    sigma = "degradation.sigma=[1.2,1.8]"
    by_run = cli("task=evaluate", "run=runs/tiny", *on(others))
    assert by_run.status == 0, by_run.err
    expected = [r for r in read(run) if r["dataset"] == "others"]
    (run / "results.json").write_bytes(before)

    outcome = cli("task=evaluate", "ckpt=runs/tiny/checkpoints/best.ckpt", *on(others), sigma, "name=mine")
    assert outcome.status == 0, outcome.err
    found = read(run.parent / "mine")
    assert (run / "results.json").read_bytes() == before
    assert named(found) == named(expected)
    assert [r["images"] for r in found] == [r["images"] for r in expected]
    assert found[-1]["checkpoint"] == "runs/tiny/checkpoints/best.ckpt"
    # Twice the same measurement: one record.
    assert cli("task=evaluate", "ckpt=runs/tiny/checkpoints/best.ckpt", *on(others), sigma, "name=mine").status == 0
    assert read(run.parent / "mine") == found


def test_evaluation_keeps_out_of_training_runs(cli: Cli, run: Path, others: Path) -> None:
    config = (run / "config.yaml").read_bytes()
    outcome = cli("task=evaluate", "model=bicubic", *on(others), "name=tiny")
    assert outcome.status == 1
    assert "runs/tiny: a training run of this name exists: measure it with run=runs/tiny" in outcome.err
    assert cli("task=evaluate", "model=bicubic", *on(others)).status == 0
    assert (run / "config.yaml").read_bytes() == config
    (made,) = (path.name for path in run.parent.iterdir() if path != run)
    assert made.startswith("evaluate-bicubic-folder")


def test_every_model_gets_the_same_inputs(cli: Cli, run: Path, others: Path) -> None:
    """Rows of bicubic in the results of different runs are equal to the last digit, whatever their seeds."""
    assert cli("task=evaluate", "run=runs/tiny", *on(others)).status == 0
    sigma = "degradation.sigma=[1.2,1.8]"
    for seed in (0, 5):
        outcome = cli("task=evaluate", "model=bicubic", *on(others), sigma, f"seed={seed}", f"name=bicubic{seed}")
        assert outcome.status == 0, outcome.err
        assert "gain" not in outcome.out
    rows = [
        about(read(run.parent / name), dataset="others", model="bicubic") for name in ("tiny", "bicubic0", "bicubic5")
    ]
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) == 2
    # The widths of the blur are drawn for each image: they are not all the same.
    images = rows[0][0]["images"]
    at = [measure_bicubic(others, width, 4, "y") for width in (1.2, 1.8)]
    assert all(at[1][name] - 1e-3 <= images[name]["psnr"] <= at[0][name] + 1e-3 for name in images)
    assert len({(at[0][name] - images[name]["psnr"]) / (at[0][name] - at[1][name]) for name in images}) == 3


def test_network_of_another_scale(cli: Cli, run: Path, others: Path) -> None:
    before = (run / "results.json").read_bytes()
    outcome = cli("task=evaluate", "run=runs/tiny", *on(others), "degradation.scale=2")
    assert outcome.status == 1
    assert "EDDSRN enlarges x4, degradation.scale is 2" in outcome.err
    assert (run / "results.json").read_bytes() == before


@pytest.mark.slow
def test_options_of_a_model_without_weights(cli: Cli, others: Path) -> None:
    """Records do not hold them: one folder has the measurements of one set of options."""
    on_others = ["task=evaluate", "model=dark_channel", "name=options", "degradation=bicubic", "degradation.scale=2"]
    refused = cli(*on_others, *on(others), "model.kernel_size=8")
    assert refused.status != 0
    assert "model: kernel_size is 8" in refused.err
    small = cli(*on_others, *on(others), "model.kernel_size=21")
    assert small.status != 0
    assert "too small" in small.err
    assert "other0" in small.err
    assert cli(*on_others, *on(others), "model.kernel_size=3").status == 0
    other = cli(*on_others, *on(others), "model.kernel_size=5")
    assert other.status != 0
    assert "model.kernel_size=3, this is 5: give this evaluation another name" in other.err


@pytest.mark.slow
def test_finished_cells_are_those_of_the_same_files(cli: Cli, others: Path, tmp_path: Path) -> None:
    options = ["task=evaluate", "model=bicubic", "suite=ed_dsrn_table1", "name=again", "logger=none", "pictures=none"]
    again = "1 of 1 cells are in results.json already"
    assert again not in cli(*options, *on(others)).err
    before = read(tmp_path / "runs" / "again")
    assert again in cli(*options, *on(others)).err
    Image.fromarray(photograph(49, 58, 400)).save(others / "other0.png")  # another image of that name
    assert again not in cli(*options, *on(others)).err
    assert read(tmp_path / "runs" / "again")[0]["psnr"] != before[0]["psnr"]
    outcome = cli(*options[:-1], "pictures=results", *on(others))
    assert outcome.status == 0, outcome.err
    assert len(list((tmp_path / "runs" / "again" / "images").glob("**/*_sr.png"))) == 3


def test_bicubic_has_no_ensemble(cli: Cli, others: Path) -> None:
    outcome = cli("task=evaluate", "model=bicubic", "self_ensemble=true", "name=x8", "logger=none", *on(others))
    assert outcome.status == 1
    assert "bicubic enlargement is the baseline and is measured plain" in outcome.err


def test_results_of_an_older_format_are_refused_first(cli: Cli, others: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "results.json").write_text("[]")
    outcome = cli("task=evaluate", "model=bicubic", "name=old", "logger=none", *on(others))
    assert outcome.status == 1
    assert "expected format 2" in outcome.err
    assert sorted(file.name for file in (tmp_path / "runs" / "old").iterdir()) == ["results.json"]


def test_other_images_under_the_name_of_a_data_set_are_said(cli: Cli, run: Path, tmp_path: Path) -> None:
    """Their figures and pictures take the place of the first ones."""
    for city, count in (("a", 2), ("a", 3), ("b", 2)):
        for i in range(count):
            (tmp_path / city / "test").mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph(48, 52, i)).save(tmp_path / city / "test" / f"{city}{i}.png")
        found = cli("task=evaluate", f"run={run}", *on(tmp_path / city / "test"), "pictures=none")
        assert found.status == 0, found.err
        said = (
            "results.json: its figures of test are of other images, as a0; those of b0 take their place: to keep both"
        )
        assert (said in found.err) == (city == "b")


def test_another_folder_with_images_of_the_same_names_is_said(cli: Cli, run: Path, tmp_path: Path) -> None:
    """Pictures of the first folder do not stay beside figures of the second."""
    for folder, number in (("a", 1), ("a", 1), ("b", 2)):
        image = tmp_path / folder / "twins" / "one.png"
        if not image.exists():
            image.parent.mkdir(parents=True)
            Image.fromarray(photograph(48, 52, number)).save(image)
        found = cli("task=evaluate", f"run={run}", *on(image.parent), "pictures=none")
        assert found.status == 0, found.err
        said = (
            f"results.json: its figures of twins are of other files of the same names, .* those of {image.parent} take"
        )
        assert bool(re.search(said, found.err)) == (folder == "b"), found.err


def test_images_too_small_for_the_protocol_are_found_before_any_is_measured(cli: Cli, run: Path, others: Path) -> None:
    Image.fromarray(photograph(16, 48, 7)).save(others / "small.png")
    before = sorted(run.iterdir())
    found = cli("task=evaluate", f"run={run}", *on(others))
    assert found.status == 1
    assert (
        "small.png: image is 48x16, smaller than the 20 pixels that protocol= needs: set data.on_small=skip"
        in found.err
    )
    assert sorted(run.iterdir()) == before
    assert cli("task=evaluate", f"run={run}", *on(others), "data.on_small=skip").status == 0
