"""A disk that fills up, folders that go away and data that vanish under a training."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import Outcome
from tests.helpers.kills import difference, outcome

Cli = Callable[..., Outcome]
FILLER = "filler"


class FillDisk(pl.Callback):
    """Leaves room for so many checkpoints on a file system after a training step."""

    def __init__(self, folder: str, room: float, step: int = 3) -> None:
        self.folder, self.room, self.step = Path(folder), room, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            stat = os.statvfs(self.folder)
            room = int(self.room * next(self.folder.rglob("last.ckpt")).stat().st_size)
            with (self.folder / FILLER).open("wb") as file:
                file.write(bytes(stat.f_bavail * stat.f_bsize - room))


class Remount(pl.Callback):
    """Makes a file system read-only after a training step."""

    def __init__(self, folder: str, step: int = 3) -> None:
        self.folder, self.step = folder, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)


class Remove(pl.Callback):
    """Deletes files or folders after a training step."""

    def __init__(self, *paths: str, step: int = 3) -> None:
        self.paths, self.step = paths, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            for path in self.paths:
                shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


class CutOff(Remove):
    """Shortens files to nothing instead."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            for path in self.paths:
                os.truncate(path, 0)


class SeeWorkerDie(pl.Callback):
    """What torch's handler of SIGCHLD does, at a moment that is no fetching of a batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, as `runs` in the folder in which the command line works."""
    place = tmp_path / "runs"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def callback(kind: type, *arguments: Any, **options: Any) -> str:
    values = "".join(f", {key}: {value}" for key, value in options.items())
    positional = f", _args_: [{','.join(map(str, arguments))}]" if arguments else ""
    return f"+callbacks.test={{_target_: {kind.__module__}.{kind.__name__}{positional}{values}}}"


def often(tiny: list[str], name: str = "tiny") -> list[str]:
    return [*[c for c in tiny if not c.startswith("name=")], f"name={name}", "checkpoint.every_n_steps=1"]


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 0.5, 1.5])
def test_a_full_disk_keeps_the_last_checkpoint(cli: Cli, tiny: list[str], small_disk: Path, room: float) -> None:
    """No room at all, room for a part of a checkpoint, and room for one beside the other but not for the best."""
    found = cli(*often(tiny), callback(FillDisk, folder=small_disk, room=room))
    assert found.status == 1
    line = found.err.splitlines()[-1]
    assert "No space left on device" in line
    assert "free disk space" in line
    assert "resume=auto" in line
    assert "Traceback" not in found.err
    last = torch.load(small_disk / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] >= 3
    assert not [path for path in small_disk.rglob("*") if path.suffix in (".part", ".tmp")]

    (small_disk / FILLER).unlink()
    assert cli(*often(tiny), "resume=auto").status == 0
    assert cli(*often(tiny, "whole")).status == 0
    assert difference(outcome(small_disk / "whole"), outcome(small_disk / "tiny")) is None


@pytest.mark.parametrize("every", [1, 0])
def test_a_file_system_that_becomes_read_only_ends_in_one_line(
    cli: Cli, tiny: list[str], small_disk: Path, every: int
) -> None:
    """A checkpoint is what cannot be written, or metrics.csv and the checkpoint at the end of the epoch."""
    whole = [*often(tiny), f"checkpoint.every_n_steps={every}"]
    found = cli(*whole, callback(Remount, folder=small_disk))
    assert found.status == 1
    line = found.err.splitlines()[-1]
    assert "Read-only file system" in line
    assert "resume=auto" in line
    assert "Traceback" not in found.err
    assert found.err.count("Read-only") == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    found = cli(*whole, "resume=auto")
    assert found.status == 0, found.err
    assert not [path.name for path in small_disk.rglob("*") if path.suffix in (".part", ".tmp") or path.name == ".lock"]


@pytest.mark.parametrize("gone", ["runs/tiny", "runs/tiny/checkpoints", "runs"])
def test_a_removed_folder_stops_the_training(cli: Cli, tiny: list[str], tmp_path: Path, gone: str) -> None:
    found = cli(*often(tiny), callback(Remove, gone))
    assert found.status == 1
    line = found.err.splitlines()[-1]
    assert line.startswith("runs/tiny")
    assert ": is gone: it was removed, renamed or unmounted while the run wrote to it, so the run stops" in line
    assert "Traceback" not in found.err
    assert not (tmp_path / gone).exists()


@pytest.mark.slow
def test_photographs_and_their_cache_may_be_deleted_in_mid_epoch(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    """Decoded images are mapped at the start, which workers that start later rely on too."""
    assert cli(*often(tiny, "whole"), "data.num_workers=1").status == 0
    shutil.copytree(tmp_path / "photographs", tmp_path / "copies")
    found = cli(*often(tiny), "data.num_workers=1", callback(Remove, tmp_path / "photographs", tmp_path / "cache"))
    # The test at the end identifies its images by their files.
    assert found.status == 1
    assert ".png: is gone since it was decoded: put it back" in found.err.splitlines()[-1]
    assert "Traceback" not in found.err
    assert "epoch 2/2, step 8" in found.err
    (tmp_path / "copies").rename(tmp_path / "photographs")
    found = cli(*often(tiny), "data.num_workers=1", "resume=auto")
    assert found.status == 0, found.err
    assert "continuing runs/tiny after step 8" in found.err
    assert difference(outcome(tmp_path / "runs" / "whole"), outcome(tmp_path / "runs" / "tiny")) is None


@pytest.mark.slow
def test_a_cache_that_was_cut_off_ends_in_one_line(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    assert cli(*often(tiny, "whole")).status == 0  # makes the cache
    files = list((tmp_path / "cache").glob("images/*/images.u8"))
    assert len(files) == 3
    more = ["data.num_workers=1", "data.samples_per_epoch=40"]
    found = cli(*often(tiny), *more, callback(CutOff, *files))
    assert found.status == 1
    assert re.match(r"a worker of the loader \(process \d+\) has died by SIGBUS: the cache", found.err.splitlines()[-1])
    assert "Traceback" not in found.err
    # The next start finds the damage and decodes again.
    assert cli(*often(tiny), *more, "resume=auto").status == 0
    assert cli(*often(tiny, "other"), *more).status == 0
    assert difference(outcome(tmp_path / "runs" / "other"), outcome(tmp_path / "runs" / "tiny")) is None


def test_a_worker_that_dies_between_batches_ends_in_the_same_line(cli: Cli, tiny: list[str]) -> None:
    found = cli(*often(tiny), callback(SeeWorkerDie))
    assert found.status == 1
    assert found.err.splitlines()[-1].startswith("DataLoader worker (pid 7) is killed by signal: Killed: the cache of")
    assert "Traceback" not in found.err
