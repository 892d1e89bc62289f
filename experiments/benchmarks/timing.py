"""What the benchmarks share: measuring several ways side by side, and how a measured figure is printed."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils.benchmark import timer

from experiments.profile.task import device_name


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = timer
) -> dict[str, list[float]]:
    """Milliseconds of each way in every round, in turns, so that other load on the machine meets all of them alike.

    A call before the first round warms up; the clock waits for the GPU. For one thread of a busy machine there is
    `time.thread_time`, which does not run while others do.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for count in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if count:
                times[name].append(1e3 * (clock() - start))
    return times


def figure(value: float) -> str:
    """Four digits: `12.34`, `1,235`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spread(values: Sequence[float]) -> str:
    """Median, of several with the smallest and the largest."""
    middle = figure(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({figure(min(values))} to {figure(max(values))})"


def machine(device: str) -> str:
    """What is measured on, in one line."""
    return f"{device_name(device)}, {torch.get_num_threads()} CPU thread(s), torch {torch.__version__}"
