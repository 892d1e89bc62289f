"""Weights on Hugging Face, from a server on this machine that answers as it does."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from datamodules.errors import InputError
from experiments.models import load
from experiments.zoo.catalogue import weights_file
from experiments.zoo.hub import address_of
from tests.conftest import Outcome, figures
from tests.helpers.hub import Hub, serving
from tests.helpers.zoo import fill

constants = pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = f"hf://someone/blurry/mine.safetensors@{COMMIT}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """It has mine.safetensors; the cache is empty."""
    with serving(fill(tmp_path / "zoo", monkeypatch, "mine")) as server:
        server.status = 200
        server.told = {"X-Repo-Commit": COMMIT}
        monkeypatch.setenv("HF_ENDPOINT", server.url.partition("/resolve")[0])
        monkeypatch.setenv("DEBLUR_SR_CACHE", str(tmp_path / "cache"))
        yield server


def test_what_was_fetched_is_read_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    file = weights_file(ADDRESS)
    assert file.read_bytes() == (hub.folder / "mine.safetensors").read_bytes()
    assert hub.asked[0][:2] == ("HEAD", f"/someone/blurry/resolve/{COMMIT}/mine.safetensors")
    hub.shutdown()
    asked = len(hub.asked)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert weights_file(ADDRESS) == file
    assert (load(ADDRESS).label, len(hub.asked)) == ("edsr", asked)
    kept = sorted(part.name for part in file.parent.iterdir() if part.suffix != ".lock")
    assert kept == ["mine.safetensors", "mine.safetensors.sha256"]


def test_a_measurement_is_of_the_address(hub: Hub, cli: Callable[..., Outcome], make_photographs: Any) -> None:
    """Not of a file in a folder of this machine."""
    outcome = cli(
        *(
            "task=evaluate",
            f"run={ADDRESS}",
            "name=a",
            "data=folder",
            "data.source.holdout=false",
            "degradation=bicubic",
        ),
        *(f"data.root={make_photographs(count=1, height=24, width=28)}", "degradation.scale=2", "data.num_workers=0"),
        *("trainer.accelerator=cpu", "logger=none", "pictures=none"),
    )
    assert outcome.status == 0, outcome.err
    assert {record["checkpoint"] for record in figures(Path("runs/a"))} - {None} == {ADDRESS}
    assert address_of(Path("runs/a/results.json")) is None


def test_a_disk_is_no_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("DEBLUR_SR_CACHE", str(tmp_path / "file"))
        with pytest.raises(InputError, match="set DEBLUR_SR_CACHE to a folder on another disk"):
            weights_file(ADDRESS)
    left = tmp_path / "cache/weights/someone/blurry" / COMMIT / ".mine.safetensors.part"
    left.mkdir(parents=True)
    (left / "half").touch()
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=full))
        with pytest.raises(InputError, match=r"No space left on device.*set DEBLUR_SR_CACHE to a folder") as caught:
            weights_file(ADDRESS)
        assert "check the network" not in str(caught.value)
        assert not left.exists()
    weights_file(ADDRESS)
    assert not left.exists()


def test_changed_bytes_are_found(hub: Hub) -> None:
    file = weights_file(ADDRESS)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"mine.safetensors: its sha256 is \w+, and was \w+ when it was fetched"):
        weights_file(ADDRESS)


def test_what_comes_is_compared_with_what_the_server_says(hub: Hub, tmp_path: Path) -> None:
    hub.told["X-Linked-Etag"] = f'"{"0" * 64}"'
    with pytest.raises(InputError, match=rf"the server says {'0' * 64}: run again"):
        weights_file(ADDRESS)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.suffix != ".lock"]


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (ADDRESS.partition("@")[0], "expected hf://USER/REPO/FILE.safetensors@COMMIT, of a commit, so that"),
        (
            ADDRESS.replace(COMMIT, "main"),
            "found @main, expected the 40 hexadecimal digits of a commit: a branch",
        ),
        (ADDRESS.replace("safetensors", "pth"), "found mine.pth, expected a file of safetensors, which holds no code"),
        (f"hf://someone/mine.safetensors@{COMMIT}", "expected hf://USER/REPO/FILE.safetensors@COMMIT"),
        (f"hf://some/one/../../mine.safetensors@{COMMIT}", "expected hf://USER/REPO/FILE.safetensors@COMMIT"),
    ],
)
def test_an_address_names_a_commit_and_a_file_without_code(hub: Hub, address: str, line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        weights_file(address)
    assert not hub.asked


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("EntryNotFound", "the commit has no such file"),
        ("RevisionNotFound", "the repository has no such commit"),
        ("RepoNotFound", "no such repository, or a private one: hf auth login"),
        ("GatedRepo", "its owner has to let you in"),
    ],
)
def test_what_the_server_refuses_is_said(hub: Hub, code: str, line: str) -> None:
    hub.status, hub.told["X-Error-Code"] = 404, code
    with pytest.raises(InputError, match=line) as caught:
        weights_file(ADDRESS)
    assert "\n" not in str(caught.value)


def test_without_a_network_one_line_says_so(
    hub: Hub, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    outcome = cli("task=export", f"weights={ADDRESS}")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert outcome.err.startswith(f"{ADDRESS}: cannot be fetched (")
    assert outcome.err.endswith("check the network and run again; what was fetched once is read without one\n")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="it is not in the cache, and nothing may be fetched here"):
        weights_file(ADDRESS)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=re.escape("not installed: pip install -c constraints.txt -e '.[hub]'")):
        weights_file(ADDRESS)
