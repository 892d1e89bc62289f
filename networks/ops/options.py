"""Checks of what networks and degradations are made with: errors name the option, the value, what was expected."""

import math
from collections.abc import Sequence
from typing import Any

LARGEST_KERNEL = 255  # side in pixels; the longest camera shakes of the literature are about half of it


def check_positive(**options: int) -> None:
    """Raise ValueError for an option below 1."""
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")


def check_kernel_size(**options: int) -> None:
    """Raise ValueError for a side of blur kernels below 1 or above `LARGEST_KERNEL`, which memory would not hold."""
    for name, value in options.items():
        if not 1 <= value <= LARGEST_KERNEL:
            raise ValueError(f"{name} is {value}, expected pixels from 1 to {LARGEST_KERNEL}")


def check_range(
    name: str, value: Sequence[float], least: float, most: float = math.inf, *, above: bool = False
) -> tuple[float, float]:
    """A range within `least` ... `most`, or `above` the least, as a pair. Raises ValueError for any other value."""
    if len(value) != 2 or not least <= value[0] <= value[1] <= most or (above and value[0] == least):
        bounds = f"{least:g} {'<' if above else '<='} low <= high" + f" <= {most:g}" * (most < math.inf)
        raise ValueError(f"{name} is {list(value)}, expected [low, high] with {bounds}")
    return float(value[0]), float(value[1])


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ValueError for an option that is none of the choices."""
    if value not in choices:
        *others, last = map(str, choices)
        raise ValueError(f"{name} is {value!r}, expected {', '.join(others)} or {last}")


def check_widths(widths: Sequence[int], count: int) -> None:
    """Raise ValueError for channels that are not `count` positive numbers."""
    if len(widths) != count or min(widths) < 1:
        raise ValueError(f"widths is {list(widths)}, expected {count} positive channel counts")
