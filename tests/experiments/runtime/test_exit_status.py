"""Which error ends a job with which status, and that errors come whole out of other processes."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from datamodules.errors import (
    ConfigError,
    InputError,
    Interrupted,
    LoaderStuck,
    OptionError,
    StoppedElsewhere,
    UserError,
)
from datamodules.io.write_photo import NotWritten
from experiments import job
from experiments.job import JobFailed, JobStopped
from experiments.runtime import slurm_requeue
from experiments.runtime.child_processes import LostRank
from experiments.runtime.exit_status import status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a"), 2),
        (InputError("a"), 1),
        (NotWritten("a"), 1),
        (LoaderStuck("a"), 75),
        (Interrupted(15), 143),
        (LostRank("a"), 4),
        (LostRank("a", 75), 75),
        (StoppedElsewhere(), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (ValueError("a"), None),
        (OSError("a"), None),
    ],
)
def test_status(error: BaseException, status: int | None) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize("kind", [UserError, InputError, ConfigError, OptionError, LoaderStuck])
def test_errors_keep_their_fields(kind: type[UserError]) -> None:
    error = kind(file=Path("a.png"), key="data.root", found="3", expected="a folder", hint="make one")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == "a.png: data.root: found 3, expected a folder: make one"
    assert str(pickle.loads(pickle.dumps(kind("a line", key="scale")))) == "a line"


@pytest.mark.parametrize(
    "error",
    [Interrupted(15, saved=True), LostRank("a", 75), JobFailed("a", 2), JobStopped("a", 143)],
)
def test_what_else_ends_a_job_is_pickled_too(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("a bug")])
def test_what_is_not_told_in_a_line_passes_through_a_job(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cfg: Any) -> None:
        raise error

    monkeypatch.setattr(slurm_requeue, "listen", lambda: lambda _, status: status)
    monkeypatch.setattr(job, "complete", fail)
    monkeypatch.setattr(job, "_of_the_system", lambda error, cfg: None)  # asks Hydra for the command line
    with pytest.raises(type(error)):
        job._perform(OmegaConf.create())


def test_a_line_is_made_of_the_fields_that_are_there() -> None:
    assert str(InputError(key="scale", found="5")) == "scale: found 5"
    assert str(InputError(file="a.ckpt", hint="copy it again")) == "a.ckpt: copy it again"
    assert str(ConfigError("two\n lines")) == "two lines"
    assert isinstance(OptionError(), ValueError)
