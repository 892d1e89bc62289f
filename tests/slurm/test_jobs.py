"""Trainings as jobs of a real SLURM: several tasks, several nodes, arrays, and all that can happen to them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conftest import photograph
from tests.helpers.cluster import Cluster

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds; only a job that hangs uses them up
OVERRIDES = [
    "data=folder",
    "data.patch=32",
    "data.samples_per_epoch=10",
    "data.num_workers=1",
    "model.widths=[4,4,4,4]",
    "model.n_units=1",
    "scheduler.step_size=1",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "checkpoint.every_n_steps=1",
    "pictures=none",
    "logger=none",
]
ALONE = ["data.batch_size=2"]
TWO = ["data.batch_size=1", "trainer=ddp_cpu"]


class Jobs:
    """Submits trainings of 15 steps, 5 in an epoch, and looks at what became of them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        python = str(Path(sys.executable).parent)
        clean = {k: v for k, v in cluster.environment.items() if not k.startswith(("SLURM_", "SBATCH_", "WANDB_RUN"))}
        self.environment = {
            **clean,
            "SLURM_CONF": str(cluster.config),
            "PATH": os.pathsep.join([python, clean["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DEBLUR_SR_CACHE": str(folder / "cache"),
            # The nodes have no names in the network.
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self.common = [*OVERRIDES, f"runs_dir={folder}/runs", f"data.root={folder}/photographs"]

    def submit(self, name: str, *overrides: str, options: str = "") -> str:
        """The number of a job that trains by the batch file."""
        log = ["--parsable", "--cpus-per-task=1", f"--output={self.folder}/{name}.log"]
        command = ["sbatch", *log, *options.split(), "experiments/slurm/train.sbatch"]
        done = self.run(*command, *self.common, f"name={name}", *overrides)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)

    def halting(self, marker: str, step: int, **only: str) -> str:
        """The override that makes a job wait before a step, see `HaltOnce`."""
        about = {"_target_": "tests.helpers.halting.HaltOnce", "marker": self.folder / marker, "step": step, **only}
        return f"+callbacks.halt={{{', '.join(f'{key}: {value}' for key, value in about.items())}}}"

    def wait_for(self, marker: str) -> str:
        """Until a job that halts says so; its number."""
        file = self.folder / marker
        self.until(lambda: file.exists() and file.read_text() != "")
        return file.read_text()

    def states(self, job: str) -> list[str]:
        """Wait for the end of a job; how each of its attempts ended, as the accounting has it."""
        show = ("sacct", "-X", "--duplicates", "--noheader", "--parsable2", "--format=State", f"--jobs={job}")

        def found() -> list[str]:
            return [state.split()[0] for state in self.cluster.command(*show).splitlines() if state]

        self.until(lambda: not {"PENDING", "RUNNING", "REQUEUED", "NODE_FAIL"} & set(found()[-1:] or ["PENDING"]))
        return found()

    def last(self, name: str) -> dict[str, Any]:
        return torch.load(self.folder / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > end:
                logs = [*self.folder.glob("*.log"), *self.folder.rglob("*_log.*")]
                pytest.fail("\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs))
            time.sleep(0.2)


def same_weights(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two checkpoints are at the end of the training, with equal weights and moments of the optimiser."""
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (a, b)]
    return (
        a["global_step"] == b["global_step"] == 15
        and all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
        and all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])
    )


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "photographs").mkdir()
    for i in range(4):
        Image.fromarray(photograph(56, 48, i)).save(folder / "photographs" / f"{i}.png")
    return Jobs(cluster, folder)


@pytest.fixture(scope="module")
def whole(jobs: Jobs) -> dict[str, Any]:
    """What two tasks on one node end with when nobody disturbs them."""
    job = jobs.submit("two_tasks", *TWO, options="--ntasks-per-node=2")
    assert jobs.states(job) == ["COMPLETED"], jobs.log("two_tasks")
    assert jobs.log("two_tasks").count("ed_dsrn  ") == 1  # one of them prints the table
    return jobs.last("two_tasks")


def test_two_nodes_train_like_two_tasks(jobs: Jobs, whole: dict[str, Any]) -> None:
    job = jobs.submit("two_nodes", *TWO, "trainer.devices=1", "trainer.num_nodes=2", options="--nodes=2")
    assert jobs.states(job) == ["COMPLETED"], jobs.log("two_nodes")
    assert same_weights(whole, jobs.last("two_nodes"))


def test_preempted_job_is_requeued_and_continues_in_mid_epoch(jobs: Jobs, whole: dict[str, Any]) -> None:
    """SLURM itself takes its place away for a job of a better partition, and sends its signal first."""
    job = jobs.submit("preempted", *TWO, jobs.halting("at_8", 8), options="--ntasks-per-node=2 -p low -w node1")
    jobs.wait_for("at_8")
    jobs.run("sbatch", "-p", "main", "-w", "node1", "--cpus-per-task=4", "--output=/dev/null", "--wrap=true")
    assert jobs.states(job) == ["REQUEUED", "COMPLETED"], jobs.log("preempted")
    assert f"continuing {jobs.folder}/runs/preempted after step 8\n" in jobs.log("preempted")
    assert same_weights(whole, jobs.last("preempted"))
    assert not list((jobs.folder / "runs" / "preempted").rglob("*.part"))


def test_job_whose_data_no_longer_come_is_requeued(jobs: Jobs, whole: dict[str, Any]) -> None:
    """The second task says so and hands the job back, while the first one waits for it."""
    stop = f"{{_target_: tests.helpers.halting.StopWorkersOnce, marker: {jobs.folder}/stood_still, step: 8}}"
    more = [f"+callbacks.stop={stop}", "data.timeout_minutes=0.4"]  # workers start in that time on a busy machine, too
    job = jobs.submit("stuck", *TWO, *more, options="--ntasks-per-node=2")
    assert jobs.states(job) == ["REQUEUED", "COMPLETED"], jobs.log("stuck")
    assert "has not delivered a batch for 0.4 minutes (data.timeout_minutes)" in jobs.log("stuck")
    assert "Traceback" not in jobs.log("stuck")
    assert same_weights(whole, jobs.last("stuck"))


@pytest.fixture(scope="module")
def sweep(jobs: Jobs) -> str:
    """Four jobs as an array, one of them preempted; what the command prints. The names of the runs are its own."""
    command = [
        *(sys.executable, "run.py", "-m", "hydra/launcher=slurm", *jobs.common, *ALONE),
        *("seed=1,2", "checkpoint.every_n_steps=1,3", "name='s${seed}-${checkpoint.every_n_steps}'"),
        *("hydra.launcher.cpus_per_task=1", "hydra.launcher.array_parallelism=3", "hydra.launcher.timeout_min=60"),
        jobs.halting("at_4", 4, name="${name}", job="s1-3"),
    ]
    process = subprocess.Popen(command, env=jobs.environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    jobs.run("scancel", "--signal=USR2", jobs.wait_for("at_4"))
    err = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, err
    return err


def test_array_sweep_through_the_launcher(jobs: Jobs, sweep: str) -> None:
    """Every job trains to the end, and the same whether it was preempted or not."""
    number = sweep.split(" jobs of SLURM: ")[1].split(",")[0]
    states = [jobs.states(f"{number}_{i}") for i in range(4)]
    assert sorted(states) == [["COMPLETED"]] * 3 + [["REQUEUED", "COMPLETED"]]
    for seed in (1, 2):
        assert same_weights(jobs.last(f"s{seed}-1"), jobs.last(f"s{seed}-3"))
    assert not same_weights(jobs.last("s1-1"), jobs.last("s2-1"))
    assert (jobs.folder / "runs" / "s1-3" / "results.json").exists()


def test_scancel_ends_a_job_for_good(jobs: Jobs) -> None:
    job = jobs.submit("cancelled", *ALONE, jobs.halting("at_3", 3))
    jobs.wait_for("at_3")
    jobs.run("scancel", job)
    assert jobs.states(job) == ["CANCELLED"]
    jobs.until(lambda: not jobs.cluster.processes(f"SLURM_JOB_ID={job}"))
    assert jobs.last("cancelled")["global_step"] == 3  # it has finished its step all the same
    assert "is not requeued: somebody has cancelled it" in jobs.log("cancelled")


def test_node_that_goes_down(jobs: Jobs, sweep: str) -> None:
    """The job starts again on the other node, from its last checkpoint."""
    job = jobs.submit("node_lost", *ALONE, "seed=1", jobs.halting("at_9", 9), options="-w node2")
    jobs.wait_for("at_9")
    jobs.cluster.fail_node("node2")
    try:
        jobs.until(lambda: jobs.cluster.works("scontrol", "update", f"jobid={job}", "reqnodelist="))  # any node will do
        assert jobs.states(job) == ["NODE_FAIL", "COMPLETED"], jobs.log("node_lost")
    finally:
        jobs.cluster.start_node("node2")
    assert f"continuing {jobs.folder}/runs/node_lost after step 8\n" in jobs.log("node_lost")
    assert same_weights(jobs.last("s1-1"), jobs.last("node_lost"))


def test_tasks_that_do_not_fit_the_devices(jobs: Jobs) -> None:
    """Refused by all tasks in one line, and nothing is made."""
    done = jobs.run("srun", "--ntasks-per-node=2", "python", "run.py", *jobs.common, *ALONE, "name=unfit")
    assert done.returncode == 2
    line = "trainer.devices: found 1 on 1 node(s), the job of SLURM has 2 task(s) on 1: set trainer.devices=2"
    assert [said.startswith(line) for said in done.stderr.splitlines() if not said.startswith("srun:")] == [True]
    assert not (jobs.folder / "runs" / "unfit").exists()


def test_partition_that_does_not_exist(jobs: Jobs) -> None:
    done = jobs.run(
        sys.executable, "run.py", "-m", "hydra/launcher=slurm", "hydra.launcher.partition=mian", *jobs.common
    )
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]  # after those of sbatch itself
    assert line.startswith("hydra/launcher=slurm: sbatch refuses: ")
    assert "invalid partition specified: mian" in line
