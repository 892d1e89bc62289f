"""Any two folders of sharp and degraded photographs as a source."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from datamodules.errors import InputError
from datamodules.io.decode import list_images
from datamodules.sources import Split
from datamodules.sources.folder import hold_out
from datamodules.sources.known_blur import check_noise_level, kernels_of, noise_levels_of

SHOWN = 3

Pair = tuple[Path, Path]  # sharp, degraded


class Pairs:
    """A source of pairs: `files` and `degraded_files` are the two sides of what `_pairs` lists.

    `kernels` and `noise_levels` are what is known of the degradation of each, None where nothing is.
    """

    def files(self, split: Split) -> list[Path]:
        """Sharp images of a split, in a fixed order. Raises `InputError` as `prepare` does."""
        return [sharp for sharp, _ in self._pairs(split)]

    def degraded_files(self, split: Split) -> list[Path]:
        """The degraded image of each of `files(split)`."""
        return [degraded for _, degraded in self._pairs(split)]

    def kernels(self, split: Split) -> Tensor | None:
        """The blur kernels [N, 1, k, k] of `degraded_files(split)`, for true convolution at the sharp resolution."""
        return None

    def noise_levels(self, split: Split) -> list[float] | None:
        """The standard deviations of the noise of `degraded_files(split)`, on the [0, 1] scale."""
        return None

    def _pairs(self, split: Split) -> list[Pair]:
        raise NotImplementedError


class PairedFolder(Pairs):
    """Sharp photographs in one folder, a degraded version of each in another, searched at any depth.

    Two files are a pair if their paths relative to the two folders are equal without the suffix:
    `SHARP/street/01.png` and `DEGRADED/street/01.jpg`. A file without partner on either side is an error. `ignore` is a
    regular expression for parts of the relative paths that do not count, for names that differ systematically:
    `ignore: x4$` pairs `0001.png` with `0001x4.png`, `ignore: ^(sharp|blur)_` pairs `sharp_01` with `blur_01`.

    With `several` there may be more than one degraded file to a sharp one: those of `SHARP/NAME.png` are
    `DEGRADED/NAME_x.png` and all files in the folder `DEGRADED/NAME`, besides `DEGRADED/NAME.png`; of two sharp names
    that begin so the longer one counts. They are in one split.

    Kernels and noise levels of the degraded files are for networks that take them. `kernels` is one file for all, or a
    folder, in which the kernel of a pair is called as its degraded or else as its sharp file, with .mat, .npy or .png
    (`datamodules.sources.known_blur`); it may be the folder of the images. A kernel is divided by its
    sum, and applied as true convolution at the resolution of the sharp image. `noise_level` is a standard deviation on
    the [0, 1] scale for all, or a text file of lines NAME,LEVEL.

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
        several: bool = False,
        kernels: str | None = None,
        noise_level: float | str | None = None,
    ) -> None:
        self.several, self.noise_level = several, noise_level
        self.known = Path(kernels).expanduser() if kernels is not None else None
        check_noise_level(noise_level)
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
        for split, roots in self._roots.items():
            self._check_there(split, roots)
        _check_disjoint(self._roots)
        for split in self._roots:
            self._pairs_under(split)

    def _check_there(self, split: Split, roots: Pair) -> None:
        prefix = "data.source." + ("" if split == "train" else f"{split}_")
        keys = (f"{prefix}sharp", f"{prefix}degraded")
        for key, root in zip(keys, roots, strict=True):
            if root.is_dir():
                continue
            above, found = root.parent, "is a file" if root.exists() else "does not exist"
            there = sorted(path.name for path in above.iterdir() if path.is_dir()) if above.is_dir() else []
            holds = f"; {above} has the folders {', '.join(there[:10])}" if there else ""
            ways = f"set {keys[0]} and {keys[1]} to the folders of sharp and of degraded images"
            raise InputError(f"{key}={root}: {found}{holds}: {ways}")

    def _pairs(self, split: Split) -> list[Pair]:
        pairs = self._pairs_under(split if split in self._roots else "train")
        if not self.holdout or (split in self._roots and split != "train"):
            return [pair for of_one in pairs.values() for pair in of_one]
        keys = "data.source.{0}_sharp and data.source.{0}_degraded"
        held_out = hold_out(pairs, split, self._roots, self._roots["train"][0], keys)
        return [pair for of_one in held_out for pair in of_one]

    def _pairs_under(self, split: Split) -> dict[str, list[Pair]]:
        sharp, degraded = self._roots[split]
        pairs = match(self._listed(sharp), self._listed(degraded), sharp, degraded, self.several)
        return dict(sorted(pairs.items()))

    def kernels(self, split: Split) -> Tensor | None:
        """See `Pairs`. Raises `InputError` as `known_blur.kernels_of`."""
        if self.known is None:
            return None
        pairs = self._pairs(split)
        return kernels_of(self.known, pairs, self._names(pairs, split))

    def noise_levels(self, split: Split) -> list[float] | None:
        """See `Pairs`. Raises `InputError` as `known_blur.noise_levels_of`."""
        if self.noise_level is None:
            return None
        return noise_levels_of(self.noise_level, self._names(self._pairs(split), split))

    def _names(self, pairs: list[Pair], split: Split) -> list[list[str]]:
        """What each pair is called in other files: as its degraded file, or else as its sharp one."""
        sharp_root, degraded_root = self._roots[split if split in self._roots else "train"]
        relative = [(b.relative_to(degraded_root), a.relative_to(sharp_root)) for a, b in pairs]
        return [list(dict.fromkeys(path.with_suffix("").as_posix() for path in paths)) for paths in relative]

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
    sharp: Mapping[str, Path],
    degraded: Mapping[str, Path],
    sharp_root: Path,
    degraded_root: Path,
    several: bool = False,
) -> dict[str, list[Pair]]:
    """Pairs of files of one name, in the order of `sharp`; with `several` also of names that go on: NAME_x, NAME/x.

    Raises:
        InputError: files without partner, on either side; the folders are named with the count and the first names.
    """
    pairs: dict[str, list[Pair]] = {name: [] for name in sharp}
    no_sharp = []
    for name, path in degraded.items():
        owner = _owner(name, sharp) if several else name
        if owner in sharp:
            pairs[owner].append((sharp[owner], path))
        else:
            no_sharp.append(name)
    no_degraded = [name for name, of_one in pairs.items() if not of_one]
    lacking = []
    for alone, files, root in ((no_degraded, sharp, degraded_root), (no_sharp, degraded, sharp_root)):
        if alone:
            shown = ", ".join(sorted(alone)[:SHOWN]) + (", ..." if len(alone) > SHOWN else "")
            lacking.append(f"{root} lacks partners of {len(alone)} of {len(files)} files ({shown})")
    if lacking:
        hint = "add or remove files, or set data.source.ignore to what the names do not share"
        if not several and no_sharp and all(_owner(name, sharp) in sharp for name in no_sharp):
            hint += ", or data.source.several=true for several degraded versions of one"
        raise InputError(
            f"{'; '.join(lacking)}: expected the same relative paths without suffix in {sharp_root} and"
            f" {degraded_root}: {hint}"
        )
    return pairs


def _owner(name: str, sharp: Mapping[str, Path]) -> str:
    """The longest of the sharp names that `name` is or goes on from, after "_" or "/"; without one `name` itself."""
    ends = [len(name), *sorted((found.start() for found in re.finditer("[_/]", name)), reverse=True)]
    return next((name[:end] for end in ends if name[:end] in sharp), name)


def _check_disjoint(roots: Mapping[Split, Pair]) -> None:
    """A file must not be trained on and tested on."""
    sides = [(split, root.resolve()) for split, pair in roots.items() for root in pair]
    for split, root in sides:
        for other, folder in sides:
            if split != other and (root == folder or folder in root.parents):
                raise InputError(
                    f"{root}: the {split} split lies in {folder} of the {other} split, expected separate folders"
                )
