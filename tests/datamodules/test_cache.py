import errno
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import cache_build
from datamodules.cache import ImageCache
from datamodules.cache_build import image_names
from datamodules.errors import InputError
from datamodules.io.decode import decode_rgb8

REPOSITORY = Path(__file__).parents[2]
SIZES = [(1, 1), (7, 5), (31, 64), (50, 3), (33, 33)]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    files = [folder / f"{i}.{'jpg' if i == 2 else 'png'}" for i in range(len(SIZES))]
    for file, size in zip(files, SIZES, strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(file)
    return files


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files decoded so far."""
    seen: list[Path] = []

    def counting(path: Path) -> np.ndarray:
        seen.append(path)
        return decode_rgb8(path)

    monkeypatch.setattr(cache_build, "decode_rgb8", counting)
    return seen


def build(files: list[Path], cache_dir: Path, **options: Any) -> ImageCache:
    return ImageCache.build(files, cache_dir, progress=False, **options)


def assert_equals_files(cache: ImageCache, files: list[Path]) -> None:
    assert len(cache) == len(cache.names) == len(cache.shapes) == len(files)
    assert cache.files == files
    for i, file in enumerate(files):
        np.testing.assert_array_equal(cache[i], decode_rgb8(file), strict=True)


def entries(cache_dir: Path) -> list[str]:
    place = cache_dir / "images"
    return sorted(path.name for path in place.iterdir() if path.is_dir()) if place.exists() else []


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_cache_equals_decoding(photos: list[Path], tmp_path: Path, workers: int | None) -> None:
    order = [*photos[2:], *photos[:2]]
    cache = build(order, tmp_path / "new/cache", workers=workers)
    assert_equals_files(cache, order)
    assert cache.shapes == SIZES[2:] + SIZES[:2]
    assert (cache.names, cache.skipped) == (["2", "3", "4", "0", "1"], [])
    np.testing.assert_array_equal(cache[-1], cache[4])
    with pytest.raises(IndexError):
        cache[5]


def test_images_are_read_only_views_of_one_file(photos: list[Path], tmp_path: Path) -> None:
    cache = build(photos, tmp_path / "cache")
    with pytest.raises(ValueError, match="read-only"):
        cache[2][0, 0, 0] = 1
    [folder] = entries(tmp_path / "cache")
    size = (tmp_path / "cache" / "images" / folder / "images.u8").stat().st_size
    assert size == sum(3 * height * width for height, width in SIZES)


def test_second_build_decodes_nothing(photos: list[Path], tmp_path: Path, decodes: list[Path]) -> None:
    build(photos, tmp_path / "cache")
    assert sorted(decodes) == photos
    assert_equals_files(build(photos, tmp_path / "cache"), photos)
    assert len(decodes) == len(photos)


@pytest.mark.parametrize("change", ["time", "size", "order", "fewer", "on_corrupt", "version"])
def test_any_change_rebuilds(
    photos: list[Path], tmp_path: Path, decodes: list[Path], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(photos, tmp_path / "cache")
    decodes.clear()
    time = photos[1].stat().st_mtime_ns
    if change == "size":
        photos[1].write_bytes(photos[1].read_bytes() + b"\0")
    os.utime(photos[1], ns=(time, time + 1000 * (change == "time")))
    monkeypatch.setattr(cache_build, "FORMAT_VERSION", 0 if change == "version" else 1)
    files = {"order": photos[::-1], "fewer": photos[1:]}.get(change, photos)
    cache = build(files, tmp_path / "cache", on_corrupt="skip" if change == "on_corrupt" else "error")
    assert_equals_files(cache, files)
    assert sorted(decodes) == sorted(files)
    assert len(entries(tmp_path / "cache")) == 2


@pytest.mark.parametrize("damaged", ["images.u8", "index.json"])
def test_damaged_cache_is_rebuilt(photos: list[Path], tmp_path: Path, damaged: str) -> None:
    build(photos, tmp_path / "cache")
    [file] = (tmp_path / "cache").glob(f"images/*/{damaged}")
    file.write_bytes(file.read_bytes()[:-1])
    assert_equals_files(build(photos, tmp_path / "cache"), photos)
    assert len(entries(tmp_path / "cache")) == 1


def test_gray_files_are_written_down(photos: list[Path], tmp_path: Path, decodes: list[Path]) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(photos[1])
    assert build(photos, tmp_path / "cache").gray == [False, True, False, False, False]
    assert build(photos, tmp_path / "cache").subset([1, 3]).gray == [True, False]
    # The cache of a version that did not is made again, in its place.
    [index] = (tmp_path / "cache").glob("images/*/index.json")
    index.write_text(
        json.dumps({name: value for name, value in json.loads(index.read_text()).items() if name != "gray"})
    )
    decodes.clear()
    assert build(photos, tmp_path / "cache").gray == [False, True, False, False, False]
    assert len(decodes) == len(photos)
    assert len(entries(tmp_path / "cache")) == 1


def test_pickle_holds_no_pixels(photos: list[Path], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((500, 500, 3), np.uint8)).save(photos[0])
    cache = build(photos, tmp_path / "cache")
    assert cache[0].sum() == 0  # the file is mapped before pickling
    data = pickle.dumps(cache)
    assert len(data) < 50_000
    assert_equals_files(pickle.loads(data), photos)


def test_subset(photos: list[Path], tmp_path: Path) -> None:
    subset = build(photos, tmp_path / "cache").subset([3, 1])
    assert_equals_files(subset, [photos[3], photos[1]])
    assert subset.names == ["3", "1"]
    assert subset.shapes == [SIZES[3], SIZES[1]]


def test_names_and_refused_lists() -> None:
    assert image_names([Path("/d/a/1.png"), Path("/d/b/2.x.jpg")]) == ["1", "2.x"]
    assert image_names([Path("/d/a/1.png"), Path("/d/b/1.png"), Path("/d/2.png")]) == ["a/1", "b/1", "2"]
    assert image_names([Path("/d/1.png"), Path("/d/1.jpg")]) == ["1.png", "1.jpg"]
    with pytest.raises(InputError, match=r"/d/1\.png: listed twice among 3 images"):
        image_names([Path("/d/1.png"), Path("/d/2.png"), Path("/d/1.png")])
    with pytest.raises(InputError, match="no images to decode"):
        build([], Path("/d"))


def test_corrupt_images_are_one_error(photos: list[Path], tmp_path: Path) -> None:
    for file in photos[1:]:
        file.write_bytes(file.read_bytes()[:50])
    photos[4].unlink()
    with pytest.raises(InputError) as caught:
        build(photos, tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith("4 of 5 images are unreadable: ")
    assert [message.count(str(file)) for file in photos] == [0, 1, 1, 1, 0]
    assert [part in message for part in ("and 1 more", "data.on_corrupt=skip", "\n")] == [True, True, False]
    assert entries(tmp_path / "cache") == []


def test_corrupt_images_are_skipped(photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos[1].write_bytes(b"text")
    photos[4].write_bytes(b"")
    good = [photos[0], photos[2], photos[3]]
    for _ in range(2):  # built, then found
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            cache = build(photos, tmp_path / "cache", on_corrupt="skip")
        assert_equals_files(cache, good)
        assert cache.names == ["0", "2", "3"]
        assert [file for file, _ in cache.skipped] == [photos[1], photos[4]]
        assert cache.skipped[1][1].startswith("is empty")
        [message] = [record.getMessage() for record in caplog.records]
        assert all(part in message for part in ("2 of 5 images are skipped", str(photos[1]), str(photos[4])))


def test_all_corrupt_is_an_error_even_with_skip(photos: list[Path], tmp_path: Path) -> None:
    for file in photos:
        file.write_bytes(b"text")
    with pytest.raises(InputError, match="5 of 5 images are unreadable") as caught:
        build(photos, tmp_path / "cache", on_corrupt="skip")
    assert "on_corrupt=skip" not in str(caught.value)  # would not help
    assert entries(tmp_path / "cache") == []


def test_unwritable_cache_dir(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache_dir in (tmp_path / "file", tmp_path / "file/cache"):
        with pytest.raises(InputError, match=r"file.*cannot hold the decoded images \(.+\).*data\.cache_dir"):
            build(photos, cache_dir)


def test_finished_cache_needs_no_writing(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(photos, tmp_path / "cache")

    def refuse(*arguments: Any) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("datamodules.cache.FileLock", refuse)
    assert_equals_files(build(photos, tmp_path / "cache"), photos)
    with pytest.raises(InputError, match=r"Read-only file system.*data\.cache_dir"):
        build(photos[1:], tmp_path / "cache")


def test_too_little_disk_is_noticed_before_decoding(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodes: list[Path]
) -> None:
    needed = sum(3 * height * width for height, width in SIZES)
    monkeypatch.setattr(cache_build.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(InputError, match=rf"{needed} bytes .*needed, {needed - 1} bytes .*free.*data\.cache_dir"):
        build(photos, tmp_path / "cache")
    assert decodes == []
    assert entries(tmp_path / "cache") == []
    monkeypatch.setattr(cache_build.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    build(photos, tmp_path / "cache")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_error_while_writing_leaves_nothing(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache_build.os, "fsync", fail)
    expected = os.strerror(code) if code == errno.EIO else r"bytes .*needed, .* bytes .*free"
    with pytest.raises(InputError, match=rf"{expected}.*data\.cache_dir"):
        build(photos, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []
    monkeypatch.undo()
    assert_equals_files(build(photos, tmp_path / "cache"), photos)


CHILD = """
import signal, sys, time
from pathlib import Path
from datamodules import cache, cache_build
cache_dir, journal, stop_at, *files = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
decode = cache_build.decode_rgb8
def slow(path):
    with open(journal, "a") as stream:
        stream.write(path.name + " ")
    if path.name == stop_at:
        print("stopped", flush=True)
        time.sleep(60)
    return decode(path)
cache_build.decode_rgb8 = slow
images = cache.ImageCache.build([Path(file) for file in files], Path(cache_dir), workers=1, progress=False)
print(*[int(images[i].sum()) for i in range(len(images))])
"""


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a process that builds a cache, notes every decoding in a journal, and stops at an image if told so."""

    def start(files: list[Path], stop_at: str = "") -> subprocess.Popen[str]:
        arguments = [str(tmp_path / "cache"), str(tmp_path / "journal"), stop_at, *map(str, files)]
        command = [sys.executable, "-c", CHILD, *arguments]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)

    return start


def test_processes_started_together_build_once(
    photos: list[Path], tmp_path: Path, child: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [child(photos) for _ in range(4)]
    sums = " ".join(str(decode_rgb8(file).sum()) for file in photos)
    assert [process.communicate()[0].strip() for process in processes] == [sums] * 4
    assert sorted((tmp_path / "journal").read_text().split()) == [file.name for file in photos]
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.parametrize("changed", [False, True])
def test_kill_in_the_middle(
    photos: list[Path], tmp_path: Path, child: Callable[..., subprocess.Popen[str]], changed: bool
) -> None:
    with child(photos, stop_at=photos[3].name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        running = entries(tmp_path / "cache")
        # Another build does not take the folder away from the one that runs.
        build(photos[:1], tmp_path / "cache")
        assert set(running) < set(entries(tmp_path / "cache"))
        process.send_signal(signal.SIGKILL)
    assert running[0].endswith(".tmp")
    files = photos[1:] if changed else photos
    assert_equals_files(build(files, tmp_path / "cache"), files)
    assert len(entries(tmp_path / "cache")) == 2
    assert not [name for name in entries(tmp_path / "cache") if name.endswith(".tmp")]


def test_a_signal_ends_a_build_whose_file_is_never_read_to_its_end(
    photos: list[Path], tmp_path: Path, child: Callable[..., subprocess.Popen[str]]
) -> None:
    with child(photos, stop_at=photos[3].name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=20) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert entries(tmp_path / "cache") == []


def test_nothing_of_others_is_deleted(photos: list[Path], tmp_path: Path) -> None:
    """Whatever it is called; of a killed build only what builds write."""
    cache, dead = tmp_path / "cache", "0123456789abcdef" * 2
    theirs = [
        *("thesis.tmp/chapter/text.tex", "notes.tmp", f"{dead}.tmp/letter.txt", "images/thesis.tmp/text.tex"),
        *(f"images/{dead}.tmp/letter.txt", f"images/{dead[::-1]}.tmp/images.u8/letter.txt"),
    ]
    for name in theirs:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("precious")
    (cache / "images" / f"{dead}.tmp" / "images.u8").write_bytes(b"stray")
    (cache / "images" / f"{'a' * 32}.tmp").mkdir()
    build(photos, cache)
    assert all((cache / name).read_text() == "precious" for name in theirs)
    assert not (cache / "images" / f"{dead}.tmp" / "images.u8").exists()
    assert not (cache / "images" / f"{'a' * 32}.tmp").exists()
    assert not list(cache.glob("*.lock"))
    assert not (cache / "images" / "thesis.lock").exists()
    [made] = [path for path in (cache / "images").iterdir() if path.is_dir() and path.suffix != ".tmp"]
    (made / "letter.txt").write_text("precious")
    (made / "images.u8").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot hold the decoded images"):
        build(photos, cache)
    assert (made / "letter.txt").read_text() == "precious"


def test_progress_bar_only_while_building(
    photos: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ImageCache.build(photos, tmp_path / "cache")
    out, err = capfd.readouterr()
    assert (out, "decode images" in err) == ("", True)
    ImageCache.build(photos, tmp_path / "cache")
    assert capfd.readouterr() == ("", "")
