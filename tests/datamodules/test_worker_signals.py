"""Workers and signals: whoever sends them, the training decides when its workers end."""

import os
import signal
import subprocess
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.loader import leave_signals_to_trainer


class Pids(Dataset[int]):
    """Each item is the number of the process that has made it."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        time.sleep(0.05)
        return os.getpid()


def send(number: signal.Signals, pid: int) -> None:
    """By another process, as SLURM does it."""
    subprocess.run([sys.executable, "-S", "-c", f"import os; os.kill({pid}, {int(number)})"], check=True)


def test_worker_goes_on_when_somebody_else_wants_it_to_end() -> None:
    loader = DataLoader(Pids(), batch_size=None, num_workers=1, worker_init_fn=leave_signals_to_trainer)
    items = iter(loader)
    worker = int(next(items))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        send(number, worker)
    assert [int(pid) for pid in items] == [worker] * 19


def test_worker_ends_when_the_training_says_so() -> None:
    context = torch.multiprocessing.get_context("fork")
    worker = context.Process(target=_wait)
    worker.start()
    time.sleep(0.5)
    send(signal.SIGTERM, worker.pid or 0)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


def _wait() -> None:
    leave_signals_to_trainer(0)
    time.sleep(60)
