"""GOPRO: motion blur made by averaging the frames of a high-speed camera, the usual data set of deblurring."""

from pathlib import Path
from typing import Literal

from datamodules.errors import InputError
from datamodules.io.decode import list_images
from datamodules.sources import Split
from datamodules.sources.paired_folder import Pair, Pairs, match

PAGE = "https://seungjunnah.github.io/Datasets/gopro"
FOLDERS: tuple[Literal["train", "test"], ...] = ("train", "test")
COUNTS: dict[str, tuple[int, int]] = {"train": (22, 2103), "test": (11, 1111)}  # sequences, pairs
HELD_OUT = 2  # sequences


class Gopro(Pairs):
    """The GOPRO_Large data set under `root`.

    Layout: `root/{train,test}/SEQUENCE/{blur,blur_gamma,sharp}/NNNNNN.png`, the official tree, 1280x720, 22 sequences
    with 2,103 pairs for training and 11 with 1,111 for test; `root/GOPRO_Large/...` is found as well.

    `variant` has to be chosen, for papers differ and their figures cannot be compared: `blur` averages the frames
    linearly (SRN), `blur_gamma` averages them through a gamma curve of 2.2 (DeepDeblur, GFN).

    Splits: `val` is the last two training sequences, held out whole, since frames of one sequence are alike; `train` is
    the other twenty; `test` is the official test set. With `train_on_all` all 22 are trained on, as in papers, and
    `val` is the first frame of each test sequence: to look at, not to choose a checkpoint by.

    To get it: the authors host GOPRO_Large.zip behind Google Drive and SNU pages that cannot be fetched by a plain
    request, all listed at https://seungjunnah.github.io/Datasets/gopro.

    Terms: CC BY 4.0.

    Source: S. Nah, T. H. Kim and K. M. Lee, "Deep Multi-scale Convolutional Neural Network for Dynamic Scene
    Deblurring", CVPR 2017.

    Args:
        root: folder of the data set.
        variant: which of the two blurred versions.
        train_on_all: train on what is otherwise held out.
        partial: accept a copy with fewer sequences or frames than the official one; never for published figures.
    """

    scale = 1
    all_validates_on_test = True  # asked where a checkpoint is chosen by validation

    def __init__(
        self,
        root: str,
        variant: Literal["blur", "blur_gamma"],
        train_on_all: bool = False,
        partial: bool = False,
    ) -> None:
        self.root, self.variant, self.partial = Path(root).expanduser(), variant, partial
        self.train_on_all = train_on_all
        self.name = f"gopro_{variant}"  # results of the two variants must never meet under one name

    def prepare(self) -> None:
        """Checks that the copy is there and complete.

        Raises:
            InputError: it is absent (with where to get it), a frame lacks its partner, or pairs are missing.
        """
        for split in FOLDERS:
            self._sequences(split)

    def _pairs(self, split: Split) -> list[Pair]:
        if self.train_on_all and split == "val":
            return [sequence[0] for sequence in self._sequences("test")]
        sequences = self._sequences("test" if split == "test" else "train")
        if split != "test" and not self.train_on_all:
            if len(sequences) <= HELD_OUT:
                raise InputError(
                    f"{self._tree() / 'train'}: {len(sequences)} sequence(s), expected at least {HELD_OUT + 1} to hold"
                    f" out {HELD_OUT} for validation: complete the copy"
                )
            sequences = sequences[-HELD_OUT:] if split == "val" else sequences[:-HELD_OUT]
        return [pair for sequence in sequences for pair in sequence]

    def _sequences(self, split: str) -> list[list[Pair]]:
        folder = self._tree() / split
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        pairs = [self._frames(folder / name) for name in names]
        count, (sequences, expected) = sum(map(len, pairs)), COUNTS[split]
        if not self.partial and (len(pairs), count) != (sequences, expected):
            raise InputError(
                f"{folder}: {len(pairs)} sequences with {count} pairs, expected {sequences} with {expected}: complete"
                " the copy, or set data.source.partial=true to go on with what is there"
            )
        return pairs

    def _frames(self, sequence: Path) -> list[Pair]:
        sharp, blurred = sequence / "sharp", sequence / self.variant
        files = [{path.stem: path for path in list_images(folder)} for folder in (sharp, blurred)]
        return [pair for of_one in match(files[0], files[1], sharp, blurred).values() for pair in of_one]

    def _tree(self) -> Path:
        for root in (self.root, self.root / "GOPRO_Large"):
            if all((root / split).is_dir() for split in FOLDERS):
                return root
        raise InputError(
            f"{self.root}: holds no GOPRO data set: get GOPRO_Large.zip from {PAGE}, unpack it so that there are"
            f" {self.root}/train/SEQUENCE/{{blur,blur_gamma,sharp}}/NNNNNN.png and {self.root}/test/..., or set"
            " data.root to an existing copy"
        )
