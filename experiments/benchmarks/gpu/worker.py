"""The process that measures: `python -m experiments.benchmarks.gpu.worker SETTINGS`, with the settings as JSON.

Its exit status is 0 when nothing is left to do, and `AGAIN` where the rest needs a fresh process. A crash or a hang
takes one item along: `processes` starts another one for the next.
"""

import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.gpu import parts, training
from experiments.benchmarks.gpu.plan import AFTER_TRAINING, AGAIN, Item, Settings
from experiments.benchmarks.gpu.report import Book, Value
from experiments.runtime.out_of_memory import shortage

LONGEST = 300  # characters of a reason
MEASURE: dict[str, Any] = {
    "steps": parts.training_steps,
    "trainer": parts.trainer,
    "degradation": parts.degradation,
    "restoring": parts.restoring,
    "bfloat16": parts.random_weights,
    "group": parts.group,
    "training": training.training,
}


def perform(item: Item, settings: Settings) -> tuple[list[Value], dict[str, Any]]:
    """Measure an item; what of its attributes is known only now comes along."""
    work = training.trained if item.mode == AFTER_TRAINING else MEASURE[item.table]
    found = work(item, settings)
    return found if isinstance(found, tuple) else (found, {})


def reason(error: Exception) -> str:
    """One line."""
    if short := shortage(error):
        return f"out of memory ({short})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:LONGEST]


def usable(device: str) -> bool:
    """Whether this process can go on: after some errors it cannot use the GPU any more."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def measure_all(settings: Settings, book: Book) -> int:
    """Measure what is left; returns the exit status."""
    for item in book.left():
        if time.time() >= settings.until[item.part]:
            book.skip(item)
            continue
        name = " ".join(filter(None, (item.table, item.model, item.dtype, item.mode, item.input)))
        logging.info("--- %s", name)
        start = time.monotonic()
        try:
            values, facts = perform(item, settings)
            book.add(item, values, **facts)
        except Exception as error:  # whatever it is, the next one may work
            logging.exception("failed")
            book.fail(item, reason(error))
            print(f"{name}: failed: {reason(error)}", flush=True)
            if not usable(settings.device):
                return AGAIN
        else:
            what, value, *_ = values[0]
            shown = "" if value is None else f" {what} {value:.4g},"
            print(f"{name}:{shown} {time.monotonic() - start:.1f} s", flush=True)
        if settings.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
    return 0


def leave_with_the_first() -> None:
    """End this process and those it has started when the one that started it is gone."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> int:
    settings = Settings(**json.loads(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    threading.Thread(target=leave_with_the_first, daemon=True).start()
    return measure_all(settings, Book(Path(settings.output)))


if __name__ == "__main__":
    sys.exit(main())
