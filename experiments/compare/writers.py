"""A comparison as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from experiments.compare.tables import Sheet, TableCell, describe, sheets
from experiments.compare.types import Average, Benchmark, Comparison, Method, Score, Table
from experiments.results.published import Published
from experiments.results.records import METRICS

COLUMNS = (
    *("kind", "suite", "protocol", "dataset", "split", "scale", "cell", "averaged_over", "images", "method", "model"),
    *("seeds", "metric", "higher_is_better", "value", "rank", "published", "delta", "certain", "source", "reference"),
    *("gain", "gain_low", "gain_high", "wins", "ties", "better", "seconds", "device", "threads", "parameters"),
)
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
    **{character: "\\" + character for character in "&%$#_{}"},
}


def markdown(comparison: Comparison) -> str:
    """All tables as GitHub's Markdown: best bold, second best underlined, published figures in italics."""
    parts = [f"# {_md(comparison.name)}"]
    parts += [f"* {_md(note)}" for note in comparison.notes]
    for table in comparison.tables:
        parts.append(f"## {_md(table.title)}")
        parts.append("  \n".join(_md(line) for line in describe(comparison, table)))
        for sheet in sheets(comparison, table):
            parts.append(f"### {_md(sheet.caption)}\n\n{_markdown_table(sheet)}")
            if sheet.lines:
                parts.append("\n".join(f"* {_md(line)}" for line in sheet.lines))
        if table.notes:
            parts.append("Notes:\n\n" + "\n".join(f"* {_md(note)}" for note in table.notes))
    return "\n\n".join([*parts, _legend(_md, "**best**", "<u>second best</u>", "*published*")]) + "\n"


def _legend(escape: Any, best: str, second: str, italic: str) -> str:
    text = "among the measured methods; {} figures are those of the sources, ≈ uncertain ones; in brackets: measured "
    before, after = (text + "minus published.").split("{}")
    return f"{best} and {second} {escape(before)}{italic}{escape(after)}"


def _markdown_table(sheet: Sheet) -> str:
    lines = [f"| {' | '.join(map(_md, sheet.header))} |", f"|{' --- |' * len(sheet.header)}"]
    lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in sheet.rows]
    return "\n".join(lines)


def _markdown_cell(cell: TableCell) -> str:
    text = _md(cell.text)
    styled = {"best": f"**{text}**", "second": f"<u>{text}</u>", "published": f"*{text}*"}
    return (styled[cell.style] if cell.style else text) + _md(cell.suffix)


def _md(text: str) -> str:
    """Escaped for Markdown, but not where it means nothing: a_b, [1, 2]."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*|~]|\[(?=[^\]]*\][(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", plain)


def latex(comparison: Comparison) -> str:
    """All tables as LaTeX `table` environments, to be included: best \\textbf, second \\underline, published \\emph."""
    lines = [r"% needs \usepackage{booktabs}; wide grids want a landscape page or \resizebox"]
    for table in comparison.tables:
        for sheet in sheets(comparison, table):
            lines += _latex_table(comparison, table, sheet)
    return "\n".join(lines) + "\n"


def _latex_table(comparison: Comparison, table: Table, sheet: Sheet) -> list[str]:
    about = [*describe(comparison, table), *sheet.lines, *table.notes]
    caption = " ".join([sheet.caption + ".", *(line if line.endswith(".") else line + "." for line in about)])
    legend = _legend(_tex, r"\textbf{best}", r"\underline{second best}", r"\emph{published}")
    left = "l" * (sheet.header.index("method") + 1)
    return [
        "",
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\begin{{tabular}}{{{left}{'r' * (len(sheet.header) - len(left))}}}",
        r"\toprule",
        " & ".join(map(_tex, sheet.header)) + r" \\",
        r"\midrule",
        # Without the braces \\ would take a [ or * at the beginning of the next row for its own.
        *("{}" + " & ".join(map(_latex_cell, row)) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_tex(caption)} {legend}}}",
        r"\end{table}",
    ]


def _latex_cell(cell: TableCell) -> str:
    text = _tex(cell.text)
    command = {"best": "textbf", "second": "underline", "published": "emph"}
    return (rf"\{command[cell.style]}{{{text}}}" if cell.style else text) + _tex(cell.suffix)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text.replace("\n", " "))


def csv_text(comparison: Comparison) -> str:
    """One line for each method, benchmark and metric, with all digits; means over a grid and published figures too."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows(comparison))
    return out.getvalue()


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The lines of the CSV as mappings, for a table in W&B."""
    found: list[dict[str, Any]] = []
    for table in comparison.tables:
        for benchmark in table.benchmarks:
            found += _lines(comparison, table, benchmark)
        for average in table.averages:
            found += _lines(comparison, table, average)
    return found


def _lines(comparison: Comparison, table: Table, place: Benchmark | Average) -> Iterator[dict[str, Any]]:
    single = isinstance(place, Benchmark)
    common: dict[str, Any] = {
        "kind": "measured" if single else "mean",
        "suite": table.suite or "",
        "protocol": table.protocol["name"],
        "dataset": place.dataset,
        "cell": json.dumps(place.cell, sort_keys=True),
    }
    if isinstance(place, Benchmark):
        common |= {"split": place.split, "scale": place.scale, "images": len(place.images)}
    else:
        common["averaged_over"] = place.over
    for metric, scores in place.scores.items():
        for label, score in scores.items():
            line = common | _score(comparison.method(label), metric, score, comparison.reference)
            if isinstance(place, Benchmark) and (timing := place.timings.get(label)):
                line |= {"seconds": timing.seconds, "device": timing.device, "threads": timing.threads}
            yield line
    for figure in place.published:
        yield {**common, "kind": f"published {'' if single else 'mean'}".strip()} | _figure(figure)


def _score(method: Method, metric: str, score: Score, reference: str) -> dict[str, Any]:
    line: dict[str, Any] = {
        "method": method.label,
        "model": method.model,
        "seeds": len(score.seeds),
        "metric": metric,
        "higher_is_better": METRICS[metric][2] > 0,
        "value": score.mean,
        "rank": score.rank or "",
        "parameters": method.parameters if method.parameters is not None else "",
    }
    if score.published:
        line |= {"published": score.published.value, "delta": score.delta, "certain": score.published.certain}
        line |= {"source": score.published.source}
    if gain := score.gain:
        line |= {"reference": reference, "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        line |= {"wins": gain.wins, "ties": gain.ties, "better": gain.better or ""}
    return line


def _figure(figure: Published) -> dict[str, Any]:
    return {
        "method": figure.method,
        "model": figure.model or "",
        "metric": figure.metric,
        "value": figure.value,
        "certain": figure.certain,
        "source": figure.source,
    }
