"""Sources of sharp photographs: which image files make up the training, validation and test split."""

from pathlib import Path
from typing import Literal, Protocol

Split = Literal["train", "val", "test"]


class Source(Protocol):
    """What a data set has to offer to be trained and evaluated on."""

    name: str

    def prepare(self) -> None:
        """Makes the files available or raises `InputError`. Called by one process per machine, before `files`."""
        ...

    def files(self, split: Split) -> list[Path]:
        """Image files of one split, at least one, in a fixed order. No file is in two splits."""
        ...
