"""Where this code lies, a checkout or the folder of an installed wheel, and what to install beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # holds the packages, conf/ and run.py in both
CHECKOUT = (ROOT / "constraints.txt").is_file()  # which is no part of a wheel
PIP_INSTALL = "pip install -c constraints.txt" if CHECKOUT else "pip install"


def extra(name: str) -> str:
    """The command that installs an extra of the suite."""
    return f"{PIP_INSTALL} -e '.[{name}]'" if CHECKOUT else f"{PIP_INSTALL} 'deblur-sr[{name}]'"
