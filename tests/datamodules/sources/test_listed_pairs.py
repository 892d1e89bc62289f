"""RealBlur and RSBlur on trees of tiny images with lists of the official form."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.degradations.pipelines import AsStored, ReducedPairs
from datamodules.errors import InputError
from datamodules.paired_datamodule import PairedDataModule
from datamodules.sources import listed_pairs
from datamodules.sources.listed_pairs import ListedPairs, RealBlur, RSBlur

J = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), value, np.uint8)).save(path)


@pytest.fixture
def realblur(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve training scenes and two for test, two pairs each; sharp is 10, blurred 20."""
    root = tmp_path / "RealBlur"
    scenes = {"train": range(1, 13), "test": (243, 244)}
    monkeypatch.setattr(listed_pairs, "REALBLUR_COUNTS", {"train": 24, "test": 4})
    for split, numbers in scenes.items():
        lines = []
        for number in numbers:
            for k in (1, 2):
                pair = [f"{J}/scene{number:03d}/{kind}/{kind}_{k}.png" for kind in ("gt", "blur")]
                write(root / pair[0], 10)
                write(root / pair[1], 20)
                lines.append(f"{pair[0]} {pair[1]} \n")  # with the blank that the official lists have
        (root / f"RealBlur_J_{split}_list.txt").write_text("".join(lines))
    return root


@pytest.fixture
def rsblur(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pairs for training, one for validation, two for test."""
    root = tmp_path / "RSBlur"
    monkeypatch.setattr(listed_pairs, "RSBLUR_COUNTS", {"train": 3, "val": 1, "test": 2})
    (root / "datalist" / "RSBlur").mkdir(parents=True)
    number = 0
    for split, count in listed_pairs.RSBLUR_COUNTS.items():
        lines = []
        for _ in range(count):
            folder = f"RSBlur/0001/{(number := number + 1):06d}"
            for name, value in (("gt/gt_sharp", 10), ("real_blur/real_blur", 20), ("avg65_img/avg_blur", 30)):
                write(tmp_path / folder / f"{name}.png", value)
            lines.append(f"{folder}/gt/gt_sharp.png {folder}/real_blur/real_blur.png\n")
        (root / "datalist" / "RSBlur" / f"RSBlur_real_{split}.txt").write_text("".join(lines))
    return root


def test_published_counts() -> None:
    assert listed_pairs.REALBLUR_COUNTS == {"train": 3758, "test": 980}
    assert listed_pairs.RSBLUR_COUNTS == {"train": 8878, "val": 1120, "test": 3360}
    assert listed_pairs.HELD_OUT == 9


def values(source: ListedPairs, tmp_path: Path) -> set[tuple[int, int]]:
    """Of the sharp and the degraded test images as they reach a network."""
    data = PairedDataModule(source, AsStored(), seed=0, cache_dir=str(tmp_path / "c"), num_workers=0)
    data.prepare_data()
    data.setup("test")
    assert len(data.image_names("test")) == len(set(data.image_names("test"))) == len(source.files("test"))
    return {(int(batch.hr.max()), int(batch.lr.min())) for batch in data.test_dataloader()}


def test_realblur_holds_out_whole_scenes(realblur: Path, tmp_path: Path) -> None:
    source = RealBlur(str(realblur), "J")
    assert source.name == "realblur_j"
    scenes = {split: [path.parents[1].name for path in source.files(split)] for split in ("train", "val", "test")}
    assert scenes == {
        "train": [f"scene{n:03d}" for n in (1, 2, 3) for _ in "12"],
        "val": [f"scene{n:03d}" for n in range(4, 13) for _ in "12"],
        "test": ["scene243", "scene243", "scene244", "scene244"],
    }
    for sharp, blurred in zip(source.files("test"), source.degraded_files("test"), strict=True):
        assert (sharp.parents[1], sharp.stem[-1]) == (blurred.parents[1], blurred.stem[-1])
    assert values(source, tmp_path) == {(10, 20)}
    # In some copies the last scene has another name.
    (realblur / J / "scene244").rename(realblur / J / "scene244_reflect")
    assert source.files("test")[-1] == realblur / J / "scene244_reflect" / "gt" / "gt_2.png"
    source.prepare()
    reduced = PairedDataModule(source, ReducedPairs(4), seed=0, cache_dir=str(tmp_path / "c"), num_workers=0)
    reduced.setup("test")  # for the joint task


@pytest.mark.parametrize(("variant", "value"), [("real", 20), ("avg65", 30)])
@pytest.mark.parametrize("inside", [False, True])
def test_rsblur(rsblur: Path, tmp_path: Path, variant: str, value: int, inside: bool) -> None:
    for split in ("train", "val", "test"):
        name = f"RSBlur_real_{split}.txt"
        file = rsblur / "datalist" / "RSBlur" / name
        if inside:  # lists in the folder itself, paths relative to it
            (rsblur / name).write_text(file.read_text().replace("RSBlur/", ""))
            file.unlink()
    source = RSBlur(str(rsblur), variant)  # type: ignore[arg-type]  # a string of the parametrisation
    assert source.name == f"rsblur_{variant}"
    numbers = {split: [path.parents[1].name for path in source.files(split)] for split in ("train", "val", "test")}
    assert numbers == {"train": ["000001", "000002", "000003"], "val": ["000004"], "test": ["000005", "000006"]}
    assert values(source, tmp_path) == {(10, value)}


@pytest.mark.parametrize("variant", ["real", "avg65"])
def test_rsblur_in_a_folder_of_another_name(rsblur: Path, variant: str) -> None:
    root = rsblur.rename(rsblur.with_name("photographs"))  # the lists call it RSBlur all the same
    source = RSBlur(str(root), variant)  # type: ignore[arg-type]  # a string of the parametrisation
    source.prepare()
    assert source.files("val") == [root / "0001" / "000004" / "gt" / "gt_sharp.png"]


def test_lists_of_averages_name_folders(rsblur: Path) -> None:
    write(rsblur / "gt.png", 10)
    (rsblur / "RSBlur_real_train.txt").write_text("gt.png blur.png\n")
    line = refused(RSBlur(str(rsblur), "avg65", partial=True))
    assert line.startswith("blur.png: in the list of data.source.variant=avg65, expected a path such as 0001/000001/")


def refused(source: ListedPairs) -> str:
    with pytest.raises(InputError) as error:
        source.prepare()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_absent_copies_say_where_to_get_them(tmp_path: Path, realblur: Path, rsblur: Path) -> None:
    assert "get RealBlur from https://cgdata.postech.ac.kr/sharing/YhKdbtvD0" in refused(
        RealBlur(f"{tmp_path}/no", "R")
    )
    assert "RealBlur_R_train_list.txt: not found, expected lines SHARP DEG" in refused(RealBlur(str(realblur), "R"))
    (rsblur / "datalist" / "RSBlur" / "RSBlur_real_val.txt").unlink()
    line = refused(RSBlur(str(rsblur), "real"))
    assert line.startswith(f"{rsblur / 'RSBlur_real_val.txt'}: not found")
    assert "datalist/RSBlur of https://github.com/rimchang/RSBlur" in line


def test_incomplete_copies(realblur: Path) -> None:
    scene = realblur / J / "scene002"
    (scene / "blur" / "blur_1.png").unlink()
    line = refused(RealBlur(str(realblur), "J"))
    assert line.startswith(
        f"{scene}/blur/blur_1.png: not found, like 1 of 48 files that {realblur}/RealBlur_J_train_list"
    )
    assert "or set data.source.partial=true" in line
    assert "blur_1.png: not found, like 1 of 48 files" in refused(RealBlur(str(realblur), "J", partial=True))
    (scene / "gt" / "gt_1.png").unlink()
    partial = RealBlur(str(realblur), "J", partial=True)
    partial.prepare()
    assert len(partial.files("train")) == len(partial.degraded_files("train")) == 5
    for number in range(2, 5):
        for file in (realblur / J / f"scene{number:03d}").rglob("*.png"):
            file.unlink()
    with pytest.raises(InputError, match=r"9 training scene\(s\), expected at least 10 to hold out 9"):
        partial.files("val")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a/gt.png\n", "line 1: found 'a/gt.png', expected SHARP DEGRADED"),
        ("a/gt.png a/blur.png\n\n/etc/a.png b.png\n", "line 3: found '/etc/a.png b.png', expected SHARP DEGRADED"),
        ("a/gt.png ../blur.png\n", "line 1: found 'a/gt.png ../blur.png'"),
        (" \n", "is empty, expected lines SHARP DEGRADED"),
        ("a.png b.png\nc.png d.png\na.png b.png\n", "lists a.png b.png twice"),
        ("a.png b.png\n", "1 pairs, expected 3: get the official list from datalist/RSBlur"),
        (b"\xff\xfe", "cannot be read ("),
    ],
)
def test_damaged_lists(rsblur: Path, content: str | bytes, said: str) -> None:
    file = rsblur / "RSBlur_real_train.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(RSBlur(str(rsblur), "real"))
    assert line.startswith(str(file))
    assert said in line


def test_lists_that_share_a_pair(rsblur: Path) -> None:
    lists = rsblur / "datalist" / "RSBlur"
    first = (lists / "RSBlur_real_train.txt").read_text().splitlines()[0]
    (lists / "RSBlur_real_val.txt").write_text(first)
    assert "real_blur.png: is in the lists of train and of val" in refused(RSBlur(str(rsblur), "real"))
    (lists / "RSBlur_real_val.txt").write_text("x.png y.png\n")
    assert f"none of its 1 pairs is below {rsblur} (such as {rsblur}/x.png)" in refused(
        RSBlur(str(rsblur), "real", partial=True)
    )
