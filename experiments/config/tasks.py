"""The tasks of conf/task/ and the keys that each brings, read from its file: for help, and for keys of another task."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments.config import CONF


def task_keys(conf_dir: Path = CONF) -> dict[str, list[str]]:
    """The keys that each task brings, by the option of the group; of a file that cannot be read none."""
    files = sorted((conf_dir / "task").glob("*.yaml"))
    return {file.stem: [key for key in _keys_in(file) if key != "task"] for file in files}


def _keys_in(file: Path) -> list[str]:
    try:
        node: Any = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # who reads on is about to report another mistake
        node = None
    return [str(key) for key in node or {} if key != "defaults"]


@cache
def root_keys() -> frozenset[str]:
    """The first names of all keys: those of conf/config.yaml, the groups, and what the tasks bring."""
    groups = [folder.name for folder in CONF.iterdir() if folder.is_dir()]
    of_tasks = [key for keys in task_keys().values() for key in keys]
    return frozenset([*_keys_in(CONF / "config.yaml"), *groups, *of_tasks])


# Files whose keys people write without the group in front of them, and what other programs call some of the keys.
_HOLDING = {"trainer": "trainer/default.yaml", "data": "sharp_images.yaml", "optimizer": "optimizer/adam.yaml"}
_ELSEWHERE = {
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("gpus", "gpu", "num_gpus"), "trainer.devices"),
    **dict.fromkeys(("workers", "n_workers"), "data.num_workers"),
    **dict.fromkeys(("patch_size", "crop", "crop_size"), "data.patch"),
    **dict.fromkeys(("batch", "batchsize", "bs"), "data.batch_size"),
    **dict.fromkeys(("network", "net", "arch"), "model"),
    "device": "trainer.accelerator",
    "learning_rate": "optimizer.lr",
    "dataset": "data",
    "scale": "degradation.scale",
}


@cache
def full_keys() -> dict[str, str]:
    """Keys by what people write for them."""
    found = {key: f"{group}.{key}" for group, file in _HOLDING.items() for key in _keys_in(CONF / file)}
    return {key: path for key, path in found.items() if not key.startswith("_")} | _ELSEWHERE


# What a task cannot do without: an example, and the keys of which one has to be given.
_NETWORK = ("run", "ckpt", "weights", "cascade", "model", "experiment")
_NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "restore": {"input=PHOTOS": ("input",)},
    "evaluate": {"run=runs/NAME": _NETWORK},
    "export": {"run=runs/NAME": _NETWORK},
    "compare": {"runs=[runs/A,runs/B]": ("runs", "wandb")},
}


def lacking(task: str, given: Iterable[str]) -> list[str]:
    """An example for everything that a task needs and that is not among the keys given."""
    present = {key.partition(".")[0] for key in given}
    return [example for example, keys in _NEEDS.get(task, {}).items() if not present & {*keys}]


def task_name(target: object) -> str:
    """The option of conf/task/ by its `_target_`."""
    return str(target).removesuffix(".run").rpartition(".")[2]


def refuse_foreign(key: str, target: object, conf_dir: Path = CONF) -> str | None:
    """The line about a root key that other tasks than that of `target`, its `_target_`, have; None if none has it."""
    known = task_keys(conf_dir)
    having = [f"task={name}" for name, keys in known.items() if key in keys]
    if not having:
        return None
    name = task_name(target)
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
