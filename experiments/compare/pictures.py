"""Where the pictures of a comparison are, in the run folders that kept them."""

import json
from collections.abc import Iterable
from pathlib import Path

from experiments.compare.types import Benchmark, Method, Run
from experiments.results.records import MADE_OF
from experiments.runtime.saved_config import renamed


def picture(method: Method, benchmark: Benchmark, image: str) -> Path | None:
    """The 8-bit result of a method (its first run that has one), or None where no run kept pictures.

    The baseline's picture is the enlarged input, which every run keeps beside its results.
    """
    return _first(method.runs, benchmark, image, "input" if method.baseline else "sr")


def truth_picture(methods: Iterable[Method], benchmark: Benchmark, image: str) -> Path | None:
    """The ground truth, from whichever run kept it."""
    return _first((run for method in methods for run in method.runs), benchmark, image, "hr")


def input_picture(methods: Iterable[Method], benchmark: Benchmark, image: str) -> Path | None:
    """The degraded input, enlarged bicubically to the size of the truth, from whichever run kept it."""
    return _first((run for method in methods for run in method.runs), benchmark, image, "input")


def _first(runs: Iterable[Run], benchmark: Benchmark, image: str, kind: str) -> Path | None:
    name = f"{image.replace('/', '_')}_{kind}.png"
    for run in runs:
        if run.folder is not None:
            path = run.folder / "images" / benchmark.folder / name
            if path.is_file() and _made_of(path.parent / MADE_OF, benchmark, run if kind == "sr" else None):
                return path
    return None


def _made_of(file: Path, benchmark: Benchmark, run: Run | None) -> bool:
    """Whether the pictures are of this measurement: a later one of the same data set puts its own in their place."""
    if not file.is_file():
        return True
    made = json.loads(file.read_text())
    alike = (renamed(made["degradation"]), made["suite_seed"]) == (benchmark.degradation, benchmark.suite_seed)
    return alike and (run is None or made["checkpoint_sha256"] == run.checkpoint_sha256)
