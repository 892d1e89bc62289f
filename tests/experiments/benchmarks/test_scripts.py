"""The small benchmarks: what they share, and that each of them starts."""

import importlib
import sys
import time
from pathlib import Path

import pytest

from experiments import benchmarks
from experiments.benchmarks import restore
from experiments.benchmarks.timing import in_turns, spread
from experiments.models import Model
from tests.helpers.networks import tiny

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


@pytest.mark.slow
def test_engines_are_measured_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    network = tiny("srresnet")
    monkeypatch.setenv("DEBLUR_SR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(restore, "random_weights", lambda name: Model(name, lambda _: network, network.scales))
    options = ["--size", "40", "30", "--rounds", "1", "--photographs", "2", "--output", str(tmp_path / "engines.md")]
    monkeypatch.setattr(sys, "argv", ["restore", *options])
    restore.main()
    printed = capsys.readouterr().out
    assert "left out: openvino int8: " in printed
    report = (tmp_path / "engines.md").read_text()
    assert printed.endswith(report)
    assert "x4, 2 photograph(s) of 40x30 in 1 tile(s), 1 rounds; " in report
    rows = {row.split(" | ")[0][2:]: row.strip("| ").split(" | ")[1:] for row in report.splitlines()[4:]}
    assert {"torch float32", "torch bf16", "onnxruntime float32", "torch float32 contiguous"} <= {*rows}
    for name in ("torch float32", "onnxruntime float32"):
        alone, _, files, of_alone, of_torch, distance = rows[name]
        assert float(of_alone) == pytest.approx(float(files) / float(alone), rel=0.01)
        assert float(of_torch) == pytest.approx(float(files) / float(rows["torch float32"][2]), rel=0.01)
        assert distance == "equal" or float(distance) > 48


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_says_what_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"experiments.benchmarks.{name}").main()
    assert f"experiments.benchmarks.{name}" in capsys.readouterr().out
