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
    # In Hydra's quotes a backslash means itself but before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{key}='{escaped}'"
