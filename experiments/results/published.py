"""Published figures, to stand beside measured ones: `results/published/*.yaml`, transcribed from papers.

A file is a list of tables. Each has `suite`, `source`, `protocol`, `columns` and `rows`; a row is
`{method, model, values}` with one value a column, null where the source has none. What a figure belongs to (`dataset`,
`metric`, `cell`, `image`, `certain`) may stand in the table, a column or a row; cells are merged, and a figure is
certain if none of the three denies it. `caveat` and `requires` are of the table.
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
_TABLE = {"suite", "source", "protocol", "columns", "rows", "caveat", "requires", "mean_of"}
_PLACE = {"dataset", "metric", "cell", "image", "certain"}


@dataclass(frozen=True)
class Published:
    """A figure of a paper or repository."""

    method: str  # name in the source
    model: str | None  # our label of the same model
    suite: str
    dataset: str
    cell: dict[str, Any]  # keys of the suite's grid; a mean over one of them lacks it
    metric: str  # those of the records, "seconds" and "parameters" too
    protocol: str  # by which it was measured, or our best reading where `caveat` says so
    value: float  # in the unit of the metric
    source: str  # paper, table
    image: str | None = None  # for figures of a single image
    certain: bool = True  # False for figures that were not read in a primary source
    caveat: str = ""  # why a difference to a measurement has to be read with care
    requires: dict[str, Any] = field(default_factory=dict)  # key of the degradation -> value, else not comparable
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
    _refuse_unknown(table, _TABLE | _PLACE)
    about = {key: table[key] for key in ("suite", "source", "protocol")}
    about |= {key: table[key] for key in ("caveat", "requires", "mean_of") if key in table}
    for row in table["rows"]:
        _refuse_unknown(row, {"method", "model", "values"} | _PLACE)
        for column, value in zip(table["columns"], row["values"], strict=True):
            _refuse_unknown(column, _PLACE)
            if value is None:
                continue
            places = (table, column, row)
            where = {key: place[key] for place in places for key in ("dataset", "metric", "image") if key in place}
            yield Published(
                method=row["method"],
                model=row.get("model"),
                cell={key: part for place in places for key, part in place.get("cell", {}).items()},
                value=float(value),
                certain=all(place.get("certain", True) for place in places),
                **about,
                **where,
            )


def _refuse_unknown(place: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(place) - known)
    if unknown:
        raise KeyError(f"unknown key {unknown[0]!r}, known are {', '.join(sorted(known))}")
