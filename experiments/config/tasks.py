"""The tasks of conf/task/ and the keys that each brings, read from its file: for help, and for keys of another task."""

from pathlib import Path
from typing import Any

import yaml

from experiments.config import CONF


def task_keys(conf_dir: Path = CONF) -> dict[str, list[str]]:
    """The keys that each task brings, by the option of the group; of a file that cannot be read none."""
    keys = {}
    for file in sorted((conf_dir / "task").glob("*.yaml")):
        try:
            node: Any = yaml.safe_load(file.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):  # who reads on is about to report another mistake
            node = None
        keys[file.stem] = [str(key) for key in node or {} if key not in ("task", "defaults")]
    return keys


def refuse_foreign(key: str, target: object, conf_dir: Path = CONF) -> str | None:
    """The line about a root key that other tasks than that of `target`, its `_target_`, have; None if none has it."""
    known = task_keys(conf_dir)
    having = [f"task={name}" for name, keys in known.items() if key in keys]
    if not having:
        return None
    name = str(target).removesuffix(".run").rpartition(".")[2]
    way = f"choose {having[0] if len(having) == 1 else 'one of these'}, or omit it"
    if f"{key}s" in known.get(name, ()):  # the suite of one task, the suites of another
        way = f"did you mean {key}s?"
    return f"{key}: unknown key in task={name}: known to {', '.join(having)}: {way}"


def keys_of_task(name: str) -> str:
    """The file of a task as a part of the help, which is a template: every `$` is doubled."""
    file = CONF / "task" / f"{name}.yaml"
    if not file.is_file():  # a task of somebody's own, elsewhere
        return f"task={name}"
    lines = file.read_text("utf-8").splitlines()[1:]
    keys = [line.partition(" # ") for line in lines if line and not line.startswith(("#", "task:", "  _"))]
    shown = [f"  {key:<26} {comment}".rstrip() for key, _, comment in keys] or ["  none of its own"]
    about = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    title = f"Keys of task={name} (set with KEY=VALUE; those of all tasks are in conf/config.yaml):"
    return "\n".join([*about, "", title, "", *shown]).replace("$", "$$")
