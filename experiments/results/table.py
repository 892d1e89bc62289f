"""A table of figures, whatever they are of: an evaluation, a comparison, a sweep; `writers` print it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from experiments.results.records import METRICS

EMPTY = "-"  # where nothing is known


@dataclass(frozen=True)
class TableCell:
    """One entry; no text is escaped for any format.

    Attributes:
        text: as a reader sees it.
        value: of a figure, by which a page sorts; None for text, and where nothing is known.
        mark: best and second best of the measured, what was published, better or worse than a reference.
        suffix: follows the text without its mark.
        tip, footnote: for a page: what shows under the pointer; where the figure comes from.
    """

    text: str = EMPTY
    value: float | None = None
    mark: Literal["best", "second", "published", "better", "worse", ""] = ""
    suffix: str = ""
    tip: str = ""
    footnote: str = ""


@dataclass(frozen=True)
class TableColumn:
    """`group` stands over neighbours of the same group; the leading columns that are no figures are heads of the rows.

    `lower_is_better` decides with which order a page begins to sort.
    """

    title: str
    group: str = ""
    figures: bool = True
    lower_is_better: bool = False


@dataclass
class ResultTable:
    """`row_groups` are rows that belong together, each with a cell a column; `notes` stand below.

    A page shows a table that is `folded` when it is asked to.
    """

    caption: str
    columns: list[TableColumn]
    row_groups: list[list[list[TableCell]]]
    notes: list[str] = field(default_factory=list)
    folded: bool = False

    @property
    def rows(self) -> list[list[TableCell]]:
        return [row for group in self.row_groups for row in group]

    @property
    def heads(self) -> int:
        """How many leading columns name the row."""
        return next((i for i, column in enumerate(self.columns) if column.figures), len(self.columns))

    @property
    def column_groups(self) -> list[tuple[str, int]]:
        """Name and number of columns of each group, from the left; "" for what belongs to none."""
        return [(name, len(list(columns))) for name, columns in groupby(self.columns, key=lambda c: c.group)]


def metric_column(metric: str, group: str = "", arrow: bool = False) -> TableColumn:
    """A column of a metric: `PSNR dB`, or with an arrow that says which way is better `PSNR dB ↑`."""
    return TableColumn(metric_title(metric) if arrow else METRICS[metric][0], group, True, METRICS[metric][2] < 0)


def metric_title(metric: str) -> str:
    """`PSNR dB ↑`: the arrow says which way is better."""
    label, _, sign = METRICS[metric]
    return f"{label} {'↑' if sign > 0 else '↓'}"


def number(metric: str, value: float, signed: bool = False) -> str:
    """A value with the digits of its metric."""
    return f"{value:{'+' if signed else ''}.{METRICS[metric][1]}f}".replace("inf", "∞")


def metric_cell(metric: str, value: float | None, signed: bool = False) -> TableCell:
    """The cell of a value; None where there is none."""
    return TableCell() if value is None else TableCell(number(metric, value, signed), value)


def words(*texts: str) -> list[TableCell]:
    """Cells of text."""
    return [TableCell(text) for text in texts]


def heads(titles: Sequence[str]) -> list[TableColumn]:
    """Columns that name the rows."""
    return [TableColumn(title, figures=False) for title in titles]


def count(number: int, thing: str) -> str:
    """`1 image`, `5 images`."""
    return f"{number} {thing}{'s' * (number != 1)}"
