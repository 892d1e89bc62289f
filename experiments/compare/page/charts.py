"""The two plots of the page as figures for plotly.js: curves of the trainings, and quality against time.

A figure is its data and layout as plotly.js reads them, with the title by which it is chosen and a note below it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.compare.tables import device_text, parameters_text, seconds_text
from experiments.compare.types import Comparison, Score, Timing
from experiments.results.records import METRICS

Figure = dict[str, Any]

GREY, CLEAR, LINE = "#7a8794", "rgba(0, 0, 0, 0)", "rgba(128, 128, 128, 0.3)"  # fit a bright and a dark page
COLOURS = ("#3b82d6", "#e07b1f", "#2f9e5f", "#c9487c", "#8a63d2", "#b08a1e", "#1fa3a8", "#d2493f", GREY)  # of methods
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")  # of seeds
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x")  # of devices
TICKS = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]
LARGEST, SMALLEST = 44, 9  # diameters of marks in pixels; the area is the number of parameters
LAYOUT = {  # colours of texts come from page.css
    "paper_bgcolor": CLEAR,
    "plot_bgcolor": CLEAR,
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 56, "r": 32, "t": 40, "b": 48},
    "height": 420,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "hoverlabel": {"namelength": -1, "bgcolor": "#ffffff", "font": {"color": "#1c2126"}},
    "modebar": {"bgcolor": CLEAR, "color": GREY, "activecolor": COLOURS[0]},
}


def chart_data(comparison: Comparison) -> dict[str, list[Figure]]:
    """The figures of each plot; empty where there is nothing to draw."""
    return {"curves": _curves(comparison), "speed": list(_speeds(comparison))}


def _curves(comparison: Comparison) -> list[Figure]:
    """One figure a metric, validation PSNR first; each run is a line, in the colour of its method."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for place, method in enumerate(comparison.methods):
        for seed, run in enumerate(() if method.baseline else method.runs):
            name = method.label if len(method.runs) == 1 else f"{method.label}, seed {run.seed}"
            for metric, curve in run.curves.items():
                points = [(step, value) for step, value in curve if math.isfinite(value)]
                if points:
                    line = {
                        "name": _plain(name),
                        "x": [step for step, _ in points],
                        "y": [value for _, value in points],
                        "mode": "lines" if len(points) > 1 else "markers",
                        "line": {
                            "color": COLOURS[place % len(COLOURS)],
                            "dash": DASHES[seed % len(DASHES)],
                            "width": 2,
                        },
                        "hovertemplate": "%{y:.5~g}<extra>%{fullData.name}</extra>",
                    }
                    lines.setdefault(metric, []).append(line)
    asked = [f"val/psnr/{table.protocol['name']}" for table in comparison.tables]
    ordered = sorted(lines, key=lambda m: (m not in asked, not m.startswith("val/psnr"), not m.startswith("val/"), m))
    note = (
        "Seeds of a method share a colour. A click in the legend hides a line, a double click all others; drag to zoom."
    )
    layout = {**LAYOUT, "hovermode": "x unified", "showlegend": True, "xaxis": _axis("training step")}
    return [
        {"title": metric, "note": note, "data": lines[metric], "layout": {**layout, "yaxis": _axis(metric)}}
        for metric in ordered
    ]


def _speeds(comparison: Comparison) -> Iterator[Figure]:
    """One figure a benchmark, or a row of a grid, on which at least one method was timed."""
    for table in comparison.tables:
        if table.branch != "sr":
            continue
        averaged = {average.dataset for average in table.averages}
        alone = [benchmark for benchmark in table.benchmarks if benchmark.dataset not in averaged]
        for place in (*alone, *table.averages):
            psnr, timings = place.scores.get("psnr", {}), place.timings
            if any(label in timings and math.isfinite(score.mean) for label, score in psnr.items()):
                yield _speed(comparison, f"{place.title} ({table.protocol['name']})", psnr, timings)


def _speed(comparison: Comparison, title: str, psnr: Mapping[str, Score], timings: Mapping[str, Timing]) -> Figure:
    methods = [m for m in comparison.methods if m.label in psnr and math.isfinite(psnr[m.label].mean)]
    timed = [method for method in methods if method.label in timings and not method.baseline]
    seconds = [timings[method.label].seconds for method in timed]
    devices = [device_text(timings[method.label]) for method in timed]
    different = list(dict.fromkeys(devices))
    sizes = [method.parameters or 0 for method in timed]
    marks = {
        "x": seconds,
        "y": [round(psnr[method.label].mean, 4) for method in timed],
        "text": [_plain(method.label) for method in timed],
        "customdata": [
            f"{seconds_text(time)} s / image<br>{parameters_text(method)} parameters<br>{_plain(device)}"
            for time, method, device in zip(seconds, timed, devices, strict=True)
        ],
        "hovertemplate": "%{y:.2f} dB<br>%{customdata}<extra>%{text}</extra>",
        "mode": "markers+text",
        "textposition": "top center",
        "cliponaxis": False,
        "marker": {
            "size": [max(SMALLEST, LARGEST * math.sqrt(size / max(1, *sizes))) for size in sizes],
            "color": [COLOURS[comparison.methods.index(method) % len(COLOURS)] for method in timed],
            "symbol": [SYMBOLS[different.index(device) % len(SYMBOLS)] for device in devices],
            "opacity": 0.75,
        },
    }
    lines = []
    for method in methods:
        if method.baseline:
            level = round(psnr[method.label].mean, 4)
            label = {"text": f"{_plain(method.label)} {level:.2f} dB", "textposition": "start"}
            line = {"type": "line", "line": {"color": GREY, "dash": "dot"}, "label": label, "xref": "paper"}
            lines.append({**line, "x0": 0, "x1": 1, "y0": level, "y1": level})
    note = f"Time on {'; '.join(different)}."
    if len(different) > 1:
        note += " Times of different devices (different symbols) cannot be compared."
    layout = {
        **LAYOUT,
        "showlegend": False,
        "shapes": lines,
        "xaxis": _axis(
            "seconds per image (logarithmic)", type="log", tickvals=TICKS, ticktext=[f"{t:g}" for t in TICKS]
        ),
        "yaxis": _axis(METRICS["psnr"][0]),
    }
    return {"title": title, "note": note, "data": [marks], "layout": layout}


def _axis(title: str, **more: Any) -> dict[str, Any]:
    colours = {"gridcolor": LINE, "zerolinecolor": LINE, "linecolor": LINE}
    return {"title": {"text": _plain(title)}, "automargin": True, **colours, **more}


def _plain(text: str) -> str:
    """plotly.js reads a subset of HTML in all texts: names are shown as they are."""
    return html.escape(text, quote=False)
