"""What a device does: the time of its work, its memory at the peak, and how fast it can be at most."""

import functools
import time
from collections.abc import Callable
from timeit import default_timer
from typing import Any

import torch
from torch.utils.benchmark import Timer
from torch.utils.benchmark import timer as synchronised

from lightning_modules.host_memory import resident


class HostClock:
    """For devices that work while Python waits. `now` is the time of the host, a mark a moment in the device's work."""

    now = mark = staticmethod(time.perf_counter)

    def seconds(self, start: Any, end: Any) -> float:
        """From one mark to another."""
        return end - start

    def catch_up(self) -> None:
        """Wait for the device."""


class CudaClock(HostClock):
    """Marks are events among the kernels: setting one waits for nothing."""

    def mark(self) -> torch.cuda.Event:  # type: ignore[override]
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1e3

    def catch_up(self) -> None:
        torch.cuda.synchronize()


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak, of the device or (Linux only; None elsewhere) resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM")


@functools.cache
def ceiling(device: str, threads: int, precision: str) -> float:
    """Floating-point operations a second of the better of a large matrix product and a convolution, as measured.

    In the precision that is in force around the call: the argument only tells measurements apart.
    """
    large = device.startswith("cuda")
    side, batch, channels, image = (4096, 8, 256, 64) if large else (512, 2, 64, 64)
    generator = torch.Generator().manual_seed(0)  # of its own: that of the training stays as it was
    matrix = torch.rand(side, side, generator=generator).to(device)
    images = torch.rand(batch, channels, image, image, generator=generator).to(device)
    weight = torch.rand(channels, channels, 3, 3, generator=generator).to(device)
    works: list[tuple[Callable[[], Any], float]] = [
        (lambda: matrix @ matrix, 2.0 * side**3),
        (lambda: torch.conv2d(images, weight, padding=1), 2.0 * 9 * batch * (channels * image) ** 2),
    ]
    best = 0.0
    with torch.no_grad():
        for work, flops in works:
            clock = (
                default_timer if device.startswith("cpu") else synchronised
            )  # a CPU needs no GPU beside it to be asked
            timer = Timer("work()", globals={"work": work}, num_threads=threads, timer=clock)
            best = max(best, flops / min(timer.blocked_autorange(min_run_time=0.1).times))
    return best
