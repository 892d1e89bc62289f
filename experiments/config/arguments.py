"""Values of the command line as people type them, which Hydra's grammar would refuse or take apart."""

import os
import re
import shlex
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from experiments.config import CONF
from experiments.config.tasks import root_keys

ASSIGNMENT = re.compile(r"(\+{0,2})([A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra reads them, with quotes around every value that it would refuse or take apart.

    So any key takes any text, such as `data.root=/photos/été (1), b`. What has a meaning keeps it: quotes around the
    whole value, null, lists, numbers (see `check.take_text`), `${KEY}` of a key or resolver that there is, options of
    groups, and with -m sweeps, where a comma is between two jobs. `~/` is the home folder, as shells know it only after
    some keys.
    """
    sweeps = bool({"-m", "--multirun"} & {*arguments})
    return [_quoted(argument, sweeps) for argument in arguments]


def _quoted(argument: str, sweeps: bool) -> str:
    match = ASSIGNMENT.fullmatch(argument)
    if not match:
        return argument
    plus, key, text = match.groups()
    value = _literal(text)
    chooses = key.startswith("hydra") or bool({*"/@"} & {*key}) or (CONF / key).is_dir()
    if (override := _parsed(value)) and (chooses or _is_meant(override, value, sweeps)):
        return f"{plus}{key}={value}"
    if re.fullmatch(r"\[.*\]", text, re.DOTALL):
        in_list = f"[{','.join(map(_item, text[1:-1].split(',')))}]"
        if _parsed(in_list):
            return f"{plus}{key}={in_list}"
    return f"{plus}{key}={','.join(map(_item, text.split(','))) if sweeps else in_quotes(value)}"


def _is_meant(override: Override, value: str, sweeps: bool) -> bool:
    """Whether Hydra makes of a value what was meant, and not only another text."""
    if override.is_sweep_override():
        return sweeps
    if value.startswith(("'", '"')):
        return True
    return r"\${" not in value and ("(" in value or not isinstance(override.value(), str) or override.value() == value)


def _item(value: str) -> str:
    """One item of a list or of a sweep."""
    value = _literal(value)
    return value if _parsed(value) and r"\${" not in value else in_quotes(value)


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
        name, end = match[2], match[3]
        there = OmegaConf.has_resolver(name) if end == ":" else end and name.partition(".")[0] in root_keys()
        return match[0] if there else rf"{2 * match[1]}\${{{name}{end}"

    return re.sub(r"(\\*)\$\{([\w.]*)([:}]?)", escaped, value)


def in_quotes(value: str) -> str:
    """A value in Hydra's quotes, where a backslash means itself but before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


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


def in_shell(arguments: Sequence[str]) -> str:
    """The command line with these arguments."""
    return shlex.join(["python", "run.py", *arguments])
