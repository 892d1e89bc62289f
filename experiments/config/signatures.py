"""Checks a composed config against the code it configures, before anything slow starts.

Hydra would find most mistakes too, but one at a time, late, and with a traceback. Here each ends in one line.
"""

import contextlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.errors import ConfigError
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
        check_value(key, values.get(key), annotation, _where(key, sources or {}))


def check_targets(cfg: DictConfig, sources: Mapping[str, str] | None = None) -> None:
    """Check every value for being there and every `_target_` node against the signature it will be called with.

    Args:
        sources: names the file that fills a node, by its path (see `group_files`).
    """
    for path, node in _walk(_resolved(cfg, sources or {})):
        if isinstance(node, dict) and "_target_" in node:
            _check_call(node, path, _where(path, sources or {}))


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
            raise ConfigError(f"{path}: a value is required{_where(path, sources)}: {advice}")
    try:
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]  # a mapping
    except OmegaConfBaseException as error:
        path = re.sub(r"\[(\d+)\]", r".\1", str(error.full_key))
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot resolve {raw[path]!r}{_where(path, sources)}: {reason}") from None


def check_value(path: str, value: Any, annotation: Any, place: str = "") -> None:
    """Check a plain value against the annotation of what takes it; `place` names its file in the message."""
    expected = _expected(value, annotation)
    if not expected:
        return
    shown = repr(value)
    if len(shown) > SHOWN_VALUE_LENGTH:
        shown = shown[:SHOWN_VALUE_LENGTH] + "..."
    words = re.findall("'([^']+)'", " ".join(expected))
    near = did_you_mean(value, words) if isinstance(value, str) else ""
    raise ConfigError(f"{path}: found {shown}{place}, expected {', or '.join(expected)}{near}")


def _expected(value: Any, annotation: Any) -> list[str]:
    """What pydantic expects in the place of a plain value: nothing if it fits, or if the annotation says nothing."""
    try:
        mistakes = _mistakes(value, annotation)
    except Exception:  # annotations are other people's code: one that pydantic cannot handle is no mistake in a config
        return []
    return [
        "".join(f"item {part}: " for part in mistake["loc"] if isinstance(part, int))
        + re.sub("^(Input should be|Input is not|Field) ", "", mistake["msg"])
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


def _check_call(node: dict[str, Any], path: str, place: str) -> None:
    target = node["_target_"]
    try:
        function = locate(str(target))
    except ConfigError as error:
        raise ConfigError(f"{_below(path, '_target_')}{place}: {error}") from None
    signature = _signature(function)
    if signature is None:
        return
    kinds = inspect.Parameter
    several = (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    parameters = {key: value for key, value in signature.parameters.items() if value.kind not in several}
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
            check_value(_below(path, key), given[key], parameter.annotation, place)
    lacking = [key for key, parameter in parameters.items() if parameter.default is kinds.empty and key not in given]
    if lacking and not node.get("_partial_", False):
        first = _below(path, lacking[0])
        advice = f"set it in the file or on the command line: +{first}=..."
        raise ConfigError(f"{first}: a value is required{place}: {target} needs {listing(lacking)}: {advice}")


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """With evaluated annotations where that is possible, which fails for names imported for type checkers only."""
    for evaluated in (True, False):
        with contextlib.suppress(Exception):  # evaluating runs other people's code, and builtins have no signature
            return inspect.signature(function, eval_str=evaluated)
    return None


def _holds_target(value: Any) -> bool:
    return any(isinstance(node, dict) and "_target_" in node for _, node in _walk(value))
