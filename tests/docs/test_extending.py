"""The network, the kernel and the data set of docs/extending.md, as they stand there, each trained for two steps.

Beside them two networks of other kinds, from `added/`: no other file knows them, and they work in every command.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import datamodules.degradations
import datamodules.sources
import networks
from datamodules.degradations.kernel_spec import given_kernel
from experiments.restore import Restorer
from experiments.restore.adapt import Continued, place_kernel
from experiments.restore.arguments import restorer_options
from experiments.serve.models import Models
from experiments.serve.temp_files import Room
from lightning_modules.checkpoints.checkpoint import load_network
from tests.conftest import Outcome, photograph

Cli = Callable[..., Outcome]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"^`([\w./]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = [
    *("data.batch_size=2", "data.samples_per_epoch=4", "data.num_workers=0", "data.patch=32"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none", "pictures=none", "name=extended"),
]
SMALL = ["model=ed_srn", "model.widths=[4,4,4,4]", "model.n_units=1"]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's files where Python and Hydra look after the project's own; the override that says so."""
    for file, text in BLOCK.findall(PAGE.read_text("utf-8")):
        target = tmp_path / "added" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    shutil.copytree(Path(__file__).parent / "added", tmp_path / "added", dirs_exist_ok=True)
    for package in (networks, datamodules.degradations, datamodules.sources):
        own = tmp_path / "added" / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(own)])
    return f"hydra.searchpath=[file://{tmp_path / 'added' / 'conf'}]"


def lines(heading: str) -> int:
    """Lines of code and YAML in a section that say something."""
    section = PAGE.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return sum(1 for _, text in BLOCK.findall(section) for line in text.splitlines() if line.strip())


def test_each_takes_less_than_thirty_lines() -> None:
    found = {heading: lines(heading) for heading in ("A network", "A blur kernel", "A data set")}
    assert all(0 < count < 30 for count in found.values()), found


def test_network(cli: Cli, beside: str, make_photographs: Callable[..., Path]) -> None:
    outcome = cli(beside, "model=plain", "data=folder", f"data.root={make_photographs()}", *STEPS)
    assert outcome.status == 0, outcome.err
    network, checkpoint = load_network(Path("runs/extended/checkpoints/last.ckpt"))
    assert checkpoint["global_step"] == 2
    assert network(lr=torch.rand(1, 3, 9, 7)).sr.shape == (1, 3, 36, 28)
    outcome = cli(beside, "task=export", "run=runs/extended", "formats=[safetensors]")
    assert outcome.status == 0, outcome.err


OTHERS = pytest.mark.parametrize(("name", "given"), [("periodic", "gaussian:1.2"), ("blind", None)])


@pytest.fixture
def other(name: str, cli: Cli, beside: str, make_photographs: Callable[..., Path]) -> Path:
    """The run of one that is told the kernel, or that estimates it; both assume that blur wraps around."""
    data = [f"model={name}", "data=folder", f"data.root={make_photographs()}", "degradation.scale=2"]
    outcome = cli(beside, *data, *STEPS, f"name={name}")
    assert outcome.status == 0, outcome.err
    return Path(f"runs/{name}")


@pytest.mark.slow
@OTHERS
def test_networks_of_other_kinds_restore_photographs(other: Path, name: str, given: str | None, cli: Cli) -> None:
    """The photograph is continued, and the kernel moved to the middle of the blocks."""
    pytest.importorskip("gradio")
    from experiments.serve.service import Service

    restorer, image = Restorer.load(other, device="cpu"), photograph(24, 30, 3)
    known = given_kernel(given) if given else None
    found = restorer.restore(image, kernel=known)
    network, _ = load_network(other / "checkpoints" / "last.ckpt")
    lr = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    if known is None:
        estimated = Continued(network)(lr=lr).kernel
        assert estimated is not None
        torch.testing.assert_close(found.kernel, estimated[0, 0])
    told = network.with_known_kernel() or network
    assert found.kernel is not None
    expected = Continued(told)(lr=lr, kernel=place_kernel(found.kernel, 2)[None, None]).sr
    difference = 255 * expected[0].clamp(0, 1).permute(1, 2, 0).detach().numpy() - found.sr
    assert np.abs(difference).max() < 0.51  # rounded
    notes = restorer.restore(photograph(40, 90, 3), kernel=known, tile=40).notes
    assert any("looks further" in note for note in notes)
    assert any("kernel was estimated on the middle" in note for note in notes) == (given is None)

    Image.fromarray(image).save("photo.png")
    command = ["task=restore", f"run={other}", "input=photo.png", "output=out"]
    assert cli(*command, *([f"kernel={given}"] if given else [])).status == 0
    assert (np.asarray(Image.open("out/photo.png")) == found.sr).all()

    assert cli("task=export", f"run={other}", "formats=[safetensors]").status == 0
    exported = Restorer.load(other / "export" / f"{name}.safetensors", device="cpu")
    assert (np.asarray(exported.restore(image, kernel=known).sr) == found.sr).all()

    file = other / "checkpoints" / "last.ckpt"
    asked: Any = {
        **OmegaConf.load(other / "config.yaml"),
        "self_ensemble": False,
        "engine": "torch",
        "precision": "float32",
    }
    options = restorer_options(OmegaConf.create(asked))
    models = Models({name: {"last": lambda: Restorer.load(file, **options)}})
    arguments: Any = {"scale": 2}
    if known is not None:
        np.save("kernel.npy", known)
        arguments |= {"kind": "From a file", "kernel_file": "kernel.npy"}
    visitor: Any = SimpleNamespace(session_hash="visitor")
    Path("files").mkdir()
    served, *_ = Service(models, Room(Path("files").absolute(), 600, 10**9), 10_000).restore(
        visitor, "photo.png", name, **arguments
    )
    assert (np.asarray(Image.open(served)) == found.sr).all()


@pytest.mark.slow
@OTHERS
def test_networks_of_other_kinds_are_exported_and_compared(
    other: Path, name: str, given: str | None, cli: Cli, beside: str
) -> None:
    assert cli("task=export", f"run={other}", "formats=[program]").status == 0
    root = OmegaConf.load(other / "config.yaml").data.root
    bicubic = ["model=bicubic", "degradation=gaussian_21", "degradation.scale=2", "name=bicubic"]
    for subject in ([f"run={other}"], bicubic):
        outcome = cli(beside, "task=evaluate", *subject, "data=folder", f"data.root={root}", "logger=none")
        assert outcome.status == 0, outcome.err
    outcome = cli(beside, "task=compare", f"runs=[{other},runs/bicubic]", "name=compared")
    assert outcome.status == 0, outcome.err
    assert name in outcome.out


def test_kernel(cli: Cli, beside: str, make_photographs: Callable[..., Path]) -> None:
    from datamodules.degradations.defocus import defocus  # type: ignore[import-not-found]  # is on the page alone

    kernels = defocus(torch.arange(4), size=9, radius=[1.0, 1.0])
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(4))
    # A disk of radius 1: the four neighbours have half the weight of the centre, and the diagonal ones a little.
    torch.testing.assert_close(kernels[0, 0, 4, 4] / kernels[0, 0, 4, 5], torch.tensor(2.0))
    outcome = cli(beside, *SMALL, "degradation=defocus", "data=folder", f"data.root={make_photographs()}", *STEPS)
    assert outcome.status == 0, outcome.err
    saved = OmegaConf.load("runs/extended/config.yaml")
    assert saved.degradation.kernels._target_ == "datamodules.degradations.defocus.defocus"


def test_data_set(cli: Cli, beside: str) -> None:
    outcome = cli(beside, *SMALL, "data=listed", *STEPS)
    assert outcome.status == 1
    assert outcome.err == "PHOTOS/train.txt: not there, expected one path a line: set data.root\n"
    Path("PHOTOS").mkdir()
    for i, split in enumerate(("train", "val", "test")):
        Image.fromarray(photograph(40, 48, i)).save(f"PHOTOS/{i}.png")
        Path(f"PHOTOS/{split}.txt").write_text(f"{i}.png\n")
    outcome = cli(beside, *SMALL, "data=listed", *STEPS)
    assert outcome.status == 0, outcome.err
    assert "listed" in outcome.out


@pytest.mark.parametrize("given", ["--config-dir my_configs", "hydra.searchpath=[file://my_configs]"])
def test_configs_elsewhere(cli: Cli, beside: str, make_photographs: Callable[..., Path], given: str) -> None:
    """Options of a folder of one's own, built upon the suite's, beside them and found by them."""
    shutil.move("added/my_configs", "my_configs")
    make_photographs(24, 40, 48, name="PHOTOS")
    small = [word for word in [*SMALL[1:], *STEPS] if word != "name=extended"]
    outcome = cli(*given.split(), "experiment=mine", *small, "name=mine")
    assert outcome.status == 0, outcome.err
    saved = OmegaConf.load("runs/mine/config.yaml")
    assert (saved.data.root, saved.degradation.sigma, saved.callbacks.ema.decay) == ("PHOTOS", [0.6, 1.2], 0.99)
    assert cli(*given.split(), *own_set()).status == 0


def own_set() -> list[str]:
    """An evaluation on a set that is in my_configs/: for each of a suite a config is composed after the command's."""
    Path("my_configs/data").mkdir(parents=True)
    Path("my_configs/data/own.yaml").write_text("defaults:\n  - folder\n\nroot: PHOTOS\n")
    suite = ["suite=ed_dsrn_table1", "suite.sets=[own]", "logger=none", "pictures=none", "name=own"]
    return ["task=evaluate", "model=bicubic", *suite]


@pytest.mark.slow
def test_other_processes_find_configs_elsewhere(cli: Cli, make_photographs: Callable[..., Path]) -> None:
    make_photographs(24, 40, 48, name="PHOTOS")
    outcome = cli("--config-dir", "my_configs", *own_set(), "trainer=ddp_cpu")
    assert outcome.status == 0, outcome.err
    assert "ed_dsrn_table1: PHOTOS, test split, 3 images" in outcome.out
