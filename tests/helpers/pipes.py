"""Named pipes that keep nobody waiting: who opens one reads nothing, where otherwise it would stand still."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path


def make_pipe(path: Path) -> Path:
    """A named pipe, to whose other end somebody comes whenever it is opened, until it is deleted."""
    os.mkfifo(path)

    def write_nothing() -> None:
        with suppress(OSError):
            while True:
                os.close(os.open(path, os.O_WRONLY))  # waits for a reader
                time.sleep(0.01)

    threading.Thread(target=write_nothing, daemon=True).start()
    return path
