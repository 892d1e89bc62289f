"""Published figures, to stand beside measured ones: `results/published/*.yaml`, transcribed from papers.

A file is a list of tables with `columns` and `rows`; a row has `values`, one for each column, null where the source has
none. The fields of a figure (`Published`) may stand in the table, a column or a row, the later one counts; cells are
merged, and a figure is certain if none of the three denies it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError

FOLDER = Path(__file__).resolve().parent / "published"


@dataclass(frozen=True)
class Published:
    """A figure of a paper or repository."""

    method: str  # name in the source
    suite: str
    dataset: str
    cell: dict[str, Any]  # keys of the suite's grid; a mean over one of them lacks it
    metric: str  # those of the records, "seconds" and "parameters" too
    protocol: str  # by which it was measured, or our best reading where `caveat` says so
    value: float  # in the unit of the metric
    source: str  # paper, table
    model: str | None = None  # our label of the same model
    image: str | None = None  # for figures of a single image
    certain: bool = True  # False for figures that were not read in a primary source
    caveat: str = ""  # why a difference to a measurement has to be read with care
    requires: dict[str, Any] = field(default_factory=dict)  # key of the degradation -> value, else not comparable
    not_runnable: str = ""  # why there is no such suite here, where there is none
    mean_of: int | None = None  # of a mean over a key of the grid: how many cells it is over


def published(suite: str) -> list[Published]:
    """All published figures of a suite; empty where none are known."""
    return [figure for figure in _all(FOLDER) if figure.suite == suite]


def read(path: Path) -> list[Published]:
    """The figures of one file.

    Raises:
        InputError: for a file that is no such list, an unknown key, or a row with another number of values.
    """
    try:
        tables = yaml.safe_load(path.read_text())
        return [figure for table in tables for figure in _figures(table)]
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path}: not a file of published figures ({reason}): compare it with its neighbours"
        ) from error


@cache
def _all(folder: Path) -> tuple[Published, ...]:
    return tuple(figure for path in sorted(folder.glob("*.yaml")) for figure in read(path))


def _figures(table: Mapping[str, Any]) -> Iterator[Published]:
    of_table = {key: value for key, value in table.items() if key not in ("columns", "rows")}
    for row in table["rows"]:
        of_row = {key: value for key, value in row.items() if key != "values"}
        for column, value in zip(table["columns"], row["values"], strict=True):
            if value is not None:
                parts = (of_table, column, of_row)
                merged = {key: item for part in parts for key, item in part.items()}
                merged["cell"] = {key: item for part in parts for key, item in part.get("cell", {}).items()}
                merged["certain"] = all(part.get("certain", True) for part in parts)
                yield Published(value=float(value), **merged)
