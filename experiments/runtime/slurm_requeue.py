"""What a job of SLURM does when its place is taken back: end in order, be requeued, and know itself again."""

import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.errors import SIGNALS, InputError, Interrupted, raise_interrupted
from experiments.runtime.child_processes import AGAIN, PORT
from experiments.runtime.launchers import place
from experiments.runtime.saved_config import read_mapping

log = logging.getLogger(__name__)
_RESTARTS = 20  # after so many, a job that could not save anything is not requeued: it may go on so for ever
_AGAIN = "the same command with resume=auto continues"


def listen() -> Callable[..., int]:
    """From now on the signals of `SIGNALS` raise `Interrupted`; the result is what to do with that in the end.

    It is called with what ends the job and the exit status of that, and returns the status to exit with, after it has
    handed the job back to SLURM where that is due: for every signal but SIGINT, of a batch job that SLURM is not ending
    itself. So it does when a process waits for data in vain.
    """
    submitit = signal.getsignal(signal.SIGUSR2) if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" else None
    for number in SIGNALS:
        signal.signal(number, raise_interrupted)
    return lambda error, status, run_dir=None: _leave(error, status, submitit, run_dir)


def _leave(error: BaseException, status: int, submitit: Any, run_dir: Path | None) -> int:
    told = error if isinstance(error, Interrupted) else None
    due = told.signum != signal.SIGINT if told else status == AGAIN
    if not due or "SLURM_JOB_ID" not in os.environ:
        return status
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # SLURM ends the processes of a job that it takes back with SIGTERM
    if PORT in os.environ:
        return status  # the process that has started this one speaks for it
    if told and place()[0] > 0:
        return 0  # the first process speaks for all; with another status srun may end it before it has spoken
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # one job of an array has the number of the whole array
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if refusal := _why_not_to_requeue(job, told is not None and told.saved, run_dir):
        log.warning("job %s is not requeued: %s", job, refusal)
        return status
    log.warning("job %s goes back into the queue", job)
    if callable(submitit):
        submitit(signal.SIGUSR2, None)  # counts the time-outs, requeues and leaves without a result
    else:
        _, failure = _scontrol("requeue", job)
        if failure:
            log.error("job %s could not be requeued (%s): %s", job, failure, _AGAIN)
    return status


def _why_not_to_requeue(job: str, saved: bool, run_dir: Path | None) -> str | None:
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0) - _progress(run_dir)
    if restarts >= _RESTARTS and not saved:
        return f"it could not save anything this time, after {restarts} restarts: is --time too short?"
    shown, failure = _scontrol("show", "job", "--oneliner", job)
    if failure:
        return f"SLURM does not answer ({failure}): {_AGAIN}"
    about = dict(re.findall(r"\b(JobState|Reason|Requeue|BatchFlag)=(\S+)", shown))
    if about.get("BatchFlag") == "0":
        return f"it is none of sbatch: {_AGAIN}"
    # A preempted job in its time of grace still runs: if it just ended, SLURM would count it as failed.
    if about.get("JobState") not in ("RUNNING", "SIGNALING") and about.get("Reason") != "TimeLimit":
        return "somebody has cancelled it, or requeued it already"
    return f"it was submitted with --no-requeue: {_AGAIN}" if about.get("Requeue") == "0" else None


def _progress(run_dir: Path | None) -> int:
    """The restart from which on this job has begun at the same step of its training; 0 without a training."""
    try:
        meta = read_mapping(run_dir / "meta.json") if run_dir else {}
    except InputError:
        return 0
    since = meta.get("slurm_since")
    return since if meta.get("slurm_job") == os.environ["SLURM_JOB_ID"] and isinstance(since, int) else 0


def _scontrol(*arguments: str) -> tuple[str, str | None]:
    """What it prints, and why it has failed."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):  # as in a container
        return "", "scontrol cannot be run here"
    return done.stdout, " ".join(done.stderr.split()) or f"status {done.returncode}" if done.returncode else None


def restarted_in(run_dir: Path) -> bool:
    """Whether this job was requeued by SLURM and has worked in this run folder before: then it goes on there."""
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0) == 0:
        return False
    try:
        return bool(read_mapping(run_dir / "meta.json").get("slurm_job") == os.environ["SLURM_JOB_ID"])
    except InputError:
        return False
