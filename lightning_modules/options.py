"""Nodes of a config as records: pydantic checks the values against the annotations, here a mistake becomes one line."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from datamodules.errors import OptionError

T = TypeVar("T")


def read_options(kind: type[T], where: str, values: Any, known: Collection[str] = ()) -> T:
    """The record of a node; its fields say in their `description` what is expected of them.

    Args:
        kind: a dataclass of pydantic, strict.
        where: path of the node in the config.
        known: the fields that may be given; empty: all.

    Raises:
        OptionError: for a node that is no mapping, an unknown key, one that is missing, a value that does not fit.
    """
    fields: dict[str, Any] = kind.__pydantic_fields__  # type: ignore[attr-defined]  # of every dataclass of pydantic
    keys = ", ".join(known or fields)
    if not isinstance(values, Mapping):
        raise OptionError(key=where, found=repr(values), expected=keys)
    if unknown := set(values) - set(known or fields):
        raise OptionError(f"{where}: unknown key {min(unknown)}, expected {keys}", key=f"{where}.{min(unknown)}")
    try:
        return kind(**values)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        name = str(mistake["loc"][0])
        key, expected = f"{where}.{name}", fields[name].description
        if name not in values:
            raise OptionError(f"{where}: has no {name}, expected {expected}", key=key, expected=expected) from error
        raise OptionError(key=key, found=repr(values[name]), expected=expected) from error
