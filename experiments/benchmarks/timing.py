"""What the benchmarks share: measuring several ways side by side, and how a measured figure is printed."""

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils.benchmark import timer


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way in every round, in turns, so that other load on the machine meets all of them alike.

    A call before the first round warms up; the clock waits for the GPU.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for count in range(rounds + 1):
        for name, way in ways.items():
            start = timer()
            way()
            if count:
                times[name].append(1e3 * (timer() - start))
    return times


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median with the smallest and the largest."""
    middle, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def machine(device: str) -> str:
    """What is measured on, in one line."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} CPU thread(s), torch {torch.__version__}"
