"""Callbacks for jobs whose fate a test decides."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class HaltOnce(pl.Callback):
    """Waits before a training step, the first time that this job gets there, until a signal arrives.

    Args:
        marker: file that says so, by the number of the job.
        step: before this step, from 1.
        job: of all jobs of a sweep only the one that has this name.
        name: of this job.
    """

    def __init__(self, marker: str, step: int, job: str = "", name: str = "") -> None:
        self.marker, self.step, self.wanted = Path(marker), step, job == name

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.wanted and trainer.global_step + 1 == self.step and not self.marker.exists():
            self.marker.write_text(os.environ["SLURM_JOB_ID"])
            end = time.monotonic() + 300  # of a test that is gone
            while time.monotonic() < end and not any(getattr(c, "received", None) for c in trainer.callbacks):  # type: ignore[attr-defined]
                time.sleep(0.05)


class StopWorkersOnce(pl.Callback):
    """The loader workers of the last task stand still from a step on, as on a file system that no longer answers.

    Args:
        marker: file that says so; a job that finds it goes on undisturbed.
        step: from 1.
    """

    def __init__(self, marker: str, step: int) -> None:
        self.marker, self.step = Path(marker), step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        last = trainer.global_rank == trainer.world_size - 1
        if last and trainer.global_step + 1 == self.step and not self.marker.exists():
            self.marker.touch()
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGSTOP)
