"""Which measurement the pictures in a folder are of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.results.records import MADE_BY, canonical, read_mapping

MADE_OF = ".made_of.json"  # beside pictures: `made_of` of the measurement that they are of


def made_of(folder: Path, values: Mapping[str, Any], folders: bool = False) -> bool:
    """Whether the pictures in a folder are of a measurement with these fields, so far as they say what they are of.

    A later measurement of the same data set puts its own pictures in their place.

    Args:
        values: of `EvaluationRecord.made_of`, or some of them.
        folders: see `canonical`.
    """
    if not (folder / MADE_OF).is_file():
        return True
    found = {**MADE_BY, **read_mapping(folder / MADE_OF)}
    found.setdefault("sharp", values.get("sharp"))  # earlier versions wrote no state of the images
    return all(canonical(found.get(name), folders) == canonical(value, folders) for name, value in values.items())
