"""What the suite asks of a logger beyond Lightning's interface; W&B, which takes more, has functions of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.errors import ConfigError
from datamodules.installed import extra


def require(package: str) -> None:
    """Refuse a logger whose package is not there: at import, by which the check of a config finds out early.

    Raises:
        ConfigError: names the extra of the same name that brings it.
    """
    if find_spec(package) is None:
        raise ConfigError(f"needs {package}, which is not installed: {extra(package)}")


class Recorder(ABC):
    """A logger that takes pictures and results as well as curves. Only the first process calls it."""

    @abstractmethod
    def where(self) -> str:
        """One line that tells the user where the numbers are and how to look at them."""

    @abstractmethod
    def log_image(self, key: str, images: Sequence[Image.Image], step: int | None = None) -> None:
        """Log pictures under a name."""

    @abstractmethod
    def log_results(
        self, values: Mapping[str, float], files: Mapping[str, Path], config: Mapping[str, Any], step: int
    ) -> None:
        """Log what was measured in the end.

        Args:
            values: the means, by name.
            files: on this disk already, by what they are called.
            config: of the experiment, plain.
            step: of the weights that were measured.
        """

    @abstractmethod
    def finish(self, exit_code: int) -> None:
        """Close what is open; nothing is logged afterwards."""
