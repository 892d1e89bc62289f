"""docs/tour.ipynb: a notebook without outputs, whose cells run from the first to the last."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pages import LINK, ROOT, anchors

NOTEBOOK = ROOT / "docs" / "tour.ipynb"
COMMAND = re.compile(r"^!((?:.*\\\n)*.*)$", re.MULTILINE)


def cells(kind: str) -> list[str]:
    """The sources of the cells of a kind."""
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def as_python(source: str) -> str:
    """A cell for Python alone: what begins with ! is a command of the shell, which has to succeed."""
    return COMMAND.sub(lambda line: f"subprocess.run({line[1]!r}, shell=True, check=True)", source)


def test_notebook_is_whole_and_without_outputs() -> None:
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None), (
            f"{cell['id']}: clear its output before the notebook is committed"
        )


def test_links_of_the_notebook_lead_somewhere() -> None:
    links = [link.partition("#") for text in cells("markdown") for link in LINK.findall(text)]
    pages = {ROOT / "docs" / file for file, _, _ in links}
    assert len(pages) > 5
    assert not [page for page in pages if not page.is_file()]
    assert all(anchor in anchors(ROOT / "docs" / file) for file, _, anchor in links if anchor)


@pytest.mark.slow
def test_cells_run(tmp_path: Path) -> None:
    """In a folder that stands for the checkout, from docs/, where Jupyter starts."""
    for item in ("run.py", "conf", "docs"):
        (tmp_path / item).symlink_to(ROOT / item)
    (tmp_path / "here").mkdir()
    code = "\n\n".join(["import subprocess", *map(as_python, cells("code"))])
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "runs" / "tour" / "results.json").is_file()
    found = dict(re.findall(r"^(\S+): (\d+\.\d+) dB$", done.stdout, re.MULTILINE))
    assert float(found["nafnet_sr_small"]) > float(found["bicubic"]) + 3, done.stdout
    rows = re.findall(r"^(bicubic|ed_dsrn|nafnet_sr_small) +(\d+\.\d+)", done.stdout, re.MULTILINE)
    table = {name: float(decibels) for name, decibels in rows}  # of the last command
    assert table["bicubic"] + 1 < table["ed_dsrn"] < table["nafnet_sr_small"], done.stdout
