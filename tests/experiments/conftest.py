"""One trained run that several modules of this folder look at, and one thread for all of them."""

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import photograph


@dataclass
class Trained:
    """A finished run of two epochs; copy `runs` before changing anything in it."""

    runs: Path
    photographs: Path
    overrides: list[str]
    out: str

    @property
    def run(self) -> Path:
        return self.runs / "tiny"


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks of four channels on images of postage-stamp size: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`python run.py` with a network of 4 channels on eight photographs; results.json and checkpoints are there."""
    import run

    folder = tmp_path_factory.mktemp("trained")
    photographs = folder / "photographs"
    photographs.mkdir()
    for i in range(8):
        Image.fromarray(photograph(64 + 4 * i, 72, i)).save(photographs / f"image{i}.png")
    overrides = [
        "data=folder",
        f"data.root={photographs}",
        "data.patch=32",
        "data.batch_size=2",
        "data.samples_per_epoch=4",
        "data.num_workers=0",
        "model.widths=[4,4,4,4]",
        "model.n_units=1",
        "degradation.sigma=[1.2,1.8]",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "logger=none",
        "name=tiny",
    ]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.setenv("DEBLUR_SR_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["run.py", *overrides])
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the tests, also where this comes first
        assert run.main() == 0
        torch.set_num_threads(before)
    return Trained(folder / "runs", photographs, overrides, out.getvalue())


@pytest.fixture
def runs(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the trained run, in the folder in which `cli` works."""
    shutil.copytree(trained.runs, tmp_path / "runs")
    return tmp_path / "runs"
