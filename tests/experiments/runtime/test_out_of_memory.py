"""One line instead of a traceback when memory runs out, in training and in validation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.runtime.out_of_memory import shortage
from lightning_modules.restoration import RestorationModule
from tests.conftest import Outcome

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB\nof which 1 is free"


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_after_backward", "training_step"])
def test_training_says_what_to_lower(
    cli: Callable[..., Outcome], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr(RestorationModule, hook, fail)
    outcome = cli(*tiny)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == (
        "out of memory in a training step (CUDA out of memory): lower data.batch_size=2 (to 1; with "
        "trainer.accumulate_grad_batches=2 an update sees as many images) or data.patch=32, or change "
        "trainer.precision=32-true to bf16-mixed; the precision may change when this run is continued, the others need "
        "a new name="
    )
    assert "Traceback" not in outcome.err


@pytest.mark.slow
def test_a_real_shortage_in_validation_is_about_whole_images(
    cli: Callable[..., Outcome], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RestorationModule, "restore", lambda *_: torch.empty(2**60))
    outcome = cli(*tiny)
    assert outcome.status == 1
    line = outcome.err.splitlines()[-1]
    assert line.startswith("out of memory (")
    assert ": validation and tests take whole images, one at a time: leave large ones out, or measure on " in line
    assert "Traceback" not in outcome.err


def test_other_errors_are_not_about_memory() -> None:
    assert shortage(RuntimeError("shapes differ")) is None
    assert shortage(RuntimeError()) is None
    assert shortage(MemoryError()) == "MemoryError"
    assert shortage(RuntimeError("MPS backend out of memory (MPS allocated: 1 GiB)")) is not None
