"""Checks a composed config against the code it configures, before anything slow starts.

Hydra would find most mistakes too, but one at a time, late, and with a traceback. Here each ends in one line.
"""

import contextlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.errors import ConfigError
from experiments.config.arguments import BRACKETS, command, in_quotes
from experiments.config.errors import did_you_mean, listing, locate

HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
SHOWN_VALUE_LENGTH = 100


def check_root(cfg: DictConfig, known: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> None:
    """Check the keys at the top of the config, and their values against the annotations in `known`.

    Args:
        sources: names the file that fills a node, by its path (see `group_files`).
    """
    for key in map(str, cfg):
        if key not in known:
            near = did_you_mean(key, known)
            raise ConfigError(f"{key}: unknown key at the top of the config: known: {listing(known)}{near}")
    values = _resolved(cfg, sources or {})
    for key, annotation in known.items():
        _check_at(key, values.get(key), annotation, cfg, sources or {})


def check_targets(
    cfg: DictConfig, sources: Mapping[str, str] | None = None, nodes: Collection[str] | None = None
) -> None:
    """Check every value for being there and every `_target_` node against the signature it will be called with.

    Args:
        sources: names the file that fills a node, by its path (see `group_files`).
        nodes: at the top of the config, below which targets are checked; None: all of them.
    """
    for path, node in _walk(_resolved(cfg, sources or {})):
        if isinstance(node, dict) and "_target_" in node and (nodes is None or path.partition(".")[0] in nodes):
            _check_call(node, path, cfg, sources or {})


def annotations(
    cfg: DictConfig, known: Mapping[str, Any], set_by: Collection[str] | None = None
) -> Iterator[tuple[str, Any, Any]]:
    """The keys whose values are checked, with their values and what is expected there, as far as all can be found.

    Args:
        set_by: only those whose values these keys set (see `origin`); None: all. What else is named is not imported.
    """
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        return
    raw = dict(_walk(OmegaConf.to_container(cfg)))
    asked = [path for path in raw if set_by is None or _origin(raw, path) in set_by]
    yield from ((key, values.get(key), annotation) for key, annotation in known.items() if key in asked)
    for path, node in _walk(values):
        if isinstance(node, dict) and "_target_" in node and (keys := {_below(path, key) for key in node} & {*asked}):
            with contextlib.suppress(ConfigError):  # which the check names
                parameters = _parameters(_signature(locate(str(node["_target_"]))))
                yield from (
                    (_below(path, key), node[key], parameters[key].annotation)
                    for key in {*node} & {*parameters}
                    if _below(path, key) in keys
                )


def origin(cfg: DictConfig, path: str) -> str:
    """The key that sets a value: of one that only refers to another key, that one."""
    return _origin(dict(_walk(OmegaConf.to_container(cfg))), path)


def _origin(raw: Mapping[str, Any], path: str) -> str:
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        value = str(raw.get(".".join(parts[:count])))
        reference = re.fullmatch(r"\$\{(?:oc\.select:)?(\w[\w.]*)(?:,[^${}]*)?\}", value)
        if reference and reference[1] in raw:
            return _origin(raw, ".".join([reference[1], *parts[count:]]))
    return path


def refuse_meaningless(cfg: DictConfig, sources: Mapping[str, str]) -> None:
    """Refuse what no option means: numbers not finite or of more than 64 bits, empty text as of an unset variable."""
    for path, value in _walk(_resolved(cfg, sources)):
        if isinstance(value, str) and not value.strip():
            raise ConfigError(f"{origin(cfg, path)}: found {value!r}, expected a value: give one, or omit the key")
        if isinstance(value, int | float) and not -(2.0**63) <= value < 2.0**63:  # NaN too
            raise ConfigError(f"{path}: found {value}{_where(path, sources)}, expected a finite number of 64 bits")


def _walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a plain config with their paths, each before what it holds."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _walk(child, _below(path, key))


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _where(path: str, sources: Mapping[str, str]) -> str:
    """` (FILE)` for the file that fills the node at this path or the nearest node above it."""
    while path and path not in sources:
        path = path.rpartition(".")[0]
    return f" ({sources[path]})" if path else ""


def _resolved(cfg: DictConfig, sources: Mapping[str, str]) -> dict[str, Any]:
    """The config as plain values."""
    raw = dict(_walk(OmegaConf.to_container(cfg)))
    for path, value in raw.items():  # before anything is resolved: what points at such a value is not at fault
        if value == "???":
            advice = f"set it on the command line: {path}=..."
            raise ConfigError(f"{path}: a value is required{_where(path, sources)}: {advice}", key=path)
        parts = re.findall(r"\$\{(\w+\.[\w.]+)\}", value) if isinstance(value, str) else []
        for key in parts:
            if raw.get(key, "") is None and value != f"${{{key}}}":  # in a text, such as ${data.root}/sharp
                raise ConfigError(f"{key}: a value is required{_where(key, sources)}: set {key}=...", key=key)
    try:
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]  # a mapping
    except OmegaConfBaseException as error:
        path = re.sub(r"\[(\d+)\]", r".\1", str(error.full_key))
        reason = str(error).splitlines()[0]
        line = f"{path}: cannot resolve {raw[path]!r}{_where(path, sources)}: {reason}"
        missing = re.search(r"\$\{([\w.]+)\}", str(raw[path]))
        raise ConfigError(line, key=missing[1] if missing else path) from None


def _check_at(path: str, value: Any, annotation: Any, cfg: DictConfig, sources: Mapping[str, str]) -> None:
    """Check a value at its place in a config; the message names the key that has set it."""
    if not fits(value, annotation):
        key = origin(cfg, path)
        check_value(key, value, annotation, _where(key, sources))


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value can stand where something is annotated so."""
    return not _expected(value, annotation)


def check_value(path: str, value: Any, annotation: Any, place: str = "") -> None:
    """Check a plain value against the annotation of what takes it; `place` names its file in the message."""
    expected = _expected(value, annotation)
    if not expected:
        return
    if value is None:
        raise ConfigError(
            f"{path}: a value is required{place}: found null, expected {', or '.join(expected)}: set {path}=...",
            key=path,
        )
    shown = repr(value)
    if len(shown) > SHOWN_VALUE_LENGTH:
        shown = shown[:SHOWN_VALUE_LENGTH] + "..."
    words = re.findall("'([^']+)'", " ".join(expected))
    near = did_you_mean(value, words) if isinstance(value, str) else ""
    near += _several(path, value, annotation) if isinstance(value, str) else ""
    raise ConfigError(f"{path}: found {shown}{place}, expected {', or '.join(expected)}{near}", key=path)


def _several(path: str, value: str, annotation: Any) -> str:
    """The end of a message about values in a row on the command line, which were meant as a list or as a sweep."""
    if "," not in value or f"{path}={in_quotes(value)}" not in sys.argv:
        return ""
    if value[:1] in BRACKETS:
        return ": a bracket is not closed"
    if fits(value.split(","), annotation):
        return f": a list takes brackets: {command(f'{path}=[{value}]')}"
    return f": a sweep over several values takes -m: {command('-m', f'{path}={value}')}"


def _expected(value: Any, annotation: Any) -> list[str]:
    """What pydantic expects in the place of a plain value: nothing if it fits, or if the annotation says nothing."""
    try:
        mistakes = _mistakes(value, annotation)
    except Exception:  # annotations are other people's code: one that pydantic cannot handle is no mistake in a config
        return []
    return [
        "".join(f"item {part}: " for part in mistake["loc"] if isinstance(part, int))
        + re.sub("^(Input should be|Input is not|Field) ", "", mistake["msg"].replace("valid array", "list"))
        for mistake in mistakes
    ]


def _mistakes(value: Any, annotation: Any) -> list[Any]:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        # JSON is the strict mode that knows what YAML can express: a list for a tuple, a string for a path.
        adapter.validate_json(json.dumps(value, default=str), strict=True)
        return []
    except ValidationError as error:
        in_json: list[Any] = error.errors()
    try:
        # A class that JSON cannot express may still fit what is passed: a DictConfig, a numbers.Real.
        adapter.validate_python(OmegaConf.create(value) if isinstance(value, dict | list) else value, strict=True)
        return []
    except ValidationError as error:
        classes = (mistake for mistake in error.errors() if mistake["type"] == "is_instance_of")
    return [next(classes, mistake) if mistake["type"] == "needs_python_object" else mistake for mistake in in_json]


def _check_call(node: dict[str, Any], path: str, cfg: DictConfig, sources: Mapping[str, str]) -> None:
    target, place = node["_target_"], _where(path, sources)
    try:
        function = locate(str(target))
    except ConfigError as error:
        raise ConfigError(f"{_below(path, '_target_')}{place}: {error}") from None
    signature = _signature(function)
    if signature is None:
        return
    kinds = inspect.Parameter
    parameters = _parameters(signature)
    takes_any = any(parameter.kind is kinds.VAR_KEYWORD for parameter in signature.parameters.values())
    arguments = {key: value for key, value in node.items() if key not in HYDRA_KEYS}
    for key in arguments:
        if key not in parameters and not takes_any:
            takes = f"takes {listing(parameters)}" if parameters else "takes no arguments"
            near = did_you_mean(key, parameters)
            raise ConfigError(f"{_below(path, key)}: unknown key{place}: {target} {takes}{near}")
    try:
        given = signature.bind_partial(*node.get("_args_", []), **arguments).arguments
    except TypeError as error:
        raise ConfigError(f"{_below(path, '_args_')}{place}: {target}: {error}") from None
    for key, parameter in parameters.items():
        checked = key in given and parameter.annotation is not kinds.empty and not _holds_target(given[key])
        if checked and not (given[key] is None and parameter.default is None):
            _check_at(_below(path, key), given[key], parameter.annotation, cfg, sources)
    lacking = [key for key, parameter in parameters.items() if parameter.default is kinds.empty and key not in given]
    if lacking and not node.get("_partial_", False):
        first = _below(path, lacking[0])
        advice = f"set it in the file or on the command line: +{first}=..."
        line = f"{first}: a value is required{place}: {target} needs {listing(lacking)}: {advice}"
        raise ConfigError(line, key=first)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """With evaluated annotations where that is possible, which fails for names imported for type checkers only."""
    for evaluated in (True, False):
        with contextlib.suppress(Exception):  # evaluating runs other people's code, and builtins have no signature
            return inspect.signature(function, eval_str=evaluated)
    return None


def _parameters(signature: inspect.Signature | None) -> dict[str, inspect.Parameter]:
    """Those with a name of their own."""
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {key: value for key, value in signature.parameters.items() if value.kind not in several} if signature else {}


def _holds_target(value: Any) -> bool:
    return any(isinstance(node, dict) and "_target_" in node for _, node in _walk(value))
