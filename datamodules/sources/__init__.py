"""Sources of photographs: which image files make up the training, validation and test split."""

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from datamodules.errors import InputError
from datamodules.io.decode import list_images

Split = Literal["train", "val", "test"]
ALL_SPLITS: tuple[Split, ...] = ("train", "val", "test")


@runtime_checkable
class Source(Protocol):
    """What a data set has to offer to be trained and evaluated on.

    A source that lacks a split names those it has in an attribute `splits`, and in `training` the option of `data=` to
    train on instead, "div2k" by default. An attribute `duplicates` says what becomes of images that are in several
    splits, by their pixels: "name" them (the default: splits that others have published do not change), "drop" them
    from all but one, or "keep" them without a word.
    """

    name: str

    def prepare(self) -> None:
        """Makes the files available or raises `InputError`. Called by one process per machine, before `files`."""
        ...

    def files(self, split: Split) -> list[Path]:
        """Image files of one split, at least one, in a fixed order. No file is in two splits."""
        ...


class PairedSource(Source, Protocol):
    """A data set of sharp images, each with a degraded version of its own.

    It may know more of them: see `kernels` and `noise_levels` of `datamodules.sources.paired_folder.Pairs`.

    Attributes:
        scale: how many times the degraded images are smaller, a whole number from 1.
    """

    scale: int

    def degraded_files(self, split: Split) -> list[Path]:
        """The degraded version of each of `files(split)`, in the same order. A sharp file may appear several times."""
        ...


def splits_of(source: Any) -> tuple[Split, ...]:
    """The splits that a source has."""
    return getattr(source, "splits", ALL_SPLITS)


def training_set_of(source: Any) -> str:
    """The option of `data=` to train on for measuring on a source without training images."""
    return getattr(source, "training", "div2k")


def refuse_unless_test(source: Any, split: Split) -> None:
    """Raises `InputError` if a set without training images is asked for any."""
    if split != "test":
        what = "train on" if split == "train" else "validate on"
        raise InputError(
            f"{source.name} is a test set: it has no images to {what}: choose data={training_set_of(source)} for"
            f" training, and measure the run by task=evaluate run=RUN data={source.name}"
        )


def images_of(folder: Path, count: int, hint: str) -> list[Path]:
    """The images of a folder that has to hold `count`, sorted by name. Raises `InputError` for another number."""
    images = list_images(folder)
    if len(images) != count:
        raise InputError(f"{folder}: {len(images)} images, expected {count}: {hint}")
    return images
