"""Test-only sets, and BSDS500 from a tiny archive on a real loopback server; tar archives that are refused."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import InputError
from datamodules.io.unpack import unpack_tar
from datamodules.sources import bsds500
from datamodules.sources.benchmark import SETS, Benchmark, Name
from datamodules.sources.bsds500 import Bsd100, Bsds500
from tests.conftest import Outcome

NOWHERE = "http://127.0.0.1:1"  # nothing listens there: whoever asks fails
COUNTS = {"train": 20, "val": 3, "test": 20}


def touch(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:03d}.png").touch()
    return folder


def archive(path: Path, files: dict[str, bytes], special: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if special:
            tar.addfile(special)
    return path


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a server with an archive of the official tree, each image a few bytes."""
    monkeypatch.setattr(bsds500, "COUNTS", COUNTS)
    monkeypatch.setitem(SETS, "bsd100", SETS["bsd100"]._replace(images=COUNTS["val"]))
    images = {f"{bsds500.IMAGES}/{p}/{i:02d}.jpg": f"{p} {i}".encode() for p in COUNTS for i in range(COUNTS[p])}
    folder = tmp_path / "site"
    folder.mkdir()
    content = archive(folder / bsds500.ARCHIVE, {**images, "BSR/BSDS500/data/groundTruth/1.mat": b"x"}).read_bytes()
    monkeypatch.setattr(bsds500, "SIZE", len(content))
    monkeypatch.setattr(bsds500, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_published_facts() -> None:
    assert {name: facts.images for name, facts in SETS.items()} == {
        "set5": 5,
        "set14": 14,
        "bsd68": 68,
        "bsd100": 100,
        "urban100": 100,
        "kodak24": 24,
    }
    assert bsds500.SIZE == 70763455
    assert bsds500.SHA256 == "97e49d31764f3912f0c4122707d53062ac9e783ba0f095e447a4d53c1a41af8e"


@pytest.mark.parametrize("name", SETS)
def test_number_of_images_is_checked(tmp_path: Path, name: Name) -> None:
    count = SETS[name].images
    source = Benchmark(str(touch(tmp_path / name, count)), name)
    source.prepare()
    assert len(source.files("test")) == count
    (tmp_path / name / "extra.png").touch()
    with pytest.raises(InputError, match=f"{count + 1} images, expected {count}: give .* all originals of {name}"):
        source.prepare()
    for extra in ("extra.png", "000.png"):
        (tmp_path / name / extra).unlink()
    with pytest.raises(InputError, match=f"{count - 1} images, expected {count}: give .* all originals of {name}"):
        source.prepare()
    with pytest.raises(InputError, match=r"not found, expected the .* get them from .*; or set data\.root"):
        Benchmark(str(tmp_path / "none"), name).prepare()


@pytest.mark.parametrize("split", ["train", "val"])
def test_test_sets_are_not_trained_on(tmp_path: Path, split: str) -> None:
    with pytest.raises(InputError) as error:
        Benchmark(str(touch(tmp_path / "Set14", 14)), "set14").files(split)  # type: ignore[arg-type]
    assert str(error.value).startswith("set14 is a test set: it has no images to ")
    assert "choose data=div2k for training" in str(error.value)


def test_training_on_a_test_set_is_refused_before_looking_for_it(cli: Callable[..., Outcome]) -> None:
    outcome = cli("data=set14")
    assert outcome.status == 2
    assert outcome.err.startswith("data: set14 is a test set, it has no images for training: choose data=div2k")
    assert outcome.err.count("\n") == 1


def test_set5_is_evaluated(cli: Callable[..., Outcome], tmp_path: Path, make_photographs: Callable[..., Path]) -> None:
    root = make_photographs(count=5, height=33, width=30)
    outcome = cli("task=evaluate", "model=bicubic", "data=set5", f"data.root={root}", "trainer.accelerator=cpu")
    assert outcome.status == 0, outcome.err
    assert "set5, test split, 5 images, x4" in outcome.out


def test_bsds500_downloads_and_never_trains_on_val(site: str, tmp_path: Path) -> None:
    root = tmp_path / "data" / "BSDS500"
    source = Bsds500(str(root), base_url=site)
    source.prepare()
    assert sorted(p.name for p in root.iterdir()) == ["test", "train", "val"]  # neither segmentations nor code
    assert [p.name for p in root.parent.iterdir() if p.suffix != ".lock"] == ["BSDS500"]
    parts = {split: source.files(split) for split in ("train", "val", "test")}
    assert {p.parent.name for p in parts["test"]} == {"val"}
    assert {p.parent.name for p in parts["train"] + parts["val"]} == {"train", "test"}
    assert (len(parts["train"]), len(parts["val"]), len(parts["test"])) == (38, 2, 3)
    assert len({*parts["train"], *parts["val"]}) == 40
    assert parts["test"][0].read_text() == "val 0"
    Bsds500(str(root), base_url=NOWHERE).prepare()


def test_bsds500_refuses_val_for_training(site: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found val, which is BSD100 and contains BSD68"):
        Bsds500(str(tmp_path / "data"), parts=["train", "val"], test_part="test", base_url=site).prepare()
    with pytest.raises(InputError, match="expected different folders"):
        Bsds500(str(tmp_path / "data"), test_part="test", base_url=site).prepare()
    assert not (tmp_path / "data").exists()


def test_bsds500_copy_without_val(site: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        touch(tmp_path / "copy" / "BSDS500" / "data" / "images" / part, COUNTS[part])
    with pytest.raises(InputError, match="val: not found, expected 3 images"):
        Bsds500(str(tmp_path / "copy"), base_url=NOWHERE).prepare()
    source = Bsds500(str(tmp_path / "copy"), parts=["train"], test_part="test", base_url=NOWHERE)
    source.prepare()
    assert {p.parent.name for p in source.files("train")} == {"train"}
    (tmp_path / "copy" / "BSDS500" / "data" / "images" / "train" / "000.png").unlink()
    with pytest.raises(InputError, match="train: 19 images, expected 20"):
        source.prepare()


def test_bsd100_is_val_of_bsds500(site: str, tmp_path: Path) -> None:
    source = Bsd100(str(tmp_path / "BSDS500" / "val"), base_url=site)
    source.prepare()
    assert [p.read_text() for p in source.files("test")] == ["val 0", "val 1", "val 2"]
    own = Bsd100(str(touch(tmp_path / "BSD100", 3)), base_url=NOWHERE)
    own.prepare()
    with pytest.raises(InputError, match="bsd100 is a test set"):
        own.files("train")


def test_tar_drops_the_levels_above(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tgz", {"x/y/1.png": b"1", "x/z/2.png": b"2"})
    unpack_tar(packed, tmp_path / "out", inside="x/y")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")] == ["1.png"]
    with pytest.raises(InputError, match="exists already"):
        unpack_tar(packed, tmp_path / "out")
    with pytest.raises(InputError, match="holds nothing under w"):
        unpack_tar(packed, tmp_path / "other", inside="w")


@pytest.mark.parametrize("name", ["x/../../evil", "/evil"])
def test_tar_that_leads_outside(tmp_path: Path, name: str) -> None:
    packed = archive(tmp_path / "a.tgz", {"x/1.png": b"1", name: b"evil"})
    with pytest.raises(InputError, match="has a path outside of the folder") as error:
        unpack_tar(packed, tmp_path / "deep" / "out", inside="x" if name.startswith("x") else "")
    assert "do not trust" in str(error.value)
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "deep" / "out").exists()


def test_tar_with_a_link(tmp_path: Path) -> None:
    link = tarfile.TarInfo("x/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(InputError, match="'x/link' is a link or a special file"):
        unpack_tar(archive(tmp_path / "a.tgz", {"x/1.png": b"1"}, link), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "none at all"])
def test_damaged_tar(tmp_path: Path, damage: str) -> None:
    noise = np.random.default_rng(0).bytes(50_000)
    packed = archive(tmp_path / "a.tgz", {"x/1.png": noise})
    content = bytearray(packed.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
    else:
        content = bytearray(b"<html>login</html>")
    packed.write_bytes(content)
    with pytest.raises(InputError, match="expected a complete tar archive"):
        unpack_tar(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.unpacking").exists()
