"""Checks of what networks and degradations are made with: errors name the option, the value, what was expected."""

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


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ValueError for an option that is none of the choices."""
    if value not in choices:
        *others, last = map(str, choices)
        raise ValueError(f"{name} is {value!r}, expected {', '.join(others)} or {last}")


def check_widths(widths: Sequence[int], count: int) -> None:
    """Raise ValueError for channels that are not `count` positive numbers."""
    if len(widths) != count or min(widths) < 1:
        raise ValueError(f"widths is {list(widths)}, expected {count} positive channel counts")
