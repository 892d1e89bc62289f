"""One evaluation undisturbed, one killed in the middle and finished by two ranks, one by two ranks from the beginning.

    python -m tests.helpers.killed_evaluation FOLDER OVERRIDES...

Every process is a fork of this one, which has imported everything. The ranks find the variables that torchrun sets.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import experiments.evaluate.task  # noqa: F401  # once, for all
import run


def call(overrides: list[str], variables: dict[str, str]) -> None:
    os.environ.update(variables)
    sys.argv = ["run.py", *overrides]
    sys.exit(run.main())


def start(overrides: list[str], **variables: str) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=call, args=(overrides, variables))
    process.start()
    return process


def start_ranks(overrides: list[str], count: int = 2) -> list[multiprocessing.process.BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [start(overrides, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(count)]


def kill_in_the_middle(process: multiprocessing.process.BaseProcess, folder: Path) -> None:
    """When the first image of the second cell has been written down."""
    assert process.pid
    while not (folder / "results.json").exists() or not any(
        f.stat().st_size for f in folder.glob(".unfinished-*.jsonl")
    ):
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def main() -> int:
    folder, overrides = Path(sys.argv[1]), sys.argv[2:]
    os.chdir(folder)
    kill_in_the_middle(start([*overrides, "name=killed"]), folder / "runs" / "killed")
    rest = [
        *start_ranks([*overrides, "name=killed"]),
        *start_ranks([*overrides, "name=ranks"]),
        start([*overrides, "name=whole"]),
    ]
    for process in rest:
        process.join()
    return int(any(process.exitcode for process in rest))


if __name__ == "__main__":
    sys.exit(main())
