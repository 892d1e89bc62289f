"""The one line that Hydra's own exceptions come down to.

What Hydra was reading (an override, the file of an option) is often only in a local variable of the function that
failed: `_hydra_local` takes it from there, for want of another way. Lines that no longer find it say less, not wrong.
"""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException, SearchPathException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from datamodules.errors import ConfigError
from experiments.config.tasks import refuse_foreign, refuse_moved, task_keys

LISTED_NAMES = 20


def one_line(text: str) -> str:
    return " ".join(text.split())


def listing(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:LISTED_NAMES]) + (", ..." if len(known) > LISTED_NAMES else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean X?`, or nothing where no known name comes near."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


def _member_names(owner: Any) -> list[str]:
    names = {name for name in dir(owner) if not name.startswith("_")}
    if isinstance(owner, ModuleType) and hasattr(owner, "__path__"):
        names.update(module.name for module in pkgutil.iter_modules(owner.__path__))
    return sorted(names)


def _import_module(name: str) -> ModuleType | None:
    """None where there is no such module; a module that exists and fails to import is a bug and raises."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise


def locate(target: str) -> Callable[..., Any]:
    """The callable that a `_target_` names. Raises ConfigError with the nearest name that exists."""
    first, *rest = target.split(".")
    if not all([first, *rest]):
        raise ConfigError(f"'{target}' is not a dotted name such as package.module.Name")
    found: Any = _import_module(first)
    if found is None:
        near = did_you_mean(first, (module.name for module in pkgutil.iter_modules()))
        raise ConfigError(f"'{target}': there is no module {first}{near}")
    path = first
    for name in rest:
        child = getattr(found, name, None)
        if child is None and isinstance(found, ModuleType) and hasattr(found, "__path__"):
            child = _import_module(f"{path}.{name}")
        if child is None:
            members = _member_names(found)
            near = did_you_mean(f"{path}.{name}", [f"{path}.{member}" for member in members])
            # With a long common prefix everything is near: the last part alone has to be near too.
            near = near if did_you_mean(name, members) else f"; it has {listing(members)}"
            raise ConfigError(f"'{target}': {path} has no {name}{near}")
        found, path = child, f"{path}.{name}"
    if not callable(found):
        raise ConfigError(f"'{target}' is a {type(found).__name__}, not a class or function")
    return found


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


def _option_names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _group_names(conf_dir: Path) -> list[str]:
    folders = (folder for folder in conf_dir.rglob("*") if folder.is_dir() and _option_names(folder))
    return sorted(folder.relative_to(conf_dir).as_posix() for folder in folders)


def _files_that_choose(group: str, option: str, conf_dir: Path, entry: str = "") -> str:
    """` (chosen in FILE)` for each conf file whose defaults list asks for that option of that group."""
    if not option:
        return ""
    line = rf"^\s*-{entry}.*\b{re.escape(group)}(@\S+)?\s*:.*(?<![\w-]){re.escape(option)}(?![\w-])"
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


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _frames(error: BaseException) -> Iterator[tuple[str, dict[str, Any]]]:
    """Module name and local variables of each frame the error passed, innermost first."""
    found = []
    trace = error.__traceback__
    while trace is not None:
        found.append((str(trace.tb_frame.f_globals.get("__name__")), trace.tb_frame.f_locals))
        trace = trace.tb_next
    return reversed(found)


def _hydra_local(error: BaseException, name: str, kind: type) -> Any:
    """A local variable of the Hydra function that failed, where Hydra leaves out of its message what it was reading."""
    values = (local.get(name) for module, local in _frames(error) if module.startswith("hydra."))
    return next((value for value in values if isinstance(value, kind)), None)


def _about_composing(error: BaseException) -> bool:
    if isinstance(error, (ConfigCompositionException, OverrideParseException, SearchPathException)):
        return True
    if isinstance(error, (InterpolationResolutionError, MissingMandatoryValue)):
        return True
    # The rest (a YAML error, an unreadable file, OmegaConf's errors) may as well come out of the program's own work.
    from_yaml = type(error).__module__.startswith("yaml.")
    plausible = from_yaml or isinstance(error, (OmegaConfBaseException, OSError, ValueError))
    return plausible and any(module == "hydra._internal.config_loader_impl" for module, _ in _frames(error))


def _explain_option(error: MissingConfigException, conf_dir: Path) -> str:
    if error.missing_cfg_file is None:
        return one_line(str(error))
    group, _, option = error.missing_cfg_file.rpartition("/")
    options = error.options or _option_names(conf_dir / group)
    available = f"available: {listing(options)}{did_you_mean(option, options)}"
    if not group:
        return f"--config-name={option}: no such file in {conf_dir.name}/: {available}"
    origin = _files_that_choose(group, option, conf_dir)
    return f"{group}={option}: no such option ({_folder(group, conf_dir)}){origin}: {available}"


def _explain_override(error: OverrideParseException) -> str:
    lines = [re.sub(r"^LexerNoViableAltException:.*", "", line) for line in error.message.splitlines()]
    noise = ("Error parsing override", "See https://")
    reasons = [line for line in lines if line.strip(" ^") and not line.startswith(noise)]
    reason = one_line(" ".join(reasons)).split(" expecting ")[0]
    advice = "an override is written key=value, and special characters in a value need quotes: \"key='a=b'\""
    return f"{one_line(error.override)}: not a valid override{f' ({reason})' if reason else ''}: {advice}"


def _explain_key(error: ConfigAttributeError | ConfigKeyError, conf_dir: Path) -> str:
    path, node = str(error.full_key), error.parent_node
    parent, _, key = path.rpartition(".")
    names = [str(name) for name in node] if isinstance(node, DictConfig) else []
    if parent == "task":
        return refuse_moved(key, conf_dir)
    if not parent:
        target = OmegaConf.select(node, "task._target_") if isinstance(node, DictConfig) else None
        if foreign := refuse_foreign(key, target, conf_dir):
            return foreign
        below: Any = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
        holders = [name for name, child in below.items() if isinstance(child, dict) and key in child]
        names = list(dict.fromkeys([name for name in names if name != "hydra"] + _group_names(conf_dir)))
        deeper = " or ".join(f"{name}.{key}" for name in holders)
        others = [name for keys in task_keys(conf_dir).values() for name in keys]
        near = f"; did you mean {deeper}?" if deeper else did_you_mean(key, [*names, *others])
        return f"{path}: no such key or group ({conf_dir.name}/): known: {listing(names)}{near}"
    where = _folder(path.split(".")[0], conf_dir)
    if not names:
        return f"{path}: unknown key ({where}): {parent} has no keys of its own"
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    parameters = _parameter_names(target)
    if key in parameters:
        return f"{path}: not set in the config ({where}), though {target} takes it: to add it write +{path}=..."
    known = [name for name in names if not name.startswith("_")]
    near = did_you_mean(key, [*known, *parameters])
    return f"{path}: unknown key ({where}): {parent} has {listing(known)}{near}"


def _parameter_names(target: Any) -> list[str]:
    try:
        return list(inspect.signature(locate(str(target))).parameters)
    except Exception:  # these names only enrich a message about another mistake, which must come out whatever happens
        return []


def _explain_omegaconf(error: OmegaConfBaseException, outer: BaseException, conf_dir: Path) -> str:
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and error.full_key:
        return _explain_key(error, conf_dir)
    file, _ = _split_file(str(outer), conf_dir)
    message = str(error.msg or error).splitlines() or [type(error).__name__]
    return one_line(": ".join(filter(None, [file, str(error.full_key or ""), message[0]])))


def _split_file(text: str, conf_dir: Path) -> tuple[str, str]:
    """The file that Hydra names at the beginning of some of its messages, "" without one, and the rest."""
    named = re.match(r"In '([^']+)'(?:: )?", text)
    return (f"{conf_dir.name}/{named[1]}.yaml", text[named.end() :]) if named else ("", text)


def _read_hydra_text(text: str, conf_dir: Path) -> str:
    """Hydra's own complaints about groups carry no attributes: the name can only be read off the message."""
    file, body = _split_file(text, conf_dir)
    place = f"{file}: " if file else ""
    groups = _group_names(conf_dir)
    unknown = re.search(r"Could not override '([^']+)'|config group '([^']+)' does not exist", text)
    if unknown:
        group = (unknown[1] or unknown[2]).partition("@")[0]
        return (
            f"{place}{group}: no such group ({conf_dir.name}/): known: {listing(groups)}{did_you_mean(group, groups)}"
        )
    twice = re.search(r"Multiple values for (\S+)\..*'override [^:]+: ([^']+)'|^(\S+) appears more than once", text)
    if twice:
        group, option = twice[1] or twice[3], twice[2] or ""
        # An entry that says `override` replaces the choice: only the others add a second one.
        origin = _files_that_choose(group, option, conf_dir, entry=r"(?!\s*override\b)")
        advice = f"in a file write 'override /{group}: {option or '...'}', on the command line {group}=... without +"
        return f"{place}{group}: chosen more than once{origin}: {advice}"
    return one_line(place + re.split(r"\n(?:Config search path|Search path|See https://)", body)[0])


def explain_hydra_error(error: BaseException, conf_dir: Path) -> str | None:
    """The one line for an exception that Hydra raised over the config; None where the config is not at fault."""
    if not _about_composing(error):
        return None
    if isinstance(error, OverrideParseException):
        return _explain_override(error)
    if isinstance(error, MissingConfigException):
        return _explain_option(error, conf_dir)
    inner = next((cause for cause in causes(error) if isinstance(cause, OmegaConfBaseException)), None)
    if inner is not None:
        return _explain_omegaconf(inner, error, conf_dir)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        place = f"{_shown(Path(mark.name), conf_dir)}, line {mark.line + 1}, column {mark.column + 1}"
        return one_line(f"{place}: not valid YAML: {getattr(error, 'problem', '')}")
    if isinstance(error, (ConfigCompositionException, SearchPathException)):
        return _read_hydra_text(str(error), conf_dir)
    file = _hydra_local(error, "config_path", str)
    if file is not None:
        return one_line(f"{conf_dir.name}/{file.removesuffix('.yaml')}.yaml: {error}")
    override = _hydra_local(error, "override", Override)
    if override is not None:
        options = _option_names(conf_dir / override.key_or_group) if override.key_or_group else []
        return one_line(f"{override.input_line}: {error}" + (f": available: {listing(options)}" if options else ""))
    return one_line(str(error))
