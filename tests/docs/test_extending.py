"""The network, the kernel and the data set of docs/extending.md, as they stand there, each trained for two steps.

Beside them two networks of other kinds, which lie in `added/`: no other file knows them, and they work in every command.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

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
from experiments.serve.models import models_of
from experiments.serve.service import Service, Settings
from experiments.serve.temp_files import Folder
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
    outcome = cli(beside, "task=export", "run=runs/extended", "task.formats=[safetensors]")
    assert outcome.status == 0, outcome.err


KERNEL = given_kernel("gaussian:1.2")


@pytest.mark.parametrize(("name", "given"), [("periodic", KERNEL), ("blind", None)])
def test_networks_of_other_kinds(
    name: str,
    given: torch.Tensor | None,
    cli: Cli,
    beside: str,
    make_photographs: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is told the kernel, and one that estimates it; both assume that blur wraps around."""
    run, data = f"runs/{name}", ["data=folder", f"data.root={make_photographs()}"]
    steps = [item for item in STEPS if not item.startswith("name=")]
    outcome = cli(beside, f"model={name}", *data, *steps, "degradation.scale=2", f"name={name}")
    assert outcome.status == 0, outcome.err

    # A photograph: the image is continued, and the kernel moved to the middle of the blocks.
    image = photograph(24, 30, 3)
    restorer = Restorer.load(run, device="cpu")
    found = restorer.restore(image, kernel=given)
    network, _ = load_network(Path(run) / "checkpoints" / "last.ckpt")
    assert found.sr.shape == (48, 60, 3)
    lr = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    kernel = found.kernel if given is None else given
    assert kernel is not None
    if given is None:
        assert kernel.shape == (5, 5)
        torch.testing.assert_close(kernel, Continued(network)(lr=lr).kernel[0, 0])
    told = network if given is not None else network.restorer
    expected = Continued(told)(lr=lr, kernel=place_kernel(kernel, 2)[None, None]).sr
    written = (expected[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert abs(written.astype(int) - found.sr.astype(int)).max() <= 1
    tiled = restorer.restore(photograph(40, 90, 3), kernel=given, tile=40)
    assert any("looks further" in note for note in tiled.notes)
    assert any("kernel was estimated on the middle" in note for note in tiled.notes) == (given is None)

    Image.fromarray(image).save("photo.png")
    command = ["task=restore", f"run={run}", "input=photo.png", "output=out"]
    assert cli(beside, *command, *(["kernel=gaussian:1.2"] if given is not None else [])).status == 0
    assert (np.asarray(Image.open("out/photo.png")) == found.sr).all()

    assert cli(beside, "task=export", f"run={run}", "task.formats=[safetensors,program]").status == 0
    exported = Restorer.load(f"{run}/export/{name}.safetensors", device="cpu")
    assert (exported.restore(image, kernel=given).sr == found.sr).all()

    monkeypatch.setattr("experiments.serve.models._named", lambda cfg: [])
    models = models_of(OmegaConf.load(f"{run}/config.yaml"))
    with Folder() as folder:
        upload = folder.make("photo.png")
        Image.fromarray(image).save(upload)
        served = models.restorer(name, models.checkpoints(name)[0])
        done = Service(folder, 10_000).restore(upload, served, Settings(2, given), lambda *_: None)
        assert (np.asarray(Image.open(done.file)) == found.sr).all()

    assert cli(beside, "task=evaluate", f"run={run}", *data, "logger=none", "pictures=none").status == 0
    outcome = cli(beside, "task=compare", f"runs=[{run}]", "name=compared")
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
