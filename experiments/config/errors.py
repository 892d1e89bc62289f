"""The one line that Hydra's own exceptions come down to."""

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from datamodules.errors import ConfigError
from experiments.config.arguments import command, exists, network_key, typed
from experiments.config.tasks import full_keys, refuse_foreign, task_keys, task_name

LISTED_NAMES = 60  # more than there are options in a group, or keys at the top


def listing(names: Iterable[str], word: str = "") -> str:
    """The names in a row, those first that come near a word."""
    known = list(names)
    known = list(dict.fromkeys([*difflib.get_close_matches(word, known), *known]))
    return ", ".join(known[:LISTED_NAMES]) + (", ..." if len(known) > LISTED_NAMES else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean X?`, or nothing where no known name comes near."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


def locate(target: str) -> Callable[..., Any]:
    """The callable that a `_target_` names. Raises ConfigError with the nearest name that exists."""
    if not all(target.split(".")):
        raise ConfigError(f"'{target}' is not a dotted name such as package.module.Name")
    thing: Any = None
    path = ""
    for name in target.split("."):
        parent, path = path, f"{path}.{name}".removeprefix(".")
        owner, thing = thing, getattr(thing, name, None) if parent else None
        if thing is None and (not parent or hasattr(owner, "__path__")):
            thing = _import_module(path)
        if thing is None and not parent:
            near = did_you_mean(name, (module.name for module in pkgutil.iter_modules()))
            raise ConfigError(f"'{target}': there is no module {name}{near}")
        if thing is None:
            modules = [module.name for module in pkgutil.iter_modules(getattr(owner, "__path__", []))]
            members = sorted({member for member in dir(owner) if not member.startswith("_")}.union(modules))
            near = did_you_mean(name, members) or f"; it has {listing(members)}"
            raise ConfigError(f"'{target}': {parent} has no {name}{near}")
    if not callable(thing):
        raise ConfigError(f"'{target}' is a {type(thing).__name__}, not a class or function")
    return thing


def _import_module(name: str) -> ModuleType | None:
    """None where there is no such module; a module that exists and fails to import is a bug and raises."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise


def group_files(choices: Mapping[str, str | Sequence[str] | None]) -> dict[str, str]:
    """From Hydra's runtime choices to the file that fills each node: {"model": "conf/model/ed_dsrn.yaml"}.

    A group of which several options are chosen fills its node from several files: its folder is named.
    """
    files = {}
    for group, choice in choices.items():
        folder, _, package = group.partition("@")
        if choice is None or folder.startswith("hydra/"):
            continue
        several = not isinstance(choice, str) or choice.startswith("[")
        node = (package or folder).replace("/", ".")
        files[node] = f"conf/{folder}/" if several else f"conf/{folder}/{choice}.yaml"
    return files


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain_hydra_error(error: BaseException, conf_dir: Path) -> str | None:
    """The one line for an exception that Hydra raised over the config; None where the config is not at fault."""
    # These may as well come out of the program's own work: then they have not passed the loader.
    kinds = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError)
    modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
    loading = "hydra._internal.config_loader_impl" in modules
    at_fault = isinstance(error, InterpolationResolutionError | MissingMandatoryValue | OverrideParseException)
    at_fault |= loading and isinstance(error, kinds)
    return " ".join(_explained(error, conf_dir).split()) if at_fault else None


def _explained(error: BaseException, conf_dir: Path) -> str:
    if isinstance(error, OverrideParseException):
        advice = "an override is written key=value, and special characters in a value need quotes: \"key='a=b'\""
        return f"{error.override}: not a valid override: {advice}"
    if isinstance(error, MissingConfigException):
        return _explain_option(error, conf_dir)
    inner = next((cause for cause in causes(error) if isinstance(cause, OmegaConfBaseException)), None)
    if isinstance(inner, ConfigAttributeError | ConfigKeyError) and inner.full_key:
        return _explain_key(inner, conf_dir)
    if inner is not None:
        message = str(inner.msg or inner).splitlines() or [type(inner).__name__]
        return ": ".join(filter(None, [_split_file(str(error), conf_dir)[0], str(inner.full_key or ""), message[0]]))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        place = f"{_shown(Path(mark.name), conf_dir)}, line {mark.line + 1}, column {mark.column + 1}"
        return f"{place}: not valid YAML: {error.problem}"
    if isinstance(error, HydraException):
        return _read_hydra_text(str(error), conf_dir)
    if isinstance(error, UnicodeDecodeError):
        files = [_shown(file, conf_dir) for file in conf_dir.rglob("*.yaml") if error.object in file.read_bytes()]
        return ": ".join([*files[:1], str(error)])
    no_name = "Config group override must be a string or a list" in str(error)
    return (_explain_no_option(conf_dir) if no_name else None) or str(error)


def _explain_option(error: MissingConfigException, conf_dir: Path) -> str:
    if error.missing_cfg_file is None:
        return str(error)
    asked = error.missing_cfg_file
    groups = [folder for folder in _group_names(conf_dir) if asked.startswith(f"{folder}/")]
    group = max(groups, key=len, default=asked.rpartition("/")[0])  # of an option that looks like a path, too
    option = asked.removeprefix(group).removeprefix("/")
    if group == "data" and ("/" in option or os.path.isdir(option)):
        meant = command("data=folder", f"data.root={option}")
        return f"data={option}: expected an option, not a folder: did you mean: {meant}"
    if group == "model" and exists(option) and (key := network_key(option)):
        if key == "weights":
            meant = command("model=NAME", f"weights={option}")
        else:
            task = next((item.removeprefix("task=") for item in sys.argv if item.startswith("task=")), "train")
            having = key in task_keys(conf_dir).get(task, ())
            meant = command(*([] if having else ["task=evaluate"]), f"{key}={option}", without="model")
        return f"model={option}: expected an option, not a file or folder: did you mean: {meant}"
    options = error.options or _option_names(conf_dir / group)
    available = f"available: {listing(options, option)}{did_you_mean(option, options)}"
    if not group:
        return f"--config-name={option}: no such file in {conf_dir.name}/: {available}"
    origin = _files_that_choose(group, option, conf_dir)
    return f"{group}={option}: no such option ({_folder(group, conf_dir)}){origin}: {available}"


def _explain_key(error: ConfigAttributeError | ConfigKeyError, conf_dir: Path) -> str:
    path = str(error.full_key)
    node: Any = error.parent_node
    parent, _, key = path.rpartition(".")
    if parent == "task":
        return _explain_task_key(key, OmegaConf.select(node._get_root(), "task._target_"), conf_dir)
    where = _folder(path.split(".")[0], conf_dir)
    known = [str(name) for name in node if not str(name).startswith("_")] if isinstance(node, DictConfig) else []
    if not known:
        return f"{path}: unknown key ({where}): {parent} has no keys of its own"
    if not parent:
        return _explain_root_key(key, node, conf_dir)
    target = node.get("_target_")
    parameters = list[str]()
    try:
        if not difflib.get_close_matches(key, known, n=1, cutoff=0.9):  # a slip: what it is of is imported for no other
            parameters = list(inspect.signature(locate(str(target))).parameters)
    except Exception:  # these names only enrich a message about another mistake, which must come out whatever happens
        pass
    if key in parameters:
        return f"{path}: not set in the config ({where}), though {target} takes it: to add it write +{path}=..."
    return f"{path}: unknown key ({where}): {parent} has {listing(known)}{did_you_mean(key, [*known, *parameters])}"


def _explain_task_key(key: str, target: object, conf_dir: Path) -> str:
    having = [name for name, keys in task_keys(conf_dir).items() if key in keys]
    if not having:
        return f"task.{key}: unknown key: a task has its keys at the top, which task=NAME --help shows"
    value = _given(f"task.{key}")
    task = [] if task_name(target) in having else [f"task={having[0]}"]
    meant = command(*task, f"{key}={value}", without=f"task.{key}")
    return f"task.{key}: unknown key: a task has its keys at the top: did you mean: {meant}"


def _given(key: str) -> str:
    """The value of a key on the command line, as it was typed."""
    return next((typed(item).partition("=")[2] for item in sys.argv[1:] if item.startswith(f"{key}=")), "...")


def _explain_root_key(key: str, root: DictConfig, conf_dir: Path) -> str:
    task = OmegaConf.select(root, "task._target_")
    if (full := full_keys().get(key)) and task_name(task) not in ("export", "restore", "serve", "compare"):
        return f"{key}: no such key ({conf_dir.name}/): did you mean: {command(f'{full}={_given(key)}', without=key)}"
    if foreign := refuse_foreign(key, task, conf_dir):
        return foreign
    values: Any = OmegaConf.to_container(root)
    deeper = " or ".join(f"{name}.{key}" for name, child in values.items() if isinstance(child, dict) and key in child)
    names = list(dict.fromkeys([*(name for name in values if name != "hydra"), *_group_names(conf_dir)]))
    of_tasks = [name for keys in task_keys(conf_dir).values() for name in keys]
    near = f"; did you mean {deeper}?" if deeper else did_you_mean(key, [*names, *of_tasks])
    return f"{key}: no such key or group ({conf_dir.name}/): known: {listing(names, key)}{near}"


def _read_hydra_text(text: str, conf_dir: Path) -> str:
    """Hydra's own complaints about groups carry no attributes: the name can only be read off the message."""
    file, body = _split_file(text, conf_dir)
    place = f"{file}: " if file else ""
    if unknown := re.search(r"Could not override '([^'@]+)|config group '([^'@]+)[^']*' does not exist", text):
        group, groups = unknown[1] or unknown[2], _group_names(conf_dir)
        known = f"known: {listing(groups, group)}{did_you_mean(group, groups)}"
        return f"{place}{group}: no such group ({conf_dir.name}/): {known}"
    if absent := re.match(r"Could not delete from config\. '([^']+)' does not exist", body):
        return f"~{absent[1]}: there is no such key, or it is null: omit ~{absent[1]}"
    if (twice := re.match(r"Multiple values for ([^.]+)\.", body)) and f"+{twice[1]}=" in " ".join(sys.argv):
        group = twice[1]
        value = next(item.partition("=")[2] for item in sys.argv if item.startswith(f"+{group}="))
        meant = command(f"{group}={value}")
        return f"+{group}={value}: {group} has an option already, write it without the +: {meant}"
    if several := re.match(r"Ambiguous value for argument '(\S+?)=(.*)'", body):
        key, value = several[1], several[2]
        return (
            f"{key}={value}: several values: a sweep over them takes -m: {command('-m', f'{key}={value}')}; "
            f"a list, where the group takes one, is written {shlex.quote(f'{key}=[{value}]')}"
        )
    return place + re.split(r"\n(?:Config search path|Search path|See https://)", body)[0]


def _explain_no_option(conf_dir: Path) -> str | None:
    """The line about `GROUP=null` or a number, in which Hydra does not name the group."""
    for key, _, value in (item.lstrip("+").partition("=") for item in sys.argv[1:]):
        if (conf_dir / key).is_dir() and re.fullmatch(r"(?i)null|true|false|[-+.\d]+", value):
            options = _option_names(conf_dir / key)
            empty = "[]" if key == "metric" else "none"
            way = f": for none write {key}={empty}" if empty in ["[]", *options] else ""
            return f"{key}={value}: expected an option ({_folder(key, conf_dir)}){way}: available: {listing(options)}"
    return None


def _split_file(text: str, conf_dir: Path) -> tuple[str, str]:
    """The file that Hydra names at the beginning of some of its messages, "" without one, and the rest."""
    named = re.match(r"In '([^']+)'(?:: )?", text)
    return (f"{conf_dir.name}/{named[1]}.yaml", text[named.end() :]) if named else ("", text)


def _option_names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _group_names(conf_dir: Path) -> list[str]:
    return sorted({file.parent.relative_to(conf_dir).as_posix() for file in conf_dir.glob("*/**/*.yaml")})


def _files_that_choose(group: str, option: str, conf_dir: Path) -> str:
    """` (chosen in FILE)` for each conf file whose defaults list asks for that option of that group."""
    if not option:
        return ""
    line = rf"^\s*-.*\b{re.escape(group)}(@\S+)?\s*:.*(?<![\w-]){re.escape(option)}(?![\w-])"
    files = sorted(conf_dir.rglob("*.yaml"))
    files = [file for file in files if re.search(line, file.read_text("utf-8", "replace"), re.MULTILINE)]
    return f" (chosen in {listing(_shown(file, conf_dir) for file in files)})" if files else ""


def _shown(file: Path, conf_dir: Path) -> str:
    root = conf_dir.resolve().parent
    return file.resolve().relative_to(root).as_posix() if file.resolve().is_relative_to(root) else str(file)


def _folder(group: str, conf_dir: Path) -> str:
    if group.split("/")[0] == "hydra":
        return f"{group}/"
    return f"{conf_dir.name}/{group}/" if (conf_dir / group).is_dir() else f"{conf_dir.name}/"
