"""DIV2K from tiny archives on a real loopback server and from existing copies; archives that are refused."""

import hashlib
import io
import random
import shutil
import stat
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules.errors import InputError
from datamodules.io.unpack import unpack_zip
from datamodules.sources import div2k
from datamodules.sources.div2k import Div2k

NOWHERE = "http://127.0.0.1:1"  # nothing listens there: whoever asks fails
NOISE = random.Random(0).randbytes(500_000)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a server with both archives, complete in number, each image a few bytes."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name, numbers in div2k.IMAGES.items():
        archive = folder / f"{name}.zip"
        with zipfile.ZipFile(archive, "w") as members:
            members.mkdir(name)
            for number in numbers:
                members.writestr(f"{name}/{number:04d}.png", f"image {number}")
        content = archive.read_bytes()
        monkeypatch.setitem(div2k.ARCHIVES, name, (len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """An existing complete copy."""
    for name, numbers in div2k.IMAGES.items():
        (tmp_path / name).mkdir()
        for number in numbers:
            (tmp_path / name / f"{number:04d}.png").touch()
    return tmp_path


def test_published_archives() -> None:
    assert div2k.ARCHIVES == {
        "DIV2K_train_HR": (3530603713, "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
        "DIV2K_valid_HR": (448993893, "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"),
    }


def test_downloads_unpacks_and_cleans_up(site: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    source = Div2k(str(root), base_url=site)
    source.prepare()
    assert source.files("train")[0] == root / "DIV2K_train_HR" / "0001.png"
    assert source.files("test")[-1].read_text() == "image 900"
    assert sorted(path.name for path in root.iterdir() if path.suffix != ".lock") == [
        "DIV2K_train_HR",
        "DIV2K_valid_HR",
    ]
    Div2k(str(root), base_url=NOWHERE).prepare()


def test_continues_from_an_archive_put_there_by_hand(site: str, tmp_path: Path) -> None:
    for name in div2k.ARCHIVES:
        (tmp_path / f"{name}.zip").write_bytes((tmp_path / "site" / f"{name}.zip").read_bytes())
    Div2k(str(tmp_path), base_url=NOWHERE).prepare()
    assert not (tmp_path / "DIV2K_train_HR.zip").exists()


def test_two_at_once(site: str, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def prepare() -> None:
        try:
            Div2k(str(tmp_path / "data"), base_url=site).prepare()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_existing_copy_is_used_without_network_or_writing(copy: Path) -> None:
    before = sorted(copy.rglob("*"))
    source = Div2k(str(copy), base_url=NOWHERE)
    source.prepare()
    assert all(path.is_file() for path in source.files("train"))
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("download", [True, False])
def test_incomplete_copy(copy: Path, download: bool) -> None:
    folder = copy / "DIV2K_train_HR"
    for number in (17, 18, 800):
        (folder / f"{number:04d}.png").unlink()
    source = Div2k(str(copy), download=download, base_url=NOWHERE)
    for call in (source.prepare, lambda: source.files("train")):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == (
            f"{folder / '0017.png'}: not found, 3 of 800 images are missing, expected 0001.png to 0800.png:"
            f" complete the folder, or delete {folder} and turn download on"
        )


def test_absent_without_download(tmp_path: Path) -> None:
    source = Div2k(str(tmp_path / "data"), download=False)
    with pytest.raises(InputError, match=r"DIV2K_train_HR: not found, expected 0001.png .* turn download on"):
        source.prepare()
    with pytest.raises(InputError, match="DIV2K_valid_HR: not found"):
        source.files("test")
    assert not (tmp_path / "data").exists()


def test_splits(copy: Path) -> None:
    source = Div2k(str(copy))
    names = {split: [path.name for path in source.files(split)] for split in ("train", "val", "test")}
    assert [len(names[split]) for split in ("train", "val", "test")] == [790, 10, 100]
    assert names["train"] + names["val"] + names["test"] == [f"{number:04d}.png" for number in range(1, 901)]


def make_zip(members: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def make_link(name: str, kind: int) -> zipfile.ZipInfo:
    link = zipfile.ZipInfo(name)
    link.create_system = 3  # Unix, so that the mode counts
    link.external_attr = (kind | 0o777) << 16
    return link


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("members", "unpacked"),
    [
        (["1.png", "deep/2.png"], ["1.png", "deep/2.png"]),
        (["images/1.png", "images/deep/2.png"], ["1.png", "deep/2.png"]),
        (["images/1.png", "2.png"], ["2.png", "images/1.png"]),
        (["other/1.png"], ["other/1.png"]),
    ],
)
def test_unpack(tmp_path: Path, members: list[str], unpacked: list[str]) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip({name: Path(name).name.encode() for name in members}))
    unpack_zip(tmp_path / "a.zip", tmp_path / "images")
    assert contents(tmp_path / "images") == {name: Path(name).name.encode() for name in unpacked}
    assert not (tmp_path / "images.unpacking").exists()


def test_unpack_after_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / "images.unpacking").mkdir()
    (tmp_path / "images.unpacking" / "stale").touch()
    (tmp_path / "a.zip").write_bytes(make_zip({"1.png": b"one"}))
    unpack_zip(tmp_path / "a.zip", tmp_path / "images")
    assert contents(tmp_path / "images") == {"1.png": b"one"}


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ("../evil", "outside"),
        ("a/../../evil", "outside"),
        ("/tmp/evil", "outside"),
        ("..\\evil", "outside"),
        ("\\evil", "outside"),
        ("C:\\evil", "outside"),
        ("c:evil", "outside"),
        (make_link("evil", stat.S_IFLNK), "is a link"),
        (make_link("evil", stat.S_IFIFO), "special file"),
    ],
)
def test_unsafe_members_are_refused(tmp_path: Path, member: str | zipfile.ZipInfo, problem: str) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip({"good.png": b"x", member: b"/etc/passwd"}))
    with pytest.raises(InputError, match=problem) as error:
        unpack_zip(tmp_path / "a.zip", tmp_path / "deep" / "images")
    assert str(tmp_path / "a.zip") in str(error.value)
    written = [path.name for path in tmp_path.rglob("*") if path.suffix not in (".zip", ".lock")]
    assert written == ["deep"]


def test_all_images_train_and_others_validate(copy: Path) -> None:
    source = Div2k(str(copy), download=False, train_on_all=True)
    assert [path.name for path in source.files("train")] == [f"{i:04d}.png" for i in range(1, 801)]
    assert source.files("test") == Div2k(str(copy), download=False).files("test")
    assert [path.name for path in source.files("val")] == ["camera.png", "chelsea.png", "astronaut.png", "coffee.png"]


@pytest.mark.parametrize("damage", ["cut", "no zip", "empty", "flipped", "cut inside"])
def test_damaged_archives(tmp_path: Path, damage: str) -> None:
    good = make_zip({"1.png": NOISE, "2.png": NOISE})
    archive = tmp_path / "a.zip"
    archive.write_bytes(
        {
            "cut": good[: -len(NOISE) // 2],
            "no zip": NOISE,
            "empty": b"",
            "flipped": good[: len(NOISE) // 2] + bytes(8) + good[len(NOISE) // 2 + 8 :],
            "cut inside": good[: len(NOISE) // 2] + good[len(NOISE) // 2 + 1000 :],
        }[damage]
    )
    with pytest.raises(InputError, match="delete it and download it again") as error:
        unpack_zip(archive, tmp_path / "images")
    assert str(archive) in str(error.value)
    assert not list(tmp_path.glob("images*[!k]"))  # all but images.lock


def test_absent_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.zip: not found"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "images")


def test_unpack_never_mixes_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip({"1.png": b"new"}))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="move or delete it"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "images")
    assert contents(tmp_path / "images") == {"1.png": b"mine"}


def test_unpack_checks_space_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip({"1.png": NOISE, "2.png": NOISE}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=900_000))
    with pytest.raises(InputError, match=r"unpacking .*a\.zip: needs 1\.00MB .*found 900kB free"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "images")
    assert not list(tmp_path.glob("images*[!k]"))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
