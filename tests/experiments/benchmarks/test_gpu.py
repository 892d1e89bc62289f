"""The command that measures everything on a GPU: its plan, its report, what it survives; and all of it on the CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.benchmarks.gpu import __main__ as gpu
from experiments.benchmarks.gpu import session
from experiments.benchmarks.gpu.parts import PARTS
from experiments.benchmarks.gpu.plan import STEPS, Settings, models, plan
from experiments.benchmarks.gpu.report import Case, Report
from tests.helpers.wandb_backend import REPOSITORY

ABOUT = {"card": "a card | of two", "torch": "2.11.0", "smoke": False}
STEP = Case("steps", "srn", "bfloat16", "channels_last", 16, "256x256")
RESTORE = Case("restoring", "srn", "float32", "channels_last", 1, "one image")
MISSING = Case("restoring", "gfn", "float32", "channels_last", 1, "one image")
TABLES = {"steps": ("Steps", "What a step costs."), "restoring": ("Restoring", "One image.")}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path, ABOUT, TABLES, [STEP, MISSING, RESTORE])


def test_the_plan_has_every_part_and_every_model() -> None:
    for smoke in (False, True):
        cases = plan(smoke)
        assert len(set(cases)) == len(cases)
        assert list(dict.fromkeys(case.part for case in cases)) == list(PARTS)
        assert {case.model for case in cases if case.part == "restoring"} == set(models())
    assert [case.model for case in plan(False) if "compile" in case.mode] == list(STEPS)
    ends = [part.ends for part in PARTS.values()]
    assert ends == sorted(ends)
    assert ends[-1] == 1.0


def test_a_report_of_two_results_and_a_failure(report: Report) -> None:
    report.add(STEP, {"patches/s": 1234.56, "step, ms": [12.0, 12.34, 13.06]})
    report.add(RESTORE, {"ms": [7.0], "peak, MiB": None})
    assert report.left("steps") == []
    assert report.left("restoring") == [MISSING]
    page = report.folder / "report.md"
    text = page.read_text()
    assert text.startswith("# deblur-sr on a card | of two\n\n3 measurements: 2 made, 0 failed, 1 not reached.")
    assert "| card | a card \\| of two |\n| torch | 2.11.0 |\n" in text
    assert "| srn | bfloat16 | channels_last | 16 | 256x256 | 1,235 | 12.34 (12 to 13.06) |" in text
    assert "| srn | float32 | channels_last | 1 | one image | 7 |  |" in text
    assert "| gfn | float32 | channels_last | 1 | one image | not reached |" in text
    report.add(MISSING, failed="out of memory (CUDA out of memory)")
    assert "2 made, 1 failed, 0 not reached" in page.read_text()
    assert "| gfn | float32 | channels_last | 1 | one image | failed: out of memory (CUDA out of memory) |" in (
        page.read_text()
    )
    assert "A smoke run" not in page.read_text()
    first = json.loads((report.folder / "results.jsonl").read_text().splitlines()[1])
    asked = {"part": "steps", "model": "srn", "dtype": "bfloat16", "batch": 16, "input": "256x256"}
    assert asked.items() <= first.items()
    assert first["card"] == ABOUT["card"]


def test_a_line_that_was_cut_off_is_left_out(report: Report) -> None:
    report.add(STEP, {"ms": 12.34})
    with (report.folder / "results.jsonl").open("a") as file:
        file.write('\n{"part": "restoring", "mod')
    assert report.left("restoring") == [MISSING, RESTORE]
    report.add(MISSING, {"ms": 1.0})
    assert report.left("restoring") == [RESTORE]


def test_a_value_that_is_no_number_leaves_the_file_as_it_is(report: Report) -> None:
    report.add(STEP, {"ms": 12.34})
    before = (report.folder / "results.jsonl").read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.add(MISSING, {"ms": float("nan")})
    assert (report.folder / "results.jsonl").read_text() == before


def stand_in(at_missing: Callable[[], object], part: str, settings: Settings, report: Report) -> None:
    """What the process of a part does with what is left of a report, in place of measuring."""
    for case in report.left(part):
        if case == MISSING:
            at_missing()
        report.add(case, {"ms": 1.0})


def measure(
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    at_missing: Callable[[], object],
    steps: float = 120,
    restoring: float = 180,
) -> str:
    """The page after a run in which a process does something at one of the cases; seconds are those the parts have."""
    monkeypatch.setattr(session, "work", partial(stand_in, at_missing))
    settings = Settings(report.folder, [], "cpu", True, 0.0)
    session.measure(report, settings, {"steps": time.time() + steps, "restoring": time.time() + restoring})
    return (report.folder / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_missing", "reason"),
    [
        (partial(signal.raise_signal, signal.SIGSEGV), "its process ended by SIGSEGV"),
        (partial(sys.exit, 7), "exit status 7"),
    ],
)
def test_what_crashes_is_noted_and_the_next_goes_on(
    report: Report, monkeypatch: pytest.MonkeyPatch, at_missing: Callable[[], object], reason: str
) -> None:
    text = measure(report, monkeypatch, at_missing)
    assert f"| gfn | float32 | channels_last | 1 | one image | failed: {reason}; log.txt may say more |" in text
    assert "2 made, 1 failed, 0 not reached" in text


@pytest.mark.slow
def test_a_part_that_hangs_is_stopped_when_its_time_is_over(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    report = replace(report, cases=[RESTORE, MISSING, STEP])
    text = measure(report, monkeypatch, partial(time.sleep, 600), restoring=30)
    assert "| one image | failed: stopped: it took too long; log.txt may say more |" in text
    assert "2 made, 1 failed, 0 not reached" in text


def test_what_there_is_no_time_for_is_not_begun(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 made, 0 failed, 3 not reached" in measure(report, monkeypatch, int, steps=-2, restoring=-1)
    assert not (report.folder / "log.txt").exists()


def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": "2.11.0+cu130", "kornia": "0.10", "numpy": "2.0.0rc1", "opencv-python": "4.10"}
    needed = ["torch>=2.6", "kornia>=0.8", "numpy>=1.26", "opencv-python-headless>=4.9", "wandb>=1"]

    def distributions(name: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(version=there[name])] if name in there else []

    monkeypatch.setattr(gpu, "distributions", distributions)
    assert gpu.lacking(needed) == []
    there |= {"torch": "2.5.1"}
    del there["kornia"]
    assert gpu.lacking(needed) == ["torch (found 2.5.1, needs >=2.6)", "kornia (not installed, needs >=0.8)"]


def called(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, words)])
    return gpu.main()


def test_a_missing_package_ends_it_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "lacking", lambda requirements: ["kornia (not installed, needs >=0.8)"])
    assert called(monkeypatch, "--smoke", "--output", tmp_path / "out") == 1
    assert capsys.readouterr().err == "cannot run here: kornia (not installed, needs >=0.8)\n"
    assert not (tmp_path / "out").exists()


def test_device_and_folders_are_checked_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_photographs: Callable[..., Path],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "report.md").touch()
    images = make_photographs(3, name="mine, all")
    for words, expected in (
        ([], "torch finds no GPU here"),
        (["--smoke", "--images", tmp_path / "none", "--set5", images], "does not exist"),
        (["--smoke", "--images", images, "--set5", tmp_path / "empty"], "no image"),
        (["--smoke", "--output", tmp_path / "full"], "there is a report in it already"),
    ):
        assert called(monkeypatch, "--output", tmp_path / "out", *words) == 1
        assert expected in capsys.readouterr().err
    with pytest.raises(SystemExit):
        called(monkeypatch, "--smoke", "--output", tmp_path / "out", "--images", images)
    assert "go together" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# In every process of the run: these packages cannot be imported, and no socket leaves this machine.
WITHOUT = """
import socket, sys
sys.modules.update(dict.fromkeys(("wandb", "gradio", "plotly")))
connect = socket.socket.connect
def local(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"no network: {address}")
    return connect(self, address)
socket.socket.connect = local
"""


def command(folder: Path) -> tuple[list[str], dict[str, str]]:
    (folder / "without").mkdir()
    (folder / "without" / "sitecustomize.py").write_text(WITHOUT)
    words = [sys.executable, "-m", "experiments.benchmarks.gpu", "--smoke", "--output", str(folder / "out")]
    path = f"{folder / 'without'}:{REPOSITORY}"
    return words, {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}


@pytest.mark.slow
def test_a_smoke_run_fills_every_table(tmp_path: Path) -> None:
    words, environment = command(tmp_path)
    done = subprocess.run(words, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, f"{done.stderr}\n{log[-3000:]}"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "failed:" not in text, f"{text}\n{log[-3000:]}"
    assert re.search(r"(\d+) measurements: \1 made, 0 failed, 0 not reached", text)
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines() if line]
    assert list(dict.fromkeys(record["part"] for record in records)) == list(PARTS)
    fields = ("part", "model", "mode", "dtype", "batch", "input", "values", "card")
    assert all(set(fields) <= record.keys() for record in records)
    assert all(any(isinstance(value, float | list) for value in record["values"].values()) for record in records)
    assert not list(tmp_path.glob("tmp*")), "nothing stays behind but the report"


@pytest.mark.slow
def test_a_killed_run_leaves_a_valid_report_and_no_process(tmp_path: Path) -> None:
    words, environment = command(tmp_path)
    with subprocess.Popen(words, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as run:
        report = Report(tmp_path / "out", ABOUT, TABLES, plan(True))
        until = time.monotonic() + 120
        while len(report.read()) < 5:
            assert time.monotonic() < until and run.poll() is None  # noqa: PT018
            time.sleep(0.05)
        run.kill()
    until = time.monotonic() + 30
    while processes_of(tmp_path):
        assert time.monotonic() < until, "processes are left"
        time.sleep(0.1)
    made, planned = len(report.read()), len(report.cases)
    text = (tmp_path / "out" / "report.md").read_text()
    # It may have been between a line and the page made of it.
    assert any(f": {n} made, 0 failed, {planned - n} not reached" in text for n in (made - 1, made))
    assert "| ed_dsrn | float32 |  | 2 | 64x64 |" in text


def processes_of(folder: Path) -> list[int]:
    """Processes that were started with this folder for temporary files."""
    pids = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={folder}".encode() in environment.read_bytes():
                pids.append(int(environment.parent.name))
        except OSError:  # it has just ended, or is another user's
            continue
    return pids
