"""Which measurement the pictures in a folder are of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.results.records import canonical, read_mapping

MADE_OF = ".made_of.json"  # beside pictures: fields of the measurement that they are of
MADE_BY = {"checkpoint_sha256": None, "self_ensemble": False, "engine": "torch", "precision": "float32"}
MADE_OF_FIELDS = ("degradation", "suite_seed", *MADE_BY)  # these, by default as in files that lack them


def made_of(folder: Path, values: Mapping[str, Any], folders: bool = False) -> bool:
    """Whether the pictures in a folder are of a measurement with these fields, so far as they say what they are of.

    A later measurement of the same data set puts its own pictures in their place.

    Args:
        folders: see `canonical`.
    """
    if not (folder / MADE_OF).is_file():
        return True
    found = {**MADE_BY, **read_mapping(folder / MADE_OF)}
    return all(canonical(found.get(name), folders) == canonical(value, folders) for name, value in values.items())
