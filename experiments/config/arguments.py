"""Values of the command line as people type them, which Hydra's grammar would refuse or take apart."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import CONF
from experiments.config.tasks import root_keys

BRACKETS = {"(": ")", "[": "]", "{": "}"}
# A character that is escaped, a text in quotes, any other character.
PARTS = re.compile(r"""\\.|(?<!\w)(?:'(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*")|.""", re.DOTALL)
ASSIGNMENT = re.compile(r"(\+{0,2})([A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)


def quoted(arguments: Sequence[str]) -> list[str]:
    r"""The arguments as Hydra reads them, with quotes around every value that it would refuse.

    So any key takes any text, such as `data.root=/photos/été (1), b`. What Hydra can parse keeps its meaning, with -m
    and without: quotes, null, lists, numbers (see `check.take_text`), `\,` and other escapes, no spaces around a value;
    and `${KEY}` of a key or resolver that there is. In a sweep a comma is between two jobs. `~/` is the home folder, as
    shells know it only after some keys.
    """
    setup_globals()  # the resolvers of Hydra, which would come later
    sweeps = any(map(_sweeps, arguments))
    return [_quoted(argument, sweeps) for argument in arguments]


def _sweeps(argument: str) -> bool:
    """Whether it asks for a sweep, as -m does and an experiment whose file is one."""
    key, _, option = argument.partition("=")
    if key == "experiment":
        try:
            return bool(OmegaConf.select(OmegaConf.load(CONF / key / f"{option}.yaml"), "hydra.mode") == "MULTIRUN")
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):  # reported by who reads on
            return False
    return argument in ("-m", "hydra.mode=MULTIRUN") or (len(argument) > 2 and "--multirun".startswith(argument))


def _quoted(argument: str, sweeps: bool) -> str:
    match = ASSIGNMENT.fullmatch(argument)
    if not match:
        return argument
    plus, key, text = match.groups()
    chooses = key.startswith("hydra") or bool({*"/@"} & {*key}) or (CONF / key).is_dir()
    try:
        return f"{plus}{key}={_value(text, sweeps or chooses)}"
    except ValueError:  # nobody can tell what was meant: Hydra says so
        return argument


def _value(text: str, sweeps: bool = False) -> str:
    """A value, or an item of one, as Hydra reads it. Raises ValueError for brackets or quotes that do not match."""
    value = _literal(text)
    if (override := _parsed(value)) and (sweeps or not override.is_sweep_override()):
        return value
    value = value.strip(" \t")
    if sweeps and len(items := _items(value) if "," in value else []) > 1:
        return ",".join(map(_value, items))
    if value[:1] + value[-1:] == "[]":
        return f"[{','.join(map(_value, _items(value[1:-1])))}]"
    if value[:1] + value[-1:] == "{}" and ":" in value:
        raise ValueError(value)
    return in_quotes(value)


def _items(text: str) -> list[str]:
    """A text split at its commas, but for those in quotes and brackets."""
    items, ends = [""], [""]
    for part in PARTS.findall(text):
        if part in BRACKETS:
            ends.append(BRACKETS[part])
        closes, opens = part in BRACKETS.values(), part in ("'", '"') and not re.search(r"\w$", items[-1])  # not it's
        if opens or (closes and ends.pop() != part):
            raise ValueError(text)
        if part == "," and len(ends) == 1:
            items.append("")
        else:
            items[-1] += part
    if len(ends) != 1:
        raise ValueError(text)
    return items


def _parsed(value: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None


def _literal(value: str) -> str:
    """A value with its home folder, and with `${` escaped where no key and no resolver follows."""
    if value == "~" or value.startswith("~/"):
        value = os.path.expanduser(value)

    def escaped(match: re.Match[str]) -> str:
        name, end = match[1], match[2]
        relative = name.startswith(".") and name.strip(".")
        there = OmegaConf.has_resolver(name) if end == ":" else relative or name.partition(".")[0] in known
        return match[0] if end and there else rf"\{match[0]}"

    known = {"hydra", *root_keys()}
    return re.sub(r"(?<!\\)\$\{([\w.]*)(\}|[:[$](?=.*\}))?", escaped, value, flags=re.DOTALL)


def in_quotes(value: str) -> str:
    """A value in Hydra's quotes, where a backslash means itself but before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


def as_one(values: Sequence[str]) -> str:
    """A value as it is, or several as a list, in which those that are not plain are in quotes."""
    items = [value if re.fullmatch(r"[\w./~-]+", value) else in_quotes(value) for value in values]
    return values[0] if len(values) == 1 else f"[{','.join(items)}]"


def exists(word: str) -> bool:
    """Whether a file or folder is called so; what cannot be the name of any, such as one that is too long, is none."""
    return os.path.exists(os.path.expanduser(word))


def network_key(word: str) -> str:
    """Which key takes a network from there: `run`, `ckpt`, or `weights`, that takes model=NAME too; "" if none does."""
    if os.path.isfile(os.path.join(word, "config.yaml")):
        return "run"
    of_files = {".ckpt": "ckpt", ".safetensors": "ckpt", ".pth": "weights", ".pt": "weights", ".mat": "weights"}
    return of_files.get(Path(word).suffix, "")


def typed(override: str) -> str:
    """An override without the quotes that `quoted` has put around its value."""
    key, _, value = override.partition("=")
    parsed = _parsed(value) if value.startswith("'") else None
    if parsed and isinstance(parsed._value, QuotedString):
        plain = f"{key}={parsed._value.text}"
        return plain if quoted([plain]) == [override] else override
    return override


def command(*changes: str, without: str = "") -> str:
    """This command line, quoted for a shell, with overrides in place of its own for the same keys, or added.

    Args:
        changes: the overrides, as they are typed.
        without: a key that is left out.
    """
    new = {change.partition("=")[0]: change for change in changes}
    given = [(argument, argument.lstrip("+").partition("=")[0]) for argument in map(typed, sys.argv[1:])]
    kept = [new.pop(key, argument) for argument, key in given if not without or key != without]
    return in_shell([*kept, *new.values()])


def overridden_keys() -> list[str]:
    """Config keys and groups that the command line sets; none where there is none, as in a program in Python."""
    if not HydraConfig.initialized():
        return []
    return [item.lstrip("+~").split("=", 1)[0] for item in HydraConfig.get().overrides.task]


def in_shell(arguments: Sequence[str]) -> str:
    """The command line with these arguments."""
    return shlex.join(["python", "run.py", *arguments])
