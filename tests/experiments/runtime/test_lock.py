import errno
import fcntl
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import InputError
from experiments.runtime.lock import held
from tests.helpers.wandb_backend import REPOSITORY


def test_a_lock_says_who_holds_it_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "runs" / "r" / ".lock"
    with held(lock):
        here = f"{platform.node()}, process {os.getpid()}, since 20"
        with pytest.raises(InputError, match=rf"runs/r: another process works in this folder \({here}.*\): wait"):
            held(lock).__enter__()
    assert list(tmp_path.iterdir()) == []
    lock.parent.mkdir(parents=True)
    lock.write_text("a process that was killed")
    with held(lock):
        (lock.parent / "file").touch()
    assert [path.name for path in lock.parent.iterdir()] == ["file"]


def test_a_lock_ends_with_its_process_which_may_be_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "r" / ".lock"
    code = "import sys, time, pathlib; from experiments.runtime.lock import held\n"
    code += "with held(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(300)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout
    assert process.stdout.readline()
    with pytest.raises(InputError, match=f"process {process.pid}, since"), held(lock):
        pass
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(InputError, match="another process works in this folder"), held(lock, patience=0.6):
        pass
    process.kill()
    began = time.monotonic()
    with held(lock, patience=60):
        assert time.monotonic() - began < 60
    process.wait()
    process.stdout.close()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"its file system has no locks .*: mount it .* or choose another runs_dir="):
        held(tmp_path / "r" / ".lock").__enter__()


@pytest.mark.parametrize("there", ["file", "nothing", "no folder"])
def test_a_link_is_not_followed(tmp_path: Path, there: str) -> None:
    target = tmp_path / ("gone/target" if there == "no folder" else "target")
    if there == "file":
        target.write_text("of the user")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(InputError, match=r"\.lock: cannot be written: Too many levels of symbolic links"):
        held(tmp_path / ".lock").__enter__()
    assert target.exists() == (there == "file")
    assert there != "file" or target.read_text() == "of the user"


def test_a_lock_of_another_user_says_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which can be read, and not written."""
    lock, opened = tmp_path / ".lock", os.open

    def refuse(path: Any, flags: int, *arguments: Any) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *arguments)

    with held(lock):
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(InputError, match=f"process {os.getpid()}, since"):
            held(lock).__enter__()


def contend(lock: Path, barrier: Barrier, rounds: int) -> None:
    """Ends with the number of rounds in which this process was the only one that had the lock."""
    won = 0
    for number in range(rounds):
        barrier.wait()
        try:
            with held(lock):
                witness = lock.parent / f"{number}"
                witness.mkdir()  # fails for a second one
                barrier.wait()
                witness.rmdir()
                won += 1
        except InputError:
            barrier.wait()
    sys.exit(won)


def test_of_twelve_that_begin_at_once_one_has_the_lock(tmp_path: Path) -> None:
    """Again and again, while the folder and the lock come and go."""
    context, rounds = multiprocessing.get_context("fork"), 10
    arguments = (tmp_path / "r" / ".lock", context.Barrier(12), rounds)
    processes = [context.Process(target=contend, args=arguments) for _ in range(12)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert sum(process.exitcode or 0 for process in processes) == rounds
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_where_no_folder_can_be_made_it_ends_in_a_line() -> None:
    with pytest.raises(InputError, match=r"/proc/x"), held(Path("/proc/x/.lock")):
        pass
