"""A degraded sample is a function of (seed, epoch, index), to the bit: whatever the batch, workers, ranks, restarts.

Everything runs through Lightning's trainer with the project's own config, and the batches are those that a network
would get. Two ranks are two processes of one distributed training.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import Batch
from datamodules.datasets import collate
from tests.conftest import photograph
from tests.helpers.recording import FIELDS, Job, Recorded, datamodule, record

pytestmark = pytest.mark.filterwarnings("ignore:.*`val_dataloader`.*", "ignore:.*worker processes.*:UserWarning")

PATIENCE = 240  # seconds; only processes that hang use them up
ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, tuple[str, dict[str, int]]] = {
    "usrnet_x3": ("usrnet_train", {"scale": 3}),
    "usrnet": ("usrnet_train", {}),  # the scale is drawn for every batch
    "ed_dsrn": ("ed_dsrn", {}),
}
FIXED_SCALE = ("usrnet_x3", "ed_dsrn")
SAMPLES, BATCH, SAVED_AT = 32, 8, 6  # four steps an epoch: the checkpoint is in the middle of the second
Address = tuple[int, int]  # epoch and index


@dataclass
class Runs:
    """The same training by one process with batches of eight, by two ranks, and by two ranks from its checkpoint."""

    jobs: dict[str, Job]
    whole: dict[str, list[Recorded]]
    ranks: dict[str, list[list[Recorded]]]
    resumed: dict[str, list[list[Recorded]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("reproducible")
    (folder / "photographs").mkdir()
    for i in range(5):
        Image.fromarray(photograph(60 + 4 * i, 72, i)).save(folder / "photographs" / f"{i}.png")
    where = str(folder / "photographs"), str(folder / "cache")
    jobs = {
        name: Job(*where, degradation, dict(options), BATCH, workers=0, save=f"{folder}/{name}.ckpt", save_at=SAVED_AT)
        for name, (degradation, options) in SETTINGS.items()
    }
    whole = {name: record(job) for name, job in jobs.items()}
    of_ranks = {name: replace(job, batch_size=BATCH // 2, workers=3, save="", save_at=0) for name, job in jobs.items()}
    fresh = {name: replace(job, out=f"{folder}/{name}-fresh") for name, job in of_ranks.items()}
    resumed = {
        name: replace(job, out=f"{folder}/{name}-resumed", resume=jobs[name].save) for name, job in of_ranks.items()
    }
    run_on_two_ranks([*fresh.values(), *resumed.values()], folder / "jobs.json")
    return Runs(
        jobs,
        whole,
        {name: [load(f"{job.out}.{rank}") for rank in (0, 1)] for name, job in fresh.items()},
        {name: [load(f"{job.out}.{rank}") for rank in (0, 1)] for name, job in resumed.items()},
    )


def run_on_two_ranks(jobs: list[Job], file: Path) -> None:
    file.write_text(json.dumps([asdict(job) for job in jobs]))
    command = [sys.executable, "-m", "tests.helpers.recording", "2", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # one rank may wait for ever for another that failed
        output = process.communicate()[0]
    assert process.returncode == 0, output


def load(path: str) -> list[Recorded]:
    return [Recorded(**batch) for batch in torch.load(path)]


def samples(batches: list[Recorded]) -> Iterator[tuple[Address, dict[str, Tensor | int | str]]]:
    """Each sample's address and everything about it."""
    for batch in batches:
        for i, index in enumerate(batch.index):
            values: dict[str, Tensor | int | str] = {name: value[i] for name, value in batch.fields.items()}
            yield (batch.epoch, index), {**values, "name": batch.names[i], "scale": batch.scale}


def assert_equal(got: list[Recorded], expected: list[Recorded]) -> None:
    """The same samples, whatever their order, equal to the bit."""
    found, wanted = dict(samples(got)), dict(samples(expected))
    assert sum(len(batch.index) for batch in got) == len(found)  # none comes twice
    assert set(found) == set(wanted)
    for address, values in wanted.items():
        assert set(found[address]) == set(values)
        for name, value in values.items():
            other = found[address][name]
            same = torch.equal(other, value) if isinstance(value, Tensor) else other == value  # type: ignore[arg-type]
            assert same, (address, name)


@pytest.mark.slow
def test_the_reference_is_a_shuffled_pass_over_every_sample(runs: Runs) -> None:
    for name, batches in runs.whole.items():
        assert [(batch.epoch, batch.number) for batch in batches] == [(e, i) for e in (0, 1) for i in range(4)]
        orders = [[i for batch in batches if batch.epoch == epoch for i in batch.index] for epoch in (0, 1)]
        assert all(sorted(order) == list(range(SAMPLES)) != order for order in orders)
        assert orders[0] != orders[1]
        provided = {"hr", "lr", "kernel", "lr_sharp" if name == "ed_dsrn" else "noise_level"}
        assert all(set(batch.fields) == provided for batch in batches)
        crops = [values["hr"] for _, values in samples(batches)]
        assert len({crop.numpy().tobytes() for crop in crops if isinstance(crop, Tensor)}) > 0.9 * len(crops)
    assert len({batch.scale for batch in runs.whole["usrnet"]}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("setting", FIXED_SCALE)
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (1, 3), (8, 3)])
def test_batch_size_and_workers(runs: Runs, setting: str, batch_size: int, workers: int) -> None:
    job = replace(runs.jobs[setting], batch_size=batch_size, workers=workers, save="", save_at=0)
    batches = record(job)
    assert len(batches) == 2 * SAMPLES // batch_size
    assert_equal(batches, runs.whole[setting])


@pytest.mark.slow
def test_workers_agree_on_the_scale(runs: Runs) -> None:
    assert_equal(record(replace(runs.jobs["usrnet"], workers=3, save="", save_at=0)), runs.whole["usrnet"])


@pytest.mark.slow
@pytest.mark.parametrize("setting", FIXED_SCALE)
def test_position_in_the_epoch(runs: Runs, setting: str) -> None:
    """The second epoch from its last index to its first, by a data module of its own, three samples at a time."""
    data = datamodule(runs.jobs[setting])
    data.prepare_data()
    data.setup("fit")
    crops = data.train_dataloader().dataset
    got = []
    for start in range(0, SAMPLES, 3):
        items = [crops[(1, index, 0)] for index in reversed(range(start, min(start + 3, SAMPLES)))]
        batch: Batch = data.on_after_batch_transfer(collate(items), 0)
        values = {name: getattr(batch, name) for name in FIELDS if getattr(batch, name) is not None}
        got.append(Recorded(1, start, batch.scale or 0, batch.name, batch.index.tolist(), values))
    assert_equal(got, [batch for batch in runs.whole[setting] if batch.epoch == 1])


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_two_ranks(runs: Runs, setting: str) -> None:
    """Together they see the batches of one process, at the same scale, each its own half."""
    first, second = runs.ranks[setting]
    for whole, *parts in zip(runs.whole[setting], first, second, strict=True):
        assert all((part.epoch, part.number, part.scale) == (whole.epoch, whole.number, whole.scale) for part in parts)
        assert all(len(part.index) == BATCH // 2 for part in parts)
        assert_equal(parts, [whole])


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_restart(runs: Runs, setting: str) -> None:
    """New processes, now two, go on where one process with as many samples a step had written its checkpoint."""
    first, second = runs.resumed[setting]
    assert len(runs.whole[setting]) == 8
    for whole, *parts in zip(runs.whole[setting][SAVED_AT:], first, second, strict=True):
        assert all((part.epoch, part.number, part.scale) == (whole.epoch, whole.number, whole.scale) for part in parts)
        assert_equal(parts, [whole])
