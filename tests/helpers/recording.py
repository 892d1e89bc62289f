"""Runs of the data module under a real trainer, on one process or several, that keep every batch a network would get.

`python -m tests.helpers.recording RANKS JOBS.json` records in that many new processes of one training; rank r
writes its batches to OUT.r. Torch is imported once, before the processes part.
"""

import json
import multiprocessing
import multiprocessing.connection
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from datamodules.batch import Batch
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources.folder import Folder

CONF = Path(__file__).resolve().parents[2] / "conf"
FIELDS = ("hr", "lr", "lr_sharp", "kernel", "noise_level")


@dataclass
class Job:
    """One training: the degradation's config with other values, and how the samples are loaded.

    Attributes:
        out: where ranks write what they recorded.
        save: checkpoint to write when `save_at` steps are done; the training goes on.
        resume: checkpoint to start from.
    """

    root: str
    cache: str
    degradation: str
    options: dict[str, Any]
    batch_size: int
    workers: int
    out: str = ""
    save: str = ""
    save_at: int = 0
    resume: str = ""


@dataclass
class Recorded:
    """One batch as `training_step` gets it."""

    epoch: int
    number: int
    scale: int
    names: list[str]
    index: list[int]
    fields: dict[str, Tensor]


class Recorder(pl.LightningModule):
    """Learns nothing."""

    def __init__(self, save: str, save_at: int) -> None:
        super().__init__()
        self.save, self.save_at = save, save_at
        self.weight = nn.Parameter(torch.zeros(1))
        self.recorded: list[Recorded] = []

    def training_step(self, batch: Batch, number: int) -> Tensor:
        assert batch.scale is not None
        values = {name: getattr(batch, name) for name in FIELDS}
        fields = {name: value.clone() for name, value in values.items() if value is not None}
        self.recorded.append(
            Recorded(self.current_epoch, number, batch.scale, batch.name, batch.index.tolist(), fields)
        )
        return self.weight.sum()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == self.save_at:
            self.trainer.save_checkpoint(self.save)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def datamodule(job: Job) -> ImageDataModule:
    """48-pixel crops, 32 an epoch."""
    config = OmegaConf.merge(OmegaConf.load(CONF / "degradation" / f"{job.degradation}.yaml"), job.options)
    degradation = hydra.utils.instantiate(config, _convert_="all")
    source = Folder(job.root, holdout=False)
    how: dict[str, Any] = {"batch_size": job.batch_size, "num_workers": job.workers, "cache_dir": job.cache}
    return ImageDataModule(source, degradation, seed=11, patch=48, samples_per_epoch=32, **how)


def record(job: Job, ranks: int = 1) -> list[Recorded]:
    """What this process gets to see in epochs 0 and 1, with the project's own trainer config."""
    trainer_config = OmegaConf.load(CONF / "trainer" / "default.yaml")
    options: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "devices": ranks, "logger": False}
    options |= {"enable_progress_bar": False, "strategy": "ddp" if ranks > 1 else "auto"}
    trainer: pl.Trainer = hydra.utils.instantiate(OmegaConf.merge(trainer_config, options), _convert_="all")
    assert trainer.world_size == ranks
    module = Recorder(job.save, job.save_at)
    trainer.fit(module, datamodule=datamodule(job), ckpt_path=job.resume or None)
    return module.recorded


def rank_process(rank: int, ranks: int, jobs: list[Job]) -> None:
    os.environ["LOCAL_RANK"] = str(rank)  # tells Lightning that the processes are there already
    for job in jobs:
        recorded = record(job, ranks)
        assert torch.distributed.get_world_size() == ranks
        torch.save([asdict(batch) for batch in recorded], f"{job.out}.{rank}")
    torch.distributed.destroy_process_group()


def main() -> int:
    ranks, jobs = int(sys.argv[1]), [Job(**job) for job in json.loads(Path(sys.argv[2]).read_text())]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=rank_process, args=(rank, ranks, jobs)) for rank in range(ranks)]
    for process in processes:
        process.start()
    running = list(processes)
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.exitcode is None]
        if any(process.exitcode for process in processes):
            for process in running:  # it would wait for ever for the one that failed
                process.terminate()
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
