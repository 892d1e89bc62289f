"""The pictures of the page: on which images the methods differ most, and which part of them is embedded."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from datamodules.errors import InputError
from experiments.compare.types import Benchmark, Comparison, Method, Table
from experiments.results.pictures import made_of
from experiments.results.table import number
from lightning_modules.plots.regions import Box, busiest_box

LONGEST = 640  # side of an embedded region in pixels
BUDGET = 9_230_000  # pixels of all embedded pictures, about 24 MB of PNG in base64
FOCUS = 96  # side of the region shown first
OVERVIEW = 240  # longest side of the overview


@dataclass
class Panel:
    """One picture of a row."""

    title: str
    scores: str
    detail: str  # which run it is of
    source: str  # data URI, "" where no picture was kept


@dataclass
class Example:
    """One image as all methods restored it."""

    image: str
    where: str  # data set and protocol
    spread: str  # largest minus smallest PSNR of the methods
    panels: list[Panel]
    overview: str  # data URI
    whole: tuple[int, int]  # width and height of the image
    crop: Box  # what of it is embedded
    focus: Box  # what is shown first, in pixels of the embedded region
    notes: list[str]
    pair: tuple[int, int] | None  # numbers of the panels that A and B start with; None where there are not two


@dataclass
class Candidate:
    """An image that could be shown, and the methods without the baseline that were measured on it."""

    table: Table
    benchmark: Benchmark
    image: str
    spread: float
    methods: Sequence[Method] = ()

    def key(self, kind: str) -> object:
        """What two candidates share: their "image", "dataset" (of one suite) or "cell" (one degradation of it)."""
        data = (self.table.suite, self.benchmark.dataset)
        return {"image": self.image, "dataset": data, "cell": (*data, self.benchmark.folder)}[kind]


def examples(comparison: Comparison, count: int = 8) -> list[Example]:
    """The images with the largest spread of PSNR between the methods, of different benchmarks first.

    Images of which no method's result was kept are passed over.
    """
    chosen = choose(list(_candidates(comparison)), count)
    side = embedded_side(sum(len(candidate.methods) + 2 for candidate in chosen))
    baseline = next((method.label for method in comparison.methods if method.baseline), "")
    return [_example(candidate, baseline, side) for candidate in chosen]


def embedded_side(pictures: int) -> int:
    """Longest side at which so many square pictures stay within the budget, a multiple of 8 in 128...640."""
    side = math.isqrt(BUDGET // max(1, pictures))
    return max(128, min(LONGEST, side // 8 * 8))


def choose(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """By spread, but first of each data set, then of each cell of a grid, other images before the same again."""
    ordered = sorted(candidates, key=lambda candidate: -candidate.spread)  # stable: equal ones keep their order
    chosen: list[Candidate] = []
    for new in (("dataset", "image"), ("dataset",), ("cell", "image"), ("cell",), ()):
        for candidate in ordered:
            seen = any(candidate is other or any(candidate.key(k) == other.key(k) for k in new) for other in chosen)
            if not seen and len(chosen) < count:
                chosen.append(candidate)
    return sorted(chosen, key=lambda candidate: -candidate.spread)


def picture(
    methods: Iterable[Method], benchmark: Benchmark, image: str, kind: Literal["sr", "input", "hr"] = "sr"
) -> Path | None:
    """An 8-bit picture from the first run of these methods that kept it, or None.

    Args:
        kind: the result of the method ("sr"), the degraded input enlarged bicubically to the size of the truth
            ("input"), or the truth ("hr"); the last two are the same in all runs.
    """
    name = f"{image.replace('/', '_')}_{kind}.png"
    for method, run in [(made, run) for made in methods for run in made.runs]:
        if run.folder is not None:
            path = run.folder / "images" / benchmark.folder / name
            there = os.path.isfile(path)  # Path.is_file() raises where a stranger's image has too long a name
            of = {"degradation": benchmark.degradation, "suite_seed": benchmark.suite_seed}
            if there and made_of(path.parent, of | (method.made_by.get(run.where, {}) if kind == "sr" else {})):
                return path
    return None


def png_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _candidates(comparison: Comparison) -> Iterator[Candidate]:
    """Every image once; where two protocols measured it, by the first."""
    seen = set()
    for table in comparison.tables:
        for benchmark in table.benchmarks:
            scores = benchmark.scores.get("psnr", {})
            methods = [m for m in comparison.methods if m.label in scores and not m.baseline]
            labels = [method.label for method in methods] if len(methods) > 1 else list(scores)
            for image in benchmark.images:
                values = [scores[label].images.get(image, math.nan) for label in labels]
                finite = [value for value in values if math.isfinite(value)]
                kept = picture(methods, benchmark, image) is not None
                if kept and finite and (benchmark.folder, image) not in seen:
                    yield Candidate(table, benchmark, image, max(finite) - min(finite), methods)
                seen.add((benchmark.folder, image))


def _example(candidate: Candidate, baseline: str, side: int) -> Example:
    benchmark, image, methods = candidate.benchmark, candidate.image, candidate.methods
    rows = [("input (bicubic)", baseline, "", picture(methods, benchmark, image, "input"))]
    for method in methods:
        path = picture([method], benchmark, image)
        rows.append((method.label, method.label, _seed_text(method, path), path))
    rows.append(("ground truth", "", "", picture(methods, benchmark, image, "hr")))
    images = [_open(path) if path else None for *_, path in rows]
    scene = images[-1] or next(result for result in images[1:-1] if result)
    notes = []
    for place, shown in enumerate(images):
        if shown is not None and shown.size != scene.size:
            title = rows[place][0]
            notes.append(f"{title}: its picture is {_size(shown)}, the others are {_size(scene)}; it is not shown.")
            images[place] = None

    compared = [result for result in images[1:-1] if result]
    if len(compared) < 2:  # of one method, where it changed the input or missed the truth
        compared += [other for other in (images[0], images[-1]) if other][:1]
    spread = np.ptp([np.asarray(result.convert("L"), np.float32) for result in compared], axis=0)
    whole = max(scene.size) <= 1.1 * side  # not worth cutting
    crop = busiest_box(spread, max(scene.size) if whole else side)
    left, top, right, bottom = crop
    focus = busiest_box(spread[top:bottom, left:right], min(FOCUS, max(8, min(right - left, bottom - top) // 2)), 8)
    if crop != (0, 0, *scene.size):
        notes.append(
            f"Embedded: {right - left} x {bottom - top} pixels of {_size(scene)} at full resolution, from column "
            f"{left} and row {top}. PSNR and SSIM are those of the whole image."
        )
    panels = [
        Panel(title, _score_text(benchmark, label, image), detail, png_uri(shown.crop(crop)) if shown else "")
        for (title, label, detail, _), shown in zip(rows, images, strict=True)
    ]
    if missing := [panel.title for panel in panels if not panel.source]:
        notes.append(
            f"No picture was kept of: {', '.join(missing)}. Evaluate again with pictures=results to have it here."
        )
    overview = scene.copy()
    overview.thumbnail((OVERVIEW, OVERVIEW), Image.Resampling.LANCZOS)
    return Example(
        image,
        f"{benchmark.title}, {candidate.table.protocol['name']}",
        number("psnr", candidate.spread),
        panels,
        png_uri(overview),
        scene.size,
        crop,
        focus,
        notes,
        _pair(panels, benchmark, image),
    )


def _score_text(benchmark: Benchmark, label: str, image: str) -> str:
    texts = []
    for metric, unit in (("psnr", " dB"), ("ssim", "")):
        score = benchmark.scores.get(metric, {}).get(label)
        if score and image in score.images:
            texts.append(number(metric, score.images[image]) + unit)
    return "  ".join(texts)


def _seed_text(method: Method, path: Path | None) -> str:
    """Of which run a picture is, where the scores are means over several."""
    if len(method.runs) < 2:
        return ""
    shown = [run.name for run in method.runs if path and run.folder and path.is_relative_to(run.folder)]
    return "; ".join([f"mean over {len(method.runs)} seeds", *(f"the picture is of {name}" for name in shown)])


def _pair(panels: Sequence[Panel], benchmark: Benchmark, image: str) -> tuple[int, int] | None:
    """The best and the worst method of this image; of one method its result and the input."""
    scores = benchmark.scores.get("psnr", {})
    shown = [place for place, panel in enumerate(panels) if panel.source]
    values = {place: scores[panels[place].title].images.get(image) for place in shown if panels[place].title in scores}
    ordered = sorted((-value, place) for place, value in values.items() if value is not None)
    if len(ordered) > 1:
        return ordered[0][1], ordered[-1][1]
    return (shown[1], shown[0]) if len(shown) > 1 else None


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return file.convert("L" if file.mode in ("1", "L") else "RGB")
    except Exception as error:  # of a damaged header Pillow raises other ones than OSError
        raise InputError(f"{path}: not a readable picture ({error}): delete it, or evaluate the run again") from error


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
