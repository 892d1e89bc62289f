"""Pairs that bring their kernels and noise levels, and several degraded images of one sharp one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from datamodules.degradations.pipelines import AsStored
from datamodules.errors import InputError
from datamodules.paired_datamodule import PairedDataModule
from datamodules.sources import ALL_SPLITS
from datamodules.sources.paired_folder import PairedFolder
from tests.conftest import Outcome, photograph
from tests.helpers.results import read_records

Cli = Callable[..., Outcome]


def kernel(side: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random((side, side))
    return values / values.sum()


def blurred(image: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """The definition: circular convolution, the centre of the kernel at floor(k/2)."""
    result, centre = np.zeros(image.shape), len(psf) // 2
    for (y, x), weight in np.ndenumerate(psf):
        result += weight * np.roll(image.astype(float), (y - centre, x - centre), (0, 1))
    return result.round().astype(np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three truths, the first with three degraded versions, each with a kernel: .npy, .mat, .png and of the truth."""
    root = tmp_path / "pairs"
    kernels = {"a": kernel(5, 0), "a_1": kernel(3, 1), "a/2": kernel(4, 2), "b_x": kernel(5, 3), "c": kernel(3, 4)}
    for seed, name in enumerate("abc"):
        write(root / "sharp" / f"{name}.png", photograph(48, 64, seed))
    for name, psf in kernels.items():
        write(root / "degraded" / f"{name}.png", blurred(photograph(48, 64, "abc".index(name[0])), psf))
    (root / "kernels" / "a").mkdir(parents=True)
    np.save(root / "kernels" / "a.npy", kernels["a"])
    scipy.io.savemat(root / "kernels" / "a_1.mat", {"kernel": kernels["a_1"]})
    np.save(root / "kernels" / "a" / "2.npy", 7 * kernels["a/2"])
    np.save(root / "kernels" / "b.npy", kernels["b_x"])  # by the name of the sharp file
    Image.fromarray((kernels["c"] * 255 / kernels["c"].max()).round().astype(np.uint8)).save(root / "kernels" / "c.png")
    (root / "levels.csv").write_text("a,0\na_1,0.01\na/2, 0.02\n\nb,0.5\nc,1e-3\n")
    return root


def source(root: Path, **options: Any) -> PairedFolder:
    options = {"several": True, "holdout": False, "kernels": str(root / "kernels"), **options}
    return PairedFolder(str(root / "sharp"), str(root / "degraded"), **options)


def module(made: PairedFolder, root: Path, **options: Any) -> PairedDataModule:
    options = {"num_workers": 0, "patch": 32, "cache_dir": str(root / "cache"), **options}
    return PairedDataModule(made, AsStored(), seed=0, **options)


def test_every_image_has_its_kernel_and_noise_level(pairs: Path) -> None:
    (pairs / "degraded" / "a_1.png").write_bytes(b"no image")  # what is left out takes its kernel with it
    data = module(source(pairs, noise_level=str(pairs / "levels.csv")), pairs, on_corrupt="skip")
    data.setup("test")
    found = {}
    for batch in data.test_dataloader():
        done = data.on_after_batch_transfer(batch, 0)
        assert done.kernel is not None
        assert done.noise_level is not None
        assert done.kernel.shape == (1, 1, 5, 5)
        assert done.noise_level.shape == (1, 1, 1, 1)
        found[batch.name[0]] = (done.kernel[0, 0].numpy(), done.noise_level.item())
        # The kernel is that of the image, placed as the suite applies kernels.
        again = blurred((batch.hr[0].permute(1, 2, 0)).numpy(), found[batch.name[0]][0])
        assert np.abs(again.astype(int) - batch.lr[0].permute(1, 2, 0).numpy()).max() <= 2
    levels = {name: level for name, (_, level) in found.items()}
    assert levels == pytest.approx({"a": 0, "2": 0.02, "b_x": 0.5, "c": 1e-3})
    assert np.allclose(found["a"][0], kernel(5, 0), atol=1e-6)
    assert np.allclose(found["2"][0][:4, :4], kernel(4, 2), atol=1e-6)  # centre at 2 of 4 as of 5


def test_one_file_for_all_and_one_level(pairs: Path) -> None:
    data = module(source(pairs, kernels=str(pairs / "kernels" / "a_1.mat"), noise_level=0.03), pairs)
    data.setup("test")
    for batch in data.test_dataloader():
        assert torch.allclose(batch.kernel[0, 0].double(), torch.from_numpy(kernel(3, 1)))
        assert batch.noise_level.item() == pytest.approx(0.03)


def test_kernels_may_lie_beside_the_images(pairs: Path) -> None:
    for name in "abc":
        np.save(pairs / "sharp" / f"{name}.npy", kernel(3, 9))
    assert torch.allclose(
        source(pairs, kernels=str(pairs / "sharp")).kernels("test"),  # type: ignore[arg-type]  # not None
        torch.from_numpy(kernel(3, 9)).float(),
    )


def test_versions_of_one_truth_are_in_one_split(tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path / "sharp" / f"{i}.png", photograph(8, 8, i))
        for j in range(3):
            write(tmp_path / "degraded" / f"{i}" / f"{j}.png", photograph(8, 8, i))
    made = source(tmp_path, kernels=None, holdout=True)
    made.prepare()
    for split in ALL_SPLITS:
        sharp, degraded = made.files(split), made.degraded_files(split)
        assert len(degraded) == 3 * len(set(sharp)) > 0
        assert all(low.parent.name == high.stem for low, high in zip(degraded, sharp, strict=True))
    of_split = [{path.stem for path in made.files(split)} for split in ALL_SPLITS]
    assert sum(map(len, of_split)) == len(set.union(*of_split)) == 30


def test_longer_names_take_their_own(tmp_path: Path) -> None:
    for side, names in (("sharp", ("a", "a_1")), ("degraded", ("a", "a_1", "a_1_x", "a_2"))):
        for name in names:
            write(tmp_path / side / f"{name}.png", photograph(8, 8, 0))
    made = source(tmp_path, kernels=None)
    found = zip(made.files("test"), made.degraded_files("test"), strict=True)
    assert {(high.stem, low.stem) for high, low in found} == {
        *(("a", "a"), ("a", "a_2"), ("a_1", "a_1"), ("a_1", "a_1_x")),
    }
    with pytest.raises(InputError, match=r"of 2 of 4 files \(a_1_x, a_2\).*or data\.source\.several=true for several"):
        source(tmp_path, kernels=None, several=False).prepare()


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ("kernels/b.npy", {}, r"kernels=.*: lacks the kernels of 1 of 5 pairs, expected b_x or b with \.mat, \.npy"),
        ("kernels", {}, r"data\.source\.kernels=.*kernels: not found, expected a folder of kernels, or one file"),
        (None, {"kernels": "stack.npy"}, r"stack\.npy: holds 2 kernels, expected one: save each"),
        (None, {"noise_level": "gone.csv"}, r"data\.source\.noise_level=.*: cannot be read \(No such file"),
        (None, {"noise_level": "bad.csv"}, r"bad\.csv, line 2: found 'b;0\.1', expected NAME,LEVEL"),
        (
            None,
            {"noise_level": "few.csv"},
            r"few\.csv: lacks the levels of 4 of 5 pairs, expected a line a,LEVEL",
        ),
        (None, {"noise_level": -1}, r"data\.source\.noise_level: found -1, expected a standard deviation"),
    ],
)
def test_what_does_not_fit_is_one_line(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str | None, options: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "stack.npy", np.stack([kernel(3, 0)] * 2))
    (tmp_path / "bad.csv").write_text("a,0.1\nb;0.1\n")
    (tmp_path / "few.csv").write_text("b_x,0.1\n")
    if change:
        (pairs / change).rename(pairs / "elsewhere")
    with pytest.raises((InputError, ValueError), match=said) as error:
        module(source(pairs, **options), pairs).setup("test")
    assert "\n" not in str(error.value)


def test_two_kernels_of_one_name(pairs: Path) -> None:
    np.save(pairs / "kernels" / "a_1.npy", kernel(3, 1))
    with pytest.raises(InputError, match=r"a_1\.mat and .*a_1\.npy: expected one kernel for .*a_1\.png: remove one"):
        source(pairs).kernels("test")


def test_crops_are_not_turned_away_from_their_kernels(pairs: Path) -> None:
    with pytest.raises(InputError, match=r"set data\.flip=false data\.rotate=false data\.transforms=\[\]"):
        module(source(pairs), pairs).setup("fit")
    data = module(source(pairs), pairs, flip=False, rotate=False, batch_size=2, samples_per_epoch=10)
    data.setup("fit")
    for batch in data.train_dataloader():
        assert batch.kernel.shape == (2, 1, 5, 5)


def test_non_blind_networks_are_measured_on_pairs(cli: Cli, pairs: Path, tmp_path: Path) -> None:
    data = ["data=paired_folder", f"data.root={pairs}", "data.source.several=true", "data.source.holdout=false"]
    common = ["task=evaluate", *data, "data.num_workers=0", "pictures=none", "trainer.accelerator=cpu"]
    refused = cli(*common, "model=wiener")
    assert refused.status != 0
    assert "takes 'kernel', which degradation=none does not provide" in refused.err
    both = "or set data.source.kernels of data=paired_folder, data.source.kernels=stored of data=div2krk"
    assert both in refused.err
    known = [f"data.source.kernels={pairs}/kernels", "data.source.noise_level=0.005"]
    assert cli(*common, "model=wiener", *known, "name=known").status == 0
    record, bicubic = (
        next(r for r in read_records(tmp_path / "runs" / "known" / "results.json") if r["model"] == model)
        for model in ("wiener", "bicubic")
    )
    gains = {name: image["psnr"] - bicubic["images"][name]["psnr"] for name, image in record["images"].items()}
    assert len(gains) == 5
    assert min(gains.values()) > 3, gains
