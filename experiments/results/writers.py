"""A table of figures as plain text, Markdown, LaTeX and HTML, and lines of values as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from experiments.results.table import EMPTY, ResultTable, TableCell

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    **{character: "\\" + character for character in "&%$#_{}"},
}
_LATEX_MARKS = {"best": "textbf", "second": "underline", "published": "emph"}
_MARKDOWN_MARKS = {"best": "**{}**", "second": "<u>{}</u>", "published": "*{}*"}


def text(table: ResultTable) -> str:
    """Plain text: figures at the right of their columns, the name of a group over its last one."""
    lines = [[column.title for column in table.columns]]
    lines += [[cell.text + cell.suffix for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    above, first = [], 0
    for name, span in table.column_groups:
        width = sum(widths[first : first + span]) + 2 * (span - 1)
        widths[first + span - 1] += max(0, len(name) - width)
        above.append(name.rjust(width))
        first += span
    align = [str.rjust if column.figures else str.ljust for column in table.columns]
    head, *rows = (
        "  ".join(put(cell, width) for put, cell, width in zip(align, line, widths, strict=True)) for line in lines
    )
    over = ["  ".join(above)] if any(column.group for column in table.columns) else []
    printed = [*([table.caption] if table.caption else []), *over, head, "-" * len(head), *rows, *table.notes]
    return "\n".join(line.rstrip() for line in printed)


def markdown(table: ResultTable) -> str:
    """A table of GitHub's Markdown, without caption and notes."""
    titles = [markdown_text(f"{c.group}: {c.title}" if c.group else c.title) for c in table.columns]
    lines = [titles, ["---"] * len(titles), *([markdown_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_cell(cell: TableCell) -> str:
    """Best bold, second best underlined, published in italics."""
    return _MARKDOWN_MARKS.get(cell.mark, "{}").format(markdown_text(cell.text)) + markdown_text(cell.suffix)


def markdown_text(text: str) -> str:
    """Escaped for Markdown, but not where it means nothing: a_b, [1, 2]."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*|~]|\[(?=[^\]]*\][(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", plain)


def latex(table: ResultTable, about: Sequence[str] = (), legend: Sequence[TableCell] = ()) -> str:
    """A `table` environment with booktabs, to be included.

    Args:
        about, legend: follow the caption, before and after the notes of the table.
    """
    sentences = [table.caption, *about, *table.notes]
    caption = " ".join(sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences)
    titles = [latex_text(f"{c.group}: {c.title}" if c.group else c.title) for c in table.columns]
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\begin{{tabular}}{{{''.join('r' if c.figures else 'l' for c in table.columns)}}}",
        r"\toprule",
        " & ".join(titles) + r" \\",
        r"\midrule",
        # Without the braces \\ would take a [ or * at the beginning of the next row for its own.
        *("{}" + " & ".join(map(latex_cell, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{latex_text(caption)} {''.join(map(latex_cell, legend))}}}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def latex_cell(cell: TableCell) -> str:
    r"""Best \textbf, second best \underline, published \emph."""
    command = _LATEX_MARKS.get(cell.mark)
    return (rf"\{command}{{{latex_text(cell.text)}}}" if command else latex_text(cell.text)) + latex_text(cell.suffix)


def latex_text(text: str) -> str:
    """Escaped for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text.replace("\n", " "))


def html(table: ResultTable) -> Markup:
    """A table that `compare/page/tables.js` sorts, with its notes; all text is escaped."""
    columns = list(accumulate((span for _, span in table.column_groups), initial=0))
    footnotes = list(dict.fromkeys(cell.footnote for row in table.rows for cell in row if cell.footnote))
    starts = columns[1:-1]
    return Markup(_template().render(table=table, starts=starts, footnotes=footnotes, typeset=_typeset))


def _typeset(text: str, cell: TableCell) -> str:
    """Figures with a real minus sign, so that columns of gains line up."""
    if text == EMPTY:
        return "–"
    return text if cell.value is None else re.sub(r"-(?=[\d∞])", "−", text)


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string((files(__package__) / "table.html").read_text(encoding="utf-8"))


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Mappings as CSV with all digits; a key that a line lacks, and None, become an empty field.

    Texts that a spreadsheet would take for a formula, such as the name of a model `=A1`, begin with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writerow({key: _no_formula(key) for key in writer.fieldnames})
    writer.writerows({key: _no_formula(value) for key, value in line.items()} for line in lines)
    return out.getvalue()


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
