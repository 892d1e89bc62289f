import os
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.io.decode import decode_rgb8, list_images
from datamodules.sources import Source, Split, folder, sample
from datamodules.sources.folder import Folder
from datamodules.sources.sample import SPLITS, Sample

ALL: tuple[Split, ...] = ("train", "val", "test")


def touch(parent: Path, names: list[str]) -> Path:
    """Empty files will do: sources do not decode."""
    for name in names:
        (parent / name).parent.mkdir(parents=True, exist_ok=True)
        (parent / name).touch()
    return parent


def split_names(source: Folder) -> dict[Split, list[str]]:
    return {split: [path.relative_to(source.root).as_posix() for path in source.files(split)] for split in ALL}


def test_listing_order_depth_suffixes_and_hidden(tmp_path: Path) -> None:
    shown = ["B.JPG", "a-b/1.png", "a/1.tif", "a/b/c.webp", "b.jpeg", "c.TIFF", "d.bmp"]
    hidden = [".x.png", "a/.y.png", ".git/z.png", "notes.txt", "e.gif", "png"]
    for name in shown + hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == shown


def test_listing_follows_links_but_no_loop(tmp_path: Path) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.png").touch()
    (tmp_path / "root/sub/a.png").touch()
    os.symlink(tmp_path / "root", tmp_path / "root/sub/up")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/there")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/there_again")
    listed = [path.relative_to(tmp_path / "root").as_posix() for path in list_images(tmp_path / "root")]
    assert listed == ["sub/a.png", "there/b.png"]


def test_listing_refuses_what_is_no_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"gone: does not exist, expected a folder of images \(png, jpg.*: give"):
        list_images(tmp_path / "gone")
    with pytest.raises(InputError, match=r"notes\.txt: is a file"):
        list_images(tmp_path / "full/notes.txt")
    with pytest.raises(InputError, match=r"full: holds no image but 1 other file\(s\) such as notes\.txt"):
        list_images(tmp_path / "full")
    with pytest.raises(InputError, match="empty: holds no image, and no other file either, expected png"):
        list_images(tmp_path / "empty")


@pytest.mark.parametrize("count", [3, 4, 7, 40, 400])
def test_hold_out_is_a_partition(tmp_path: Path, count: int) -> None:
    names = [f"a{i % 3}/{i:03d}.png" for i in range(count)]
    source: Source = Folder(str(touch(tmp_path / "photos", names)))
    assert source.name == "photos"
    source.prepare()
    assert isinstance(source, Folder)
    splits = split_names(source)
    assert all(part == sorted(part) and part for part in splits.values())
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == sorted(names)
    if count == 400:
        assert 10 <= len(splits["val"]) <= 30
        assert 10 <= len(splits["test"]) <= 30


@pytest.mark.parametrize("share", [1 / 20, 1.0])  # with 1.0 all images fall into test and into val
def test_small_sets_always_fill_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(folder, "HELD_OUT", share)
    for i in range(60):
        source = Folder(str(touch(tmp_path / str(i), [f"{i}-{j}.png" for j in range(3)])))
        assert [len(source.files(split)) for split in ALL] == [1, 1, 1]


def test_hold_out_is_the_same_on_every_machine(tmp_path: Path) -> None:
    # The output of `printf 03.png | sha256sum` starts with 0490, that of 06.png with 0ba7: below 0ccc, a twentieth.
    # None is from f333 on, where the last twentieth starts; 09.png, e129, is the nearest.
    splits = split_names(Folder(str(touch(tmp_path, [f"{i:02d}.png" for i in range(12)]))))
    assert splits["test"] == ["03.png", "06.png"]
    assert splits["val"] == ["09.png"]


def test_added_images_leave_the_others_in_their_split(tmp_path: Path) -> None:
    before = split_names(Folder(str(touch(tmp_path, [f"{i:03d}.png" for i in range(200)]))))
    after = split_names(Folder(str(touch(tmp_path, [f"new/{i}.png" for i in range(300)]))))
    for split in ALL:
        assert set(before[split]) < set(after[split])


def test_given_folders_are_the_splits(tmp_path: Path) -> None:
    for name in ("r", "v", "t"):
        touch(tmp_path / name, [f"{name}{i}.png" for i in range(5)])
    source = Folder(str(tmp_path / "r"), str(tmp_path / "v"), str(tmp_path / "t"))
    source.prepare()
    assert [source.files(split) for split in ALL] == [list_images(tmp_path / name) for name in ("r", "v", "t")]


@pytest.mark.parametrize("given", ["val", "test"])
def test_with_one_folder_given_the_other_split_is_held_out(tmp_path: Path, given: Split) -> None:
    root = touch(tmp_path / "r", ["a.png", "b.png"])
    other = touch(tmp_path / "v", ["c.png"])
    options: dict[str, Any] = {f"{given}_root": str(other)}
    source = Folder(str(root), **options)
    held_out: Split = "test" if given == "val" else "val"
    assert source.files(given) == [other / "c.png"]
    assert sorted(source.files("train") + source.files(held_out)) == [root / "a.png", root / "b.png"]
    assert len(source.files("train")) == 1


def test_no_file_is_in_two_splits_of_overlapping_folders(tmp_path: Path) -> None:
    root = touch(tmp_path / "r", [f"{i}.png" for i in range(9)])
    touch(root, ["v/a.png", "v/t/b.png"])
    os.symlink(root / "v/a.png", root / "link.png")
    source = Folder(str(root), str(root / "v"), str(tmp_path / "r/../r/v/t"))
    assert [path.name for path in source.files("test")] == ["b.png"]
    assert [path.name for path in source.files("val")] == ["a.png"]
    assert [path.name for path in source.files("train")] == [f"{i}.png" for i in range(9)]
    held_out = split_names(Folder(str(root), val_root=str(root / "v")))
    assert held_out["val"] == ["v/a.png", "v/t/b.png"]
    assert sorted(held_out["train"] + held_out["test"]) == [f"{i}.png" for i in range(9)]


def test_two_links_to_one_file_are_one_image(tmp_path: Path) -> None:
    touch(tmp_path, [f"{i}.png" for i in range(40)])
    for i in range(40):
        os.symlink(tmp_path / f"{i}.png", tmp_path / f"x{i}.png")
    splits = split_names(Folder(str(tmp_path)))
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == sorted(f"{i}.png" for i in range(40))


def test_split_emptied_by_overlap_is_an_error(tmp_path: Path) -> None:
    root = str(touch(tmp_path / "r", ["a.png", "b.png", "c.png"]))
    with pytest.raises(InputError, match=r"all 3 images for train are also in data\.source\.val_root"):
        Folder(root, val_root=root).files("train")
    with pytest.raises(InputError, match=r"all 3 images for val are also in data\.source\.test_root.*separate"):
        Folder(root, val_root=root, test_root=root).files("val")


def test_too_few_images_to_hold_out(tmp_path: Path) -> None:
    root = touch(tmp_path / "r", ["a.png", "b.png"])
    for split in ALL:
        with pytest.raises(
            InputError, match=r"r: 2 image.*at least 3.*data\.source\.val_root and data\.source\.test_root"
        ):
            Folder(str(root)).files(split)
    (root / "b.png").unlink()
    with pytest.raises(InputError, match=r"1 image.*at least 2 .*set data\.source\.test_root"):
        Folder(str(root), val_root=str(touch(tmp_path / "v", ["c.png"]))).files("train")


def test_without_hold_out_every_image_is_in_every_split(tmp_path: Path) -> None:
    root = touch(tmp_path / "r", ["a.png", "b.png"])
    source = Folder(str(root), holdout=False)
    assert [source.files(split) for split in ALL] == [[root / "a.png", root / "b.png"]] * 3
    other = touch(tmp_path / "v", ["c.png"])
    source = Folder(str(root), val_root=str(other), holdout=False)
    assert [len(source.files(split)) for split in ALL] == [2, 1, 2]


@pytest.mark.parametrize(
    ("parameter", "key"), [("root", "root"), ("val_root", "source.val_root"), ("test_root", "source.test_root")]
)
def test_prepare_names_the_key_of_a_bad_folder(tmp_path: Path, parameter: str, key: str) -> None:
    roots: dict[str, Any] = {name: str(touch(tmp_path / name, ["a.png"])) for name in ("root", "val_root", "test_root")}
    Folder(**roots).prepare()
    with pytest.raises(InputError, match=rf"^data\.{key}=.*gone: does not exist"):
        Folder(**{**roots, parameter: str(tmp_path / "gone")}).prepare()


def test_home_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path / "mine", ["a.png"])
    assert Folder("~/mine/", holdout=False).files("test") == [tmp_path / "mine/a.png"]
    monkeypatch.chdir(tmp_path / "mine")
    assert Folder(".").name == "mine"


def test_sample_splits_are_readable_and_disjoint() -> None:
    source: Source = Sample()
    source.prepare()
    listed = [path for split in ALL for path in source.files(split)]
    assert len(listed) == len({path.name for path in listed}) == 13
    assert all(min(decode_rgb8(path).shape[:2]) >= 300 for path in listed)
    assert all(path.parent == Path(str(package_files("skimage"))) / "data" for path in listed)
    thumbnails = [np.asarray(Image.open(path).convert("L").resize((16, 16)), float).ravel() for path in listed]
    alike = {
        (a.name, b.name)
        for i, a in enumerate(listed)
        for j, b in enumerate(listed[:i])
        if np.corrcoef(thumbnails[i], thumbnails[j])[0, 1] > 0.8
    }
    assert alike == {("motorcycle_right.png", "motorcycle_left.png")}  # both train


def test_sample_with_a_file_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SPLITS", {**SPLITS, "val": ("camera.png", "gone.png")})
    with pytest.raises(InputError, match=r"scikit-image \d+\.\d+.* lacks gone\.png"):
        Sample().prepare()
