"""What is chosen by what the machine has."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.runtime import speed


def settled(precision: str, channels_last: bool | str) -> tuple[Any, Any]:
    cfg = OmegaConf.create({"trainer": {"precision": precision, "accelerator": "cpu"}, "channels_last": channels_last})
    speed.settle(cfg)
    return cfg.trainer.precision, cfg.channels_last


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flags: fpu avx512_bf16", ("bf16-mixed", True)),
        ("Features: fp bf16", ("bf16-mixed", True)),
        ("flags: fpu avx512f", ("32-true", False)),
    ],
)
def test_auto_is_what_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, words: str, expected: tuple[str, bool]
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: words)
    caplog.set_level(logging.INFO)
    assert settled("auto", "auto") == expected
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(f": trainer.precision={expected[0]} channels_last={expected[1]}")


def test_what_is_given_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert settled("16-mixed", False) == ("16-mixed", False)
    assert not caplog.messages
    assert settled("32-true", "auto") == ("32-true", False)
    assert settled("bf16-mixed", "auto") == ("bf16-mixed", True)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults as Linux does")
def test_kept_memory_is_not_faulted_in_again() -> None:
    """Eight tensors of 8 MB, made and freed together 20 times, as a step does it."""
    script = (
        "import resource, torch\nfrom experiments.runtime.speed import keep_memory\n"
        "KEEP and keep_memory()\ndef step(): return [torch.ones(2**21) for _ in range(8)]\nstep(), step()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = [
        int(subprocess.run([sys.executable, "-c", script.replace("KEEP", keep)], check=True, text=True,
                           capture_output=True, cwd=Path(__file__).resolve().parents[3],
                           env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout)
        for keep in ("False", "True")
    ]  # fmt: skip
    # One step has 16,384 small pages; fewer faults where the system gives large ones.
    assert faults[1] < faults[0] / 4
