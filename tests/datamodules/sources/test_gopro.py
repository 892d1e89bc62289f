"""The GOPRO and Lai data sets on trees of tiny images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.degradations.pipelines import AsStored
from datamodules.errors import InputError
from datamodules.paired_datamodule import PairedDataModule
from datamodules.sources import gopro, lai
from datamodules.sources.gopro import Gopro
from datamodules.sources.lai import Lai
from tests.conftest import Outcome


def write(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12, 3), value, np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five and two sequences of two pairs; the value of a pixel tells sharp, blur and blur_gamma apart."""
    monkeypatch.setattr(gopro, "COUNTS", {"train": (5, 10), "test": (2, 4)})
    root = tmp_path / "GOPRO_Large"
    for split, count in (("train", 5), ("test", 2)):
        for sequence in range(count):
            for frame in (47, 48):
                for value, kind in enumerate(("sharp", "blur", "blur_gamma")):
                    write(root / split / f"GOPR{sequence}_{split}" / kind / f"{frame:06d}.png", value)
    return root


def test_published_counts() -> None:
    assert gopro.COUNTS == {"train": (22, 2103), "test": (11, 1111)}


@pytest.mark.parametrize(("variant", "value"), [("blur", 1), ("blur_gamma", 2)])
def test_splits_hold_out_whole_sequences(tree: Path, tmp_path: Path, variant: str, value: int) -> None:
    source = Gopro(str(tree), variant)  # type: ignore[arg-type]  # a string of the parametrisation
    source.prepare()
    sequences = {s: {p.parent.parent.name for p in source.files(s)} for s in ("train", "val", "test")}
    assert sequences == {
        "train": {"GOPR0_train", "GOPR1_train", "GOPR2_train"},
        "val": {"GOPR3_train", "GOPR4_train"},
        "test": {"GOPR0_test", "GOPR1_test"},
    }
    for split in ("train", "val", "test"):
        for sharp, blurred in zip(source.files(split), source.degraded_files(split), strict=True):
            assert (sharp.parent.name, blurred.parent.name) == ("sharp", variant)
            assert (sharp.name, sharp.parents[1]) == (blurred.name, blurred.parents[1])
    data = PairedDataModule(source, AsStored(), seed=0, patch=8, cache_dir=str(tmp_path / "c"), num_workers=0)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert len({b.name[0] for b in batches}) == 4
    assert all(int(b.hr.max()) == 0 and int(b.lr.min()) == value for b in batches)
    assert source.name == f"gopro_{variant}"


def test_folder_above_is_accepted(tree: Path) -> None:
    assert Gopro(str(tree.parent), "blur").files("test") == Gopro(str(tree), "blur").files("test")


def test_absent_copy_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        Gopro(str(tmp_path / "none"), "blur").prepare()
    for part in ("seungjunnah.github.io", "train/SEQUENCE/{blur,blur_gamma,sharp}/NNNNNN.png", "data.root"):
        assert part in str(error.value)


def test_incomplete_copy(tree: Path) -> None:
    for kind in ("sharp", "blur"):
        (tree / "train" / "GOPR1_train" / kind / "000047.png").unlink()
    with pytest.raises(InputError, match=r"train: 5 sequences with 9 pairs, expected 5 with 10: .*partial=true"):
        Gopro(str(tree), "blur").prepare()
    assert len(Gopro(str(tree), "blur", partial=True).files("train")) == 5
    with pytest.raises(InputError, match=r"blur_gamma lacks partners|sharp lacks partners of 1 of 2 files \(000047\)"):
        Gopro(str(tree), "blur_gamma", partial=True).prepare()


def test_variant_is_required(cli: Callable[..., Outcome]) -> None:
    outcome = cli("data=gopro", "degradation=none")
    assert outcome.status == 2
    assert outcome.err == (
        "data.variant: a value is required (conf/data/gopro.yaml): set data.variant=blur or data.variant=blur_gamma\n"
    )
    outcome = cli("data=gopro", "degradation=none", "data.variant=gamma")
    assert outcome.status == 2
    assert "expected 'blur' or 'blur_gamma'" in outcome.err


@pytest.fixture
def lai_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lai, "COUNT", 4)
    monkeypatch.setattr(lai, "SHARP_COUNT", 2)
    for i, name in enumerate(("manmade_01", "people_05")):
        write(tmp_path / "ground_truth" / f"{name}.png", i)
        for kind, blur in (("uniform", "kernel"), ("nonuniform", "gyro")):
            for number in (1, 2):
                write(tmp_path / kind / f"{name}_{blur}_{number:02d}.png", 10 + i)
    return tmp_path


@pytest.mark.parametrize(("variant", "blur"), [("uniform", "kernel"), ("nonuniform", "gyro")])
def test_lai_pairs_many_blurred_with_one_sharp(lai_tree: Path, variant: str, blur: str) -> None:
    source = Lai(str(lai_tree), variant)  # type: ignore[arg-type]  # a string of the parametrisation
    source.prepare()
    data = PairedDataModule(source, AsStored(), seed=0, patch=8, cache_dir=str(lai_tree / "c"), num_workers=0)
    data.setup("test")
    found = {b.name[0]: (int(b.hr.max()), int(b.lr.max())) for b in data.test_dataloader()}
    names = [f"{name}_{blur}_{number:02d}" for name in ("manmade_01", "people_05") for number in (1, 2)]
    assert found == dict(zip(names, [(0, 10), (0, 10), (1, 11), (1, 11)], strict=True))


def test_lai_refuses_training_and_incomplete_copies(lai_tree: Path) -> None:
    with pytest.raises(InputError, match="lai_uniform is a test set: it has no images to train on: choose data=gopro"):
        Lai(str(lai_tree), "uniform").files("train")
    (lai_tree / "uniform" / "people_05_kernel_02.png").rename(lai_tree / "uniform" / "people_06_kernel_02.png")
    with pytest.raises(InputError, match=r"people_06_kernel_02\.png: has no sharp version"):
        Lai(str(lai_tree), "uniform").prepare()
    (lai_tree / "nonuniform" / "people_05_gyro_02.png").unlink()
    with pytest.raises(InputError, match="nonuniform: 3 images, expected 4: complete the copy from"):
        Lai(str(lai_tree), "nonuniform").prepare()
    with pytest.raises(InputError, match="uniform not found: get the synthetic data set"):
        Lai(str(lai_tree / "c"), "uniform").prepare()


def test_all_sequences_train_and_the_test_set_is_watched(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, cli: Callable[..., Outcome]
) -> None:
    source = Gopro(str(tree), "blur", train_on_all=True)
    assert {path.parts[-3] for path in source.files("train")} == {f"GOPR{i}_train" for i in range(5)}
    assert [path.parts[-3:] for path in source.files("val")] == [
        (f"GOPR{i}_test", "sharp", "000047.png") for i in range(2)
    ]
    assert source.files("test") == Gopro(str(tree), "blur").files("test")
    data = PairedDataModule(source, AsStored(), seed=0, patch=8, cache_dir=str(tmp_path / "c"), num_workers=0)
    data.decode("test")
    assert data.kept("val") == [0, 1]
    assert "copies" not in caplog.text  # one file in two splits is meant
    command = ["model=srn", "data=gopro", f"data.root={tree}", "data.variant=blur", "data.source.train_on_all=true"]
    refused = cli(*command, "logger=none", "checkpoint.use=best")
    assert refused.status == 2
    assert "data.source.train_on_all: validation of data=gopro is then on test images" in refused.err
    assert "set checkpoint.use=last (found checkpoint.use=best)" in refused.err
