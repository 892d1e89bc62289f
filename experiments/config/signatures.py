"""Checks a composed config against the code it configures, before anything slow starts.

Hydra would find most mistakes too, but one at a time, late, and with a traceback. Here each ends in one line.
"""

import enum
import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.errors import ConfigError
from experiments.config.errors import did_you_mean, explain_hydra_error, group_files, listing, locate

__all__ = ["ConfigError", "check_root", "check_targets", "explain_hydra_error", "group_files"]

HYDRA_KEYS: dict[str, Any] = {
    "_target_": str,
    "_partial_": bool,
    "_args_": list,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
}
SHOWN_VALUE_LENGTH = 100


def _where(path: str, sources: Mapping[str, str]) -> str:
    """` (FILE)` for the file that fills the node at this path or the nearest node above it."""
    parts = path.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    file = next((sources[prefix] for prefix in prefixes if prefix in sources), None)
    return f" ({file})" if file else ""


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _children(node: Container, path: str) -> Iterator[tuple[Any, str]]:
    """Keys of a node (list positions too) with their full paths. Hydra's own node is Hydra's business."""
    keys = range(len(node)) if isinstance(node, ListConfig) else list(typing.cast(DictConfig, node))
    for key in keys:
        if path or key != "hydra":
            yield key, _below(path, key)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _check_set(node: Container, path: str, sources: Mapping[str, str]) -> None:
    """Values left at ???. Before anything is resolved, for what points at such a value is not at fault."""
    for key, child_path in _children(node, path):
        if OmegaConf.is_missing(node, key):
            advice = f"set it on the command line: {child_path}=..."
            raise ConfigError(f"{child_path}: a value is required{_where(child_path, sources)}: {advice}")
        if not OmegaConf.is_interpolation(node, key) and OmegaConf.is_config(node[key]):
            _check_set(node[key], child_path, sources)


def _check_resolves(node: Container, path: str, sources: Mapping[str, str]) -> None:
    for key, child_path in _children(node, path):
        place = _where(child_path, sources)
        interpolation = OmegaConf.is_interpolation(node, key)
        try:
            value = node[key]
            if interpolation:
                _plain(value)  # what it points at may lead back here
        except (OmegaConfBaseException, RecursionError) as error:
            raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]  # a list or a mapping
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{child_path}: cannot resolve {raw!r}{place}: {reason}") from None
        # What an interpolation points at is checked where it stands; following it could lead in circles.
        if OmegaConf.is_config(value) and not interpolation:
            _check_resolves(value, child_path, sources)


def _holds_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_holds_target(child) for child in value.values())
    return isinstance(value, list) and any(_holds_target(child) for child in value)


def _spell(annotation: Any) -> str:
    """An annotation as a reader would write it, without module names: `float | Tensor`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if origin is typing.Annotated:
        return _spell(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_spell(argument) for argument in arguments)
    if origin is Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if isinstance(annotation, list):
        return f"[{', '.join(_spell(argument) for argument in annotation)}]"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " | ".join(repr(member.value) for member in annotation)
    name = str(getattr(origin or annotation, "__name__", annotation))
    return f"{name}[{', '.join(_spell(argument) for argument in arguments)}]" if arguments else name


def _allowed_words(annotation: Any) -> list[str]:
    """The strings that a Literal or enum, possibly inside a union or container, allows."""
    if typing.get_origin(annotation) is Literal:
        return [argument for argument in typing.get_args(annotation) if isinstance(argument, str)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [str(member.value) for member in annotation]
    return [word for argument in typing.get_args(annotation) for word in _allowed_words(argument)]


def _type_mistake(value: Any, plain: Any, annotation: Any) -> str | None:
    """What is wrong with a value, or None if nothing is or the annotation says nothing that can be checked."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any]
        try:
            adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except Exception:  # types with a config of their own (dataclasses, TypedDicts) refuse one from outside
            adapter = TypeAdapter(annotation)
        try:
            # JSON is the strict mode that knows what YAML can express: a list for a tuple, a string for a path.
            adapter.validate_json(json.dumps(plain, default=str), strict=True)
            return None
        except ValidationError as error:
            mistake = error.errors(include_url=False)[0]
        try:
            # A class that JSON cannot express may still fit what is passed: a DictConfig, a numbers.Real.
            adapter.validate_python(value, strict=True)
            return None
        except ValidationError:
            pass
    except Exception:  # annotations are other people's code: one that pydantic cannot handle is no mistake in a config
        return None
    position = "".join(f"item {part}: " for part in mistake["loc"] if isinstance(part, int))
    return f"{position}{mistake['msg']}"


def _check_type(path: str, value: Any, annotation: Any, place: str = "") -> None:
    plain = _plain(value)
    mistake = _type_mistake(value, plain, annotation)
    if mistake is None:
        return
    found = repr(plain)
    if len(found) > SHOWN_VALUE_LENGTH:
        found = found[:SHOWN_VALUE_LENGTH] + "..."
    near = did_you_mean(plain, _allowed_words(annotation)) if isinstance(plain, str) else ""
    raise ConfigError(f"{path}: found {found}{place}, expected {_spell(annotation)} ({mistake}){near}")


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter annotations; those that cannot be evaluated (names imported for type checkers only) are left out."""
    owners: list[Any] = [function]
    if isinstance(function, type):
        own = [function.__new__, function.__init__]  # type: ignore[misc]  # looked at, not called on an instance
        owners = list(reversed(function.__mro__)) if is_dataclass(function) else own
    elif not inspect.isroutine(function):
        owners = [getattr(function, "func", type(function).__call__)]
    found = {}
    for owner in owners:
        source = inspect.unwrap(owner) if callable(owner) else owner
        module = inspect.getmodule(source)
        names = getattr(source, "__globals__", vars(module) if module else {})
        for name, annotation in inspect.get_annotations(source).items():
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                found.update(typing.get_type_hints(alone, globalns=names, include_extras=True))
            except Exception:  # evaluating runs other people's code: whatever it raises, there is no type to check
                found.pop(name, None)
    return found


def _check_hydra_keys(node: DictConfig, path: str, place: str) -> None:
    for key in (str(key) for key in node):
        if key in HYDRA_KEYS:
            value = node[key]
            lowered = value.lower() if key == "_convert_" and isinstance(value, str) else value
            _check_type(_below(path, key), lowered, HYDRA_KEYS[key], place)
        elif key.startswith("_") and did_you_mean(key, HYDRA_KEYS):
            near = did_you_mean(key, HYDRA_KEYS)
            raise ConfigError(f"{_below(path, key)}: unknown key{place}: Hydra knows {listing(HYDRA_KEYS)}{near}")


def _check_call(node: DictConfig, path: str, place: str, runtime: Collection[str]) -> None:
    target = node["_target_"]
    try:
        function = locate(target)
    except ConfigError as error:
        raise ConfigError(f"{_below(path, '_target_')}{place}: {error}") from None
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins do not tell their signature
        return
    kinds = inspect.Parameter
    named = {k: p for k, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    positional = [k for k, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY)]
    takes_any = any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters.values())
    takes_more = any(parameter.kind is kinds.VAR_POSITIONAL for parameter in parameters.values())
    arguments = node.get("_args_", [])
    if len(arguments) > len(positional) and not takes_more:
        limit = f"{target} takes at most {len(positional)}"
        raise ConfigError(f"{_below(path, '_args_')}: found {len(arguments)} arguments{place}: {limit}")
    given = {positional[i]: (f"_args_.{i}", arguments[i]) for i in range(min(len(arguments), len(positional)))}
    for key in (str(key) for key in node if str(key) not in HYDRA_KEYS):
        if key in given:
            raise ConfigError(f"{_below(path, key)}: given twice{place}: {given[key][0]} is the same argument")
        if key not in named and not takes_any:
            near = did_you_mean(key, named)
            takes = f"takes {listing(named)}" if named else "takes no arguments"
            raise ConfigError(f"{_below(path, key)}: unknown key{place}: {target} {takes}{near}")
        given[key] = (key, node[key])
    refused = [] if takes_any else [name for name in runtime if name not in named]
    if refused:
        reason = f"{target} does not take {listing(refused)}, which the code passes"
        raise ConfigError(f"{_below(path, '_target_')}{place}: {reason}")
    annotations = _annotations(function)
    for name, (key, value) in given.items():
        default_none = value is None and name in parameters and parameters[name].default is None
        checked = name in parameters and name in annotations and not default_none
        if checked and not _holds_target(_plain(value)):
            _check_type(_below(path, key), value, annotations[name], place)
    if not node.get("_partial_", False):
        required = [k for k in parameters if k in {*named, *positional} and parameters[k].default is kinds.empty]
        lacking = [name for name in required if name not in given and name not in runtime]
        if lacking:
            first = _below(path, lacking[0])
            advice = f"set it in the file or on the command line: +{first}=..."
            raise ConfigError(f"{first}: a value is required{place}: {target} needs {listing(lacking)}: {advice}")


def _check_node(
    node: Container, path: str, sources: Mapping[str, str], runtime_args: Mapping[str, Collection[str]]
) -> None:
    if isinstance(node, DictConfig):
        _check_hydra_keys(node, path, _where(path, sources))
        if "_target_" in node:
            _check_call(node, path, _where(path, sources), runtime_args.get(path, ()))
    for key, child_path in _children(node, path):
        if not OmegaConf.is_interpolation(node, key) and OmegaConf.is_config(node[key]):
            _check_node(node[key], child_path, sources, runtime_args)


def check_targets(
    cfg: DictConfig,
    sources: Mapping[str, str] | None = None,
    runtime_args: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Checks every value for being there and every `_target_` node against the signature it will be called with.

    `sources` names the file that fills a node (see group_files). `runtime_args` names, by the path of a node, the
    parameters that the code itself passes when it instantiates that node.
    """
    _check_set(cfg, "", sources or {})
    _check_resolves(cfg, "", sources or {})
    _check_node(cfg, "", sources or {}, runtime_args or {})


def check_root(cfg: DictConfig, known: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> None:
    """Checks the keys at the top of the config, and their values against the annotations in `known`.

    A known key that is not there counts as None: an error unless its annotation allows None.
    """
    for key in (str(key) for key in cfg):
        if key not in known and key != "hydra":
            near = did_you_mean(key, known)
            raise ConfigError(f"{key}: unknown key at the top of the config: known: {listing(known)}{near}")
    _check_set(cfg, "", sources or {})
    _check_resolves(cfg, "", sources or {})
    for key, annotation in known.items():
        value = cfg.get(key)
        if key not in cfg and _type_mistake(None, None, annotation) is not None:
            advice = f"set it on the command line: +{key}=..."
            raise ConfigError(f"{key}: a value is required, expected {_spell(annotation)}: {advice}")
        _check_type(key, value, annotation, _where(key, sources or {}))
