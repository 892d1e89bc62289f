"""Which values of a parametrised test the quick suite takes."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], *few: Any) -> list[Any]:
    """All `values` as parameters, those besides `few` as slow ones."""
    return [value if value in few else pytest.param(value, marks=pytest.mark.slow) for value in values]
