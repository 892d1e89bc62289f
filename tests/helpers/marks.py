"""Which values of a parametrised test the quick suite takes."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], *few: Any) -> list[Any]:
    """All `values` as parameters, those besides `few` as slow ones; a tuple is one value for each name."""
    return [value if value in few else _slow(*(value if isinstance(value, tuple) else (value,))) for value in values]


def _slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)
