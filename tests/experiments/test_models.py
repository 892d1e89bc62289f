"""Which network a task means, in the same words in every task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.models import Model, load, of_config, saved_config
from experiments.named_network import named_folders
from lightning_modules.checkpoints.safetensors import save_weights
from networks.baselines.edsr import EDSR
from networks.bicubic import Bicubic
from networks.drunet import DRUNet
from tests.conftest import Outcome, figures

Cli = Callable[..., Outcome]
TINY: dict[str, Any] = {"width": 4, "n_blocks": 1}
CONFIG = {"_target_": "networks.baselines.edsr.EDSR", "scale": 2, **TINY}
OPTIONS = ["model=edsr", *(f"model.{key}={value}" for key, value in TINY.items())]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of an EDSR that enlarges twice."""
    torch.manual_seed(0)
    save_weights(EDSR(scale=2, **TINY), tmp_path / "x2.safetensors", {"model": CONFIG, "label": "mine", "seed": 3})
    return tmp_path / "x2.safetensors"


def test_a_model_follows_the_scale_unless_its_own_is_given(weights: Path) -> None:
    model = of_config("edsr", CONFIG, weights)
    assert model.scales == (2,)
    assert model.network(2) is model.network(None)
    with pytest.raises(InputError, match=r"a checkpoint of another model: .* of another shape"):
        model.network(4)
    assert of_config("edsr", CONFIG, weights, follows=False).network(4).scales == (2,)
    bicubic = of_config("bicubic", {"_target_": "networks.bicubic.Bicubic", "scale": 2})
    assert bicubic.scales == (1, 2, 3, 4)
    assert [bicubic.network(scale).scales for scale in (None, 3)] == [(2,), (3,)]


def test_what_is_known_of_a_model(weights: Path) -> None:
    model = load(weights)
    assert (model.name, model.label, model.seed, model.config) == ("mine", "mine", 3, CONFIG)
    both = load([str(weights), "wiener"])
    assert (both.label, both.seed, both.files, both.sha256) == ("mine+wiener", 3, (weights,), model.sha256)
    assert Model("a", lambda _: Bicubic(3)).scales == (3,)


def test_every_task_takes_the_network_that_is_named(cli: Cli, weights: Path, make_photographs: Any) -> None:
    """Weights that know their network need no `model=`; with one, they are read as that."""
    photographs = make_photographs(count=1, height=24, width=28)
    data = ["data=folder", f"data.root={photographs}", "data.source.holdout=false", "data.num_workers=0"]
    data += ["degradation=bicubic", "degradation.scale=2", "trainer.accelerator=cpu", "logger=none", "pictures=none"]
    records, pictures = [], []
    for i, named in enumerate((["ckpt=x2.safetensors"], ["weights=x2.safetensors"], [*OPTIONS, f"weights={weights}"])):
        label = "mine" if i < 2 else "edsr"
        for task in (
            ["evaluate", *data, f"name=of{i}"],
            ["restore", f"input={photographs}", f"output=restored{i}", "degradation.scale=2"],
            ["export", "formats=safetensors", f"output=exported{i}", "degradation.scale=2"],
        ):
            outcome = cli(f"task={task[0]}", *named, *task[1:])
            assert outcome.status == 0, outcome.err
        records.append(figures(Path(f"runs/of{i}"), "checkpoint")[-1])
        config = OmegaConf.load(f"runs/of{i}/config.yaml")  # does not claim that its model was measured
        assert (config.ckpt, config.weights) == ((None, str(weights)) if i == 2 else ("x2.safetensors", None))
        pictures.append(Path(f"restored{i}/image0.png").read_bytes())
        assert load(Path(f"exported{i}/{label}.safetensors")).label == label
    assert [(record.pop("model"), record.pop("seed")) for record in records] == [("mine", 3)] * 2 + [("edsr", None)]
    assert records[0] == records[1] == records[2]
    assert pictures[0] == pictures[1] == pictures[2]


def test_dpir_is_measured_with_weights_of_its_denoiser(cli: Cli, tmp_path: Path, make_photographs: Any) -> None:
    torch.manual_seed(0)
    options = {"widths": [4, 4, 4, 4], "n_blocks": 1, "residual": True}
    about = {"model": {"_target_": "networks.drunet.DRUNet", **options}, "label": "mine", "seed": 3}
    save_weights(DRUNet(**options), tmp_path / "mine.safetensors", about)
    data = ["data=folder", f"data.root={make_photographs(count=1, height=24, width=32)}", "data.source.holdout=false"]
    outcome = cli(
        *("task=evaluate", "model=dpir_small", "model.denoiser.widths=[4,4,4,4]", "model.denoiser.n_blocks=1"),
        *("weights=mine.safetensors", "degradation=usrnet_test", "degradation.scale=3", "name=dpir", *data),
        *("data.num_workers=0", "trainer.accelerator=cpu", "logger=none", "pictures=none"),
    )
    assert outcome.status == 0, outcome.err
    record = figures(Path("runs/dpir"), "checkpoint")[-1]
    assert (record["model"], record["scale"]) == ("dpir_small", 3)
    exported = load(tmp_path / "mine.safetensors", model="dpir_small", overrides=["model.denoiser.widths=[4,4,4,4]"])
    with pytest.raises(InputError, match=r"it holds networks\.drunet\.DRUNet, which does not fit DRUNet as configured"):
        exported.network(None)


@pytest.mark.parametrize("task", [["evaluate"], ["export"], ["restore", "input=in", "output=out"]])
@pytest.mark.parametrize(
    ("named", "status", "line"),
    [
        (["ckpt=x2.safetensors", "model=edsr"], 1, "x2.safetensors: a checkpoint of another model: it holds {"),
        (["ckpt=x2.safetensors", "weights=a.pth"], 2, "weights= and ckpt=: each says which network is meant"),
        (
            ["weights=other.pth"],
            1,
            "other.pth: holds no 'config' and 'state_dict' of this suite: for published weights",
        ),
        (["weights=none.pth", "model=edsr"], 1, "none.pth: no such file of weights"),
        (["model=edsr"], 1, "model=edsr has weights to load: give run=FOLDER, ckpt=FILE or weights=FILE"),
        (["model=dpir_small"], 1, "model=dpir_small has weights to load: give weights=FILE of a DRUNet"),
        (["run=nowhere"], 1, "run=nowhere: no run folder"),
        (["model=dark_channel", "model.kernel_size=8"], 2, "model: kernel_size is 8, expected an odd number"),
    ],
)
@pytest.mark.usefixtures("weights")
def test_all_tasks_refuse_in_the_same_words(
    cli: Cli, task: list[str], named: list[str], status: int, line: str
) -> None:
    torch.save({"some": torch.zeros(1)}, "other.pth")
    outcome = cli(f"task={task[0]}", *task[1:], *named)
    assert outcome.err.startswith(line)
    assert (outcome.status, outcome.err.count("\n")) == (status, 1)


@pytest.mark.parametrize("key", ["tyni", "runs/absent", "runs/tiny/results.json"])
def test_a_run_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path, key: str) -> None:
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("label: tiny\n")
    (run / "results.json").write_text("{}")
    name = str(tmp_path / key)
    with pytest.raises(InputError) as caught:
        saved_config(named_folders("run", [name], tmp_path / "runs")[0])
    assert (f"did you mean run={run}?" if "json" in key else "which has tiny") in str(caught.value)
