"""Every command and every piece of Python in the README and under docs/.

By default the commands of run.py are composed and checked as far as the task, which is left out. With `-m docs_slow`
all are run as they are written, page by page, each page in a folder of its own where what they name is there
(`stand_ins`), with overrides appended that make them short (`short.py`). A command of a new page that is of neither
kind fails with its name.
"""

import contextlib
import functools
import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.conftest import Outcome
from tests.helpers import stand_ins
from tests.helpers.pages import ROOT, Snippet, snippets

# What is never run, and why. Commands of run.py among them are composed all the same.
NOT_RUN = {
    r"pip install ": ".ci/run begins with these in a fresh environment",
    r"pytest": "is what runs this test",
    r"sbatch |.*hydra/launcher=slurm": "needs a cluster: tests/slurm starts one and submits both",
    r"wandb (sync|sweep|agent) |.* wandb=": "needs the server of W&B: its tests answer in its place",
}
NOT_RUN_PYTHON = {"gradio_client": "needs a server: the tests of task=serve start one"}
SHELL, PYTHON = ("bash", "sh"), ("python",)
SHOWN = ("", "text", "json", "yaml", "markdown")  # languages of blocks that are only looked at
TASKS = ("train", "lr_find", "evaluate", "compare", "prepare", "preview", "profile", "restore", "serve", "export")
SECONDS = 1800  # of a block; a sweep of 33 trainings is the longest
ADVICE = (
    f"make it a command that runs in the folder of stand_ins.py, or give a reason in NOT_RUN of {Path(__file__).name}"
)


def not_run(command: str) -> str | None:
    """The reason why a command is not run."""
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command)), None)


def needs(code: str) -> str | None:
    """The reason why a piece of Python is not run."""
    return next((why for word, why in NOT_RUN_PYTHON.items() if word in code), None)


def words_of_run(command: str) -> list[str] | None:
    """What follows run.py, or the name of the job file that hands its words to run.py."""
    words = shlex.split(command)
    places = [i for i, word in enumerate(words) if word == "run.py" or word.endswith(".sbatch")]
    return words[places[0] + 1 :] if places else None


ALL = [(snippet, command) for snippet in snippets() if snippet.language in SHELL for command in snippet.commands()]
# What a page adds to the project is not in this checkout: its commands are only run.
EXTENDING = {snippet.page for snippet in snippets() if snippet.file}
OF_RUN = [
    (str(snippet), words)
    for snippet, command in ALL
    if snippet.page not in EXTENDING and (words := words_of_run(command)) is not None
]
OF_FIGURES = [
    (str(snippet), words)
    for snippet in snippets(of_figures=True)
    for command in snippet.commands()
    if snippet.language in SHELL and (words := words_of_run(command)) is not None
]


def test_languages_are_known() -> None:
    wrong = [f"{s}: ```{s.language}" for s in snippets() if s.language not in (*SHELL, *PYTHON, *SHOWN)]
    assert not wrong, f"blocks of a language that no test reads: {wrong}"


@pytest.mark.parametrize(("snippet", "command"), ALL, ids=lambda item: str(item)[:60])
def test_command_is_one_that_can_be_tested(snippet: Snippet, command: str) -> None:
    """It begins with a program that is there, or it is said why it is not run."""
    program, *rest = shlex.split(command)
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, f"{snippet}: {command}"
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for extra in re.findall(r"\[([\w,]+)\]", command):
            assert set(extra.split(",")) <= extras.keys(), f"{snippet}: {command}"
    if not_run(command):
        return
    files = [word for word in rest if word.endswith((".py", ".sbatch")) and "=" not in word]
    assert all((ROOT / file).is_file() for file in files[:1]), f"{snippet}: {command}"
    modules = rest[1:2] if program == "python" and rest[0] == "-m" else []
    assert all(importlib.util.find_spec(module) for module in modules), f"{snippet}: {command}"
    known = program in ("python", "torchrun") and (files or modules)
    known = known or program in ("cd", "ls", "mkdir", "cp", "cat", "curl") or re.fullmatch(r"[A-Z_]+=.*", program)
    assert known, f"{snippet}: nobody covers the command {command!r}: {ADVICE}"


def test_a_fresh_environment_begins_with_the_readme() -> None:
    """The README's commands before any other page, literally, are those of .ci/run."""
    script = (ROOT / ".ci" / "run").read_text().replace("pip install -q ", "pip install ")
    first = [command for snippet, command in ALL if snippet.page == "README.md"][:5]
    assert [command.split()[0] for command in first] == ["pip", "python", "python", "pip", "pytest"]
    assert all(re.search(rf"^{re.escape(command)}(?=\s|$)", script, flags=re.MULTILINE) for command in first), first


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that commands name, without runs."""
    folder = tmp_path_factory.mktemp("named") / "project"
    folder.mkdir()
    stand_ins.make_files(folder)
    return folder


def first_job(words: list[str]) -> list[str]:
    """The overrides of one job: the first value of each that is swept, no launcher, no GPU."""
    parser = OverridesParser.create()
    options = [word for word in words if word.startswith("-") and word not in ("-m", "--multirun")]
    chosen = []
    for word in words:
        if word.startswith(("-", "hydra/launcher", "hydra.launcher")):
            continue
        override = parser.parse_override(word)
        if override.is_interval_sweep():
            word = f"{override.get_key_element()}={override.value().start}"
        elif override.is_sweep_override():
            word = f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        chosen.append(word)
    return [*options, *chosen, "hydra.mode=RUN", *(["trainer.accelerator=cpu"] if "trainer=ddp" in words else [])]


def leave_out(task: ModuleType, monkeypatch: pytest.MonkeyPatch, done: list[str]) -> None:
    """Put a function in the place of a task that only notes its name; the signature stays, for it is checked."""

    @functools.wraps(task.run)
    def run(*_: object, **__: object) -> float:
        done.append(task.__name__)
        return 0.0

    monkeypatch.setattr(task, "run", run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "words"), OF_RUN + OF_FIGURES, ids=lambda item: item if isinstance(item, str) else ""
)
def test_configuration_is_accepted(
    cli: Callable[..., Outcome], named: Path, monkeypatch: pytest.MonkeyPatch, place: str, words: list[str]
) -> None:
    """run.py composes and checks it, of a sweep the first job, up to the task."""
    done: list[str] = []
    for name in TASKS:
        with contextlib.suppress(ModuleNotFoundError):
            leave_out(importlib.import_module(f"experiments.{name}"), monkeypatch, done)
    monkeypatch.setattr("experiments.runtime.distributed.together", contextlib.nullcontext)
    monkeypatch.chdir(named)
    outcome = cli(*first_job(words))
    assert outcome.status == 0, f"{place}: python run.py {shlex.join(words)}\n{outcome.err}"
    assert done or {"--help", "--cfg"} & set(words), place


# From here on: what is run.


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return stand_ins.environment(tmp_path_factory.mktemp("environment") / "bin")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Path:
    """The project with everything that the pages name."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    stand_ins.make_project(folder)
    stand_ins.make_files(folder)
    stand_ins.make_runs(folder, {**env, "PYTHONPATH": str(folder)})
    return folder


@pytest.fixture(scope="session")
def folders() -> dict[str, Path]:
    """The folder of each page: what one of its snippets writes is there for the next."""
    return {}


RUNNABLE = [s for s in snippets() if s.language in (*SHELL, *PYTHON) or s.file]


def session_until(snippet: Snippet) -> list[str]:
    """The Python of a page up to here: it goes on where the block before ended."""
    page = [s for s in snippets() if s.page == snippet.page and s.language in PYTHON and not s.file]
    return [s.text for s in page[: page.index(snippet) + 1] if not needs(s.text)]


@pytest.mark.docs_slow
@pytest.mark.parametrize(
    "snippet", [pytest.param(s, id=str(s), marks=pytest.mark.xdist_group(s.page)) for s in RUNNABLE]
)
def test_snippet_runs(
    project: Path,
    folders: dict[str, Path],
    env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    snippet: Snippet,
) -> None:
    if snippet.page not in folders:
        folders[snippet.page] = tmp_path_factory.mktemp("page") / "project"
        data = project / "datasets"
        shutil.copytree(project, folders[snippet.page], ignore=lambda at, _: ["datasets"] if at == str(project) else [])
        (folders[snippet.page] / "datasets").symlink_to(data)
    folder = folders[snippet.page]
    if snippet.file:
        (folder / snippet.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / snippet.file).write_text(snippet.text + "\n")
        return
    if snippet.language in PYTHON:
        if why := needs(snippet.text):
            pytest.skip(why)
        command = ["python", "-c", "\n".join(session_until(snippet))]
    else:
        lines = [command for command in snippet.commands() if not not_run(command)]
        if not lines:
            pytest.skip(" ".join({str(not_run(command)) for command in snippet.commands()}))
        command = ["bash", "-euxc", "\n".join(lines)]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**env, "PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{snippet}\n{snippet.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
