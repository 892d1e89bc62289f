"""Weights by name in every task, and what is said of names that are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from datamodules.errors import InputError
from experiments.compare.read_runs import read_run
from experiments.models import load
from experiments.named_network import named_folders, run_folders
from experiments.restore import Restorer
from experiments.results.records import EvaluationRecord
from experiments.results.tables import row_names
from experiments.runtime.run_folder import run_name
from experiments.serve.models import models_of
from experiments.zoo import catalogue
from experiments.zoo.cards import with_recipe
from lightning_modules.checkpoints.checkpoint import load_network
from tests.conftest import Outcome, figures, photograph
from tests.helpers.zoo import CONFIG, OPTIONS, OVERRIDES, fill, write_card

Cli = Callable[..., Outcome]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "zoo", monkeypatch, "mine", "yours")


def test_a_word_is_a_name_unless_something_is_called_so(zoo: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert catalogue.weights_file("mine") == catalogue.weights_file("zoo:mine") == zoo / "mine.safetensors"
    assert catalogue.weights_file("mine.pth") == Path("mine.pth")
    assert catalogue.weights_file(Path("mine")) == Path("mine")
    Path("mine").mkdir()
    assert not caplog.text
    assert catalogue.weights_file("mine") == Path("mine")
    assert "the weights of the zoo are zoo:mine" in caplog.text
    assert catalogue.weights_file("zoo:mine") == zoo / "mine.safetensors"
    link = Path("link.safetensors")
    link.symlink_to(zoo / "mine.safetensors")
    assert catalogue.name_of(link) == "mine"
    (zoo / "yours.safetensors").rename("elsewhere.safetensors")  # as caches of files do
    (zoo / "yours.safetensors").symlink_to(Path("elsewhere.safetensors").resolve())
    assert catalogue.name_of(zoo / "yours.safetensors") == "yours"
    assert catalogue.name_of(zoo / "absent.safetensors") is None
    for wrong in ("mein", "zoo:mein"):
        with pytest.raises(InputError, match=r"^mein: no such .* the zoo, which has mine, yours; did you mean mine\?$"):
            catalogue.weights_file(wrong)


def test_a_name_brings_its_network(zoo: Path) -> None:
    model = load("mine")
    assert (model.name, model.label, model.seed, model.config) == ("mine", "mine", 3, CONFIG)
    overrides = [*(item for item in OVERRIDES if item.startswith("model.")), "model.scale=2"]
    image = photograph(12, 16, 0)
    expected = Restorer.load(zoo / "mine.safetensors").restore(image).sr
    for restorer in (Restorer.load("mine"), Restorer.load("zoo:mine", model="edsr", overrides=overrides)):
        assert restorer.scales == (2,)
        assert np.array_equal(restorer.restore(image).sr, expected)
    assert Restorer.load(["mine", "bicubic"]).name == "mine+bicubic"
    with pytest.raises(InputError, match=r"mine.safetensors: a checkpoint of another model: .* does not fit EDSR"):
        Restorer.load("mine", model="edsr", overrides=["model.width=8"])
    with pytest.raises(InputError, match="no such file or folder, nor a name in the zoo, which has mine, yours"):
        Restorer.load("edsr")


def test_every_task_takes_the_name_and_shows_it(cli: Cli, zoo: Path, make_photographs: Any) -> None:
    photographs = make_photographs(count=1, height=24, width=28)
    data = ["data=folder", f"data.root={photographs}", "data.source.holdout=false", "data.num_workers=0"]
    data += ["degradation=bicubic", "degradation.scale=2", "trainer.accelerator=cpu", "logger=none", "pictures=none"]
    records = []
    for named, run in (("weights=mine", "a"), ("run=zoo:mine", "b")):
        outcome = cli("task=evaluate", named, f"name={run}", *data)
        assert outcome.status == 0, outcome.err
        assert "\nmine " in outcome.out
        records.append(figures(Path(f"runs/{run}")))
        record = records[-1][-1]
        assert (record["model"], record["checkpoint"], record["seed"]) == ("mine", "zoo:mine", 3)
    assert records[0] == records[1]
    assert OmegaConf.load("runs/a/config.yaml").ckpt == "mine"
    both = cli("task=evaluate", "run=[zoo:mine,zoo:yours]", *data)
    assert both.status == 0, both.err
    assert all(f"\n{name} " in both.out for name in ("mine", "yours"))
    config = OmegaConf.load("runs/b/config.yaml")
    OmegaConf.save({**config, "label": "mine"}, "runs/b/config.yaml")  # as of a name that a model has too
    assert read_run(Path("runs/b"), "runs/b").parameters is None  # not those of the model that the config would build
    assert cli("task=restore", "run=zoo:mine", f"input={photographs}").status == 0
    assert Image.open("restored/image0.png").size == (56, 48)
    assert cli("task=export", "weights=zoo:yours", "formats=safetensors", "output=out").status == 0
    assert load_network(Path("out/yours.safetensors"))[1]["config"]["label"] == "yours"


def test_a_table_tells_the_name_from_a_run_that_began_with_it() -> None:
    records = [
        EvaluationRecord("mine", "a", checkpoint="last.ckpt"),
        EvaluationRecord("mine", "b", checkpoint="zoo:mine"),
    ]
    assert [row_names(records)(record) for record in records] == ["a", "zoo:mine"]
    assert row_names(records[1:])(records[1]) == "mine"


def test_an_evaluation_is_called_after_the_name() -> None:
    choices = {"model": "ed_dsrn", "data": "set5", "task": "evaluate"}
    assert run_name(choices, ["weights=zoo:mine"]) == run_name(choices, ["weights=mine"]) == "evaluate-mine-set5"
    assert run_name({**choices, "model": "edsr"}, ["model=edsr", "weights=mine"]) == "evaluate-edsr-set5-weights=mine"
    assert run_name(choices, ["weights=mine.ckpt"]) == "evaluate-ed_dsrn-set5-weights=mine.ckpt"
    assert run_name(choices, ["run=zoo:mine"]) == "evaluate-mine-set5"
    assert run_name(choices, ["run=[runs/a,zoo:mine,zoo:yours]"]) == "evaluate-mine_yours-set5"
    assert run_name(choices, ["weights=null"]) == "evaluate-ed_dsrn-set5-weights=null"


@pytest.mark.parametrize(
    ("given", "status", "line"),
    [
        ("weights=mein", 1, "mein: no such file or folder, nor a name in the zoo, which has mine, yours; did you mean"),
        ("run=zoo:mein", 1, "mein: no such name in the zoo, which has mine, yours; did you mean mine?"),
        ("run=mine", 1, "run=mine: no such run folder: did you mean: python run.py task=export run=zoo:mine"),
        ("ckpt=mein", 1, "mein: no such file or folder, nor a name in the zoo, which has mine, yours; did you mean"),
        ("weights=mine model=vdsr", 1, "a checkpoint of another model: it holds networks.baselines.edsr.EDSR"),
        ("weights=mine run=zoo:mine", 2, "run= and weights=: each says which network is meant: give one of them"),
    ],
)
@pytest.mark.usefixtures("zoo")
def test_a_wrong_name_is_answered_with_those_there_are(cli: Cli, given: str, status: int, line: str) -> None:
    outcome = cli("task=export", *given.split())
    assert (outcome.status, outcome.err.count("\n")) == (status, 1)
    assert line in outcome.err


def test_a_run_that_is_none_is_answered_with_the_name(zoo: Path) -> None:
    run = Path("runs/tiny")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("label: tiny\n")
    for key, line in (("run", "run=zoo:mine"), ("runs", "which has tiny")):
        with pytest.raises(InputError, match=line):
            named_folders(key, ["mine"], Path("runs"))


def test_a_model_without_weights_is_answered_with_those_of_the_zoo(cli: Cli, zoo: Path) -> None:
    (zoo / "mine.safetensors").rename(zoo / "edsr.safetensors")
    outcome = cli("task=export", "model=edsr")
    assert outcome.status == 1
    assert "model=edsr has weights to load: give weights=edsr, which the zoo has, or run=FOLDER" in outcome.err


def test_a_photograph_alone_is_restored_by_the_network_for_photographs(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "zoo", monkeypatch, "mine", catalogue.PHOTOGRAPHS)
    Image.fromarray(photograph(20, 24, 0)).save("photo.jpg")
    outcome = cli("task=restore", "input=photo.jpg", "trainer.accelerator=cpu")
    assert outcome.status == 0, outcome.err
    first, last = outcome.out.splitlines()
    assert first == f"network: {catalogue.PHOTOGRAPHS} (x2) of the zoo; by weights=NAME also mine (x2)"
    assert last == "restored: 1 in restored"
    assert Image.open("restored/photo.png").size == (48, 40)


def test_without_that_network_one_has_to_be_named(cli: Cli, zoo: Path) -> None:
    outcome = cli("task=restore", "input=photo.jpg")
    assert outcome.status == 2
    assert outcome.err.endswith(
        "run=runs/NAME, or weights= of the zoo (mine, yours) is missing: python run.py task=restore input=photo.jpg "
        "run=runs/NAME\n"
    )


def test_the_page_offers_runs_and_then_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "zoo", monkeypatch, "mine", catalogue.PHOTOGRAPHS)
    monkeypatch.setattr("experiments.serve.models.restorer_options", lambda cfg: {})
    monkeypatch.setattr("experiments.serve.models.asked_use", lambda cfg: None)
    monkeypatch.setattr("experiments.serve.models.model_is_named", lambda *groups: False)
    choices = {"choices": {"model": "edsr"}}
    monkeypatch.setattr("experiments.serve.models.HydraConfig.get", lambda: OmegaConf.create({"runtime": choices}))
    nothing = {"run": None, "ckpt": None, "weights": None, "model": {}, "runs_dir": str(tmp_path / "runs")}
    for given, names in (
        ({}, [catalogue.PHOTOGRAPHS, "mine"]),
        ({"weights": "mine"}, ["mine"]),
        ({"run": ["zoo:mine", f"zoo:{catalogue.PHOTOGRAPHS}"]}, ["mine", catalogue.PHOTOGRAPHS]),
    ):
        cfg = OmegaConf.create(nothing | given)
        models = models_of(cfg)
        assert models.names == names
        assert models.restorer(names[-1], names[-1]).name == names[-1]
        assert not run_folders(cfg)


def test_a_training_from_a_name_has_the_recipe_of_its_network(cli: Cli, zoo: Path) -> None:
    recipe = [*OVERRIDES, "degradation=bicubic"]
    assert with_recipe(["weights=mine", "data=div2k"]) == [*recipe, "weights=mine", "data=div2k"]
    assert with_recipe(["weights=zoo:mine", "degradation=ed_dsrn"]) == [
        *OVERRIDES,
        "weights=zoo:mine",
        "degradation=ed_dsrn",
    ]
    assert with_recipe(["task=lr_find", "weights=mine"]) == [*recipe, "task=lr_find", "weights=mine"]
    for others in (["model=edsr"], ["experiment=quickstart"], ["task=evaluate"]):
        assert with_recipe(["weights=mine", *others]) == ["weights=mine", *others]
    for none in ("mine.ckpt", "null", "runs/a"):
        assert with_recipe([f"weights={none}"]) == [f"weights={none}"]
    assert with_recipe(["weights=mine", "model.width=8"])[0] == "model=edsr"
    write_card(zoo, "yours", recipe=["python run.py model=edsr degradation.scale=2 degradation=a degradation.blur=3"])
    assert with_recipe(["weights=yours", "degradation=b"]) == [
        *("model=edsr", "degradation.scale=2", "weights=yours", "degradation=b")
    ]
    wrong = cli("weights=mein", "data=sample")
    assert (wrong.status, wrong.err.count("\n")) == (1, 1)
    assert "nor a name in the zoo, which has mine, yours; did you mean mine?" in wrong.err
    Path("mine").touch()
    assert with_recipe(["weights=mine"]) == ["weights=mine"]
    assert with_recipe(["weights=zoo:mine"]) == [*recipe, "weights=zoo:mine"]
    Path("mine").unlink()
    composed = yaml.safe_load(cli("weights=mine", "data=sample", "--cfg", "job").out)
    assert {key: composed["model"][key] for key in OPTIONS} == OPTIONS
    assert composed["optimizer"]["lr"] != 1e-3  # of the option, not of the command that trained it


@pytest.mark.slow
def test_a_training_goes_on_from_a_name(cli: Cli, zoo: Path, make_photographs: Any) -> None:
    photographs = make_photographs(count=6, height=64, width=64)
    outcome = cli(
        *("weights=mine", "data=folder", f"data.root={photographs}", "data.patch=32", "data.batch_size=2"),
        *("data.samples_per_epoch=2", "data.num_workers=0", "trainer.max_epochs=1", "trainer.accelerator=cpu"),
        *("optimizer.lr=1e-12", "logger=none", "name=on", "pictures=none"),
    )
    assert outcome.status == 0, outcome.err
    began = load_network(zoo / "mine.safetensors")[0].state_dict()
    ended = load_network(Path("runs/on/checkpoints/last.ckpt"))[0].state_dict()
    assert all(np.allclose(ended[name], value, atol=1e-6) for name, value in began.items())
