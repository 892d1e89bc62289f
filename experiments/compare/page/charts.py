"""Data of the two plots, drawn in the browser by plotly.js: curves of the trainings, and quality against time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from experiments.compare.tables import device_text, parameters_text, seconds_text
from experiments.compare.types import Benchmark, Comparison, Score, Table, Timing
from experiments.results.records import METRICS


def chart_data(comparison: Comparison) -> dict[str, Any]:
    """What charts.js draws; `curves` or `speed` is empty where there is nothing to draw."""
    return {
        "methods": [method.label for method in comparison.methods],
        "curves": _curves(comparison),
        "speed": _speeds(comparison),
    }


def _curves(comparison: Comparison) -> list[dict[str, Any]]:
    """One entry a metric, validation PSNR first; each run is a line, in the colour of its method."""
    metrics: dict[str, list[dict[str, Any]]] = {}
    for place, method in enumerate(comparison.methods):
        if method.baseline:
            continue
        for seed, run in enumerate(method.runs):
            for metric, curve in run.curves.items():
                points = [(step, value) for step, value in curve if math.isfinite(value)]
                if points:
                    steps, values = zip(*points, strict=True)
                    name = method.label if len(method.runs) == 1 else f"{method.label}, seed {run.seed}"
                    line = {"name": name, "method": place, "seed": seed, "x": steps, "y": values}
                    metrics.setdefault(metric, []).append(line)
    asked = [f"val/psnr/{table.protocol['name']}" for table in comparison.tables]
    ordered = sorted(metrics, key=lambda m: (m not in asked, not m.startswith("val/psnr"), not m.startswith("val/"), m))
    return [{"title": metric, "lines": metrics[metric]} for metric in ordered]


def _speeds(comparison: Comparison) -> list[dict[str, Any]]:
    """One entry a benchmark, or a row of a grid, on which at least one method was timed."""
    found = []
    for table in comparison.tables:
        averaged = {average.dataset for average in table.averages}
        for benchmark in table.benchmarks:
            if benchmark.dataset not in averaged:
                title = f"{benchmark.title} ({table.protocol['name']})"
                found.append(_speed(comparison, title, benchmark.scores, benchmark.timings))
        for average in table.averages:
            cell = "".join(f", {key.rsplit('.', 1)[-1]}={value}" for key, value in average.cell.items())
            title = f"{average.dataset}{cell}, mean ({table.protocol['name']})"
            found.append(_speed(comparison, title, average.scores, _timings(table, average)))
    return [entry for entry in found if entry["points"]]


def _speed(
    comparison: Comparison, title: str, scores: Mapping[str, Mapping[str, Score]], timings: Mapping[str, Timing]
) -> dict[str, Any]:
    points, baseline = [], None
    for place, method in enumerate(comparison.methods):
        score, timing = scores.get("psnr", {}).get(method.label), timings.get(method.label)
        if score is None or not math.isfinite(score.mean):
            continue
        if method.baseline:
            baseline = {"name": method.label, "psnr": round(score.mean, 4)}
        elif timing is not None and timing.seconds > 0:
            points.append(
                {
                    "name": method.label,
                    "method": place,
                    "seconds": timing.seconds,
                    "time": seconds_text(timing.seconds),
                    "psnr": round(score.mean, 4),
                    "parameters": method.parameters,
                    "size": parameters_text(method),
                    "device": device_text(timing),
                }
            )
    return {"title": title, "axis": METRICS["psnr"][0], "points": points, "baseline": baseline}


def _timings(table: Table, average: Benchmark) -> dict[str, Timing]:
    """Medians over the benchmarks of an average, of methods that were timed on one device."""

    def belongs(benchmark: Benchmark) -> bool:
        same = all(benchmark.cell.get(key) == value for key, value in average.cell.items())
        return benchmark.dataset == average.dataset and same

    collected: dict[str, list[Timing]] = {}
    for benchmark in filter(belongs, table.benchmarks):
        for label, timing in benchmark.timings.items():
            collected.setdefault(label, []).append(timing)
    return {
        label: Timing(statistics.median(t.seconds for t in timings), timings[0].device, timings[0].threads)
        for label, timings in collected.items()
        if len({(t.device, t.threads) for t in timings}) == 1
    }
