"""Each task has the keys that it reads, and no others."""

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from experiments.config.check import ROOT
from experiments.config.tasks import CONF, keys_of_task, task_keys
from tests.conftest import Outcome
from tests.experiments.config.test_bad_input import assert_refused
from tests.experiments.conftest import Trained

Cli = Callable[..., Outcome]

TASKS = task_keys()


@pytest.mark.parametrize("task", TASKS)
def test_keys_of_the_file_are_those_of_the_room(task: str) -> None:
    room = importlib.import_module(f"experiments.{task}")
    assert set(TASKS[task]) == set(getattr(room, "KEYS", {}))
    assert not set(TASKS[task]) & ({*ROOT} | {*yaml.safe_load((CONF / "config.yaml").read_text())})
    lines = [line for line in (CONF / "task" / f"{task}.yaml").read_text().splitlines() if line[:1].isalpha()]
    assert all(" # " in line for line in lines if line != "task:"), "a key without a comment"


@pytest.mark.many
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("input=photo.jpg", "input: unknown key in task=train: known to task=restore"),
        (
            "experiment=quickstart ckpt=best.ckpt",
            "ckpt: unknown key in task=train: known to task=evaluate, task=export",
        ),
        ("run=runs/a", "run: unknown key in task=train: known to task=evaluate, task=export, task=restore, task=serve"),
        ("+kernel=disk:2", "kernel: unknown key in task=train: known to task=restore"),
        ("tile=2", "tile: unknown key in task=train: known to task=restore, task=serve"),
        ("self_ensemble=true", "self_ensemble: unknown key in task=train: known to task=evaluate"),
        (
            "task=restore keep_memory=false",
            "keep_memory: unknown key in task=restore: known to task=lr_find, task=train",
        ),
        ("task=evaluate nonfinite.max_skips=1", "nonfinite: unknown key in task=evaluate: known to task=train"),
        ("suite=gopro", "suite: unknown key in task=train: known to task=evaluate"),
        ("suite=gopro task=compare", "suite: unknown key in task=compare: known to task=evaluate"),
        ("inptu=photo.jpg", "did you mean input?"),
        ("task.x=1", "task.x: unknown key: a task has its keys at the top, which task=NAME --help shows"),
        ("task=restore scale=x", "scale: found 'x' (conf/task/restore.yaml), expected a valid integer"),
        ("task=restore tile=1.5", "tile: found 1.5 (conf/task/restore.yaml), expected a valid integer"),
        ("task=restore batch=0", "batch: found 0 (conf/task/restore.yaml), expected greater than"),
        ("task=evaluate cascade=3", "cascade: found 3 (conf/task/evaluate.yaml), expected a list"),
        ("task=restore run=[a,b]", "run: found ['a', 'b'] (conf/task/restore.yaml), expected a valid string"),
        ("task=compare shown=-1", "shown: found -1 (conf/task/compare.yaml), expected greater than"),
        ("compile=yes", "compile: found 'yes' (conf/task/train.yaml), expected a valid boolean"),
        ("nonfinite.max_skip=1", "nonfinite.max_skip: unknown key"),
        ("nonfinite.max_skips=x", "nonfinite.max_skips: found 'x' (conf/task/train.yaml), expected a valid integer"),
    ],
)
def test_a_key_of_another_task_or_type(cli: Cli, tmp_path: Path, words: str, message: str) -> None:
    assert_refused(cli(*shlex.split(words)), 2, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_shows_the_keys_of_the_task(cli: Cli) -> None:
    outcome = cli("task=restore", "--help")
    assert outcome.status == 0
    assert "Keys of task=restore" in outcome.out
    assert "\n  noise_level: null          standard deviation of the noise on the [0, 1] scale" in outcome.out
    plain = cli("--help").out
    assert "model=NAME BRINGS THE WHOLE RECIPE" in plain
    assert "noise_level" not in plain
    assert "\n    max_skips: 20" in plain


@pytest.mark.parametrize("task", TASKS)
def test_help_of_every_task_names_every_key(task: str) -> None:
    assert all(f"  {key}:" in keys_of_task(task) for key in TASKS[task])
    assert "_target_" not in keys_of_task(task)


@pytest.mark.slow
def test_a_run_with_the_keys_of_all_tasks(cli: Cli, runs: Path, trained: Trained) -> None:
    """Runs of before have saved them all: they are measured and continued like others."""
    file = runs / "tiny" / "config.yaml"
    saved = OmegaConf.load(file)
    older = {
        "run": None,
        "ckpt": None,
        "input": None,
        "scale": None,
        "runs": None,
        "suite": None,
        "self_ensemble": False,
    }
    file.write_text(OmegaConf.to_yaml(OmegaConf.merge(saved, older)))
    assert cli("task=evaluate", "run=runs/tiny", "trainer.accelerator=cpu", "logger=none").status == 0
    assert cli(*trained.overrides, "trainer.max_epochs=3", "resume=auto").status == 0
