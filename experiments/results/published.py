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
    """A figure of a paper or repository.

    Attributes:
        method: name in the source.
        model: our label of the same model, or None.
        suite, dataset, metric: where it belongs; metrics are those of the records, "seconds" and "parameters" too.
        cell: keys of the suite's grid; a mean over one of them lacks it.
        protocol: name of the protocol it was measured by, or our best reading where `caveat` says so.
        value: in the unit of the metric.
        source: paper, table.
        image: for figures of a single image, else None.
        certain: False for figures that were not read in a primary source.
        caveat: why a difference to a measurement has to be read with care, or "".
        mean_of: of a mean over a key of the grid: how many cells it is over.
        requires: key of the degradation -> value without which a measurement is not comparable.
    """

    method: str
    model: str | None
    suite: str
    dataset: str
    cell: dict[str, Any]
    metric: str
    protocol: str
    value: float
    source: str
    image: str | None = None
    certain: bool = True
    caveat: str = ""
    requires: dict[str, Any] = field(default_factory=dict)
    mean_of: int | None = None


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
    for row in table["rows"]:
        _refuse_unknown(row, {"method", "model", "values"} | _PLACE)
        for column, value in zip(table["columns"], row["values"], strict=True):
            _refuse_unknown(column, _PLACE)
            if value is None:
                continue
            places = (table, column, row)
            own = {key: place[key] for place in places for key in ("dataset", "metric", "image") if key in place}
            yield Published(
                method=row["method"],
                model=row.get("model"),
                suite=table["suite"],
                dataset=own["dataset"],
                cell={key: part for place in places for key, part in place.get("cell", {}).items()},
                metric=own["metric"],
                protocol=table["protocol"],
                value=float(value),
                source=table["source"],
                image=own.get("image"),
                certain=all(place.get("certain", True) for place in places),
                caveat=table.get("caveat", ""),
                requires=table.get("requires", {}),
                mean_of=table.get("mean_of"),
            )


def _refuse_unknown(place: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(place) - known)
    if unknown:
        raise KeyError(f"unknown key {unknown[0]!r}, known are {', '.join(sorted(known))}")
