"""The tables of a comparison: what is printed, exported and shown by the page is made from these.

A suite with an axis that can be averaged over (kernels) is laid out as USRNet's Table 1: a table for each data set and
metric, a row for each method in each row of the grid, a column for each kernel. All else has methods as rows, and data
sets and metrics as columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.compare.types import Benchmark, Comparison, Difference, Method, Score, Table, Timing, median_timing
from experiments.results.published import Published
from experiments.results.records import METRICS, canonical
from experiments.results.table import (
    EMPTY,
    ResultTable,
    TableCell,
    TableColumn,
    count,
    heads,
    metric_cell,
    metric_column,
    metric_title,
    number,
    words,
)
from experiments.results.tables import plain, short_keys

LEGEND = (
    TableCell("best", mark="best", suffix=" and "),
    TableCell("second best", mark="second", suffix=" among the measured methods; "),
    TableCell("published", mark="published", suffix=" figures are those of the sources, ≈ uncertain ones; "),
    TableCell("in brackets: measured minus published."),
)


def result_tables(comparison: Comparison, table: Table, images: bool = False) -> list[ResultTable]:
    """Scores, then differences to the reference, then cost; and for the page, the values of every image."""
    methods = comparison.methods_of(table)
    places: Sequence[Benchmark] = table.averages or table.benchmarks
    scores = list(_grids(methods, table)) if table.averages else [_scores(methods, table)]
    scores[-1].notes += _verdicts(places)
    differences = _differences(methods, table, places, comparison.reference)
    tables = [*scores, *([differences] if differences.rows else []), _cost(methods, table)]
    return [*tables, *_images(methods, table)] if images else tables


def describe(comparison: Comparison, table: Table) -> list[str]:
    """What every figure of a table is: protocol, data sets with their number of images, seeds."""
    data = dict.fromkeys(f"{b.dataset} ({b.split}, {count(len(b.images), 'image')})" for b in table.benchmarks)
    seeds = []
    for method in comparison.methods_of(table):
        known = sorted({run.seed for run in method.runs if run.seed is not None})
        if not method.baseline and known:
            seeds.append(f"{method.label}: {', '.join(map(str, known))}")
    lines = [f"Protocol {protocol_text(table.protocol)}.", f"Data: {', '.join(data)}."]
    return [*lines, f"Seeds: {'; '.join(seeds)}."] if seeds else lines


def protocol_text(protocol: dict[str, Any]) -> str:
    """`y_shave4: luma (Y of BT.601), 4 pixels left out at each border, rounded to 8 bit`."""
    luma = "luma (Y of BT.601)"
    words = {"y": luma, "rgb": "RGB", "y_of_rgb": f"{luma}, of gray images as RGB"}
    colour = words.get(protocol["colour"], protocol["colour"])
    shave = f"{protocol['shave']} pixels left out at each border" if protocol["shave"] else "whole images"
    rounding = protocol.get("rounding", "round")
    eight_bit = {"round": "rounded to 8 bit", "truncate": "cut off to 8 bit", "none": "not rounded"}
    parts = [colour, shave, eight_bit.get(rounding, str(rounding))]
    if protocol.get("ssim") == "volume":
        parts.append("SSIM of the colour volume")
    return f"{protocol['name']}: {', '.join(parts)}"


def seconds_text(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def device_text(timing: Timing) -> str:
    """`cpu, 2 threads`; threads say nothing about a GPU."""
    if not timing.threads or "cpu" not in timing.device.lower():
        return timing.device
    return f"{timing.device}, {count(timing.threads, 'thread')}"


def parameters_text(method: Method) -> str:
    if method.parameters is None:
        return EMPTY
    return f"{method.parameters / 1e6:.3f} M" if method.parameters else "0"


def _scores(methods: Sequence[Method], table: Table) -> ResultTable:
    columns = [(benchmark, metric) for benchmark in table.benchmarks for metric in benchmark.scores]
    several = len(table.benchmarks) > 1
    titles = [metric_column(metric, benchmark.title if several else "", arrow=True) for benchmark, metric in columns]
    caption = table.title if several else f"{table.title}: {table.benchmarks[0].title}"
    row_groups = [rows for rows in _rows(methods, columns) if rows]
    return ResultTable(caption, [*heads(["method"]), *titles], row_groups)


def _grids(methods: Sequence[Method], table: Table) -> Iterator[ResultTable]:
    over = table.averages[0].over
    for dataset in dict.fromkeys(benchmark.dataset for benchmark in table.benchmarks):
        benchmarks = [benchmark for benchmark in table.benchmarks if benchmark.dataset == dataset]
        averages = {canonical(a.cell): a for a in table.averages if a.dataset == dataset}
        across = {canonical(benchmark.cell.get(over)): plain(benchmark.cell.get(over)) for benchmark in benchmarks}
        grid: dict[str, dict[str, Benchmark]] = {}  # by the other keys, then across
        for benchmark in benchmarks:
            row = grid.setdefault(canonical(benchmark.cell_without(over)), {})
            row[canonical(benchmark.cell.get(over))] = benchmark
        short = short_keys(list(benchmarks[0].cell))
        down = [key for key in benchmarks[0].cell if key != over]
        fewest = min((average.count for average in averages.values()), default=len(across))
        partial = f"some means are over fewer than {len(across)} columns: those that all methods of the row have"
        for place, metric in enumerate(dict.fromkeys(metric for b in benchmarks for metric in b.scores)):
            row_groups = []
            for other, row in grid.items():
                left = words(*(plain(value) for value in next(iter(row.values())).cell_without(over).values()))
                cells = [*(row.get(key) for key in across), averages.get(other)]
                measured, published = _rows(methods, [(cell, metric) for cell in cells])
                row_groups.append([[*left, *entries] for entries in (*measured, *published)])
            caption = f"{table.title}: {dataset}, {metric_title(metric)}; columns: {over.removeprefix('degradation.')}"
            notes = [partial] if fewest < len(across) else []
            values = [
                TableColumn(title, lower_is_better=METRICS[metric][2] < 0) for title in (*across.values(), "mean")
            ]
            titles = [*heads([*(short[key] for key in down), "method"]), *values]
            yield ResultTable(caption, titles, row_groups, notes, folded=place > 0)


def _rows(
    methods: Sequence[Method], columns: Sequence[tuple[Benchmark | None, str]]
) -> tuple[list[list[TableCell]], list[list[TableCell]]]:
    """A row for each measured and for each published method that has a figure in one of the columns."""
    measured = [
        [TableCell(method.label), *(_score_cell(place, metric, method.label) for place, metric in columns)]
        for method in methods
    ]
    names = dict.fromkeys(figure.method for place, _ in columns if place for figure in place.published)
    published = [
        [_published_name(name), *(_published_cell(place, metric, name) for place, metric in columns)] for name in names
    ]
    return _filled(measured), _filled(published)


def _filled(rows: list[list[TableCell]]) -> list[list[TableCell]]:
    return [row for row in rows if any(cell.value is not None for cell in row)]


def _score_cell(place: Benchmark | None, metric: str, label: str) -> TableCell:
    score = place.scores.get(metric, {}).get(label) if place else None
    if score is None:
        return TableCell()
    delta = "" if score.delta is None else f" ({number(metric, score.delta, True)})"
    return TableCell(number(metric, score.mean), score.mean, score.rank or "", delta, _tip(score, metric))


def _tip(score: Score, metric: str) -> str:
    """The difference to the reference, and the means of the seeds."""
    parts = [f"against {score.gain.second}: {_bounded(score.gain, metric)}"] if score.gain else []
    if len(score.seeds) > 1:
        parts.append(", ".join(f"{run} {number(metric, value)}" for run, value in score.seeds.items()))
    return "; ".join(parts)


def _published_cell(place: Benchmark | None, metric: str, method: str) -> TableCell:
    for figure in place.published if place else ():
        if (figure.method, figure.metric) == (method, metric):
            text = seconds_text(figure.value) if metric == "seconds" else number(metric, figure.value)
            return TableCell(
                text if figure.certain else f"≈{text}", figure.value, "published", footnote=_source(figure)
            )
    return TableCell()


def _source(figure: Published) -> str:
    return "; ".join(filter(None, [figure.source, "" if figure.certain else "not certain", figure.caveat]))


def _published_name(name: str) -> TableCell:
    return TableCell(f"{name} (published)", mark="published")


def _differences(methods: Sequence[Method], table: Table, places: Sequence[Benchmark], reference: str) -> ResultTable:
    metrics = list(dict.fromkeys(metric for place in places for metric in place.scores))
    row_groups = []
    for place in places:
        rows = [
            [*words(place.title, method.label), *(_gain_cell(place, metric, method.label) for metric in metrics)]
            for method in methods
        ]
        row_groups.append(_filled(rows))
    note = (
        "mean difference, 95 % interval (paired bootstrap over images, those of a folder together, and seeds where "
        "there are several), images on which it is better; an asterisk: the interval excludes 0 (and the difference "
        "has a digit to show)"
    )
    titles = [*heads(["data", "method"]), *(metric_column(metric, arrow=True) for metric in metrics)]
    return ResultTable(f"{table.title}: difference to {reference}", titles, row_groups, [note])


def _gain_cell(place: Benchmark, metric: str, label: str) -> TableCell:
    score = place.scores.get(metric, {}).get(label)
    gain = score.gain if score else None
    if gain is None:
        return TableCell()
    text = f"{_bounded(gain, metric, '*' if gain.better else '')}, {gain.wins}/{gain.images}"
    return TableCell(text, gain.mean, "" if gain.better is None else "better" if gain.better == label else "worse")


def _bounded(difference: Difference, metric: str, asterisk: str = "") -> str:
    """`+0.60 [+0.40, +0.80]`: the mean with its interval."""
    mean, low, high = (number(metric, value, True) for value in (difference.mean, difference.low, difference.high))
    return f"{mean}{asterisk} [{low}, {high}]"


def _verdicts(places: Sequence[Benchmark]) -> Iterator[str]:
    """Best against second best, in words; "better" only where the interval excludes 0."""
    for place in places:
        for metric, best in place.best.items():
            claim = f"{best.better} is better" if best.better else "no difference is shown"
            ties = f" ({best.ties} equal)" if best.ties else ""
            yield (
                f"{place.title}, {METRICS[metric][0]}: {best.first} against {best.second} {_bounded(best, metric)}, "
                f"ahead on {best.wins} of {best.images} images{ties}: {claim}"
            )


def _cost(methods: Sequence[Method], table: Table) -> ResultTable:
    places = dict.fromkeys((b.dataset, b.scale) for b in table.benchmarks)
    groups = [[b for b in table.benchmarks if (b.dataset, b.scale) == place] for place in places]
    measured = []
    for method in methods:
        timings = [[b.timings[method.label] for b in group if method.label in b.timings] for group in groups]
        devices = dict.fromkeys(device_text(timing) for group in timings for timing in group)
        parameters = TableCell(parameters_text(method), method.parameters)
        runs = TableCell() if method.baseline else TableCell(str(len(method.runs)), len(method.runs))
        device = TableCell("; ".join(devices) or EMPTY)
        measured.append([TableCell(method.label), parameters, runs, device, *map(_seconds_cell, timings)])
    names = dict.fromkeys(f.method for b in table.benchmarks for f in b.published if f.metric == "seconds")
    published = []
    for name in names:
        figures = [[_published_cell(benchmark, "seconds", name) for benchmark in group] for group in groups]
        seconds = [next((cell for cell in cells if cell.value is not None), TableCell()) for cells in figures]
        device = TableCell("the paper's", mark="published")
        published.append([_published_name(name), TableCell(), TableCell(), device, *seconds])
    timed = [f"s/image, {dataset}" + (f" x{scale}" if scale else "") for dataset, scale in places]
    titles = [TableColumn(title, lower_is_better=True) for title in ("parameters", "runs", "device", *timed)]
    note = "median seconds of the forward pass for one image"
    return ResultTable(f"{table.title}: cost", [*heads(["method"]), *titles], [measured, published], [note])


def _seconds_cell(timings: Sequence[Timing]) -> TableCell:
    timing = median_timing(timings)
    return TableCell(seconds_text(timing.seconds), timing.seconds) if timing else TableCell()


def _images(methods: Sequence[Method], table: Table) -> Iterator[ResultTable]:
    """The values of every image of each data set, without those of a grid."""
    averaged = {average.dataset for average in table.averages}
    for benchmark in table.benchmarks:
        if benchmark.dataset in averaged:
            continue
        columns = [(metric, m.label) for metric in benchmark.scores for m in methods]
        columns = [(metric, label) for metric, label in columns if label in benchmark.scores[metric]]
        rows = [
            [TableCell(image), *(metric_cell(m, benchmark.scores[m][label].images[image]) for m, label in columns)]
            for image in benchmark.images
        ]
        titles = [TableColumn(label, metric_title(m), True, METRICS[m][2] < 0) for m, label in columns]
        caption = f"Every image of {benchmark.title}"
        yield ResultTable(caption, [*heads(["image"]), *titles], [rows], folded=True)
