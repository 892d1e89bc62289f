"""What was probably meant by words on the command line that are no overrides."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from experiments.config import CONF
from experiments.config.arguments import ASSIGNMENT, in_shell
from experiments.config.errors import did_you_mean
from experiments.config.tasks import lacking, root_keys, task_keys

# The key that a plain word behind the name of a task stands for.
_SUBJECTS = {"restore": "input", "compare": "runs", "evaluate": "run", "export": "run", "serve": "run"}
_SUBJECTS |= {"profile": "models", "train": "model", "prepare": "data", "preview": "data"}


def misread(arguments: Sequence[str]) -> str | None:
    """The line about arguments that are neither KEY=VALUE nor an option of Hydra, with the command that was meant."""
    for given in arguments:
        if (shown := given.encode(errors="backslashreplace").decode()) != given:
            return f"{shown}: not text in UTF-8, in which configs are written: rename the file or folder"
    pairs = list(_understood(list(arguments)))
    odd = [given for given, meant in pairs if given != meant or not given]
    if not odd:
        return None
    if unclear := next((given or "''" for given, meant in pairs if not meant), None):
        known = {*root_keys(), *task_keys()}
        near = f": write {unclear}=VALUE" if unclear in known else did_you_mean(unclear.lstrip("-"), known)
        return f"{unclear}: not written KEY=VALUE, nor an option of python run.py --help{near}"
    words = [meant[1:] for _, meant in pairs if meant.startswith("=")]
    meant = [meant for _, meant in pairs if not meant.startswith("=")]
    task = next((item.removeprefix("task=") for item in meant if item.startswith("task=")), "")
    if words and not task:
        meant = [f"task={(task := 'restore')}", *meant]
    if words:
        key, value = _SUBJECTS[task], words[0] if len(words) == 1 else f"[{','.join(words)}]"
        own = key == "data" and not _is_option(key, value)
        meant += ["data=folder", f"data.root={value}"] if own else [f"{key}={value}"]
    meant += lacking(task, [item.partition("=")[0] for item in meant])
    return f"{' '.join(odd)}: not written KEY=VALUE: did you mean: {in_shell(meant)}"


def _understood(rest: list[str]) -> Iterator[tuple[str, str]]:
    """Arguments as they are, each with what it means: "=WORD" of a word for the task, "" where that cannot be seen."""
    tasks = task_keys()
    task = next((item for item in rest if item in tasks or item.startswith("task=")), "")
    options = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    joined = {name + choice for name, action in options.items() for choice in action.choices or () if len(name) == 2}
    while rest:
        given = rest.pop(0)
        name, _, value = given.partition("=")
        key = name.lstrip("-").replace("-", "_")
        if flags := [flag for flag in options if given.startswith("-") and flag.startswith(name)]:
            yield given, given
            if options[name if name in flags else flags[0]].nargs != 0 and not value and _bare(rest):
                yield rest[0], rest.pop(0)
        elif given in joined or given.startswith("~") or (ASSIGNMENT.fullmatch(given) and (value or not _bare(rest))):
            yield given, given
        elif given and given == task:
            yield given, f"task={given}"
        elif key.split(".")[0] in root_keys():  # --key value, key = value, key= value, key =value, --key
            parts = [given]
            if rest and "=" not in given and rest[0].startswith("="):
                parts.append(rest.pop(0))
            value = parts[-1].partition("=")[2]
            if not value and _bare(rest):
                parts.append(value := rest.pop(0))
            value = value or ("true" if given.startswith("-") else "")
            yield " ".join(parts), f"{key}={value}" if value else ""
        elif given and _bare([given]):
            group = next(
                (group for group in ("experiment", "model", "data", "suite") if _is_option(group, given)), None
            )
            subject = _SUBJECTS.get(task.removeprefix("task="), "data")
            if group and subject in ("data", "model"):
                yield given, f"{group}={given}"
            else:
                yield given, f"={given}" if task or Path(given).exists() else ""
        else:
            yield given, ""


def _bare(rest: Sequence[str]) -> bool:
    """Whether a plain word comes next."""
    return bool(rest) and "=" not in rest[0] and not rest[0].startswith("-")


def _is_option(group: str, name: str) -> bool:
    return (CONF / group / f"{name}.yaml").is_file()
