"""The wheel has every file of conf/ and of the packages in it, and the versions agree."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser

import pytest
import yaml

from datamodules.installed import ROOT
from tests.helpers.stand_ins import make_project

INSIDE = ("conf", "networks", "datamodules", "lightning_modules", "experiments")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The one that .ci/run has built of this checkout, or one built here, of a copy: setuptools litters the source."""
    if built := os.environ.get("DEBLUR_SR_WHEEL"):
        return zipfile.ZipFile(built)
    folder = tmp_path_factory.mktemp("wheel")
    make_project(folder / "source")
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*words, "-w", folder, folder / "source"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = folder.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.mark.slow
def test_wheel_has_every_file(wheel: zipfile.ZipFile) -> None:
    files = [file for folder in INSIDE for file in (ROOT / folder).rglob("*") if file.is_file()]
    expected = {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts} | {"run.py"}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert not expected - found, "add their kind to package-data in pyproject.toml"
    assert not found - expected
    about = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert wheel.read(about["entry_points.txt"]).decode().split("\n")[:2] == [
        "[console_scripts]",
        "deblur-sr = run:main",
    ]
    metadata = Parser().parsestr(wheel.read(about["METADATA"]).decode())
    assert metadata["License-Expression"] == "MIT"
    for licence in metadata.get_all("License-File", []):
        assert wheel.read(about[f"licenses/{licence}"]) == (ROOT / licence).read_bytes()


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
