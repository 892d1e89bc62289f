"""The process in which `experiments.benchmarks.gpu` measures, and another one after each item that fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from experiments.benchmarks.gpu.plan import AGAIN, ROOT, Item, Settings
from experiments.benchmarks.gpu.report import Book

GRACE = 20.0  # seconds for which a measurement may go on after the time of its part, but not after that of all
PATIENCE = 150.0  # seconds for any one but those of the last part: longer means that it hangs
WORKER = ("-m", "experiments.benchmarks.gpu.worker")


def measure(settings: Settings, book: Book) -> None:
    """Have everything measured while there is time."""
    while True:
        for item in book.left():
            if time.time() >= settings.until[item.part]:
                book.skip(item)
        if not book.left():
            return
        status = in_a_process(settings, book)
        if status == 0:
            return
        # A process says itself what has failed, unless it is gone.
        if status != AGAIN and (now := book.left()):
            book.fail(now[0], f"{ended(status)}; log.txt may say more")


def ended(status: int | None) -> str:
    if status is None:
        return "stopped: it took too long"
    return f"its process ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def deadline(settings: Settings, item: Item, since: float) -> float:
    """When a measurement is stopped that is under way since then."""
    end = max(settings.until.values())
    if settings.until[item.part] == end:
        return end
    return min(settings.until[item.part] + GRACE, since + PATIENCE, end)


def in_a_process(settings: Settings, book: Book) -> int | None:
    """The exit status of a process that measures; None for one that was stopped."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        # What earlier runs have compiled would make the first step look fast.
        "TORCHINDUCTOR_CACHE_DIR": str(Path(settings.cache).with_name("inductor")),
        "TRITON_CACHE_DIR": str(Path(settings.cache).with_name("triton")),
    }
    # Standard input ends with this process, and the worker with it, whatever kills this one.
    with (
        (Path(settings.output) / "log.txt").open("ab") as log,
        subprocess.Popen(
            [sys.executable, *WORKER, json.dumps(asdict(settings))],
            env=environment,
            stdin=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        current, since = None, 0.0
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(1.0)
                first = next(iter(book.left()), None)
                if first != current:
                    current, since = first, time.time()
                if current and time.time() > deadline(settings, current, since):
                    return None
        finally:  # what it has started ends with it: workers of the loader, compilers, run.py
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
