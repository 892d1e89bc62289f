import errno
import fcntl
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.errors import ConfigError, InputError
from experiments.runtime.run_folder import checked_name, held, open_run, run_name, write_text
from tests.conftest import Outcome
from tests.helpers.wandb_backend import REPOSITORY

CHOICES = {"model": "ed_dsrn", "data": "div2k", "experiment": None}


@pytest.mark.parametrize(
    ("choices", "overrides", "expected"),
    [
        (CHOICES, ["model=ed_dsrn", "data=div2k"], "ed_dsrn-div2k"),
        (CHOICES, ["model=ed_dsrn", "data=div2k", "resume=auto", "logger=none"], "ed_dsrn-div2k"),
        (CHOICES, ["seed=3", "model.n_units=1"], "ed_dsrn-div2k-model.n_units=1-seed=3"),
        (CHOICES, ["model.n_units=1", "seed=3"], "ed_dsrn-div2k-model.n_units=1-seed=3"),
        ({**CHOICES, "experiment": "quickstart"}, ["experiment=quickstart"], "quickstart"),
        ({**CHOICES, "experiment": "a"}, ["experiment=a", "model=ed_srn"], "a-model=ed_srn"),
        ({**CHOICES, "data": "folder"}, ["data=folder", "data.root=/x/y/train"], "ed_dsrn-folder-data.root=y_train"),
        (CHOICES, ["callbacks=ema", "+callbacks.x={a: 1}"], "ed_dsrn-div2k-callbacks=ema"),
        (CHOICES, ["callbacks.ema.decay=0.9"], "ed_dsrn-div2k-callbacks.ema.decay=0.9"),
        (CHOICES, ["model.widths=[1, 2]"], "ed_dsrn-div2k-model.widths=_1,_2_"),
        (CHOICES, ["data.num_workers=4", "task=train", "trainer.accelerator=cpu"], "ed_dsrn-div2k"),
    ],
)
def test_name_is_that_of_the_experiment(choices: dict[str, str], overrides: list[str], expected: str) -> None:
    assert run_name(choices, overrides) == expected


def test_long_names_stay_different() -> None:
    names = {run_name(CHOICES, [f"model.widths=[{'64,' * 50}{i}]"]) for i in range(5)}
    assert len(names) == 5
    assert max(map(len, names)) <= 120


def config(lr: float = 1e-3, root: str = "a") -> dict[str, object]:
    return {"seed": 0, "optimizer": {"lr": lr}, "data": {"root": root, "patch": 32}, "trainer": {"max_epochs": 1}}


def test_taken_name_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    meta = open_run(tmp_path / "r", config(), "never")
    with pytest.raises(InputError, match=r"exists already: continue it with resume=auto, or .* name=\.\.\."):
        open_run(tmp_path / "r", config(), "never")
    again = open_run(tmp_path / "r", config(root="moved"), "auto")
    assert again["wandb_id"] == meta["wandb_id"]
    assert len(again["continued"]) == 1
    assert json.loads((tmp_path / "r" / "meta.json").read_text()) == again


def test_another_configuration_cannot_continue_a_run(tmp_path: Path) -> None:
    open_run(tmp_path / "r", config(), "never")
    before = (tmp_path / "r" / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"optimizer\.lr was 0\.001 in this run and is 0\.5 now"):
        open_run(tmp_path / "r", config(lr=0.5), "auto")
    assert (tmp_path / "r" / "config.yaml").read_text() == before


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written: .* choose another runs_dir="):
        open_run(tmp_path / "file" / "r", config(), "never")


def test_write_text_leaves_the_old_file_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "results.json"
    write_text(target, "old")

    def full(self: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_meta_says_what_ran(tmp_path: Path) -> None:
    meta = open_run(tmp_path / "r", config(), "never")
    assert {"git_commit", "versions", "device", "command", "wandb_id"} <= set(meta)
    assert meta["versions"]["torch"] == torch.__version__


def test_what_is_taken_out_and_seeds_are_in_the_name() -> None:
    assert run_name(CHOICES, ["~loss.terms.deblurred"]).endswith("loss.terms.deblurred=removed")
    long = [f"model.widths=[{'64,' * 50}1]"]
    assert run_name(CHOICES, [*long, "seed=1"]).removesuffix("seed=1") == run_name(CHOICES, [*long, "seed=2"])[:-6]


@pytest.mark.parametrize(
    "name", ["../esc", ".", "..", "", "/tmp/esc", "a/../..", "a/b", "a ", " a", ".a", "a\nb", "a" * 300, "é" * 120]
)
def test_a_name_is_that_of_one_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: found .*, expected the name of one folder in runs_dir="):
        checked_name(name)


@pytest.mark.parametrize("name", ["a", "a b", "x(1)", "é" * 100, "seed=1,2", "a..b", "-"])
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert checked_name(name) == name


def test_names_lead_nowhere_else(cli: Callable[..., Outcome], tiny: list[str], tmp_path: Path) -> None:
    other = [item for item in tiny if not item.startswith("name=")]
    commands = (
        [*other, "name=../esc"],
        ["-m", *other, "name=../esc,."],
        ["task=evaluate", "model=bicubic", *other[:2], "name=../esc"],
    )
    for command in commands:
        outcome = cli(*command)
        assert outcome.status == 2
        assert "name: found '../esc', expected the name of one folder" in outcome.err
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "esc").exists()
    assert not list(tmp_path.glob("runs/c*"))


def test_a_lock_says_who_holds_it_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "runs" / "r" / ".lock"
    with held(lock):
        here = f"{platform.node()}, process {os.getpid()}, since 20"
        with pytest.raises(InputError, match=rf"runs/r: another process works in this folder \({here}.*\): wait"):
            held(lock).__enter__()
    assert list(tmp_path.iterdir()) == []
    lock.parent.mkdir(parents=True)
    lock.write_text("a process that was killed")
    with held(lock):
        (lock.parent / "file").touch()
    assert [path.name for path in lock.parent.iterdir()] == ["file"]


def test_a_lock_ends_with_its_process_which_may_be_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "r" / ".lock"
    code = "import sys, time, pathlib; from experiments.runtime.run_folder import held\n"
    code += "with held(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(300)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout
    assert process.stdout.readline()
    with pytest.raises(InputError, match=f"process {process.pid}, since"), held(lock):
        pass
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(InputError, match="another process works in this folder"), held(lock, patience=0.6):
        pass
    process.kill()
    began = time.monotonic()
    with held(lock, patience=60):
        assert time.monotonic() - began < 60
    process.wait()
    process.stdout.close()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"its file system has no locks .*: mount it .* or choose another runs_dir="):
        held(tmp_path / "r" / ".lock").__enter__()


def contend(lock: Path, barrier: Barrier, rounds: int) -> None:
    """Ends with the number of rounds in which this process was the only one that had the lock."""
    won = 0
    for number in range(rounds):
        barrier.wait()
        try:
            with held(lock):
                witness = lock.parent / f"{number}"
                witness.mkdir()  # fails for a second one
                barrier.wait()
                witness.rmdir()
                won += 1
        except InputError:
            barrier.wait()
    sys.exit(won)


def test_of_twelve_that_begin_at_once_one_has_the_lock(tmp_path: Path) -> None:
    """The folder is made by the first and removed by the last, again and again."""
    context, rounds = multiprocessing.get_context("fork"), 10
    arguments = (tmp_path / "r" / ".lock", context.Barrier(12), rounds)
    processes = [context.Process(target=contend, args=arguments) for _ in range(12)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sum(process.exitcode or 0 for process in processes) == rounds
    assert list(tmp_path.iterdir()) == []
