"""The weights of this folder by name, and the file that `weights=` means: one of these, a path, an address on the hub.

`NAME.safetensors` are exported weights, which know their network; `NAME.yaml` is the card of what they are.
"""

import logging
import re
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from experiments.config.errors import did_you_mean, listing
from experiments.zoo.hub import ADDRESS, address_of, fetched

FOLDER = Path(__file__).resolve().parent
PREFIX = "zoo:"
SUFFIX = ".safetensors"
WORD = re.compile(r"[\w-]+")  # a name: no folder, no ending
PHOTOGRAPHS = "nafnet_sr_photographs"  # what task=restore takes where no network is named, if it is here

log = logging.getLogger(__name__)


def names() -> list[str]:
    """The names of the weights that are here."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}"))


def named(name: str, what: str = "no such name in the zoo") -> Path:
    """The file of a name.

    Raises:
        InputError: if it is none, with the names that there are; `what` says what it is not.
    """
    there = names()
    if name not in there:
        has = f"which has {listing(there, name)}" if there else "which is empty"
        raise InputError(f"{name}: {what}, {has}{did_you_mean(name, there)}")
    return FOLDER / f"{name}{SUFFIX}"


def name_of(file: Path) -> str | None:
    """The name of a file of the zoo, also by way of links; None of any other file."""
    return next((name for name in names() if (FOLDER / f"{name}{SUFFIX}").resolve() == file.resolve()), None)


def shown(file: Path) -> str | None:
    """What a file of weights is called everywhere: zoo:NAME, or its address; None of one that is only here."""
    name = name_of(file)
    return f"{PREFIX}{name}" if name else address_of(file)


def is_address(given: str) -> bool:
    """Whether this is zoo:NAME or hf://..., and no path."""
    return given.startswith((PREFIX, ADDRESS))


def weights_file(given: str | Path) -> Path:
    """The file that `weights=` names: a path, NAME or zoo:NAME of the zoo, or hf://USER/REPO/FILE@COMMIT.

    A plain word, without a folder or an ending, is a name of the zoo unless a file or folder is called so, which a line
    says where both are there; zoo:NAME always is one.

    Raises:
        InputError: for a word that is neither, or what cannot be fetched. Whether a path is there, who reads it finds.
    """
    if not isinstance(given, str):
        return given
    if given.startswith(ADDRESS):
        return fetched(given)
    if given.startswith(PREFIX):
        return named(given.removeprefix(PREFIX))
    if not WORD.fullmatch(given):
        return Path(given)
    if Path(given).exists():
        if given in names():
            log.warning("%s: what is called so here is taken; the weights of the zoo are zoo:%s", given, given)
        return Path(given)
    return named(given, "no such file or folder, nor a name in the zoo")


def about(name: str) -> dict[str, Any]:
    """What the file of a name says of its network: `model`, `scales`, `inputs`, `outputs`, `seed`."""
    from lightning_modules.checkpoints.safetensors import read_tensors  # which comes with torch

    return read_tensors(FOLDER / f"{name}{SUFFIX}")[1] or {}


def for_photographs() -> dict[str, str]:
    """The names whose networks restore a photograph of which no blur is known, each with what it enlarges by."""
    known = {name: facts for name in names() if {"inputs", "scales"} <= (facts := about(name)).keys()}
    fitting = {name: facts for name, facts in known.items() if {"kernel", "kernels"}.isdisjoint(facts["inputs"])}
    return {name: f"{name} (x{', x'.join(map(str, facts['scales']))})" for name, facts in fitting.items()}
