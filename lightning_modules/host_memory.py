"""Resident memory of this process, as Linux tells it."""

import re
from pathlib import Path
from typing import Literal


def resident(what: Literal["VmRSS", "VmHWM"]) -> int | None:
    """Bytes resident now (`VmRSS`) or at the peak (`VmHWM`); None on systems that do not tell.

    The peak of `getrusage` is no use: a process begins with that of the one that started it.
    """
    try:
        found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
