"""Learning-rate schedules that count optimiser steps instead of epochs.

A scheduler says by its attribute `interval` what it counts; without one it is stepped once an epoch. Values out of
range raise ValueError.
"""

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR


def wants_length(make: Callable[..., Any]) -> bool:
    """Whether a scheduler's parameter `total_steps` is still `None`: then it gets the length of the training."""
    total_steps = inspect.signature(make).parameters.get("total_steps")
    return total_steps is not None and total_steps.default is None


def multistep(
    optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.5, floor: float = 0.0, warmup: int = 0
) -> LRScheduler:
    """The learning rate times `gamma` at each of the steps in `milestones`, but at least `floor` times the first one.

    Args:
        warmup: see `cosine`.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor}, expected 0 to 1: a part of the first learning rate")
    scheduler: LRScheduler = MultiStepLR(optimizer, list(milestones), gamma)
    if floor > 0 or warmup:
        steps, ramp = sorted(milestones), _ramp(warmup)
        scheduler = LambdaLR(optimizer, lambda step: ramp(step) * max(gamma ** bisect_right(steps, step), floor))
    return _by_step(scheduler)


def _ramp(warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate of step t, from 0: a straight line that is 1 from step `warmup` - 1 on."""
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}, expected a number of steps >= 0")
    return lambda t: min(1.0, (t + 1) / max(1, warmup))


def cosine(optimizer: Optimizer, total_steps: int | None = None, end: float = 0.0, warmup: int = 0) -> LRScheduler:
    """Half a cosine from the learning rate down to `end` at step T, step by step.

    Args:
        total_steps: T; the training procedures fill in the length of the training where it is None.
        end: the last learning rate, absolute; of parameters with a smaller learning rate, smaller in proportion.
        warmup: steps at the start in which the learning rate rises linearly to what the schedule says.

    Raises:
        ValueError: if T is not larger than `warmup`, `end` exceeds the optimiser's learning rate, or `warmup` is
            negative.
    """
    return _falling(
        optimizer, lambda t, last: (1 + math.cos(math.pi * min(t, last) / last)) / 2, total_steps, end, warmup
    )


def polynomial(
    optimizer: Optimizer, power: float, total_steps: int | None = None, end: float = 0.0, warmup: int = 0
) -> LRScheduler:
    """lr(t) = (lr - end) (1 - t / T)^power + end: Tao et al., CVPR 2018 (power 0.3).

    Args:
        total_steps, end, warmup: see `cosine`.
    """
    if power <= 0:
        raise ValueError(f"power is {power}, expected a number > 0")
    return _falling(optimizer, lambda t, last: max(0.0, 1 - t / last) ** power, total_steps, end, warmup)


def _falling(
    optimizer: Optimizer, along: Callable[[int, int], float], total_steps: int | None, end: float, warmup: int
) -> LRScheduler:
    """From the learning rate to `end`; `along` falls from 1 to 0 with the step t, given with the last one T."""
    ramp = _ramp(warmup)
    if total_steps is None or total_steps <= warmup:
        raise ValueError(f"total_steps is {total_steps}, expected more optimiser steps than warmup={warmup}")
    start = max(group["lr"] for group in optimizer.param_groups)
    if not 0 <= end <= start or start == 0:
        raise ValueError(f"end is {end}, expected 0 to the learning rate {start}, which is not 0")
    steps = total_steps

    def factor(t: int) -> float:
        return ramp(t) * ((1 - end / start) * along(t, steps) + end / start)

    return _by_step(LambdaLR(optimizer, factor))


def _by_step(scheduler: LRScheduler) -> LRScheduler:
    scheduler.interval = "step"  # type: ignore[attr-defined]  # read by the training procedures
    return scheduler
