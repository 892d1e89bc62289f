"""What was probably meant by words on the command line that are no overrides."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from experiments.config import CONF
from experiments.config.arguments import ASSIGNMENT, as_one, exists, in_shell, network_key
from experiments.config.errors import did_you_mean
from experiments.config.tasks import full_keys, lacking, root_keys, task_keys

# The key that a plain word behind the name of a task stands for, and the groups of which it may name an option.
_SUBJECTS = {"restore": "input", "compare": "runs", "evaluate": "run", "export": "run", "serve": "run"}
_SUBJECTS |= {"profile": "models", "train": "data", "lr_find": "data", "prepare": "data", "preview": "data"}
_GROUPS = {"train": ("experiment", "model", "data"), "prepare": ("data",), "preview": ("data", "degradation")}
_GROUPS |= {"evaluate": ("data", "suite", "model"), "profile": (), "compare": ()}
_GROUPS |= {"": ("experiment", "model", "data", "suite")}
_SEVERAL = ("input", "runs", "models", "formats")  # keys that take lists; run= does in some tasks
_FORMATS = ("safetensors", "onnx", "program", "hub", "int8")  # as `Format` of experiments.export.task, which is heavy


def misread(arguments: Sequence[str]) -> str | None:
    """The line about arguments that are neither KEY=VALUE nor an option of Hydra, with the command that was meant."""
    for given in arguments:
        if (shown := given.encode(errors="backslashreplace").decode()) != given:
            return f"{shown}: not text in UTF-8, in which configs are written: rename the file or folder"
        key = given[1:].partition("=")[0]
        needed = key in root_keys() and (CONF / key).is_dir()
        if given.startswith("~") and (needed or key.rpartition(".")[2].startswith("_")):
            instead = f", or choose {key}=none" if _is_option(key, "none") else ""
            return f"{key}: is missing, deleted on the command line: omit {given}{instead}"
    pairs = list(_understood(list(arguments)))
    odd = [given for given, meant in pairs if given != meant or not given]
    if not odd:
        return None
    if unclear := next((given or "''" for given, meant in pairs if not meant), None):
        known = {*root_keys(), *task_keys()}
        near = (
            f": write {unclear}=VALUE"
            if unclear.partition(".")[0] in known
            else did_you_mean(unclear.lstrip("-"), known)
        )
        return f"{unclear}: not written KEY=VALUE, nor an option of python run.py --help{near}"
    words = [meant[1:] for _, meant in pairs if meant.startswith("=")]
    meant = [meant for _, meant in pairs if not meant.startswith("=")]
    task = next((item.removeprefix("task=") for item in meant if item.startswith("task=")), "")
    if not task and (fitting := _fitting(meant, words)):
        return misread([f"task={fitting}", *arguments])
    meant = [part for item in meant for part in _of_folder(item)]
    meant += _assigned(words, task, [item.partition("=")[0] for item in meant])
    keys = [item.partition("=")[0] for item in meant if "=" in item]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        found = " and ".join(item for item in meant if item.startswith(f"{twice}="))
        return f"{' '.join(odd)}: not written KEY=VALUE: found {found}, expected one"
    examples = lacking(task, keys)
    unnamed = not {"model", "experiment"} & {*keys}
    if unnamed and any(network_key(_value_of(item, "weights")) == "weights" for item in meant):
        examples.append("model=NAME")
    yours = f", with {' and '.join(examples)} of your own" if examples else ""
    return f"{' '.join(odd)}: not written KEY=VALUE: did you mean{yours}: {in_shell([*meant, *examples])}"


def _value_of(item: str, key: str) -> str:
    return item.removeprefix(f"{key}=") if item.startswith(f"{key}=") else ""


def _fitting(meant: Sequence[str], words: Sequence[str]) -> str:
    """The task that the keys and the files are for, where none is named; "" for a training."""
    if any(exists(word) for word in words):
        return "restore"
    keys = {item.partition("=")[0] for item in meant}
    having = {task: len(keys & {*known}) for task, known in task_keys().items()}
    most = max(having.values())
    return "" if having["train"] == most else next(task for task in having if having[task] == most)


def _of_folder(item: str) -> list[str]:
    """An override, or for data= of a folder the two that were meant."""
    value = _value_of(item, "data")
    folder = ("/" in value or os.path.isdir(value)) and not _is_option("data", value)
    return ["data=folder", f"data.root={value}"] if folder else [item]


def _assigned(words: Sequence[str], task: str, given: Sequence[str]) -> list[str]:
    """Overrides for plain words behind the name of a task."""
    values: dict[str, list[str]] = {}
    for word in words:
        key, value = _assigned_to(word, task)
        values.setdefault(key, []).append(value)
    # As of other programs: what comes last is to be made, unless it is a photograph like those before it.
    *inputs, last = values.get("input", [""])
    made = not exists(last) and (not Path(last).suffix or (len(inputs) == 1 and os.path.isfile(inputs[0])))
    if inputs and made and "output" not in given:
        values |= {"input": inputs, "output": [last]}
    if roots := [value for value in values.get("data", []) if not _is_option("data", value)]:
        options = [value for value in values["data"] if value not in roots]
        values |= {"data": [*options, "folder"], "data.root": roots}
    several = (*_SEVERAL, "run") if task in ("evaluate", "serve") else _SEVERAL
    rows = [(key, [as_one(found)] if key in several else found) for key, found in values.items()]
    return [f"{key}={value}" for key, row in rows for value in row]


def _assigned_to(word: str, task: str) -> tuple[str, str]:
    """The key and the value that a plain word is for."""
    subject = _SUBJECTS.get(task, "data")
    runs = [folder for folder in (word, os.path.join("runs", word)) if network_key(folder) == "run"]
    if runs and subject in ("input", "run", "runs"):
        return "runs" if subject == "runs" else "run", runs[0]
    if subject in ("input", "run") and (key := network_key(word)):
        return key, word
    if task == "export" and word in _FORMATS:
        return "formats", word
    groups = [group for group in _GROUPS.get(task, ("model",)) if _is_option(group, word)]
    return (groups[0] if groups and not exists(word) else subject), word


def _understood(rest: list[str]) -> Iterator[tuple[str, str]]:
    """Arguments as they are, each with what it means: "=WORD" of a word for the task, "" where that cannot be seen."""
    tasks = task_keys()
    task = next((item for item in rest if item in tasks or item.startswith("task=")), "")
    foreign = {key for keys in tasks.values() for key in keys}
    own = (root_keys() - foreign) | {*tasks.get(task.removeprefix("task="), tasks["train"])}
    options = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    joined = {name + choice for name, action in options.items() for choice in action.choices or () if len(name) == 2}
    while rest:
        given = rest.pop(0)
        name, _, value = given.partition("=")
        key = name.lstrip("-").replace("-", "_")
        top = key.partition(".")[0]
        if flags := [flag for flag in options if given.startswith("-") and flag.startswith(name)]:
            yield given, given
            if options[name if name in flags else flags[0]].nargs != 0 and not value and _bare(rest):
                yield rest[0], rest.pop(0)
        elif given in joined or given.startswith("~") or (ASSIGNMENT.fullmatch(given) and (value or not _bare(rest))):
            yield given, given
        elif given and given == task:
            yield given, f"task={given}"
        elif key := key if top in own else full_keys().get(key, key if top in root_keys() else ""):
            # --key value, key = value, key= value, key =value, --key
            parts = [given]
            if rest and "=" not in given and rest[0].startswith("="):
                parts.append(rest.pop(0))
            value = parts[-1].partition("=")[2]
            if not value and _bare(rest):
                parts.append(value := rest.pop(0))
            value = value or ("true" if given.startswith("-") else "")
            yield " ".join(parts), f"{key}={value}" if value else ""
        elif given and _bare([given]):
            known = task or exists(given) or any(_is_option(group, given) for group in _GROUPS[""])
            yield given, f"={given}" if known else ""
        else:
            yield given, ""


def _bare(rest: Sequence[str]) -> bool:
    """Whether a plain word comes next."""
    return bool(rest) and "=" not in rest[0] and not rest[0].startswith("-")


def _is_option(group: str, name: str) -> bool:
    return os.path.isfile(CONF / group / f"{name}.yaml")
