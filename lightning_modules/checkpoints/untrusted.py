"""What a file that somebody else may have made can hold, and nothing beyond it: plain values and names of this suite.

Configs, checkpoints, exported weights and results are read back from run folders, copies and servers. Whatever of them
is called has to be written in this suite, in the package that the place is for; whatever of them grows has a limit.
"""

import contextlib
import importlib
import inspect
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import InputError

MOST_VALUES = 20_000  # of a config; those of this suite have hundreds
DEEPEST = 32  # of mappings and lists in one another; those of this suite have six
MOST_PARAMETERS = 5_000  # tensors that a network registers; those of this suite have hundreds
LARGEST_OPTION = 2**16  # number in the config of a network: as a count of blocks it takes memory before there are any


def check_plain(node: Any, where: str, what: str = "config", largest: int = 2**63 - 1) -> None:
    """Refuse what is no plain value, or more than a config ever has. `${` is text: see `escaped`.

    Args:
        node: as a reader of YAML, JSON or checkpoints made it; values may be in it many times.
        where: the file, for the message; `what` of it, too.
        largest: whole number that is taken.

    Raises:
        InputError: see above.
    """
    todo, count = [(node, 0)], 0
    while todo:
        value, depth = todo.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise InputError(
                f"{where}: {what} holds more than {MOST_VALUES} values or is nested deeper than {DEEPEST}: not one of "
                "this suite"
            )
        if isinstance(value, dict):
            todo += [(child, depth + 1) for item in value.items() for child in item]
        elif isinstance(value, list | tuple):
            todo += [(child, depth + 1) for child in value]
        elif isinstance(value, str):
            if not _is_text(value):
                raise InputError(f"{where}: {what} holds {value!a}, which is no text: the file is damaged")
        elif not isinstance(value, bool | int | float | None) or (isinstance(value, int) and abs(value) >= 2**63):
            kind = "a number of more than 64 bits" if isinstance(value, int) else f"a {type(value).__name__}"
            raise InputError(f"{where}: {what} holds {kind}, expected plain values")
        elif isinstance(value, int) and abs(value) > largest:
            raise InputError(f"{where}: {what} holds the number {value}, expected none beyond {largest}")


def escaped(node: Any) -> Any:
    """Plain values as OmegaConf has to be given them, for which `${` in a text is the begin of an interpolation.

    One that came from a file could bring in a target of its own, or a secret of the environment.
    """
    if isinstance(node, dict):
        return {key: escaped(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [escaped(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", node)
    return node


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def defined_in(target: Any, packages: Sequence[str], kinds: Sequence[str] = ("class", "function")) -> bool:
    """Whether `target` names a public class or function that is written in one of these packages or modules.

    What a module imports from elsewhere does not count. Nothing outside `packages` is imported to find out, so a file
    in the working folder or in a run folder never is.
    """
    module, _, name = str(target).rpartition(".")
    within = any(f"{module}.".startswith(f"{package}.") for package in packages)
    if not within or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", str(target), re.ASCII):
        return False
    try:
        part = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    of_kind = ("class" in kinds and inspect.isclass(part)) or ("function" in kinds and inspect.isfunction(part))
    return of_kind and any(f"{part.__module__}.".startswith(f"{package}.") for package in packages)


def targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_` of a plain config with the path of its node."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, child in children:
        if key == "_target_":
            yield path, child
        yield from targets(child, f"{path}.{key}" if path else str(key))


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """While a network of somebody else's config is built: a number of blocks that would take for ever is refused."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > MOST_PARAMETERS:
            raise ValueError(f"it has more than {MOST_PARAMETERS} parameter tensors")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def check_archive(path: Path) -> None:
    """Refuse a zip file of `torch.save` whose bytes have changed, or that unpacks to more than itself.

    torch neither checks the checksums that it writes nor minds compressed entries.

    Raises:
        ValueError, zipfile.BadZipFile: says what is wrong.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise ValueError(f"{packed} is compressed, which torch.save does not do")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries overlap")
        if damaged := archive.testzip():
            raise ValueError(f"the bytes of {damaged} have changed since it was written")


def parse_json(text: str | bytes, where: str, hint: str) -> Any:
    """JSON of a file.

    Raises:
        InputError: if it is not valid; `hint` says what to do.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}): {hint}") from error
