"""The tables of a comparison as rows of cells, which `writers` write as Markdown and LaTeX.

A suite with an axis that can be averaged over (kernels) is laid out as USRNet's Table 1: one sheet for each data set
and metric, a row for each method in each row of the grid, a column for each kernel. All else has methods as rows, and
data sets and metrics as columns.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from experiments.compare.group import canonical
from experiments.compare.types import Average, Benchmark, Comparison, Difference, Method, Score, Table
from experiments.results.published import Published
from experiments.results.records import METRICS

Style = Literal["best", "second", "published", None]
EMPTY = "-"


@dataclass(frozen=True)
class TableCell:
    """Text as a reader sees it, not escaped for any format."""

    text: str
    style: Style = None
    suffix: str = ""


@dataclass
class Sheet:
    """One table to be printed: a caption, a header, rows of the same length, lines below it."""

    caption: str
    header: list[str]
    rows: list[list[TableCell]]
    lines: list[str] = field(default_factory=list)


def sheets(comparison: Comparison, table: Table) -> list[Sheet]:
    """Scores, then gains against the reference, then cost."""
    found = _grids(comparison, table) if table.averages else [_plain(comparison, table)]
    columns: Sequence[Benchmark | Average] = table.averages or table.benchmarks
    found[-1].lines += _verdicts(columns)
    gains = _gains(comparison, table, columns)
    return [*found, *([gains] if gains else []), _cost(comparison, table)]


def describe(comparison: Comparison, table: Table) -> list[str]:
    """What every figure of a table is: protocol, data sets with their number of images, seeds."""
    protocol = "; ".join(f"{key} {value}" for key, value in table.protocol.items() if key != "name")
    data = dict.fromkeys(f"{b.dataset} ({b.split}, {_count(len(b.images), 'image')})" for b in table.benchmarks)
    seeds = []
    for method in comparison.methods_of(table):
        known = sorted({run.seed for run in method.runs if run.seed is not None})
        if not method.baseline and known:
            seeds.append(f"{method.label}: {', '.join(map(str, known))}")
    lines = [f"Protocol {table.protocol['name']}: {protocol}.", f"Data: {', '.join(data)}."]
    return [*lines, f"Seeds: {'; '.join(seeds)}."] if seeds else lines


def number(value: float, metric: str, sign: str = "") -> str:
    """A value with the digits of its metric."""
    return f"{value:{sign}.{METRICS[metric][1]}f}"


def head(metric: str) -> str:
    """`PSNR dB ↑`: the arrow says which way is better."""
    label, _, sign = METRICS[metric]
    return f"{label} {'↑' if sign > 0 else '↓'}"


def _plain(comparison: Comparison, table: Table) -> Sheet:
    columns = [(b, metric) for b in table.benchmarks for metric in b.scores]
    several = len(table.benchmarks) > 1
    header = ["method", *(f"{b.title}: {head(metric)}" if several else head(metric) for b, metric in columns)]
    rows = []
    for method in comparison.methods_of(table):
        rows.append([TableCell(method.label), *(_cell(b.scores[m].get(method.label), m) for b, m in columns)])
    names = dict.fromkeys(f.method for b in table.benchmarks for f in b.published if f.metric in METRICS)
    for name in names:
        found = [_published([f for f in b.published if f.method == name and f.metric == m], m) for b, m in columns]
        rows.append([_published_name(name), *found])
    title = table.title if several else f"{table.title}: {table.benchmarks[0].title}"
    return Sheet(title, header, [row for row in rows if any(cell.text != EMPTY for cell in row[1:])])


def _grids(comparison: Comparison, table: Table) -> list[Sheet]:
    over = table.averages[0].over
    found = []
    for dataset in dict.fromkeys(b.dataset for b in table.benchmarks):
        here = [b for b in table.benchmarks if b.dataset == dataset]
        across = list(dict.fromkeys(canonical({over: b.cell.get(over)}) for b in here))
        names = {canonical({over: b.cell.get(over)}): _value(b.cell.get(over)) for b in here}
        down = [key for key in here[0].cell if key != over]
        for metric in dict.fromkeys(metric for b in here for metric in b.scores):
            caption = f"{table.title}: {dataset}, {head(metric)}; columns: {_key(over)}"
            header = [*map(_key, down), "method", *(names[key] for key in across), "mean"]
            counts = {average.count for average in table.averages if average.dataset == dataset}
            short = f"some means are over fewer than {len(across)} columns: those that all methods of the row have"
            lines = [short] if counts and min(counts) < len(across) else []
            found.append(Sheet(caption, header, _grid_rows(comparison, table, here, over, across, metric), lines))
    return found


def _grid_rows(
    comparison: Comparison, table: Table, here: Sequence[Benchmark], over: str, across: Sequence[str], metric: str
) -> list[list[TableCell]]:
    lines: dict[str, dict[str, Benchmark]] = {}
    for b in here:
        rest = canonical({key: value for key, value in b.cell.items() if key != over})
        lines.setdefault(rest, {})[canonical({over: b.cell.get(over)})] = b
    rows = []
    for rest, cells in lines.items():
        first = next(iter(cells.values()))
        left = [TableCell(_value(value)) for key, value in first.cell.items() if key != over]
        mean = next((a for a in table.averages if a.dataset == first.dataset and canonical(a.cell) == rest), None)
        columns: list[Benchmark | Average | None] = [*(cells.get(key) for key in across), mean]
        for method in comparison.methods_of(table):
            found = [_cell(c.scores.get(metric, {}).get(method.label) if c else None, metric) for c in columns]
            if any(cell.text != EMPTY for cell in found):
                rows.append([*left, TableCell(method.label), *found])
        everything = [f for c in columns if c for f in c.published if f.metric == metric]
        for name in dict.fromkeys(f.method for f in everything):
            figures = [
                [f for f in c.published if f.method == name and f.metric == metric] if c else [] for c in columns
            ]
            rows.append([*left, _published_name(name), *(_published(of, metric) for of in figures)])
    return rows


def _cell(score: Score | None, metric: str) -> TableCell:
    if score is None:
        return TableCell(EMPTY)
    delta = "" if score.delta is None else f" ({number(score.delta, metric, '+')})"
    return TableCell(number(score.mean, metric), score.rank, delta)


def _published(figures: Sequence[Published], metric: str) -> TableCell:
    if not figures:
        return TableCell(EMPTY)
    text = number(figures[0].value, metric)
    return TableCell(text if figures[0].certain else f"≈{text}", "published")


def _published_name(name: str) -> TableCell:
    return TableCell(f"{name} (published)", "published")


def _gains(comparison: Comparison, table: Table, columns: Sequence[Benchmark | Average]) -> Sheet | None:
    metrics = list(dict.fromkeys(metric for c in columns for metric in c.scores))
    rows = []
    for c in columns:
        for method in comparison.methods_of(table):
            scores = [c.scores.get(metric, {}).get(method.label) for metric in metrics]
            gains = [(score.gain if score else None, m) for score, m in zip(scores, metrics, strict=True)]
            if any(gain for gain, _ in gains):
                texts = [_difference(gain, m) if gain else EMPTY for gain, m in gains]
                rows.append([TableCell(_title(c)), TableCell(method.label), *map(TableCell, texts)])
    if not rows:
        return None
    line = (
        "mean difference, 95 % interval (paired bootstrap over images, and seeds where there are several), images on "
        "which it is better; an asterisk: the interval excludes 0 (and the difference has a digit to show)"
    )
    header = ["data", "method", *map(head, metrics)]
    return Sheet(f"{table.title}: difference to {comparison.reference}", header, rows, [line])


def _difference(gain: Difference, metric: str) -> str:
    bounds = f"[{number(gain.low, metric, '+')}, {number(gain.high, metric, '+')}]"
    return f"{number(gain.mean, metric, '+')}{'*' if gain.better else ''} {bounds}, {gain.wins}/{gain.images}"


def _verdicts(columns: Iterable[Benchmark | Average]) -> list[str]:
    """Best against second best, in words; "better" only where the interval excludes 0."""
    lines = []
    for column in columns:
        for metric, d in column.best.items():
            bounds = f"[{number(d.low, metric, '+')}, {number(d.high, metric, '+')}]"
            claim = f"{d.better} is better" if d.better else "no difference is shown"
            lines.append(
                f"{_title(column)}, {METRICS[metric][0]}: {d.first} against {d.second} "
                f"{number(d.mean, metric, '+')} {bounds}, ahead on {d.wins} of {d.images} images: {claim}"
            )
    return lines


def _cost(comparison: Comparison, table: Table) -> Sheet:
    places = list(dict.fromkeys((b.dataset, b.scale) for b in table.benchmarks))
    header = ["method", "parameters", "runs", "device", *(f"s/image, {d}" + (f" x{s}" if s else "") for d, s in places)]
    rows = []
    for method in comparison.methods_of(table):
        own = [(b, t) for b in table.benchmarks if (t := b.timings.get(method.label))]
        devices = dict.fromkeys(t.device + (f", {_count(t.threads, 'thread')}" if t.threads else "") for _, t in own)
        seconds = []
        for place in places:
            here = [t for b, t in own if (b.dataset, b.scale) == place]
            alike = len({(t.device, t.threads) for t in here}) == 1  # times of different devices do not mix
            seconds.append(TableCell(f"{statistics.median(t.seconds for t in here):.3g}" if alike else EMPTY))
        runs = EMPTY if method.baseline else str(len(method.runs))
        left = [method.label, _millions(method), runs, "; ".join(devices) or EMPTY]
        rows.append([*map(TableCell, left), *seconds])
    for name in dict.fromkeys(f.method for b in table.benchmarks for f in b.published if f.metric == "seconds"):
        own_figures = [
            (b, f) for b in table.benchmarks for f in b.published if (f.method, f.metric) == (name, "seconds")
        ]
        cells = [[f.value for b, f in own_figures if (b.dataset, b.scale) == place] for place in places]
        shown = [TableCell(f"{values[0]:.3g}", "published") if values else TableCell(EMPTY) for values in cells]
        rows.append(
            [_published_name(name), TableCell(EMPTY), TableCell(EMPTY), TableCell("the paper's", "published"), *shown]
        )
    return Sheet(f"{table.title}: cost", header, rows, ["median seconds of the forward pass for one image"])


def _millions(method: Method) -> str:
    return EMPTY if method.parameters is None else f"{method.parameters / 1e6:.3f} M"


def _title(column: Benchmark | Average) -> str:
    if isinstance(column, Benchmark):
        return column.title
    cell = "".join(f", {_key(key)}={_value(value)}" for key, value in column.cell.items())
    return f"{column.dataset}{cell}, mean over {column.count} {_key(column.over)}"


def _key(key: str) -> str:
    return key.removeprefix("degradation.")


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
