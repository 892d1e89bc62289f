"""Runs of a comparison read back from Weights & Biases, where each has an artifact of type "results"."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from experiments.compare.read_runs import read_run
from experiments.compare.types import Run
from lightning_modules.loggers.wandb import api_or_refuse


def read_wandb(project: str, names: Sequence[str]) -> list[Run]:
    """The runs of a project that logged results: records, configuration and curves, but no pictures.

    A run that logged several times (its training, then evaluations) counts once, with what it logged last.

    Args:
        project: ENTITY/PROJECT.
        names: names of run folders; empty for all runs.

    Raises:
        InputError: without a connection, for an unknown project, without results, or for a name that is not there.
    """
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", project):
        raise InputError(f"wandb={project}: expected ENTITY/PROJECT, as in the address of the project's page")
    api = api_or_refuse("task=compare wandb=")
    newest: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, artifact in enumerate(_results(api, project)):
            folder = Path(scratch) / str(number)
            artifact.download(root=str(folder))
            run = read_run(folder, f"{project}, artifact {artifact.name}")
            name = str(run.records[0].run or artifact.name)
            newest[name] = replace(run, name=name, folder=None)
    if not newest:
        raise InputError(f"wandb={project}: no run there has logged results: train with logger=wandb, or give runs=")
    for name in names:
        if name not in newest:
            raise InputError(f"runs={name}: no such run in {project}, there is {', '.join(newest)}")
    return [newest[name] for name in dict.fromkeys(names or newest)]


def _results(api: Any, project: str) -> list[Any]:
    """All artifacts with results, oldest first; the client has exceptions of many kinds, with texts of many lines."""
    try:
        logged = [artifact for run in api.runs(project) for artifact in run.logged_artifacts()]
        return sorted((a for a in logged if a.type == "results"), key=lambda artifact: str(artifact.created_at))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"wandb={project}: cannot be read ({reason}): check the name and your access") from error
