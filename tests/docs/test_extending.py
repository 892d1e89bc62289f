"""The network, the kernel and the data set of docs/extending.md, as they stand there, each trained for two steps."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import datamodules.degradations
import datamodules.sources
import networks
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
