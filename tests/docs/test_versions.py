"""lowest.txt, which .ci/run tests, against pyproject.toml."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pinned(file: str) -> dict[str, Version]:
    lines = (ROOT / file).read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("line", PROJECT["dependencies"], ids=lambda line: Requirement(line).name)
def test_lowest_is_the_lower_bound(line: str) -> None:
    requirement = Requirement(line)
    (least,) = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    found = pinned("lowest.txt")[canonicalize_name(requirement.name)]
    if requirement.name == "torch":
        assert found == pinned("constraints.txt")["torch"]
    else:
        assert found == least
