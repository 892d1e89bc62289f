"""Which of its two checkpoints a run is judged by, in every task; and recipes that need a trained network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.restore import Restorer
from tests.conftest import Outcome
from tests.experiments.conftest import Trained
from tests.helpers.results import read_records

Cli = Callable[..., Outcome]


@pytest.fixture
def run(runs: Path) -> Path:
    """A run whose two checkpoints differ: every weight of the last one is doubled."""
    file = runs / "tiny" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"] = {name: 2 * value for name, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, file)
    return runs / "tiny"


def judged_by_last(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["checkpoint"]["use"] = "last"
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def first_weight(run: Path, use: str) -> torch.Tensor:
    state = torch.load(run / "checkpoints" / f"{use}.ckpt", weights_only=True)["state_dict"]
    return next(value for name, value in state.items() if name.startswith("network."))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trained_for", "asked", "expected"),
    [
        ("best", [], "best"),
        ("best", ["checkpoint.use=last"], "last"),
        ("last", [], "last"),
        ("last", ["checkpoint.use=best"], "best"),
    ],
)
def test_every_task_takes_the_checkpoint_that_the_run_or_the_command_line_says(
    cli: Cli, run: Path, trained_for: str, asked: list[str], expected: str
) -> None:
    if trained_for == "last":
        judged_by_last(run)
    assert cli("task=evaluate", "run=runs/tiny", "data.num_workers=0", *asked).status == 0
    records = [record for record in read_records(run / "results.json") if record["model"] == "ed_dsrn"]
    assert {record["checkpoint"] for record in records} >= {f"checkpoints/{expected}.ckpt"}
    assert cli("task=export", "run=runs/tiny", "formats=[safetensors]", *asked).status == 0
    exported = load_file(run / "export" / "ed_dsrn.safetensors")
    wanted = first_weight(run, expected)
    assert any(value.shape == wanted.shape and torch.equal(value, wanted) for value in exported.values())


@pytest.mark.parametrize(("use", "expected"), [(None, "last"), ("best", "best")])
def test_python_takes_it_too(run: Path, use: str | None, expected: str) -> None:
    judged_by_last(run)
    found = Restorer.load(run, device="cpu", use=use)._computing.model.network(4).state_dict()  # type: ignore[arg-type]
    assert torch.equal(next(iter(found.values())), first_weight(run, expected))


def test_a_training_tests_the_one_it_is_told_to(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    named = [*(item for item in trained.overrides if not item.startswith("name=")), "name=other"]
    assert cli(*named, "checkpoint.use=last", "trainer.max_epochs=1").status == 0
    records = read_records(tmp_path / "runs" / "other" / "results.json")
    assert {record["checkpoint"] for record in records if record["model"] == "ed_dsrn"} == {"checkpoints/last.ckpt"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["model=usrgan_tiny", "model=usrgan", "experiment=quick_usrgan"])
def test_a_recipe_that_goes_on_with_a_network_is_refused_without_one(cli: Cli, recipe: str, tmp_path: Path) -> None:
    outcome = cli(recipe, "data=sample", "trainer.accelerator=cpu")
    assert outcome.status == 2
    assert outcome.err.startswith("weights: found null, this recipe goes on with a trained USRNet: train one first")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    shown = cli(recipe, "--cfg", "job")
    assert "use: last" in shown.out
