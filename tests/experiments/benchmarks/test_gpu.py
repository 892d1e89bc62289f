"""The command that measures everything on a GPU: its plan, its report, what it survives; and all of it on the CPU."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.errors import InputError
from experiments.benchmarks.gpu import processes, versions
from experiments.benchmarks.gpu.__main__ import main
from experiments.benchmarks.gpu.folders import check, link
from experiments.benchmarks.gpu.plan import ENDS, STEPS, Item, Settings, deadlines, models, plan
from experiments.benchmarks.gpu.report import TABLES, Book, Value, page
from experiments.benchmarks.gpu.training import clock, length
from experiments.benchmarks.gpu.worker import MEASURE
from tests.helpers.wandb_backend import REPOSITORY

ABOUT = {"card": "a card | of two", "torch": "2.11.0", "driver": None, "smoke": False}
STEP = Item("a", "steps", "srn", "bfloat16", "channels_last", 16, "256x256")
RESTORE = Item("c", "restoring", "srn", "float32", "channels_last")
MISSING = Item("c", "restoring", "gfn", "float32", "channels_last")


@pytest.fixture
def book(tmp_path: Path) -> Book:
    made = Book(tmp_path)
    made.begin(ABOUT, [STEP, RESTORE, MISSING])
    return made


def settings(folder: Path, **until: float) -> Settings:
    return Settings(str(folder), "images", "val", "test", f"{folder}/cache", "cpu", True, until)


def test_the_plan_has_every_table_and_every_model() -> None:
    for smoke in (False, True):
        items = plan(smoke, "cuda", "Set5")
        assert len(set(items)) == len(items)
        assert {item.table for item in items} == set(TABLES) == set(MEASURE)
        assert [item.part for item in items] == sorted(item.part for item in items)
        assert {item.part for item in items} == set(ENDS)
        assert {item.model for item in items if item.table == "restoring"} == set(models())
    steps = [item for item in plan(False, "cuda", "Set5") if item.table == "steps"]
    assert [item.model for item in steps] == [*STEPS] * 4
    assert not any("compile" in item.mode for item in steps[:12]), "compiling takes long: it comes last"


def test_parts_end_one_after_the_other_and_all_in_time() -> None:
    ends = deadlines(1000.0, 8.0, smoke=False)
    assert list(ends.values()) == sorted(ends.values())
    assert ends["f"] == 1000.0 + 8 * 60
    assert set(deadlines(1000.0, 8.0, smoke=True).values()) == {1480.0}


def test_a_training_has_as_many_steps_as_fit() -> None:
    assert length(130.0, 0.1) == 800
    with pytest.raises(TimeoutError, match="32 s are left, too few for 20 steps of 100 ms"):
        length(32.0, 0.1)
    assert clock(3723.9) == "00:01:02:03"
    assert clock(-5) == "00:00:00:01"


def test_a_report_of_two_results_and_a_failure(book: Book) -> None:
    assert book.left() == [STEP, RESTORE, MISSING]
    book.add(STEP, [Value("patches_per_second", 1234.56), Value("step", 12.34, 12.0, 13.06)])
    book.add(RESTORE, [Value("time", 7.0, 7.0, 7.0), Value("peak_memory", None)], input="1280x720")
    assert book.left() == [MISSING]
    text = book.page.read_text()
    assert text.startswith(
        "# deblur-sr on a card | of two\n\n3 measurements: 2 made, 0 failed, 1 not reached; the last"
    )
    assert "| card | a card \\| of two |\n| torch | 2.11.0 |\n\n" in text
    assert "| srn | bfloat16 | channels_last | 16 | 256x256 | 1,234.6 | 12.3 (12.0 to 13.1) |  |" in text
    assert "| srn | float32 | channels_last | 1 | 1280x720 | 7.0 |  |  |" in text
    assert "Not reached: gfn float32 channels_last." in text
    book.fail(MISSING, "out of memory (CUDA out of memory)")
    assert "2 made, 1 failed, 0 not reached" in book.page.read_text()
    assert "* failed: gfn float32 channels_last: out of memory (CUDA out of memory)" in book.page.read_text()
    assert "A smoke run" not in book.page.read_text()
    [first, *_] = [json.loads(line) for line in book.results.read_text().splitlines()][1:]
    asked = {"part": "a", "model": "srn", "dtype": "bfloat16", "batch": 16, "value": 1234.56, "unit": "1/s"}
    assert asked.items() <= first.items()
    assert first["card"] == ABOUT["card"]


def test_a_line_that_was_cut_off_is_left_out(book: Book) -> None:
    book.add(STEP, [Value("step", 12.34)])
    with book.results.open("a") as file:
        file.write('{"part": "c", "tab')
    assert book.left() == [RESTORE, MISSING]
    book.skip(RESTORE)
    book.add(MISSING, [Value("time", 1.0)])
    assert book.left() == []
    assert "Not reached: srn float32 channels_last." in book.page.read_text()


def test_a_value_that_is_no_number_leaves_the_file_as_it_is(book: Book) -> None:
    before = book.results.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        book.add(STEP, [Value("step", 12.34), Value("wait_share", float("nan"))])
    assert book.results.read_text() == before


# What the other process does with the items of `book`, in place of measuring.
WORKER = """
import json, os, signal, sys, time
path = os.path.join(json.loads(sys.argv[1])["output"], "results.jsonl")
lines = [json.loads(line) for line in open(path)]
key = lambda item: (item["table"], item["model"])
for item in lines[0]["plan"]:
    if key(item) in map(key, lines[1:]):
        continue
    if item["model"] == "gfn":
        {at_gfn}
    with open(path, "a") as file:
        place = {{"card": "", "at": "", "low": None, "high": None}}
        file.write(json.dumps({{**item, **place, "what": "time", "value": 1.0}}) + chr(10))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_gfn", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process ended by SIGSEGV"),
        ("sys.exit(7)", "exit status 7"),
        ("time.sleep(60)", "stopped: it took too long"),
    ],
)
def test_what_crashes_or_hangs_is_noted_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_gfn: str, reason: str
) -> None:
    monkeypatch.setattr(processes, "WORKER", ("-c", WORKER.format(at_gfn=at_gfn)))
    monkeypatch.setattr(processes, "PATIENCE", 1.0)
    book = Book(tmp_path)
    book.begin(ABOUT, [RESTORE, MISSING, STEP])
    processes.measure(settings(tmp_path, a=time.time() + 60, c=time.time() + 60, f=time.time() + 90), book)
    assert book.left() == []
    text = page(*book.read())
    assert f"* failed: gfn float32 channels_last: {reason}" in text
    assert "2 made, 1 failed, 0 not reached" in text


def test_a_part_whose_time_is_over_leaves_the_others_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORKER", ("-c", WORKER.format(at_gfn="time.sleep(60)")))
    monkeypatch.setattr(processes, "GRACE", 0.0)
    book = Book(tmp_path)
    book.begin(ABOUT, [MISSING, RESTORE, STEP])
    processes.measure(settings(tmp_path, a=time.time() + 60, c=time.time() + 0.5, f=time.time() + 90), book)
    text = page(*book.read())
    assert "1 made, 1 failed, 1 not reached" in text
    assert "* failed: gfn float32 channels_last: stopped: it took too long" in text
    assert "Not reached: srn float32 channels_last." in text


def test_what_there_is_no_time_for_is_not_begun(tmp_path: Path, book: Book) -> None:
    processes.measure(settings(tmp_path, a=time.time() - 2, c=time.time() - 1), book)
    assert "0 made, 0 failed, 3 not reached" in book.page.read_text()
    assert not (tmp_path / "log.txt").exists()


def test_versions_are_compared_as_numbers(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nrequires-python = ">=3.11"\ndependencies = ["torch>=2.6", "kornia>=0.8", "numpy>=1.26", "wandb>=1"]'
    )
    there = {"torch": "2.11.0+cu130", "kornia": "0.10", "numpy": "2.0.0rc1"}
    found = versions.packages(project, lambda name: there.get(name, ""))
    assert versions.complaints(found) is None
    assert "wandb" not in versions.table(found)
    there |= {"torch": "2.5.1"}
    del there["kornia"]
    wrong = versions.complaints(versions.packages(project, lambda name: there.get(name, "")))
    assert wrong == "cannot run here: torch (found 2.5.1, needs >=2.6), kornia (not installed, needs >=0.8)"


def test_a_missing_package_ends_it_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(versions, "packages", lambda: [versions.Package("kornia", "0.8", "")])
    monkeypatch.setattr(sys, "argv", ["gpu", "--smoke", "--output", str(tmp_path / "out")])
    assert main() == 1
    assert capsys.readouterr().err == "cannot run here: kornia (not installed, needs >=0.8)\n"
    assert not (tmp_path / "out").exists()


def test_folders_are_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, book: Book) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device, images, set5, expected in (
        ("cuda", None, None, "torch finds no GPU here"),
        ("cpu", tmp_path / "none", None, "does not exist"),
        ("cpu", None, tmp_path, "expected the 5 of set5"),
        ("cpu", None, None, "there is a report in it already"),
    ):
        if set5:
            (set5 / "one.png").touch()
        with pytest.raises(InputError, match=expected):
            check(tmp_path, device, images, set5)


def test_photographs_are_those_given_or_of_scikit_image(tmp_path: Path, make_photographs: Callable[..., Path]) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "others").mkdir()
    train, val, test = link(tmp_path / "links", None, None)
    assert {file.name for file in test.iterdir()} == {"astronaut.png", "coffee.png"}
    assert len(list(train.iterdir())) == 9
    assert len(list(val.iterdir())) == 2
    train, val, test = link(tmp_path / "others", make_photographs(3, name="mine, all"), make_photographs(5, name="5"))
    assert "," not in str(train)
    assert len(list(train.iterdir())) == 3
    assert len(list(val.iterdir())) == 2
    assert len(list(test.iterdir())) == 5


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
    for table in TABLES.values():
        part = text.split(f"## {table.title}\n")[1].split("\n## ")[0]
        assert part.count("\n| ") >= 3, f"no rows in {table.title}"  # head, line below it, a row
    about, *records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {record["table"] for record in records} == set(TABLES)
    fields = ("part", "model", "mode", "dtype", "batch", "input", "what", "value", "unit", "card")
    assert all(set(fields) <= record.keys() for record in records)
    assert about["about"]["smoke"]
    assert not list(tmp_path.glob("tmp*")), "nothing stays behind but the report"


@pytest.mark.slow
def test_a_killed_run_leaves_a_valid_report_and_no_process(tmp_path: Path) -> None:
    words, environment = command(tmp_path)
    with subprocess.Popen(words, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as run:
        book = Book(tmp_path / "out")
        until = time.monotonic() + 120
        while not (book.results.exists() and len(book.results.read_text().splitlines()) > 12):
            assert time.monotonic() < until and run.poll() is None  # noqa: PT018
            time.sleep(0.05)
        run.kill()
    until = time.monotonic() + 30
    while processes_of(tmp_path):
        assert time.monotonic() < until, "processes are left"
        time.sleep(0.1)
    _, items, _ = book.read()
    text = book.page.read_text()
    made, missing = len(items) - len(book.left()), len(book.left())
    assert made > 1
    assert missing > 1
    # It may have been between a line and the page made of it.
    assert any(f": {n} made, 0 failed, {len(items) - n} not reached" in text for n in (made - 1, made))
    assert "| ed_dsrn | float32 |  | 2 | 64x64 |" in text


def processes_of(folder: Path) -> list[int]:
    """Processes with this folder on their command line."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in line.read_bytes():
                found.append(int(line.parent.name))
        except OSError:  # it has just ended
            continue
    return found
