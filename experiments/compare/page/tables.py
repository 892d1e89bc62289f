"""The tables of a comparison by suite and protocol, as the page lists them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from experiments.compare.tables import describe, image_tables, result_tables
from experiments.compare.types import Comparison
from experiments.results.table import ResultTable


@dataclass
class Section:
    """All tables of one suite under one protocol; `anchor` is its address on the page."""

    anchor: str
    title: str
    about: list[str]
    tables: list[ResultTable]
    notes: list[str]


def sections(comparison: Comparison) -> list[Section]:
    """In the order of the comparison."""
    found = []
    for place, table in enumerate(comparison.tables):
        # A fragment of letters, digits and dashes, unique by its number.
        anchor = f"{re.sub(r'[^a-z0-9]+', '-', table.title.lower()).strip('-') or 'table'}-{place}"
        tables = [*result_tables(comparison, table), *image_tables(comparison, table)]
        found.append(Section(anchor, table.title, describe(comparison, table), tables, table.notes))
    return found
