"""Any folders of photographs as a source."""

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from datamodules.errors import InputError
from datamodules.io.decode import list_images
from datamodules.sources import Split

T = TypeVar("T")
HELD_OUT = 1 / 20  # share of the images held out for validation, and again for test


def _key(split: Split) -> str:
    """The config key that sets the folder of a split."""
    return "data.root" if split == "train" else f"data.source.{split}_root"


def _position(relative: str) -> float:
    """A number in [0, 1) that depends on the text only: the same on every machine."""
    return int.from_bytes(hashlib.sha256(relative.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def partition(names: list[str], parts: set[Split]) -> dict[str, Split]:
    """Assigns each name to one of `parts`, which contains "train"; no part stays empty.

    Names lie on a line at their `_position`: test is the first twentieth of the line, val the last. Where names are
    added to or removed from the list, the others stay in their part, except that an empty part takes its nearest name
    until one of its own appears.
    """
    ordered = sorted(names, key=lambda name: (_position(name), name))
    count = len(ordered)
    first, last = 0, count
    if "test" in parts:
        first = sum(_position(name) < HELD_OUT for name in ordered)
        first = min(max(first, 1), count - len(parts) + 1)
    if "val" in parts:
        last -= sum(_position(name) >= 1 - HELD_OUT for name in ordered)
        last = max(min(last, count - 1), first + 1)
    return {name: "test" if rank < first else "val" if rank >= last else "train" for rank, name in enumerate(ordered)}


def hold_out(images: Mapping[str, T], split: Split, given: Collection[Split], root: Path, keys: str) -> list[T]:
    """Those of the images under `root`, by name, that belong to a split; the splits that are not `given` share them.

    Args:
        given: splits with folders of their own.
        keys: of the config, which give a split such a folder; {0} stands for its name.

    Raises:
        InputError: there are too few for every split to have one.
    """
    both: tuple[Split, Split] = ("val", "test")
    held_out = [part for part in both if part not in given]
    if len(images) <= len(held_out):
        raise InputError(
            f"{root}: {len(images)} image(s), expected at least {len(held_out) + 1} to hold out some for "
            f"{' and '.join(held_out)}: add images or set {' and '.join(map(keys.format, held_out))} to folders of "
            "their own"
        )
    parts = partition(list(images), {"train", *held_out})
    return [image for name, image in images.items() if parts[name] == split]


def _list(root: Path, key: str) -> dict[Path, Path]:
    """The images under `root`, by the real file they are: two links to one file are one image."""
    try:
        images = list_images(root)
    except InputError as error:
        raise InputError(f"{key}={error}") from error
    files: dict[Path, Path] = {}
    for path in images:
        files.setdefault(path.resolve(), path)
    return files


class Folder:
    """Photographs in folders of your own, searched at any depth.

    With `val_root` and `test_root` given, each folder is a split. Without them a twentieth of the images under `root`
    is held out for each of val and test, at least one, chosen by a hash of the path relative to `root`: the same on
    every machine and for every order of listing, and images added later leave the others where they are, save in
    sets of a few dozen, where a split may have to borrow an image. With one of the two given, only the other is held
    out.

    No file is in two splits. Where the folders overlap (`val_root` may be `root` or a folder in it), the files under
    `test_root` are test images only, and the files under `val_root` are never trained on. Files are compared by
    their real path; copies of one photograph the data module finds, when they are decoded, and keeps in one split.

    `holdout=False` is for evaluating on a whole folder: nothing is held out or taken away, every image under `root` is
    in every split that has no folder of its own. Never train with it, the scores would be those of trained images.
    """

    def __init__(
        self, root: str, val_root: str | None = None, test_root: str | None = None, holdout: bool = True
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = os.path.basename(os.path.abspath(self.root))
        self.holdout = holdout
        self.duplicates = "drop" if holdout else "keep"
        self._roots: dict[Split, Path] = {"train": self.root}
        if val_root is not None:
            self._roots["val"] = Path(val_root).expanduser()
        if test_root is not None:
            self._roots["test"] = Path(test_root).expanduser()

    def prepare(self) -> None:
        """Checks the folders. Raises `InputError` if one is missing, is a file or holds no image."""
        for split in self._roots:
            self._listed(split)

    def files(self, split: Split) -> list[Path]:
        """Images of a split, sorted by POSIX path relative to its folder.

        Raises:
            InputError: as `prepare`; `root` has fewer images than splits to fill; or the split is empty because all of
                its images belong to another folder given.
        """
        if not self.holdout:
            return list(self._listed(split if split in self._roots else "train").values())
        if split == "test" and "test" in self._roots:
            return list(self._listed("test").values())
        if split == "val" and "val" in self._roots:
            return self._left("val", ["test"])
        return self._part_of_root(split)

    def _listed(self, split: Split) -> dict[Path, Path]:
        return _list(self._roots[split], _key(split))

    def _left(self, split: Split, others: list[Split]) -> list[Path]:
        """The images in the folder of `split` that are not in the folders of `others` too."""
        listed = self._listed(split)
        taken = {real for other in others if other in self._roots for real in self._listed(other)}
        left = [path for real, path in listed.items() if real not in taken]
        if not left:
            folders = " and ".join(_key(other) for other in others if other in self._roots)
            raise InputError(
                f"{self._roots[split]}: all {len(listed)} images for {split} are also in {folders}, expected some that "
                "are not: give separate folders"
            )
        return left

    def _part_of_root(self, split: Split) -> list[Path]:
        images = self._left("train", ["val", "test"])
        names = {path.relative_to(self.root).as_posix(): path for path in images}
        return hold_out(names, split, self._roots, self.root, "data.source.{0}_root")
