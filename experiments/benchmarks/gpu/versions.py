"""Whether the packages that a command needs are there and new enough; imports none of them.

The lower bounds are those of pyproject.toml.
"""

import re
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
NOT_NEEDED = ("wandb", "plotly")  # by trainings with logger=none and by benchmarks: imported where they are used
# Other distributions of the same module.
ALSO = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")}


class Package(NamedTuple):
    """A requirement and what was found; "" for none."""

    name: str
    required: str
    found: str

    @property
    def complaint(self) -> str | None:
        """What is wrong, if anything."""
        if not self.found:
            return f"{self.name} (not installed, needs >={self.required})"
        if _numbers(self.found) < _numbers(self.required):
            return f"{self.name} (found {self.found}, needs >={self.required})"
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """The release of a version, as far as it is made of numbers: 2.11.0+cu130 is (2, 11, 0)."""
    return tuple(int(number) for number in re.match(r"\d*(?:\.\d+)*", text)[0].split(".") if number)  # type: ignore[index]  # matches always


def installed(name: str) -> str:
    """The version of a distribution, or of another one of the same module; "" without."""
    for distribution in (name, *ALSO.get(name, ())):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return ""


def packages(project: Path = PROJECT, find: Callable[[str], str] = installed) -> list[Package]:
    """Python and the dependencies of the project, but for those not needed."""
    about = tomllib.loads(project.read_text())["project"]
    required = dict(text.split(">=") for text in about["dependencies"])
    found = [Package("python", about["requires-python"].removeprefix(">="), sys.version.split()[0])]
    return found + [Package(name, least, find(name)) for name, least in required.items() if name not in NOT_NEEDED]


def table(of: list[Package]) -> str:
    """Required beside found, for people."""
    width = max(len(package.name) for package in of)
    return "\n".join(f"{p.name:{width}}  >={p.required:8}  {p.found or '-'}" for p in of)


def complaints(of: list[Package]) -> str | None:
    """One line that names all that is missing or too old; None if nothing is."""
    wrong = [package.complaint for package in of if package.complaint]
    return f"cannot run here: {', '.join(wrong)}" if wrong else None
