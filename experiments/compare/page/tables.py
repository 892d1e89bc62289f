"""The tables of the page as text and marks, in the order in which they are read; the template only draws them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.compare.page.cells import (
    SECONDS,
    Footnotes,
    HtmlCell,
    device_text,
    measured,
    metric_title,
    parameters_text,
    published,
    scored,
    valued,
    verdict,
)
from experiments.compare.types import Average, Benchmark, Comparison, Method, Published, Table


@dataclass
class Row:
    heads: list[str]
    cells: list[HtmlCell]
    detail: str = ""
    published: bool = False
    first: bool = False  # of a group: a line is drawn above it

    @property
    def classes(self) -> str:
        return " ".join(name for name in ("published", "first") if getattr(self, name))


@dataclass
class Grid:
    """One table: `groups` are (title, columns) over the columns, `corners` the titles of the row heads."""

    caption: str
    corners: list[str]
    groups: list[tuple[str, int]]
    columns: list[str]
    rows: list[Row]
    sentences: list[str] = field(default_factory=list)
    folded: bool = False

    @property
    def starts(self) -> set[int]:
        """Numbers of the columns with which a group begins."""
        spans = [span for _, span in self.groups]
        return {sum(spans[:place]) for place in range(len(spans))}


@dataclass
class Section:
    """All tables of one suite under one protocol."""

    anchor: str
    title: str
    protocol: str
    grids: list[Grid]
    notes: list[str]
    footnotes: list[str]


def sections(comparison: Comparison) -> list[Section]:
    return [_section(comparison, table, number) for number, table in enumerate(comparison.tables)]


def protocol_text(protocol: dict[str, Any]) -> str:
    """`y_shave4: luma (Y of BT.601), 4 pixels left out at each border, rounded to 8 bit`."""
    colour = {"y": "luma (Y of BT.601)", "rgb": "RGB"}.get(protocol["colour"], protocol["colour"])
    shave = f"{protocol['shave']} pixels left out at each border" if protocol["shave"] else "whole images"
    eight_bit = {"round": "rounded to 8 bit", "truncate": "cut off to 8 bit", "none": "not rounded"}
    parts = [colour, shave, eight_bit.get(protocol.get("rounding", "round"), str(protocol.get("rounding")))]
    if protocol.get("ssim") == "volume":
        parts.append("SSIM of the colour volume")
    return f"{protocol['name']}: {', '.join(parts)}"


def anchor(text: str, number: int) -> str:
    """A fragment of letters, digits and dashes that is unique by its number."""
    return f"{re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-') or 'table'}-{number}"


def _section(comparison: Comparison, table: Table, number: int) -> Section:
    footnotes: Footnotes = {}
    averaged = {average.dataset for average in table.averages}
    plain = [benchmark for benchmark in table.benchmarks if benchmark.dataset not in averaged]
    grids = [_plain_grid(comparison, table, plain, footnotes)] if plain else []
    for dataset in dict.fromkeys(average.dataset for average in table.averages):
        for place, metric in enumerate(table.metrics):
            grids.append(_pivot(comparison, table, dataset, metric, footnotes, folded=place > 0))
    grids += [_per_image(comparison, benchmark) for benchmark in plain]
    return Section(
        anchor(table.title, number),
        table.title,
        protocol_text(table.protocol),
        grids,
        list(table.notes),
        list(footnotes),
    )


def _plain_grid(comparison: Comparison, table: Table, benchmarks: Sequence[Benchmark], footnotes: Footnotes) -> Grid:
    """Rows are methods, then published figures; every data set has a group of columns."""
    columns = []  # (benchmark, metric)
    groups = []
    for benchmark in benchmarks:
        metrics = [*benchmark.scores, *([SECONDS] if benchmark.timings else [])]
        columns += [(benchmark, metric) for metric in metrics]
        count = len(benchmark.images)
        groups.append((f"{_scaled(benchmark)} · {count} image{'s' * (count != 1)}", len(metrics)))
    rows = []
    for method in comparison.methods_of(table):
        cells = [measured(benchmark, metric, method) for benchmark, metric in columns]
        size = f"{parameters_text(method)} parameters" if method.parameters else ""
        rows.append(Row([method.label], cells, ", ".join(filter(None, [size, _seeds(method)]))))
    found = [figure for benchmark in benchmarks for figure in benchmark.published if figure.image is None]
    for name in dict.fromkeys(figure.method for figure in found):
        cells = [published(benchmark.published, name, metric, footnotes) for benchmark, metric in columns]
        if any(cell.sort is not None for cell in cells):
            rows.append(Row([name], cells, "published", published=True, first=not rows[-1].published))
    sentences = [
        f"{_scaled(benchmark)}: {verdict(metric, difference)}"
        for benchmark in benchmarks
        for metric, difference in benchmark.best.items()
    ]
    sentences += [_devices(benchmark) for benchmark in benchmarks if benchmark.timings]
    heads = [metric_title(metric) for _, metric in columns]
    return Grid("Means over images", ["Method"], groups, heads, rows, sentences)


def _pivot(comparison: Comparison, table: Table, dataset: str, metric: str, footnotes: Footnotes, folded: bool) -> Grid:
    """A grid as papers print it: the key that averages run over along the columns, the others and methods as rows."""
    benchmarks = [benchmark for benchmark in table.benchmarks if benchmark.dataset == dataset]
    averages = [average for average in table.averages if average.dataset == dataset]
    over = averages[0].over
    values = list(dict.fromkeys(str(benchmark.cell.get(over, "")) for benchmark in benchmarks))
    shared = list(dict.fromkeys(key for benchmark in benchmarks for key in benchmark.cell if key != over))
    places: dict[tuple[str, ...], dict[str, Benchmark]] = {}
    for benchmark in benchmarks:
        place = tuple(str(benchmark.cell.get(key, "")) for key in shared)
        places.setdefault(place, {})[str(benchmark.cell.get(over, ""))] = benchmark
    rows: list[Row] = []
    sentences = []
    for place, found in places.items():
        average = _average_at(averages, dict(zip(shared, place, strict=True)))
        group = _pivot_rows(comparison.methods_of(table), [found.get(value) for value in values], average, metric)
        group += _published_rows([found.get(value) for value in values], average, metric, footnotes)
        group[0].first = True
        for row in group:
            row.heads = [*place, *row.heads]
        rows += group
        where = ", ".join(f"{_last(key)}={value}" for key, value in zip(shared, place, strict=True)) or dataset
        if average is not None and metric in average.best:
            sentences.append(f"{where}: {verdict(metric, average.best[metric])}")
        if average is not None and average.count < len(found):
            sentences.append(f"{where}: the mean is over the {average.count} of {len(found)} that all methods have.")
    count = len(benchmarks[0].images)
    caption = f"{metric_title(metric)}, {dataset}, {count} image{'s' * (count != 1)}"
    groups = [(_last(over), len(values)), (f"over {_last(over)}", 2)]
    columns = [*values, "mean", f"gain over {comparison.reference}"]
    return Grid(caption, [*map(_last, shared), "Method"], groups, columns, rows, sentences, folded)


def _pivot_rows(
    methods: Iterable[Method], benchmarks: Sequence[Benchmark | None], average: Average | None, metric: str
) -> list[Row]:
    """A row a method. One line an entry keeps twelve columns readable: gains stand in the tips, but for the mean's."""
    rows = []
    for method in methods:
        cells = [HtmlCell() if benchmark is None else measured(benchmark, metric, method) for benchmark in benchmarks]
        mean = scored(None if average is None else average.scores.get(metric, {}).get(method.label), metric)
        gain = HtmlCell(f"{mean.gain} {mean.interval} {mean.verdict}".strip() or "–", mark=mean.verdict or "soft")
        for cell in (*cells, mean):
            cell.gain = cell.interval = cell.verdict = ""
        rows.append(Row([method.label], [*cells, mean, gain]))
    return rows


def _published_rows(
    benchmarks: Sequence[Benchmark | None], average: Average | None, metric: str, footnotes: Footnotes
) -> list[Row]:
    figures: list[list[Published]] = [[] if benchmark is None else benchmark.published for benchmark in benchmarks]
    means = [] if average is None else average.published
    names = dict.fromkeys(f.method for found in figures for f in found if f.metric == metric and f.image is None)
    rows = []
    for name in names:
        cells = [published(found, name, metric, footnotes) for found in (*figures, means)]
        rows.append(Row([name], [*cells, HtmlCell()], "published", published=True))
    return rows


def _per_image(comparison: Comparison, benchmark: Benchmark) -> Grid:
    """Values of every image; the first metric leads, figures published for single images stand beside."""
    metrics = list(benchmark.scores)
    methods = [
        method.label for method in comparison.methods if any(method.label in benchmark.scores[m] for m in metrics)
    ]
    figures = [figure for figure in benchmark.published if figure.image is not None]
    named = list(dict.fromkeys(figure.method for figure in figures))
    rows = []
    for image in benchmark.images:
        cells = []
        for metric in metrics:
            values = {label: score.images.get(image) for label, score in benchmark.scores[metric].items()}
            cells += [valued(metric, values.get(label)) for label in methods]
            here = {
                figure.method: figure.value for figure in figures if (figure.image, figure.metric) == (image, metric)
            }
            cells += [valued(metric, here.get(name)) for name in named]
        rows.append(Row([image], cells))
    columns = [*methods, *(f"{name} (published)" for name in named)]
    groups = [(metric_title(metric), len(columns)) for metric in metrics]
    return Grid(f"Every image of {_scaled(benchmark)}", ["Image"], groups, columns * len(metrics), rows, folded=True)


def _average_at(averages: Iterable[Average], place: dict[str, str]) -> Average | None:
    for average in averages:
        if {key: str(value) for key, value in average.cell.items()} == place:
            return average
    return None


def _seeds(method: Method) -> str:
    return f"{len(method.runs)} seeds" if len(method.runs) > 1 and not method.baseline else ""


def _devices(benchmark: Benchmark) -> str:
    """On what the methods were timed."""
    found: dict[str, list[str]] = {}
    for label, timing in benchmark.timings.items():
        found.setdefault(device_text(timing), []).append(label)
    times = "; ".join(f"{', '.join(labels)} on {device}" for device, labels in found.items())
    return f"{_scaled(benchmark)}: median seconds of the forward pass of one image: {times}"


def _scaled(benchmark: Benchmark) -> str:
    known = benchmark.scale is None or any(_last(key) == "scale" for key in benchmark.cell)
    return benchmark.title if known else f"{benchmark.title}, x{benchmark.scale}"


def _last(key: str) -> str:
    """`number` of `degradation.kernels.number`."""
    return key.rsplit(".", 1)[-1]
