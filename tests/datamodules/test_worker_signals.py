"""Workers and signals: whoever sends them, the training decides when its workers end, and they do not outlive it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from datamodules.loaders import Loader
from datamodules.workers import CONTEXT


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


def test_workers_and_their_server_go_on_when_somebody_else_wants_them_to_end() -> None:
    items = iter(Loader(Pids(), batch_size=None, num_workers=1))
    worker = int(next(items))
    server = int(Path(f"/proc/{worker}/stat").read_text().split()[3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        send(number, worker)
        send(number, server)
    assert [int(pid) for pid in items] == [worker] * 19
    assert Path(f"/proc/{server}").exists()


@pytest.mark.slow
def test_server_that_starts_ahead_of_the_first_loader_heeds_nobody() -> None:
    """In a process of its own, where nothing of multiprocessing has begun yet."""
    script = (
        "import signal\n"
        "from multiprocessing.forkserver import _forkserver\n"
        "from datamodules.workers import start_server\n"
        "from tests.datamodules.test_worker_signals import send\n"
        "start_server()\n"
        "server = _forkserver._forkserver_pid\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2): send(number, server)\n"
        "start_server()\n"
        "assert server == _forkserver._forkserver_pid\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


def test_worker_ends_when_the_training_says_so() -> None:
    worker = CONTEXT.Process(target=time.sleep, args=(60,))  # type: ignore[attr-defined]  # of every context
    worker.start()
    time.sleep(0.5)
    send(signal.SIGTERM, worker.pid)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


@pytest.mark.slow
def test_workers_do_not_outlive_a_training_that_is_killed(tmp_path: Path) -> None:
    """Not even those that are in the midst of something; and a script needs no guard of its main module."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from datamodules.loaders import Loader\n"
        "from tests.datamodules.test_worker_signals import Pids\n"
        "loader = Loader(Pids(), batch_size=None, num_workers=2)\n"
        "pids = {int(pid) for _, pid in zip(range(8), loader)}\n"
        "print(*pids, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = done.stdout.split()
    assert len(pids) == 2
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)
