"""The files that every run folder has, read as if anybody had made them, and with the names of today's code.

What is built of a config that is read back has to be written in this suite, each class in the package that its place in
the config is for. What users name on the command line and in conf/ is theirs, and may be anything.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError
from lightning_modules.checkpoints.untrusted import check_plain, defined_in, targets

LARGEST = 2**17  # bytes of a file; those of this suite have some thousand
# Of which kind the values are that are read, where they are there.
_KINDS: dict[str, dict[str, type]] = {
    "config.yaml": dict.fromkeys(("label", "name"), str)
    | dict.fromkeys(("choices", "checkpoint", "model", "procedure", "loss", "optimizer", "degradation"), dict)
    | dict.fromkeys(("protocol", "data", "trainer", "callbacks"), dict)
    | {"seed": int},
    "meta.json": dict.fromkeys(("created", "git_commit", "wandb_id"), str)
    | dict.fromkeys(("slurm_step", "slurm_since"), int)
    | {"continued": list, "finished": dict, "images": dict},
}
# Where that may be written which a place of a config names, and of which kind it is.
_WRITTEN_IN = {
    r"model(\..+)?": ("networks", ["class", "function"]),
    r"(data\.)?degradation(\..+)?": ("datamodules.degradations", ["class", "function"]),
    r"data\.source": ("datamodules.sources", ["class"]),
    r"data": ("datamodules", ["class"]),
    r"protocol\.[^.]+": ("lightning_modules.metrics.protocol", ["class"]),
}

# Modules that classes and functions of saved configs have moved from, and where they are now.
MOVED = {
    "datamodules.degradations.kernel_sources": "datamodules.degradations.kernel_samplers",
    "datamodules.degradations.stored": "datamodules.degradations.pipelines",
    "datamodules.degradations.suites": "datamodules.degradations.kernel_files",
    "lightning_modules.perceptual": "lightning_modules.losses.perceptual",
    "lightning_modules.protocols": "lightning_modules.metrics.protocol",
    "lightning_modules.schedules": "lightning_modules.optim.schedules",
    "lightning_modules.wandb_runs": "lightning_modules.loggers.wandb",
}


def renamed(node: Any) -> Any:
    """A copy of a plain config whose `_target_`s have today's names."""
    if isinstance(node, dict):
        return {key: _target(value) if key == "_target_" else renamed(value) for key, value in node.items()}
    return [renamed(child) for child in node] if isinstance(node, list) else node


def _target(name: Any) -> Any:
    module, dot, last = str(name).rpartition(".")
    return f"{MOVED[module]}{dot}{last}" if module in MOVED else name


class _Loader(yaml.SafeLoader):
    """YAML without aliases, by which a few lines unpack to gigabytes; no run writes any."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*), which no run writes")
        return super().compose_node(parent, index)


def read_mapping(path: Path) -> dict[str, Any]:
    """One of the files that every run has, with today's names: JSON or YAML.

    Raises:
        InputError: if it is missing, damaged, or not what a run writes.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else yaml.load(path.read_text(), _Loader)
    except Exception as error:  # PyYAML lets through whatever a malformed tag or endless nesting provokes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read ({reason}): copy it again, or start a new run with name=..."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is empty or of another kind: copy it again, or start a new run with name=...")
    check_plain(content, str(path), "the file")
    for key, kind in _KINDS.get(path.name, {}).items():
        if not isinstance(content.get(key), kind | None):
            raise InputError(
                f"{path}: {key}: found {str(content[key])[:100]!r}, expected {_WORDS[kind]}: copy the file again"
            )
    return dict(renamed(content))


_WORDS = {str: "a text", int: "a whole number", dict: "keys and values", list: "a list"}


def misplaced(node: dict[str, Any], name: str) -> Iterator[str]:
    """What a node of a config calls, and one that is read back may not; each as the begin of a line."""
    for path, target in targets(node, name):
        allowed = next((value for place, value in _WRITTEN_IN.items() if re.fullmatch(place, path)), None)
        if allowed is None or not defined_in(target, [allowed[0]], allowed[1]):
            expected = f"one that is written in {allowed[0].replace('.', '/')}" if allowed else "a value"
            yield f"{path}._target_: found {target!r}, expected {expected}"


def to_build(
    config: Mapping[str, Any], name: str, where: str, of_this_machine: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A node of a config that `read_mapping` has read, for what is to be built of it.

    Args:
        config: the whole.
        name: of the node: model, data, degradation or protocol. Transforms of data are for training: they are left out.
        where: the file, for messages.
        of_this_machine: takes the place of what the config has under these keys, such as the folder of a cache.

    Raises:
        InputError: if the node is missing, or names something that this suite does not have for that place.
    """
    node = _moved_to(of_this_machine or {}, config.get(name) or {})
    node.pop("transforms", None)
    if not node:
        raise InputError(f"{where}: has no {name}: it is not the config of a training")
    for line in misplaced(node, name):
        raise InputError(
            f"{where}: {line}: nothing else is called for a run that is read; give {name}= of your own on the command "
            "line, or put the class there"
        )
    if any(re.match(r"[a-z][a-z0-9+.-]*://", text.strip(), re.IGNORECASE) for text in _texts(node)):
        raise InputError(
            f"{where}: {name}: holds an address (://), which is not asked for a run that is read: give {name}= of your "
            "own on the command line"
        )
    return node


def _moved_to(machine: Mapping[str, Any], node: Any) -> Any:
    if isinstance(node, dict):  # a 0, as of worker processes, works everywhere
        return {k: machine[k] if k in machine and v != 0 else _moved_to(machine, v) for k, v in node.items()}
    return [_moved_to(machine, child) for child in node] if isinstance(node, list) else node


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _texts(child)
