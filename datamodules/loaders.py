"""A training loader that can stop anywhere and continue at the very next batch.

The order of an epoch is a function of (seed, epoch). The batch that ranks 0..n-1 load together is the batch that one
process with n times the batch size would load.

Workers are forked from a server process that has no threads (`datamodules.workers`): a fork of the training process,
whose threads hold locks, can hang before the worker has run a line. They stay from epoch to epoch.
"""

import multiprocessing.connection
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from datamodules.datasets import Item, TrainingCrops, collate
from datamodules.errors import InputError, LoaderStuck, worker_death
from datamodules.workers import CONTEXT, kill_workers

_LOOK_AGAIN = 1.0  # seconds after which torch looks whether its workers are alive


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


class _Batches(_MultiProcessingDataLoaderIter):
    """Torch's iterator, which explains the death of a worker and does not wait for ever for one that lives."""

    def __init__(self, loader: "Loader") -> None:
        self.patience = loader.patience
        self.asked: float | None = None  # since when a batch is waited for
        self.gave_up = False
        super().__init__(loader)
        threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True).start()

    def _get_data(self) -> Any:
        self.asked = time.monotonic()
        try:
            return super()._get_data()
        except (RuntimeError, OSError, EOFError) as error:
            if self.gave_up:
                raise self._stuck() from error
            if death := worker_death(error, self._ended()):
                raise death from error
            raise
        finally:
            self.asked = None

    def _try_get_data(self, timeout: float = _LOOK_AGAIN) -> tuple[bool, Any]:
        return super()._try_get_data(min(timeout, _LOOK_AGAIN))

    def _ended(self) -> dict[int, int]:
        """The workers that have failed, process to exit status; one that is about to be found dead is given time."""
        multiprocessing.connection.wait([worker.sentinel for worker in self._workers], timeout=1)
        return {worker.pid or 0: worker.exitcode for worker in self._workers if worker.exitcode}

    def _stuck(self) -> LoaderStuck:
        number = self._task_info.get(self._rcvd_idx, (0,))[0]
        kill_workers()
        return LoaderStuck(
            f"worker {number} of the loader (process {self._workers[number].pid}) has not delivered a batch for "
            f"{self.patience / 60:g} minutes (data.timeout_minutes): is the file system of data.cache_dir there? "
            "The run stops; resume=auto continues at the last checkpoint"
        )


def _watch(reference: "weakref.ref[_Batches]") -> None:
    """Kill the workers when a batch is overdue, which ends the wait for it wherever that is.

    It may be in a read from a worker that stands still in the midst of a message, for which there is no limit.
    """
    waited, asked = 0.0, None
    while (batches := reference()) is not None and not batches._shutdown:
        if asked != batches.asked:
            waited, asked = 0.0, batches.asked
        if asked is not None and waited > batches.patience:
            batches.gave_up = True
            for worker in batches._workers:
                worker.kill()
            return
        pause = min(1.0, batches.patience / 4)
        del batches
        time.sleep(pause)
        waited += pause  # by no clock, which goes on while the whole job is suspended


class Loader(DataLoader[Item]):
    """A DataLoader that says in one line what has happened to its workers.

    Args:
        patience: seconds to wait for a batch of a worker.
        options: see torch's DataLoader.

    Raises:
        InputError: while it is iterated, if a worker died; `LoaderStuck` if no batch came.
    """

    def __init__(self, *args: Any, patience: float = 600.0, **options: Any) -> None:
        if options.get("num_workers"):
            options["multiprocessing_context"] = CONTEXT
        self.patience = patience
        super().__init__(*args, **options)

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if not self.num_workers:
            return super()._get_iterator()
        try:
            return _Batches(self)
        except (ConnectionError, EOFError) as error:  # the server is gone, or died in its imports
            raise worker_death(error) or error from error

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator can catch
        batches = super().__iter__()
        try:
            yield from batches
        except Exception as error:
            if isinstance(batches, _Batches):
                batches._shutdown_workers()  # at once: collected with the traceback it would wait for them in vain
                self._iterator = None
            if isinstance(error, InputError) and "\n" in str(error):  # a worker's: with its traceback before the line
                raise InputError(str(error).rstrip().splitlines()[-1].partition(": ")[2]) from error
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
