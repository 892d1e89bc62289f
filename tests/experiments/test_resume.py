"""What `resume=auto` does with a run that has lost some of its files."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from datamodules.errors import InputError
from lightning_modules.checkpoints.resume import find_resumable
from tests.conftest import Outcome
from tests.experiments.conftest import Trained
from tests.helpers.kills import COMMON, PROCEDURES, difference, make_photographs, outcome
from tests.helpers.wandb_backend import REPOSITORY

Cli = Callable[..., Outcome]


class Crash(pl.Callback):
    """Breaks off after a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            raise RuntimeError("crash")


def crash(step: int) -> str:
    return f"+callbacks.test={{_target_: {__name__}.Crash, step: {step}}}"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def state(step: int, **changes: Any) -> dict[str, Any]:
    """A checkpoint as far as the choice looks at it."""
    found: dict[str, Any] = {"config": {"model": {}}, "state_dict": {}, "global_step": step, "optimizer_states": []}
    found |= {"lr_schedulers": [], "loops": {}, "callbacks": {"LastAndBest": {"best_score": 30.0}}}
    return found | changes


def test_the_last_checkpoint_goes_before_the_best(tmp_path: Path) -> None:
    assert find_resumable(tmp_path) == (None, {"global_step": 0})
    torch.save(state(4), tmp_path / "best.ckpt")
    torch.save(state(6), tmp_path / "last.ckpt")
    assert find_resumable(tmp_path) == (tmp_path / "last.ckpt", state(6))
    (tmp_path / "last.ckpt").unlink()
    assert find_resumable(tmp_path) == (tmp_path / "best.ckpt", state(4))


LAST, BEST = state(6), state(4)
UNVALIDATED = state(2, callbacks={"LastAndBest": {"best_score": -math.inf}})
WEIGHTS = {"config": {"model": {}}, "state_dict": {}, "global_step": 4}
ANEW = "put a copy of it back, or start a new run with name="


@pytest.mark.parametrize(
    ("last", "best", "message"),
    [
        (b"half", BEST, r"last.ckpt: cannot be read .*: delete it, and resume=auto continues from best.ckpt of step 4"),
        (b"half", None, f"last.ckpt: cannot be read .*: {ANEW}"),
        (b"half", b"half", f"best.ckpt: cannot be read .*: {ANEW}"),
        (WEIGHTS, BEST, "last.ckpt: cannot be read .*incomplete.*: delete it, and resume=auto"),
        (None, b"", f"best.ckpt: cannot be read .* \\(0 bytes, .*: {ANEW}"),
        (None, WEIGHTS, f"best.ckpt: cannot be read .*: {ANEW}"),
        (LAST, None, "best.ckpt: is gone: put it back, or copy last.ckpt there, whose step 6 is then the best so far"),
        (LAST, b"", "best.ckpt: cannot be read .*: put it back, or copy last.ckpt there"),
        (UNVALIDATED, None, None),
        *(
            (state(6, **changes), BEST, "last.ckpt: cannot be read .*: delete it, and resume=auto continues from best")
            for changes in (
                *({"callbacks": []}, {"callbacks": {"LastAndBest": []}}, {"loops": None}, {"optimizer_states": {}}),
                *({"callbacks": {"LastAndBest": {"best_score": score}}} for score in ("a", None, [])),
                *({"global_step": step} for step in ("6", None, -5, 6.0)),
            )
        ),
    ],
)
def test_what_cannot_be_continued_is_refused_with_a_way_out(
    tmp_path: Path, last: Any, best: Any, message: str | None
) -> None:
    for name, content in (("last", last), ("best", best)):
        if isinstance(content, bytes):
            (tmp_path / f"{name}.ckpt").write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / f"{name}.ckpt")
    if message is None:
        assert find_resumable(tmp_path)[0] == tmp_path / "last.ckpt"
        return
    with pytest.raises(InputError, match=message):
        find_resumable(tmp_path)


def test_without_the_last_checkpoint_it_continues_from_the_best(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    """The best is of step 4, the last one of step 6; what follows is what an undisturbed training does."""
    common = [*tiny[:-1], "checkpoint.every_n_steps=1", "scheduler.step_size=1"]
    assert cli(*common, "name=whole").status == 0
    with pytest.raises(RuntimeError, match="crash"):
        cli(*common, "name=tiny", crash(7))
    run = tmp_path / "runs" / "tiny"
    best = (run / "checkpoints" / "best.ckpt").read_bytes()
    (run / "checkpoints" / "last.ckpt").unlink()
    found = cli(*common, "name=tiny", "resume=auto")
    assert found.status == 0, found.err
    assert "runs/tiny/checkpoints/last.ckpt is gone: continuing from best.ckpt, of step 4" in found.err
    assert "continuing runs/tiny after step 4" in found.err
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    assert difference(outcome(tmp_path / "runs" / "whole"), outcome(run)) is None
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (tmp_path / "runs" / "whole", run)]
    steps = [[line.split(",")[0] for line in lines] for lines in rows]
    assert steps[0] == steps[1]

    # A finished one as well; and a damaged last checkpoint as the message says.
    before = files(run)
    (run / "checkpoints" / "last.ckpt").write_bytes(best[: len(best) // 2])
    found = cli(*common, "name=tiny", "resume=auto")
    assert found.status == 1
    assert "delete it, and resume=auto continues from best.ckpt of step" in found.err.splitlines()[-1]
    assert {name: content for name, content in files(run).items() if name != "checkpoints/last.ckpt"} == {
        name: content for name, content in before.items() if name != "checkpoints/last.ckpt"
    }
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "results.json").unlink()
    assert cli(*common, "name=tiny", "resume=auto").status == 0
    assert difference(outcome(tmp_path / "runs" / "whole"), outcome(run)) is None


@pytest.mark.slow
@pytest.mark.parametrize(("procedure", "step"), [("supervised", 5), ("staged", 7), ("staged", 15), ("gan", 7)])
def test_every_procedure_continues_from_its_best_checkpoint(tmp_path: Path, procedure: str, step: int) -> None:
    """With an average of the weights, to the same bits."""
    make_photographs(tmp_path / "photographs")
    command = [sys.executable, str(REPOSITORY / "run.py"), *PROCEDURES[procedure].split(), *COMMON.split()]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)

    whole, run = tmp_path / "runs" / "whole", tmp_path / "runs" / "tiny"
    assert call("name=whole").returncode == 0
    assert call("name=tiny", crash(step)).returncode == 1
    (run / "checkpoints" / "last.ckpt").unlink()
    found = call("name=tiny")
    assert found.returncode == 0, found.stderr
    assert "last.ckpt is gone: continuing from best.ckpt, of step" in found.stderr
    assert difference(outcome(whole), outcome(run)) is None


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (["checkpoints"], "runs/tiny: its checkpoints are gone, though it has trained for an epoch: put checkpoints/"),
        (["config.yaml"], "runs/tiny: has no config.yaml, but checkpoints/"),
        (["config.yaml", "checkpoints"], "runs/tiny: has no config.yaml, but metrics.csv of a run"),
        (["checkpoints/best.ckpt"], "best.ckpt: is gone: put it back, or copy last.ckpt there, whose step 4 is"),
        (["meta.json"], "runs/tiny/meta.json: cannot be read"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_nothing_that_a_run_has_is_written_over(
    cli: Cli, runs: Path, trained: Trained, lost: list[str], message: str, resume: str
) -> None:
    run = runs / "tiny"
    for name in lost:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    before = files(run)
    found = cli(*trained.overrides, f"resume={resume}")
    assert found.status == 1
    last = found.err.splitlines()[-1]
    assert message in last or (resume == "never" and "this run exists already" in last), last
    assert "Traceback" not in found.err
    assert files(run) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(cli: Cli, tiny: list[str]) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        cli(*tiny, crash(3))
    found = cli(*tiny, "resume=auto")
    assert found.status == 0, found.err
    assert "runs/tiny: no checkpoint was written yet: the training begins anew" in found.err
    assert "step 8" in found.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2, "records": [1, 2]}', "results.json"),
        ('{"format": 2, "records": [{"model": "a"', "results.json"),
        ("[]", "results.json"),
    ],
)
def test_results_that_cannot_be_added_to_are_found_before_the_training(
    cli: Cli, runs: Path, trained: Trained, content: str, message: str
) -> None:
    (runs / "tiny" / "results.json").write_text(content)
    before = files(runs)
    found = cli(*trained.overrides, "trainer.max_epochs=3", "resume=auto")
    assert found.status == 1
    assert found.err.splitlines()[-1].startswith(f"runs/tiny/{message}: ")
    assert "epoch" not in found.err
    assert "Traceback" not in found.err
    assert files(runs) == before


def test_a_schedule_keeps_its_length(cli: Cli, tiny: list[str]) -> None:
    """Fewer updates to the same epochs: the learning rate would be at its end at once."""
    common = [*tiny, "scheduler=cosine_steps", "scheduler.warmup=0"]
    with pytest.raises(RuntimeError, match="crash"):
        cli(*common, crash(7))
    found = cli(*common, "trainer.accumulate_grad_batches=2", "resume=auto")
    assert found.status == 1
    assert (
        "scheduler: the training was 8 steps long when it began and is 4 now, by other proc"
        in found.err.splitlines()[-1]
    )
    assert cli(*common, "resume=auto").status == 0


def test_a_frozen_part_does_not_thaw(cli: Cli, tiny: list[str]) -> None:
    found = cli(*tiny, "scheduler=cosine", '+procedure.parameters={stem: {match: "stem.*", lr: 0.0}}')
    assert found.status == 1
    assert "scheduler.eta_min: found 1e-06, to which a learning rate of 0 would rise" in found.err.splitlines()[-1]


def test_the_key_that_was_given_is_named(cli: Cli, tiny: list[str]) -> None:
    common = [*tiny, "scheduler=cosine"]
    with pytest.raises(RuntimeError, match="crash"):
        cli(*common, crash(1))
    found = cli(*common, "trainer.max_epochs=3", "resume=auto")
    assert found.status == 1
    assert found.err.splitlines()[-1] == (
        "runs/tiny: trainer.max_epochs was 2 in this run and is 3 now (scheduler.T_max follows it): continue with the "
        "old value, or start a new run with name=..."
    )
    # Of a whole node that is that of another one, too.
    found = cli(*common, "degradation.sigma=[1.0,1.5]", "resume=auto")
    assert "runs/tiny: degradation.sigma was " in found.err.splitlines()[-1]
    assert "data.degradation" not in found.err


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_rank_that_no_launcher_has_set_does_not_count(
    cli: Cli, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "3")
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as Lightning makes of it when it is imported
    found = cli(*tiny)
    assert found.status == 0
    assert f"{name}=3: set by no launcher (torchrun, srun) of this process, which works by itself" in found.err
    lines = (tmp_path / "runs" / "tiny" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 9
    assert "epoch 2/2, step 8" in found.err


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "SLURM: the job has 2 tasks and runs this command once: put"),
        ({"TORCHELASTIC_RUN_ID": "x"}, "RANK: is not set, expected the number that a launcher sets"),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0"}, "LOCAL_WORLD_SIZE: is not set, expected"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID: is not set, expected the number that a launcher sets"),
        ({"SLURM_STEP_NUM_TASKS": "2(x1)", "SLURM_PROCID": "1"}, "SLURM_STEP_NUM_TASKS: found '2(x1)', expected"),
        ({"SLURM_NTASKS": "two"}, "SLURM_NTASKS: found 'two', expected the number"),
    ],
)
def test_half_a_launcher_is_refused_in_one_line(
    cli: Cli,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    line: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = cli(*tiny)
    assert found.status == 2
    assert found.err.startswith(line), found.err
    assert len(found.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_of_twelve_starts_of_the_same_run_one_trains(tmp_path: Path) -> None:
    """First starts, and starts that continue; the processes are forks of one that has imported everything."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.starts", "--starts", "12"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "first: 1 of 12 trained, 11 were refused in one line" in done.stdout
    assert "resume=auto: 1 of 12 trained, 11 were refused in one line" in done.stdout
