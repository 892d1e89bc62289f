"""The pictures of the page: on which images the methods differ most, and which part of them is embedded."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import InputError
from experiments.compare.pictures import input_picture, picture, truth_picture
from experiments.compare.types import Benchmark, Comparison, Method, Table
from experiments.results.table import number

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded
LONGEST = 640  # side of an embedded region in pixels
BUDGET = 24_000_000  # bytes of all embedded pictures; a photograph's PNG in base64 takes about 2.6 bytes a pixel
BYTES_PER_PIXEL = 2.6
FOCUS = 96  # side of the region shown first
OVERVIEW = 240  # longest side of the overview


@dataclass
class Panel:
    """One picture beside the others; `source` is a data URI, "" where no picture was kept."""

    title: str
    scores: str
    detail: str
    source: str


@dataclass
class Example:
    """One image as all methods restored it; boxes are in pixels, `focus` inside the embedded region."""

    image: str
    where: str
    spread: str
    panels: list[Panel]
    overview: str
    whole: tuple[int, int]
    crop: Box
    focus: Box
    notes: list[str]
    pair: tuple[int, int] | None

    @property
    def size(self) -> tuple[int, int]:
        return self.crop[2] - self.crop[0], self.crop[3] - self.crop[1]


@dataclass
class Candidate:
    table: Table
    benchmark: Benchmark
    image: str
    spread: float

    def key(self, kind: str) -> object:
        """What two candidates share: their "image", "dataset" (of one suite) or "cell" (one degradation of it)."""
        data = (self.table.suite, self.benchmark.dataset)
        return {"image": self.image, "dataset": data, "cell": (*data, self.benchmark.folder)}[kind]


def examples(comparison: Comparison, count: int = 8) -> list[Example]:
    """The images with the largest spread of PSNR between the methods, of different benchmarks first.

    Images of which no method's result was kept are passed over.
    """
    chosen = choose([found for found in _candidates(comparison) if _pictures(comparison, found)], count)
    embedded = sum(len(_measured(comparison, found)) + 2 for found in chosen)
    side = embedded_side(embedded)
    return [_example(comparison, found, side) for found in chosen]


def embedded_side(pictures: int) -> int:
    """Longest side at which so many square pictures stay within the budget, a multiple of 8 in 128...640."""
    side = math.isqrt(int(BUDGET / BYTES_PER_PIXEL / max(1, pictures)))
    return max(128, min(LONGEST, side // 8 * 8))


def choose(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """By spread, but first of each data set, then of each cell of a grid, other images before the same again."""
    ordered = sorted(candidates, key=lambda found: -found.spread)  # stable: equal spreads stay in the given order
    chosen: list[Candidate] = []
    for new in (("dataset", "image"), ("dataset",), ("cell", "image"), ("cell",), ()):
        for found in ordered:
            seen = any(found is other or any(found.key(k) == other.key(k) for k in new) for other in chosen)
            if not seen and len(chosen) < count:
                chosen.append(found)
    return sorted(chosen, key=lambda found: -found.spread)


def spread_of(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Largest minus smallest grey level of the pictures at each place, [H, W]; all [H, W] or [H, W, 3]."""
    gray = [pixels.mean(axis=2, dtype=np.float32) if pixels.ndim == 3 else pixels for pixels in pictures]
    stack = np.stack(gray).astype(np.float32)
    return stack.max(axis=0) - stack.min(axis=0)


def busiest_box(values: NDArray[np.float32], side: int, margin: int = 0) -> Box:
    """The box of at most side x side with the largest sum; with room, off the borders.

    Of boxes with almost the same sum it is the middle one, so that a small place of difference is not at its edge.
    """
    height, width = values.shape
    tall, wide = min(side, height), min(side, width)
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    rows = sums[tall:] - sums[:-tall]
    totals = rows[:, wide:] - rows[:, :-wide]
    down, right = (margin if length > 4 * margin else 0 for length in totals.shape)
    inner = totals[down : totals.shape[0] - down, right : totals.shape[1] - right]
    places = np.argwhere(inner >= 0.999 * inner.max())
    middle = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    top, left = int(middle[0]) + down, int(middle[1]) + right
    return left, top, left + wide, top + tall


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
            labels = [m.label for m in comparison.methods if m.label in scores and not m.baseline]
            labels = labels if len(labels) > 1 else list(scores)
            for image in benchmark.images:
                values = [scores[label].images.get(image, math.nan) for label in labels]
                finite = [value for value in values if math.isfinite(value)]
                if (benchmark.folder, image) not in seen and finite:
                    yield Candidate(table, benchmark, image, max(finite) - min(finite))
                seen.add((benchmark.folder, image))


def _measured(comparison: Comparison, found: Candidate) -> list[Method]:
    """The methods without the baseline that were measured on the image."""
    scores = found.benchmark.scores.get("psnr", {})
    return [m for m in comparison.methods if m.label in scores and not m.baseline]


def _pictures(comparison: Comparison, found: Candidate) -> dict[str, Path]:
    """Label -> picture of the methods that kept one."""
    paths = {m.label: picture(m, found.benchmark, found.image) for m in _measured(comparison, found)}
    return {label: path for label, path in paths.items() if path is not None}


def _example(comparison: Comparison, found: Candidate, side: int) -> Example:
    benchmark, image = found.benchmark, found.image
    methods = _measured(comparison, found)
    paths = _pictures(comparison, found)
    results = {label: _open(path) for label, path in paths.items()}
    truth_path = truth_picture(methods, benchmark, image)
    input_path = input_picture(methods, benchmark, image)
    truth = _open(truth_path) if truth_path else None
    enlarged = _open(input_path) if input_path else None
    scene = truth or next(iter(results.values()))
    notes = []
    for label, result in list(results.items()):
        if result.size != scene.size:
            notes.append(f"{label}: its picture is {_size(result)}, the others are {_size(scene)}; it is not shown.")
            del results[label]
    if enlarged is not None and enlarged.size != scene.size:
        enlarged = None

    compared = [np.asarray(result) for result in results.values()]
    if len(compared) < 2:  # of one method, where it changed the input or missed the truth
        compared += [np.asarray(other) for other in (enlarged, truth) if other is not None][:1]
    spread = spread_of(compared)
    whole = max(scene.size) <= 1.1 * side  # not worth cutting
    crop = busiest_box(spread, max(scene.size) if whole else side)
    left, top, right, bottom = crop
    focus = busiest_box(spread[top:bottom, left:right], min(FOCUS, max(8, min(right - left, bottom - top) // 2)), 8)
    if crop != (0, 0, *scene.size):
        notes.append(
            f"Embedded: {right - left} x {bottom - top} pixels of {_size(scene)} at full resolution, from column "
            f"{left} and row {top}. PSNR and SSIM are those of the whole image."
        )

    def panel(title: str, label: str, result: Image.Image | None, detail: str = "") -> Panel:
        return Panel(title, _score_text(benchmark, label, image), detail, png_uri(result.crop(crop)) if result else "")

    baseline = next((method.label for method in comparison.methods if method.baseline), "")
    panels = [panel("input (bicubic)", baseline, enlarged)]
    for method in methods:
        detail = _seed_text(method, paths.get(method.label))
        panels.append(panel(method.label, method.label, results.get(method.label), detail))
    panels.append(panel("ground truth", "", truth))
    missing = [panel.title for panel in panels if not panel.source]
    if missing:
        notes.append(
            f"No picture was kept of: {', '.join(missing)}. Evaluate again with pictures=results to have it here."
        )
    protocol = found.table.protocol["name"]
    return Example(
        image,
        f"{benchmark.title}, {protocol}",
        number("psnr", found.spread),
        panels,
        _overview(truth or scene),
        scene.size,
        crop,
        focus,
        notes,
        _pair(panels, benchmark, image),
    )


def _score_text(benchmark: Benchmark, label: str, image: str) -> str:
    texts = []
    for metric in ("psnr", "ssim"):
        score = benchmark.scores.get(metric, {}).get(label)
        value = score.images.get(image) if score else None
        if value is not None:
            texts.append(number(metric, value) + (" dB" if metric == "psnr" else ""))
    return "  ".join(texts)


def _seed_text(method: Method, path: Path | None) -> str:
    """Of which run a picture is, where the scores are means over several."""
    if len(method.runs) < 2:
        return ""
    shown = [run.name for run in method.runs if path and run.folder and path.is_relative_to(run.folder)]
    return "; ".join([f"mean over {len(method.runs)} seeds", *(f"the picture is of {name}" for name in shown)])


def _pair(panels: Sequence[Panel], benchmark: Benchmark, image: str) -> tuple[int, int] | None:
    """Numbers of the panels that A/B starts with: the best and the worst method of this image."""
    shown = {panel.title: place for place, panel in enumerate(panels) if panel.source}
    known = {label: s.images[image] for label, s in benchmark.scores.get("psnr", {}).items() if image in s.images}
    ordered = sorted((label for label in known if label in shown), key=lambda label: -known[label])
    if len(ordered) > 1:
        return shown[ordered[0]], shown[ordered[-1]]
    places = list(shown.values())  # one method: against the input
    return (places[1], places[0]) if len(places) > 1 else None


def _overview(scene: Image.Image) -> str:
    small = scene.copy()
    small.thumbnail((OVERVIEW, OVERVIEW), Image.Resampling.LANCZOS)
    return png_uri(small)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return file.convert("L" if file.mode in ("1", "L") else "RGB")
    except OSError as error:
        raise InputError(f"{path}: not a readable picture ({error}): delete it, or evaluate the run again") from error


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
