"""The small benchmarks: what they share, and that each of them starts."""

import importlib
import sys
import time
from pathlib import Path

import pytest

from experiments import benchmarks
from experiments.benchmarks.timing import in_turns, spread

LIBRARY = ("__init__", "timing")
SCRIPTS = sorted({file.stem for file in Path(benchmarks.__file__).parent.glob("*.py")} - {*LIBRARY})


def test_ways_take_turns_after_a_call_that_warms_up() -> None:
    calls = []
    times = in_turns(
        {"slow": lambda: (calls.append("slow"), time.sleep(0.01)), "fast": lambda: calls.append("fast")}, 2
    )
    assert calls == ["slow", "fast"] * 3
    assert len(times["slow"]) == len(times["fast"]) == 2
    assert min(times["slow"]) >= 10 > max(times["fast"])
    assert spread([1234.56, 1.0, 3.25]) == "3.25 (1 to 1,235)"
    assert spread([12.345]) == "12.35"


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_says_what_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"experiments.benchmarks.{name}").main()
    assert f"experiments.benchmarks.{name}" in capsys.readouterr().out
