"""A training loader that can stop anywhere and continue at the very next batch.

The order of an epoch is a function of (seed, epoch). The batch that ranks 0..n-1 load together is the batch that one
process with n times the batch size would load.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from datamodules.crops import Item, TrainingCrops, collate
from datamodules.errors import InputError, worker_death

_NAME = f"{InputError.__module__}.{InputError.__name__}"


class EpochOrder(Sampler[tuple[int, int, int]]):
    """Addresses (epoch, index, number of the batch) of the samples of this rank, shuffled by (seed, epoch).

    Incomplete batches are dropped. Lightning calls `set_epoch`; `first_batch` makes the next pass start inside it.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.first_batch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def batches(self) -> int:
        return self.length // (self.batch_size * self.world_size)

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)[: len(self) * self.world_size]
        mine = order[self.rank :: self.world_size].tolist()
        start = self.first_batch * self.batch_size
        self.first_batch = 0
        return iter([(self.epoch, mine[i], i // self.batch_size) for i in range(start, len(mine))])


def leave_signals_to_trainer(worker: int) -> None:
    """For `worker_init_fn`: only the training process decides when its workers end.

    Ctrl-C and SLURM reach every process of a job, and the training has a step to finish. A worker that were gone
    by then would take it down.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_by_trainer, daemon=True).start()


def _end_by_trainer() -> None:
    parent = multiprocessing.parent_process()
    while parent and signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent.pid:
        pass
    os._exit(0)


class Loader(DataLoader[Item]):
    """A DataLoader that says in one line what has happened to its workers.

    Raises:
        InputError: while it is iterated, if a worker died or found its data gone.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator can catch
        try:
            yield from super().__iter__()
        except InputError as error:  # of a worker it has the worker's traceback as its text
            raise InputError(str(error).strip().splitlines()[-1].removeprefix(f"{_NAME}: ")) from error
        except RuntimeError as error:
            if death := worker_death(error):
                raise death from error
            raise


class ResumableLoader(Loader):
    """A DataLoader whose position inside the epoch travels in checkpoints (Lightning calls the two state methods)."""

    def __init__(self, crops: TrainingCrops, order: EpochOrder, **options: Any) -> None:
        super().__init__(crops, batch_size=order.batch_size, sampler=order, collate_fn=collate, **options)
        self.order = order
        self.delivered = 0
        self.resume_at = 0

    def __len__(self) -> int:
        return self.order.batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator counts what was delivered
        self.delivered = self.order.first_batch = self.resume_at
        self.resume_at = 0
        for batch in super().__iter__():
            self.delivered += 1
            yield batch

    @property
    def batch(self) -> int:
        """Samples of a batch of all processes together."""
        return self.order.batch_size * self.order.world_size

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered % len(self), "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position of a checkpoint.

        Raises:
            InputError: inside an epoch that was begun with batches of another size, all processes together.
        """
        before = state.get("batch", self.batch)
        if state["delivered"] and before != self.batch:
            raise InputError(
                f"the checkpoint was written in mid-epoch with batches of {before} over all processes, found "
                f"{self.batch} now (data.batch_size x processes): continue with as many processes as before, or start "
                "a new run with name=..."
            )
        self.resume_at = state["delivered"]
