"""Runs of a comparison read back from Weights & Biases, where each has an artifact of type "results"."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from experiments.compare.read_runs import read_run
from experiments.compare.types import Run
from experiments.results.records import LARGEST
from lightning_modules.checkpoints.untrusted import parse_json
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
    newest: dict[str, tuple[Path, str]] = {}  # where it lies, and the artifact that it is
    with tempfile.TemporaryDirectory() as scratch:
        for number, artifact in enumerate(_results(api, project)):
            folder = Path(scratch) / str(number)
            with _explained(project):
                artifact.download(root=str(folder))
            newest[_run_name(folder) or str(artifact.name)] = folder, str(artifact.name)
        if not newest:
            raise InputError(f"wandb={project}: no run there has results: train with logger=wandb, or give runs=")
        for name in names:
            if name not in newest:
                raise InputError(f"runs={name}: no such run in {project}, there is {', '.join(newest)}")
        found = []
        for name in dict.fromkeys(names or newest):  # no others: one that has diverged is refused
            folder, artifact = newest[name]
            found.append(replace(read_run(folder, f"{project}, artifact {artifact}"), name=name, folder=None))
        return found


def _run_name(folder: Path) -> str:
    """As the records say it, of which one may be damaged; "" where they do not."""
    file = folder / "results.json"
    with suppress(InputError, OSError, AttributeError, LookupError, TypeError):
        if file.stat().st_size <= LARGEST:
            return str(parse_json(file.read_bytes(), str(file), "")["records"][0].get("run") or "")
    return ""


@contextmanager
def _explained(project: str) -> Iterator[None]:
    """The client has exceptions of many kinds, with texts of many lines."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"wandb={project}: cannot be read ({reason}): check the name and your access") from error


def _results(api: Any, project: str) -> list[Any]:
    """All artifacts with results, oldest first."""
    with _explained(project):
        logged = [artifact for run in api.runs(project) for artifact in run.logged_artifacts()]
        return sorted((a for a in logged if a.type == "results"), key=lambda artifact: str(artifact.created_at))
