"""Values of the command line that are paths or kernels, which Hydra's grammar would take apart."""

import re
from collections.abc import Sequence

PLAIN = ("input", "output", "kernel")


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments with quotes around values of `PLAIN`, so that `kernel=motion:15,30` is one value.

    Lists, null and what has quotes already stay, and so does everything in a sweep, where a comma is between two jobs.
    """
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return list(arguments)
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key not in PLAIN or not equals or re.fullmatch(r"(['\"].*|\[.*\]|null|)", value):
        return argument
    return f"{key}={in_quotes(value)}"


def in_quotes(value: str) -> str:
    """A value in Hydra's quotes, where a backslash means itself but before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"
