"""Entries of the page's tables as text and marks, and the few words that go with a value everywhere on the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from experiments.compare.types import Benchmark, Difference, Method, Published, Score, Timing
from experiments.results.records import METRICS

SECONDS = "seconds"
Footnotes = dict[str, int]  # text -> number


@dataclass
class HtmlCell:
    """One entry; `sort` is what its column is ordered by, None (an empty cell) comes last; `mark` a class of CSS."""

    text: str = "–"
    sort: float | None = None
    mark: str = ""
    gain: str = ""
    interval: str = ""
    verdict: str = ""
    delta: str = ""
    tip: str = ""
    notes: list[int] = field(default_factory=list)


def metric_title(metric: str) -> str:
    if metric == SECONDS:
        return "s / image ↓"
    label, _, sign = METRICS.get(metric, (metric, 4, 1))
    return f"{label} {'↑' if sign > 0 else '↓'}"


def number(metric: str, value: float, signed: bool = False) -> str:
    """A value with the digits of its metric; a real minus sign, so that columns of gains line up."""
    if not math.isfinite(value):
        return "∞" if value == math.inf else "–"
    digits = 3 if metric == SECONDS else METRICS.get(metric, (metric, 4, 1))[1]
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def seconds_text(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def device_text(timing: Timing) -> str:
    """`cpu, 2 threads`; threads say nothing about a GPU."""
    if not timing.threads or "cpu" not in timing.device.lower():
        return timing.device
    return f"{timing.device}, {timing.threads} thread{'s' * (timing.threads != 1)}"


def parameters_text(method: Method) -> str:
    if method.baseline or method.parameters == 0:
        return "0"
    return "–" if method.parameters is None else f"{method.parameters / 1e6:.3f} M"


def measured(benchmark: Benchmark, metric: str, method: Method) -> HtmlCell:
    if metric == SECONDS:
        timing = benchmark.timings.get(method.label)
        if timing is None:
            return HtmlCell()
        return HtmlCell(seconds_text(timing.seconds), timing.seconds, tip=device_text(timing))
    return scored(benchmark.scores.get(metric, {}).get(method.label), metric)


def scored(score: Score | None, metric: str) -> HtmlCell:
    if score is None:
        return HtmlCell()
    cell = HtmlCell(number(metric, score.mean), score.mean, score.rank or "")
    if score.gain is not None:
        gain = score.gain
        cell.gain = number(metric, gain.mean, True)
        cell.interval = interval(metric, gain)
        cell.verdict = "" if gain.better is None else "better" if gain.better == gain.first else "worse"
        cell.tip = f"against {gain.second}: {cell.gain} {cell.interval}, better on {wins(gain)} images"
        cell.interval += f" {gain.wins}/{gain.images}"
    if len(score.seeds) > 1:
        spread = ", ".join(f"{name} {number(metric, value)}" for name, value in score.seeds.items())
        cell.tip = "; ".join(filter(None, [cell.tip, spread]))
    if score.published is not None and score.delta is not None:
        cell.delta = f"published {number(metric, score.published.value)}, Δ {number(metric, score.delta, True)}"
    return cell


def published(figures: Iterable[Published], method: str, metric: str, footnotes: Footnotes) -> HtmlCell:
    for figure in figures:
        if (figure.method, figure.metric, figure.image) == (method, metric, None):
            parts = [figure.source, "" if figure.certain else "not certain", figure.caveat]
            note = footnotes.setdefault("; ".join(filter(None, parts)), len(footnotes) + 1)
            text = seconds_text(figure.value) if metric == SECONDS else number(metric, figure.value)
            return HtmlCell(text + ("" if figure.certain else " ?"), figure.value, notes=[note])
    return HtmlCell()


def valued(metric: str, value: float | None) -> HtmlCell:
    return HtmlCell() if value is None else HtmlCell(number(metric, value), value)


def verdict(metric: str, difference: Difference) -> str:
    """One sentence on best against second."""
    label = METRICS.get(metric, (metric, 4, 1))[0]
    mean = number(metric, difference.mean, True)
    facts = f"{label} {mean} {interval(metric, difference)}, better on {wins(difference)} images"
    if difference.better is None:
        return f"{difference.first} is first and {difference.second} second, but no difference is proven: {facts}"
    return f"{difference.first} is better than {difference.second}: {facts}"


def interval(metric: str, difference: Difference) -> str:
    return f"[{number(metric, difference.low, True)}, {number(metric, difference.high, True)}]"


def wins(difference: Difference) -> str:
    ties = f" ({difference.ties} equal)" if difference.ties else ""
    return f"{difference.wins} of {difference.images}{ties}"
