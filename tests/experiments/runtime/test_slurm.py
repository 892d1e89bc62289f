"""What needs no cluster: the pre-flight, and what a job does about a signal, with a `scontrol` that answers as told."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from datamodules.errors import ConfigError, Interrupted, LoaderStuck
from experiments.config.processes import check_request, check_tasks
from experiments.runtime.child_processes import LostRank
from experiments.runtime.exit_status import status_of
from experiments.runtime.slurm_requeue import listen, restarted_in
from lightning_modules.callbacks.interrupt import SIGNALS

RUNNING = "JobId=7 JobState=RUNNING Reason=None Requeue=1 BatchFlag=1"  # of `scontrol show job --oneliner`


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests themselves may be run in a job."""
    import os

    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def leave(error: Exception) -> int:
    return listen()(error, status_of(error) or 0)


class Scontrol:
    """A program of that name; `asked` are its command lines."""

    def __init__(self, folder: Path) -> None:
        self.path, self.record = folder / "bin" / "scontrol", folder / "record"
        self.path.parent.mkdir()
        self.answers(RUNNING)

    def answers(self, shown: str, status: int = 0) -> None:
        lines = ["#!/bin/sh", f'echo "$*" >> {self.record}', f'[ "$1" = show ] && echo "{shown}"', f"exit {status}"]
        self.path.write_text("\n".join(lines))
        self.path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    return Scontrol(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_running_job_is_requeued(scontrol: Scontrol, number: signal.Signals) -> None:
    assert leave(Interrupted(number)) == 128 + number
    assert scontrol.asked == ["show job --oneliner 7", "requeue 7"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # with which SLURM then ends it


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (RUNNING.replace("RUNNING", "COMPLETING"), "somebody has cancelled it, or requeued it already"),
        (RUNNING.replace("BatchFlag=1", "BatchFlag=0"), "none of sbatch: the same command with resume=auto continues"),
        (RUNNING.replace("Requeue=1", "Requeue=0"), "with --no-requeue: the same command with resume=auto continues"),
    ],
)
def test_job_that_is_not_requeued(scontrol: Scontrol, caplog: pytest.LogCaptureFixture, shown: str, said: str) -> None:
    scontrol.answers(shown)
    assert leave(Interrupted(signal.SIGTERM)) == 143
    assert scontrol.asked == ["show job --oneliner 7"]
    assert said in caplog.text


def test_job_whose_time_is_over_is_requeued(scontrol: Scontrol) -> None:
    scontrol.answers("JobState=COMPLETING Reason=TimeLimit Requeue=1 BatchFlag=1")
    leave(Interrupted(signal.SIGTERM))
    assert scontrol.asked[-1] == "requeue 7"


def test_slurm_that_does_not_answer(scontrol: Scontrol, caplog: pytest.LogCaptureFixture) -> None:
    scontrol.answers("", status=1)
    assert leave(Interrupted(signal.SIGUSR1)) == 138
    assert "SLURM does not answer (status 1): the same command with resume=auto continues" in caplog.text
    scontrol.path.unlink()
    leave(Interrupted(signal.SIGUSR1))
    assert "scontrol cannot be run here" in caplog.text


def test_restarts_without_any_progress_come_to_an_end(
    scontrol: Scontrol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those before the training last got on do not count."""
    run_dir, error = tmp_path / "run", LoaderStuck("no batch")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "34")
    run_dir.mkdir()
    (run_dir / "meta.json").write_text('{"slurm_job": "7", "slurm_step": 30, "slurm_since": 15}')
    assert listen()(error, 75, run_dir) == 75
    assert scontrol.asked[-1] == "requeue 7"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "35")
    listen()(error, 75, run_dir)
    assert "it could not save anything this time, after 20 restarts" in caplog.text
    listen()(error, 75, tmp_path / "of another task")
    assert "after 35 restarts" in caplog.text


def test_only_the_first_task_requeues(scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEP_NUM_TASKS", "2"), ("PROCID", "1"), ("LOCALID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert leave(Interrupted(signal.SIGTERM)) == 0
    assert scontrol.asked == []


@pytest.mark.parametrize("rank", ["0", "1"])
def test_any_task_that_waits_for_data_in_vain_requeues(
    scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    """The first task may be waiting for it without an end."""
    monkeypatch.setenv("SLURM_PROCID", rank)
    assert leave(LoaderStuck("no batch")) == 75
    assert scontrol.asked == ["show job --oneliner 7", "requeue 7"]


def test_a_lost_process_is_requeued_only_where_it_waited_for_data(scontrol: Scontrol) -> None:
    assert leave(LostRank("rank 1 was ended by SIGKILL")) == 4
    assert scontrol.asked == []
    assert leave(LostRank("rank 1 ended with status 75", 75)) == 75
    assert scontrol.asked[-1] == "requeue 7"


def test_a_person_and_a_process_outside_of_slurm_just_stop(scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch) -> None:
    assert leave(Interrupted(signal.SIGINT)) == 130
    monkeypatch.delenv("SLURM_JOB_ID")
    assert leave(Interrupted(signal.SIGTERM)) == 143
    assert scontrol.asked == []


def test_submitit_requeues_its_own_jobs(scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts the time-outs, and must not find a result."""
    called = []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    leave(Interrupted(signal.SIGTERM))
    assert called == [signal.SIGUSR2]
    assert scontrol.asked == ["show job --oneliner 7"]


def test_signal_that_repeats_itself_does_not_disturb_the_leaving() -> None:
    def leave_with(second: signal.Signals) -> None:
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.raise_signal(second)

    listen()
    with pytest.raises(Interrupted, match="SIGUSR1"):
        leave_with(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGINT"):
        leave_with(signal.SIGINT)


def test_requeued_job_knows_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "meta.json").write_text(json.dumps({"slurm_job": "7"}))
    assert not restarted_in(tmp_path)  # somebody has used the name again in the same job
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert restarted_in(tmp_path)
    assert not restarted_in(tmp_path / "absent")
    for other in ({"slurm_job": "6"}, {}, [], "7"):
        (tmp_path / "meta.json").write_text(json.dumps(other))
        assert not restarted_in(tmp_path)


TWO_TASKS = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "JOB_NUM_NODES": "1", "STEP_ID": "0", "JOB_NAME": "train"}


def task_check(monkeypatch: pytest.MonkeyPatch, slurm: dict[str, str | None], **trainer: object) -> str:
    """The complaint, or nothing; variables that are None are absent."""
    for key, value in slurm.items():
        if value is not None:
            monkeypatch.setenv(f"SLURM_{key}", value)
    try:
        check_tasks(OmegaConf.create(trainer))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("slurm", "trainer"),
    [
        ({}, {"devices": 2}),
        (TWO_TASKS, {"devices": 2, "num_nodes": 1}),
        ({**TWO_TASKS, "NTASKS": "4", "JOB_NUM_NODES": "2"}, {"devices": "auto"}),
        (TWO_TASKS, {"devices": [0, 1]}),
        ({**TWO_TASKS, "NTASKS": "4", "JOB_NUM_NODES": "2"}, {"devices": 2, "num_nodes": 2}),
        ({"NTASKS": "1", "JOB_NUM_NODES": "1", "JOB_NAME": "train"}, {"devices": 1}),
        ({"NTASKS": "2", "JOB_NUM_NODES": "1", "JOB_NAME": "interactive"}, {"devices": 2}),  # a shell in salloc
        ({**TWO_TASKS, "JOB_NAME": "interactive"}, {"devices": 2}),  # srun in that shell
    ],
)
def test_tasks_that_fit(monkeypatch: pytest.MonkeyPatch, slurm: dict[str, str | None], trainer: dict) -> None:
    assert task_check(monkeypatch, slurm, **trainer) == ""


@pytest.mark.parametrize(
    ("slurm", "trainer", "said"),
    [
        (TWO_TASKS, {"devices": 1}, "trainer.devices: found 1 on 1 node(s), the job of SLURM has 2 task(s) on 1: set"),
        (TWO_TASKS, {"devices": 4}, "or submit with --nodes=1 --ntasks-per-node=4"),
        (TWO_TASKS, {"devices": [0]}, "trainer.devices: found [0] on 1 node(s), the job"),
        (
            {**TWO_TASKS, "NTASKS": "4", "JOB_NUM_NODES": "2"},
            {"devices": 2},
            "set trainer.devices=2 trainer.num_nodes=2, or submit",
        ),
        ({**TWO_TASKS, "STEP_ID": None}, {"devices": 2}, "has 2 tasks and runs this command once: put srun before it"),
        (
            {"NTASKS": "1", "JOB_NUM_NODES": "1", "STEP_ID": "0"},
            {"devices": 2},
            "trainer.devices: found 2 on 1 node(s), the job",
        ),
    ],
)
def test_tasks_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, slurm: dict[str, str | None], trainer: dict, said: str
) -> None:
    assert said in task_check(monkeypatch, slurm, **trainer)


def test_torchrun_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert task_check(monkeypatch, TWO_TASKS, devices=1) == ""


def test_request_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    check_request({"tasks_per_node": 1})
    check_request({"tasks_per_node": 2, "gpus_per_node": 2})
    with pytest.raises(ConfigError, match=r"gpus_per_node: found 1 for 2 tasks, .* or trainer.devices=1"):
        check_request({"tasks_per_node": 2, "gpus_per_node": 1})
    with pytest.raises(ConfigError, match=r"tasks_per_node: found 'auto', .* set trainer.devices to one"):
        check_request({"tasks_per_node": "auto"})


def test_request_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="there is no sbatch here"):
        check_request({"tasks_per_node": 1})
