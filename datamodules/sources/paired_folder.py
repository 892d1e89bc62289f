"""Any two folders of sharp and degraded photographs as a source."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from datamodules.errors import InputError
from datamodules.io.decode import list_images
from datamodules.sources import Split
from datamodules.sources.folder import hold_out

SHOWN = 3

Pair = tuple[Path, Path]  # sharp, degraded


class Pairs:
    """A source of pairs: `files` and `degraded_files` are the two sides of what `_pairs` lists."""

    def files(self, split: Split) -> list[Path]:
        """Sharp images of a split, in a fixed order. Raises `InputError` as `prepare` does."""
        return [sharp for sharp, _ in self._pairs(split)]

    def degraded_files(self, split: Split) -> list[Path]:
        """The degraded image of each of `files(split)`."""
        return [degraded for _, degraded in self._pairs(split)]

    def _pairs(self, split: Split) -> list[Pair]:
        raise NotImplementedError


class PairedFolder(Pairs):
    """Sharp photographs in one folder, a degraded version of each in another, searched at any depth.

    Two files are a pair if their paths relative to the two folders are equal without the suffix:
    `SHARP/street/01.png` and `DEGRADED/street/01.jpg`. A file without partner on either side is an error. `ignore` is a
    regular expression for parts of the relative paths that do not count, for names that differ systematically:
    `ignore: x4$` pairs `0001.png` with `0001x4.png`, `ignore: ^(sharp|blur)_` pairs `sharp_01` with `blur_01`.

    The two images of a pair have equal sizes (`scale` 1, deblurring), or all degraded ones are exactly `scale` times
    smaller; the data module checks it. A gray image among colour ones is no error: it is decoded into three equal
    channels, on either side.

    Splits: pairs under `test_sharp` and `test_degraded` are the test split, those under `val_sharp` and `val_degraded`
    the validation split. Without such folders a twentieth of the pairs is held out for each, as `Folder` does.
    `holdout=False` puts every pair into every split without folders of its own: for evaluating on a whole folder,
    never for training. Folders of different splits must not contain each other.
    """

    def __init__(
        self,
        sharp: str,
        degraded: str,
        scale: int = 1,
        ignore: str | None = None,
        val_sharp: str | None = None,
        val_degraded: str | None = None,
        test_sharp: str | None = None,
        test_degraded: str | None = None,
        holdout: bool = True,
    ) -> None:
        self.scale, self.ignore, self.holdout = scale, ignore, holdout
        self.duplicates = "drop" if holdout else "keep"
        self._roots: dict[Split, Pair] = {"train": (Path(sharp).expanduser(), Path(degraded).expanduser())}
        given: list[tuple[Split, str | None, str | None]] = [
            ("val", val_sharp, val_degraded),
            ("test", test_sharp, test_degraded),
        ]
        self._half = next((split for split, a, b in given if (a is None) != (b is None)), None)
        for split, a, b in given:
            if a is not None and b is not None:
                self._roots[split] = Path(a).expanduser(), Path(b).expanduser()
        # The folder above `sharp` says more than "sharp" does.
        self.name = os.path.basename(os.path.dirname(os.path.abspath(self._roots["train"][0]))) or "paired_folder"

    def prepare(self) -> None:
        """Checks that the folders are there and that every file has its partner.

        Raises:
            InputError: a folder is missing or without images; files without partner; two files of one name; one of two
                folders of a split is not given, or lies in a folder of another split.
        """
        if self._half:
            raise InputError(
                f"data.source.{self._half}_sharp and data.source.{self._half}_degraded: one is given, expected both or"
                " none"
            )
        _check_disjoint(self._roots)
        for split in self._roots:
            self._pairs_under(split)

    def _pairs(self, split: Split) -> list[Pair]:
        pairs = self._pairs_under(split if split in self._roots else "train")
        if not self.holdout or (split in self._roots and split != "train"):
            return list(pairs.values())
        keys = "data.source.{0}_sharp and data.source.{0}_degraded"
        return hold_out(pairs, split, self._roots, self._roots["train"][0], keys)

    def _pairs_under(self, split: Split) -> dict[str, Pair]:
        sharp, degraded = self._roots[split]
        pairs = match(self._listed(sharp), self._listed(degraded), sharp, degraded)
        return dict(sorted(pairs.items()))

    def _listed(self, root: Path) -> dict[str, Path]:
        """Images under `root` by what must be equal on both sides."""
        try:
            ignored = re.compile(self.ignore or "(?!)")  # (?!) is found nowhere
        except re.error as error:
            raise InputError(f"data.source.ignore: {self.ignore!r} is no regular expression ({error})") from error
        files: dict[str, Path] = {}
        for path in list_images(root):
            name = ignored.sub("", path.relative_to(root).with_suffix("").as_posix())
            if name in files:
                raise InputError(
                    f"{files[name]} and {path}: both are {name!r} when pairs are sought, expected one file of a name:"
                    " remove one" + (" or change data.source.ignore" if self.ignore else "")
                )
            files[name] = path
        return files


def match(
    sharp: Mapping[str, Path], degraded: Mapping[str, Path], sharp_root: Path, degraded_root: Path
) -> dict[str, Pair]:
    """Pairs of files of one name, in the order of `sharp`.

    Raises:
        InputError: files without partner, on either side; the folders are named with the count and the first names.
    """
    lacking = []
    for files, partners, root in ((sharp, degraded, degraded_root), (degraded, sharp, sharp_root)):
        alone = sorted(files.keys() - partners.keys())
        if alone:
            shown = ", ".join(alone[:SHOWN]) + (", ..." if len(alone) > SHOWN else "")
            lacking.append(f"{root} lacks partners of {len(alone)} of {len(files)} files ({shown})")
    if lacking:
        raise InputError(
            f"{'; '.join(lacking)}: expected the same relative paths without suffix in {sharp_root} and"
            f" {degraded_root}: add or remove files, or set data.source.ignore to what the names do not share"
        )
    return {name: (path, degraded[name]) for name, path in sharp.items()}


def _check_disjoint(roots: Mapping[Split, Pair]) -> None:
    """A file must not be trained on and tested on."""
    sides = [(split, root.resolve()) for split, pair in roots.items() for root in pair]
    for split, root in sides:
        for other, folder in sides:
            if split != other and (root == folder or folder in root.parents):
                raise InputError(
                    f"{root}: the {split} split lies in {folder} of the {other} split, expected separate folders"
                )
