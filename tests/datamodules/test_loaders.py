"""What the workers of a loader run into, said in one line; how they start."""

import multiprocessing
import os
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from datamodules.errors import InputError, LoaderStuck, worker_death
from datamodules.loaders import Loader, _watch


class Failing(Dataset[Any]):
    """Three items; the second raises, is the end of its worker by a signal, or takes seconds."""

    def __init__(self, trouble: Exception | signal.Signals | float) -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        if index == 1:
            if isinstance(self.trouble, Exception):
                raise self.trouble
            if isinstance(self.trouble, signal.Signals):
                os.kill(os.getpid(), self.trouble)
            else:
                time.sleep(self.trouble)
        return index


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGBUS, "the cache of decoded images"), (signal.SIGKILL, "the machine ran out of mem")],
)
def test_a_dead_worker_is_explained(number: signal.Signals, cause: str) -> None:
    with pytest.raises(
        InputError, match=rf"^a worker of the loader \(process \d+\) has died by {number.name}: {cause}"
    ):
        list(Loader(Failing(number), num_workers=1))


@pytest.mark.parametrize(
    "error", [RuntimeError("DataLoader worker (pid 3) exited"), ConnectionResetError(104, "reset"), EOFError()]
)
def test_every_form_of_a_dead_worker_is_known(error: Exception) -> None:
    assert ": the cache of decoded images (data.cache_dir) was cut off, its disk failed" in str(worker_death(error))
    assert "(process 3) has died by SIGKILL: the machine ran out of memory: " in str(worker_death(error, {3: -9}))


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(28, "full"), ValueError()])
def test_other_errors_are_no_dead_worker(error: Exception) -> None:
    assert worker_death(error) is None


@pytest.mark.slow
def test_a_worker_that_does_not_deliver_ends_the_wait() -> None:
    loader = Loader(Failing(60.0), num_workers=2, patience=1.5)
    start = time.monotonic()
    with pytest.raises(LoaderStuck, match=r"^worker 1 of the loader \(process \d+\) has not .* 0.025 minutes"):
        list(loader)
    assert time.monotonic() - start < 40


def test_the_time_in_which_a_job_is_suspended_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ticks of a quarter second, after which nobody waits any more; the clock says that hours have passed."""
    ticks = iter(range(10))
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)

    class Batches:
        asked, patience, gave_up, _workers = 1.0, 1.0, False, ()
        _shutdown = property(lambda self: next(ticks, None) is None)

    def sleep(seconds: float) -> None:
        batches.asked += 1.0  # the next batch is waited for

    monkeypatch.setattr(time, "sleep", sleep)
    batches = Batches()
    _watch(weakref.ref(batches))  # type: ignore[arg-type]
    assert not batches.gave_up
    ticks = iter(range(10))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    _watch(weakref.ref(batches))  # type: ignore[arg-type]
    assert batches.gave_up


@pytest.mark.slow
def test_a_worker_that_stands_still_after_it_has_announced_a_batch_ends_the_wait_too() -> None:
    """Torch then reads from a connection without a limit of time."""
    loader = Loader(Tensors(), num_workers=1, batch_size=None, patience=2, persistent_workers=True)
    other = Loader(Tensors(), num_workers=1, batch_size=None, persistent_workers=True)
    batches, elsewhere = iter(loader), iter(other)
    next(batches)
    next(elsewhere)
    time.sleep(1)  # it has two more under way
    workers = [*loader._iterator._workers, *other._iterator._workers]  # type: ignore[union-attr]
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(LoaderStuck, match=r"^worker 0 of the loader"):
        list(batches)
    for worker in workers:
        worker.join(10)
    assert {worker.exitcode for worker in workers} == {-signal.SIGKILL}  # nobody waits for them at the exit


class Tensors(Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1000,), index)


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_pass(workers: int) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Loader(Failing(RuntimeError("shapes differ")), num_workers=workers))


class Ancestry(Dataset[Any]):
    """An item is the process that has forked its worker, and how many threads that has."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[int, int]:
        return os.getppid(), len(os.listdir(f"/proc/{os.getppid()}/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux who the parents are")
def test_workers_are_forked_by_a_process_without_threads() -> None:
    release = threading.Event()
    threading.Thread(target=release.wait).start()
    try:
        found = {(int(parent), int(threads)) for parent, threads in Loader(Ancestry(), num_workers=2, batch_size=None)}
    finally:
        release.set()
    assert {threads for _, threads in found} == {1}
    assert os.getpid() not in {parent for parent, _ in found}


def test_a_process_that_was_forked_has_workers_of_its_own() -> None:
    assert len(list(Loader(Ancestry(), num_workers=1))) == 4  # starts the server of this process
    forked = multiprocessing.get_context("fork").Process(target=_iterate)
    forked.start()
    forked.join(60)
    assert forked.exitcode == 0


def _iterate() -> None:
    assert len(list(Loader(Ancestry(), num_workers=1))) == 4
