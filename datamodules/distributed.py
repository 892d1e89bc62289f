"""The processes (ranks) of one job: which of them this one is, what each takes, and how they tell each other.

`experiments.runtime.distributed` starts them. A process alone is rank 0 of 1, and none of these functions costs it
anything.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from datamodules.errors import StoppedElsewhere

T = TypeVar("T")


_group: dist.ProcessGroup | None = None  # for Python objects: over gloo even where tensors go over NCCL, and patient


def use(group: dist.ProcessGroup | None) -> None:
    """Exchange objects over this group from now on; `None`: over the default one."""
    global _group
    _group = group


def rank() -> int:
    """Number of this process, 0 for one alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(items: Sequence[T]) -> list[T]:
    """What this process takes of a list: every item is taken once, by one process."""
    return list(items[rank() :: world()])


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks, on every process."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=_group)
    return values


def broadcast(value: T) -> T:
    """The value that rank 0 has, on every process."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_group)
    return box[0]


def barrier() -> None:
    """Wait until every process is here."""
    gather(None)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """The block is run by rank 0, then by the others at once; by none of them if rank 0 fails in it.

    Raises:
        StoppedElsewhere: on the others, then.
    """
    if world() == 1:
        yield
        return
    if rank() > 0:
        if not broadcast(False):
            raise StoppedElsewhere
        yield
        return
    try:
        yield
    except BaseException:
        broadcast(False)
        raise
    broadcast(True)


def on_rank_zero(make: Callable[[], T]) -> T:
    """Call a function on rank 0 only; every process gets what it returned.

    Raises:
        StoppedElsewhere: on the others, if it fails.
    """
    with rank_zero_first():
        value = make() if rank() == 0 else None
    return broadcast(value)  # type: ignore[return-value]  # what rank 0 has made


def copy_buffers(module: nn.Module) -> None:
    """Give every process the buffers of rank 0, such as running statistics, of which each has its own."""
    if world() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
