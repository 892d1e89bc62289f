"""A comparison as Markdown and LaTeX, and its values one a line, as CSV and W&B have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from experiments.compare.tables import LEGEND, describe, result_tables
from experiments.compare.types import Benchmark, Comparison, Score
from experiments.results import writers
from experiments.results.published import Published
from experiments.results.records import METRICS
from experiments.results.writers import markdown_cell, markdown_text


def markdown(comparison: Comparison) -> str:
    """All tables as GitHub's Markdown."""
    parts = [f"# {markdown_text(comparison.name)}"]
    if comparison.notes:
        parts.append(_listed(comparison.notes))
    for table in comparison.tables:
        parts.append(f"## {markdown_text(table.title)}")
        parts.append("  \n".join(map(markdown_text, describe(comparison, table))))
        for result in result_tables(comparison, table):
            parts += [f"### {markdown_text(result.caption)}", writers.markdown(result)]
            if result.notes:
                parts.append(_listed(result.notes))
        if table.notes:
            parts += ["Notes:", _listed(table.notes)]
    return "\n\n".join([*parts, "".join(map(markdown_cell, LEGEND))]) + "\n"


def _listed(notes: list[str]) -> str:
    return "\n".join(f"* {markdown_text(note)}" for note in notes)


def latex(comparison: Comparison) -> str:
    """All tables as LaTeX `table` environments, to be included."""
    parts = [r"% needs \usepackage{booktabs}; wide grids want a landscape page or \resizebox"]
    for table in comparison.tables:
        about = [*describe(comparison, table), *table.notes]
        parts += [writers.latex(result, about, LEGEND) for result in result_tables(comparison, table)]
    return "\n\n".join(parts) + "\n"


def csv_text(comparison: Comparison) -> str:
    """One line for each method, benchmark and metric, with all digits; means over a grid and published figures too."""
    return writers.csv_text(value_lines(comparison))


def value_lines(comparison: Comparison) -> list[dict[str, Any]]:
    """The lines of the CSV as mappings; a key that says nothing of a line is absent."""
    return [
        line
        for table in comparison.tables
        for benchmark in (*table.benchmarks, *table.averages)
        for line in _lines(comparison, table.suite or "", table.protocol["name"], benchmark)
    ]


def _lines(comparison: Comparison, suite: str, protocol: str, benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    common: dict[str, Any] = {"suite": suite, "protocol": protocol, "dataset": benchmark.dataset}
    common |= {"split": benchmark.split, "scale": benchmark.scale, "images": len(benchmark.images)}
    common |= {"cell": json.dumps(benchmark.cell, sort_keys=True), "averaged_over": benchmark.over}
    kind, published = ("mean", "published mean") if benchmark.over else ("measured", "published")
    for metric, scores in benchmark.scores.items():
        for label, score in scores.items():
            method = comparison.method(label)
            line = {"kind": kind, "method": label, "model": method.model, "parameters": method.parameters}
            timing = asdict(benchmark.timings[label]) if label in benchmark.timings else {}
            yield common | line | _values(metric, score) | timing
    for figure in benchmark.published:
        line = {"kind": published, "method": figure.method, "model": figure.model, "metric": figure.metric}
        yield common | line | {"value": figure.value, **_origin(figure)}


def _values(metric: str, score: Score) -> dict[str, Any]:
    line: dict[str, Any] = {"metric": metric, "higher_is_better": METRICS[metric][2] > 0, "value": score.mean}
    line |= {"rank": score.rank, "seeds": len(score.seeds)}
    if score.published:
        line |= {"published": score.published.value, "delta": score.delta, **_origin(score.published)}
    if gain := score.gain:
        line |= {"reference": gain.second, "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        line |= {"wins": gain.wins, "ties": gain.ties, "better": gain.better}
    return line


def _origin(figure: Published) -> dict[str, Any]:
    return {"certain": figure.certain, "source": figure.source}
