"""DIV2KRK on a tree of tiny images, whose kernels explain them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from scipy.ndimage import correlate

from datamodules.degradations.pipelines import AsStored
from datamodules.errors import InputError
from datamodules.paired_datamodule import PairedDataModule
from datamodules.sources import div2krk
from datamodules.sources.div2krk import Div2krk
from tests.conftest import Outcome, photograph
from tests.helpers.results import read_records

COUNT = 11  # 10 and 11 come before 2 by name


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def kernel(number: int, side: int) -> np.ndarray:
    values = np.random.default_rng(number).random((side, side)) ** 4
    return values / values.sum()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the authors made them: correlated, repeated edges, every s-th pixel."""
    monkeypatch.setattr(div2krk, "COUNT", COUNT)
    root = tmp_path / "DIV2KRK"
    for number in range(1, COUNT + 1):
        sharp = photograph(64, 80, number)
        write(root / "gt" / f"img_{number}_gt.png", sharp)
        for scale, side in ((2, 3), (4, 7)):
            psf = kernel(number, side)
            blurred = np.stack([correlate(sharp[..., c].astype(float), psf, mode="reflect") for c in range(3)], 2)
            write(root / f"lr_x{scale}" / f"im_{number}.png", blurred[::scale, ::scale].round().astype(np.uint8))
            (root / f"gt_k_x{scale}").mkdir(exist_ok=True)
            scipy.io.savemat(root / f"gt_k_x{scale}" / f"kernel_{number}.mat", {"Kernel": psf})
    return root


def test_published_count() -> None:
    assert div2krk.COUNT == 100


@pytest.mark.parametrize("scale", [2, 4])
def test_pairs_by_number_and_kernels_for_true_convolution(tree: Path, tmp_path: Path, scale: int) -> None:
    source = Div2krk(str(tree.parent), scale, "stored")  # type: ignore[arg-type]  # a number of the parametrisation
    source.prepare()
    assert [path.stem for path in source.files("test")] == [f"img_{n}_gt" for n in range(1, COUNT + 1)]
    assert [path.stem for path in source.degraded_files("test")] == [f"im_{n}" for n in range(1, COUNT + 1)]
    data = PairedDataModule(source, AsStored(scale), seed=0, cache_dir=str(tmp_path / "c"), num_workers=0)
    data.setup("test")
    for number, batch in enumerate(data.test_dataloader(), 1):
        batch = data.on_after_batch_transfer(batch, 0)
        assert batch.kernel is not None
        assert batch.lr is not None
        side = {2: 3, 4: 7}[scale]
        turned = torch.from_numpy(kernel(number, side)[::-1, ::-1].copy()).float()
        assert torch.allclose(batch.kernel[0, 0], turned)
        assert batch.noise_level is not None
        assert batch.noise_level.item() == 0
        # By the definition of true convolution: a pixel of the reduced image is around s times its place.
        y, x, half = 8 * scale, 12 * scale, side // 2
        window = batch.hr[0, :, y - half : y + half + 1, x - half : x + half + 1]
        expected = (window * batch.kernel[0, 0].flip(0, 1)).sum((1, 2))
        assert (batch.lr[0, :, y // scale, x // scale] - expected).abs().max() <= 0.51 / 255
    assert Div2krk(str(tree), 2).kernels("test") is None


def test_absent_and_incomplete_copies(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: holds no DIV2KRK data set: get http://www\.wisdom.*data\.root"):
        Div2krk(str(tmp_path / "none")).prepare()
    with pytest.raises(ValueError, match="scale is 3, expected 2 or 4"):
        Div2krk(str(tree), 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a test set: it has no images to train on"):
        Div2krk(str(tree)).files("train")
    (tree / "gt_k_x2" / "kernel_3.mat").unlink()
    Div2krk(str(tree), 2).prepare()
    with pytest.raises(InputError, match=r"gt_k_x2: lacks the kernels of 1 of 11 pairs, expected kernel_3 with \.mat"):
        Div2krk(str(tree), 2, "stored").prepare()
    write(tree / "gt" / "img_12_gt.png", photograph(8, 8, 0))
    with pytest.raises(InputError, match="gt: holds more than 11 images, expected img_1_gt to img_11_gt"):
        Div2krk(str(tree)).prepare()
    (tree / "lr_x4" / "im_7.png").unlink()
    (tree / "gt" / "img_12_gt.png").unlink()
    with pytest.raises(InputError, match="lr_x4: lacks im_7, expected im_1 to im_11 and nothing else"):
        Div2krk(str(tree)).prepare()


def test_suite(cli: Callable[..., Outcome], tree: Path, tiny: list[str], tmp_path: Path) -> None:
    common = ["task=evaluate", "pictures=none", "data.num_workers=0", "trainer.accelerator=cpu", "suite=div2krk"]
    outcome = cli(*common, "model=bicubic", f"data_dir={tree.parent}", "name=b")
    assert outcome.status == 0, outcome.err
    records = read_records(tmp_path / "runs" / "b" / "results.json")
    cells = [(r["dataset"], r["cell"], r["scale"], r["protocol"]["name"], len(r["images"])) for r in records]
    assert cells == [
        ("div2krk", {"data.source.scale": scale}, scale, protocol, COUNT)
        for scale in (2, 4)
        for protocol in ("y_shave_s", "rgb_shave_s")
    ]
    # A network of one scale is measured on the images of that scale.
    assert cli(*tiny).status == 0
    network = [*common, "run=runs/tiny", f"data_dir={tree.parent}"]
    outcome = cli(*network)
    assert "ed_dsrn cannot be measured: EDDSRN enlarges x4" in outcome.err
    assert "; data.source.scale=4 to measure some of the cells" in outcome.err
    outcome = cli(*network, "data.source.scale=4")
    assert outcome.status == 0, outcome.err
    records = read_records(tmp_path / "runs" / "tiny" / "results.json")
    assert [r["cell"]["data.source.scale"] for r in records if r["suite"] == "div2krk"] == [4] * 4
    # One that is told the kernel needs those of the files.
    told = [*common, "model=wiener", f"data_dir={tree.parent}", "name=w", "data.source.scale=2"]
    refused = cli(*told)
    assert refused.status != 0
    assert "takes 'kernel', which degradation=none does not provide" in refused.err
    outcome = cli(*told, "data.source.kernels=stored")
    assert outcome.status == 0, outcome.err
    records = [r for r in read_records(tmp_path / "runs" / "w" / "results.json") if r["protocol"]["colour"] == "rgb"]
    bicubic, wiener = records
    assert wiener["psnr"] > bicubic["psnr"] + 2  # with kernels that are not turned it loses
