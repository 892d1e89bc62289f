"""task=preview: a sheet of what training would see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batch import Batch
from datamodules.degradations.kernels import isotropic_gaussian
from datamodules.sources.folder import Folder
from experiments.preview.sheet import BAR, histogram, preview_sheet
from experiments.preview.statistics import Statistics, kernel_offset, kernel_spread, kernel_support
from lightning_modules.plots.sheet import ACCENT
from tests.conftest import Outcome, photograph

Cli = Callable[..., Outcome]
PREVIEW = ["task=preview", "logger=none", "name=seen", "samples=12", "images=3"]


def open_sheet(outcome: Outcome, folder: Path) -> np.ndarray:
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith("preview: runs/seen/preview.png\n")
    assert [file.name for file in (folder / "runs" / "seen").iterdir()] == ["preview.png"]
    with Image.open(folder / "runs" / "seen" / "preview.png") as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == colour).all(-1).any())


@pytest.mark.slow
@pytest.mark.parametrize("degradation", ["ed_dsrn", "usrnet_train", "bicubic", "second_order"])
def test_sheet_of_sharp_images(cli: Cli, tiny: list[str], tmp_path: Path, degradation: str) -> None:
    data = [item for item in tiny if item.startswith("data")]
    pixels = open_sheet(cli(*PREVIEW, *data, f"degradation={degradation}", "data.patch=48"), tmp_path)
    height, width = pixels.shape[:2]
    assert width > 3 * 288  # crops are shown six times as large
    assert 600 < height < 2000
    assert has(pixels, ACCENT) == (degradation != "second_order")  # the marks on kernels
    assert has(pixels, BAR) == (degradation in ("ed_dsrn", "usrnet_train"))


@pytest.mark.parametrize(("degradation", "shrink"), [("gopro", 1), ("none", 4)])
def test_sheet_of_pairs(cli: Cli, tmp_path: Path, degradation: str, shrink: int) -> None:
    for folder, step in (("sharp", 1), ("degraded", shrink)):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(photograph(48, 40, i)[::step, ::step]).save(tmp_path / "pairs" / folder / f"{i}.png")
    pairs = ["data=paired_folder", "data.root=pairs", f"data.source.scale={shrink}", "data.patch=32"]
    pixels = open_sheet(cli(*PREVIEW, *pairs, f"degradation={degradation}"), tmp_path)
    assert not has(pixels, ACCENT)


@pytest.mark.slow
def test_sheet_of_a_test_set(cli: Cli, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "splits", ("test",), raising=False)
    data = [item for item in tiny if item.startswith("data")]
    assert open_sheet(cli(*PREVIEW, *data), tmp_path).shape[0] > 600
    outcome = cli(*PREVIEW, *data, "data.patch=96")  # taller than the images
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "photographs: no test image is as large as data.patch=96: make it less"


@pytest.mark.slow
def test_sheet_goes_to_wandb(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    data = [item for item in tiny if item.startswith("data")]
    outcome = cli(*PREVIEW, *data, "logger=wandb")
    assert outcome.status == 0, outcome.err
    (copy,) = (tmp_path / "runs" / "seen" / "wandb").glob("offline-run-*/files/media/images/*.png")
    assert copy.read_bytes()[:4] == b"\x89PNG"
    (folder,) = (tmp_path / "runs" / "seen" / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder}" in outcome.err


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["degradation=blurry"], "degradation=blurry: no such option"),
        (["degradation.sigma=[2,1]"], "degradation: sigma is [2, 1], expected"),
        (["degradation=second_order", "degradation.kernel_size=20"], "degradation: smallest_kernel is 7"),
        (["degradation=gopro"], "degradation: gopro starts from degraded images"),
        (["data.patch=30"], "data.patch: found 30, expected a multiple of 4 (4 for degradation=ed_dsrn)"),
        (["data.patch=128"], "image is 96x80"),
        (["images=0"], "images: found 0 (conf/task/preview.yaml)"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, tiny: list[str], tmp_path: Path, overrides: list[str], message: str) -> None:
    outcome = cli(*PREVIEW, *(item for item in tiny if item.startswith("data")), *overrides)
    assert outcome.status in (1, 2)
    line = outcome.err.splitlines()[-1]
    assert message in line
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs").exists()


def test_width_of_kernels() -> None:
    sigma = torch.tensor([1.0, 2.0])
    kernels = isotropic_gaussian(sigma, 31)
    assert kernel_spread(kernels) == pytest.approx([1.0, 2.0], abs=1e-4)
    # 1 % of the maximum is reached at sqrt(2 ln 100) = 3.03 sigma.
    assert kernel_support(kernels) == [7.0, 13.0]
    line = torch.zeros(1, 1, 9, 9)
    line[0, 0, 4, 2:7] = 0.2
    assert kernel_spread(line) == pytest.approx([1.0])  # variances 2 and 0
    assert kernel_support(line) == [5.0]
    assert kernel_spread(torch.eye(3)[1:2, None, None] * torch.eye(3)[1][:, None]) == [0.0]


def test_offset_of_kernels() -> None:
    kernels = torch.zeros(3, 1, 5, 8)  # the centre is row 2, column 4
    kernels[0, 0, 2, 4] = 1
    kernels[1, 0, 2 + 2, 4 - 1] = 0.5
    kernels[1, 0, 2, 4 - 1] = 0.5
    kernels[2, 0, 2 - 1, 4] = 1.5
    kernels[2, 0, 2 + 2, 4] = -0.5
    assert kernel_offset(kernels) == pytest.approx([0, 2**0.5, 2.5], abs=1e-4)


def test_bins() -> None:
    counts, low, high = histogram([1.0, 3.0, 3.0, 4.0])
    assert (counts.tolist(), low, high) == ([1, 0, 2, 1], 1.0, 4.0)
    counts, low, high = histogram([0.25, 0.5, 8.25])
    assert (len(counts), counts.sum(), low, high) == (32, 3, 0.375, 8.125)


def test_pipeline_without_an_input_has_no_sheet() -> None:
    batch = Batch(torch.zeros(1, 3, 8, 8), ["x"], torch.zeros(1).long(), torch.zeros(1).long())
    for crops in ([], [batch]):
        with pytest.raises(ValueError, match="yields no 'lr'"):
            preview_sheet("title", "text", crops, Statistics())
