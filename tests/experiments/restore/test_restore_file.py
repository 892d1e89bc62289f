"""One photograph: whose fault it is that it cannot be restored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import InputError
from experiments.config.errors import ConfigError
from experiments.restore.paths import Item
from experiments.restore.restore_file import Work


class Refusing:
    def __init__(self, error: InputError) -> None:
        self.error = error

    def restore(self, *_: Any, **__: Any) -> None:
        raise self.error


def test_only_an_argument_that_does_not_fit_ends_the_task(tmp_path: Path) -> None:
    """The text says the same of both."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "tile.png")
    item = Item(tmp_path / "tile.png", tmp_path / "out" / "tile.png")
    for key, kind in (("tile", ConfigError), (None, InputError)):
        refusing: Any = Refusing(InputError("tile: found 1, expected more", key=key))
        manifest: Any = None
        work = Work(item, refusing, {"scale": 1, "tile": 1}, manifest)
        work.read()
        with pytest.raises(kind, match="tile: found 1, expected more") as caught:
            work.restore()
        assert caught.value.key == key
