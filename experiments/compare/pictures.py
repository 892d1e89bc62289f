"""Where the pictures of a comparison are, in the run folders that kept them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from experiments.compare.types import Benchmark, Run
from experiments.results.records import MADE_OF
from experiments.runtime.saved_config import renamed


def picture(
    runs: Iterable[Run], benchmark: Benchmark, image: str, kind: Literal["sr", "input", "hr"] = "sr"
) -> Path | None:
    """An 8-bit picture from the first of these runs that kept it, or None.

    Args:
        kind: the result of the run ("sr"), the degraded input enlarged bicubically to the size of the truth ("input"),
            or the truth ("hr"); the last two are the same in all runs.
    """
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
    measured = json.loads(file.read_text())
    alike = (renamed(measured["degradation"]), measured["suite_seed"]) == (benchmark.degradation, benchmark.suite_seed)
    return alike and (run is None or measured["checkpoint_sha256"] == run.checkpoint_sha256)
