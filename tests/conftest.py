"""Fixtures that several test modules share."""

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.runtime.environment import prepare_environment, report_nothing

# No test may reach a network service: W&B stays offline and asks nobody.
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and small ones gain nothing by more
report_nothing()
prepare_environment()  # for tests that compose a config without the command line
with contextlib.suppress(ModuleNotFoundError):  # it comes with TensorBoard, and is imported with OpenVINO
    import absl.logging

    # Its handler closes the stream that was sys.stderr when it was imported, as soon as Hydra sets up logging anew: in
    # a test that is where pytest keeps what is printed.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


SLOW = {"slow", "browser", "slurm"}
VERY_SLOW = {"compile_slow", "docs_slow", "fuzz_slow"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long is left to those who ask for it: it runs only if `-m` names one of the markers.

    A browser and a cluster are slow: `-m "slow or not slow"` takes them too. `VERY_SLOW` have to be named themselves.
    """
    values: dict[str, int] = {}
    for item in items:
        if item.get_closest_marker("many"):
            values[item.nodeid.partition("[")[0]] = number = values.get(item.nodeid.partition("[")[0], -1) + 1
            if number % 4:
                item.add_marker("slow")
    named = set(re.findall(r"\w+", config.option.markexpr))
    left_out = VERY_SLOW - named | (set() if named & SLOW else SLOW)
    deselected = [item for item in items if any(item.get_closest_marker(name) for name in left_out)]
    config.hook.pytest_deselected(items=deselected)
    kept = [item for item in items if item not in deselected]
    # Files with slow tests first, so that none is left for the end, when the other processes have nothing more to do.
    slow = {item.path for item in kept if any(item.get_closest_marker(name) for name in SLOW | VERY_SLOW)}
    items[:] = sorted(kept, key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests keep for later, decoded images and graphs, does not go into the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEBLUR_SR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Hydra sets up logging for the whole process: after a sweep loggers are off and the level is that of errors."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    for logger in list(logging.getLogger().manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.disabled = False


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth random colour image with edges, uint8 [H, W, 3]: blurring and enlarging it costs detail."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for _ in range(12):
        a, b, phase = rng.uniform(-0.4, 0.4, 3) * (1, 1, 10)
        image += rng.uniform(-1, 1, 3) * np.sign(np.sin(a * x + b * y + phase))[..., None]
    image = (image - image.min()) / (image.max() - image.min())
    return (image * 255).round().astype(np.uint8)


@pytest.fixture
def make_photographs(tmp_path: Path) -> Callable[..., Path]:
    """Call with (count, height, width) to get a folder of that many different PNG images."""

    def make(count: int = 6, height: int = 80, width: int = 96, name: str = "photographs") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(photograph(height, width, i)).save(folder / f"image{i}.png")
        return folder

    return make


def figures(run: Path, *without: str) -> list[dict[str, Any]]:
    """The records of a run folder without its name and what differs from one measurement to the next: the times.

    Args:
        without: further keys to leave out.
    """
    from tests.helpers.results import read_records

    records = read_records(run / "results.json")
    for record in records:
        for key in ("run", *without):
            del record[key]
        for image in record["images"].values():
            image.pop("seconds", None)
    return records


@dataclass
class Outcome:
    """What a command line did: exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call with overrides to run `python run.py ...` in this process, in a folder of its own."""
    import run

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEBLUR_SR_CACHE", str(tmp_path / "cache"))

    def call(*overrides: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["run.py", *overrides])
        capsys.readouterr()
        try:
            status = run.main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        printed = capsys.readouterr()
        return Outcome(status, printed.out, printed.err)

    return call


@pytest.fixture
def tiny(make_photographs: Callable[..., Path]) -> list[str]:
    """Overrides that train ED-DSRN in a second: four steps an epoch, two epochs, 4-channel network, 80x96 images."""
    return [
        "data=folder",
        f"data.root={make_photographs()}",
        "data.patch=32",
        "data.batch_size=2",
        "data.samples_per_epoch=8",
        "data.num_workers=0",
        "model.widths=[4,4,4,4]",
        "model.n_units=1",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "logger=none",
        "name=tiny",
    ]
