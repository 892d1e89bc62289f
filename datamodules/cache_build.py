"""Decodes photographs into the folder of a cache (`datamodules.cache`): complete, or not at all."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.io.decode import decode_rgb8, decoded_bytes, is_gray

FORMAT_VERSION = 1
INDEX, DATA = "index.json", "images.u8"
PLACE = "images"  # in the folder of the user, where everything else is theirs
KEY = re.compile("[0-9a-f]{32}")
MOST_THREADS = 16  # each holds up to two images of any size
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

OnCorrupt = Literal["error", "skip"]
T = TypeVar("T")


def image_names(files: Sequence[Path]) -> list[str]:
    """One unique name per file, for keys and file names of results.

    The stem (`0001` of `a/0001.png`); if two stems are equal, for all files the POSIX path relative to the common
    parent without suffix (`a/0001`); if two of those are equal too, with suffix (`a/0001.png`).

    Raises:
        InputError: a file is listed twice.
    """
    paths = [Path(os.path.abspath(file)) for file in files]
    parent = os.path.commonpath([path.parent for path in paths]) if paths else ""
    relative = [path.relative_to(parent) for path in paths]
    for names in (
        [path.stem for path in paths],
        [path.with_suffix("").as_posix() for path in relative],
        [path.as_posix() for path in relative],
    ):
        if len(set(names)) == len(names):
            return names
    twice = next(path for path in paths if paths.count(path) > 1)
    raise InputError(f"{twice}: listed twice among {len(paths)} images, expected each once: remove one entry")


def cache_key(files: Sequence[Path], on_corrupt: OnCorrupt) -> str:
    """Changes with the format and with the order, path, size or time of change of any file."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, on_corrupt]).encode())
    for file in files:
        try:
            status = os.stat(file)
            state = [status.st_size, status.st_mtime_ns]
        except OSError:
            state = []  # a dangling link or a file deleted since the listing: decoding reports it
        digest.update(json.dumps([os.path.abspath(file), *state]).encode())
    return digest.hexdigest()[:32]


def _attempt(read: Callable[[Path], T], path: Path) -> T | InputError:
    try:
        return read(path)
    except InputError as error:
        return error


def _decode(path: Path) -> tuple[np.ndarray, str]:
    """An image, and a hash of its pixels and size by which copies are found, whatever the format of their files."""
    image = decode_rgb8(path)
    return image, hashlib.blake2b(image.data, digest_size=16, person=b"%dx%d" % image.shape[:2]).hexdigest()


def _decode_in_order(files: Sequence[Path], workers: int) -> Iterator[tuple[np.ndarray, str] | InputError]:
    """Decodes in threads, two images a thread at a time, so memory stays bounded.

    Threads, because Pillow releases the interpreter lock while it decodes: as fast as processes on PNG, faster on small
    JPEG files, where processes spend their time on sending the pixels back. A ThreadPool, because nothing waits for its
    threads at a signal: one may stand in a read that never ends.
    """
    with ThreadPool(workers) as pool:
        for start in range(0, len(files), 2 * workers):
            yield from pool.imap(partial(_attempt, _decode), files[start : start + 2 * workers])


def summary(corrupt: Sequence[tuple[Path, str]], shown: int) -> str:
    text = "; ".join(f"{file}: {cause}" for file, cause in corrupt[:shown])
    return text + (f"; and {len(corrupt) - shown} more" if len(corrupt) > shown else "")


def _disk_error(needed: int, cache_dir: Path) -> InputError:
    free = shutil.disk_usage(cache_dir).free
    return InputError(
        f"{cache_dir}: disk is too small for the decoded images, {needed} bytes ({needed / 1e9:.1f} GB) needed, "
        f"{free} bytes ({free / 1e9:.1f} GB) free: make room, or set data.cache_dir to a folder on a larger disk"
    )


def _write(
    files: Sequence[Path], folder: Path, needed: int, on_corrupt: OnCorrupt, workers: int, progress: bool
) -> None:
    """Decodes `files` into the existing, empty `folder`."""
    kept: list[int] = []
    shapes: list[tuple[int, int]] = []
    hashes: list[str] = []
    gray: list[bool] = []
    corrupt: list[tuple[Path, str]] = []
    bar = tqdm(total=len(files), desc=f"decode images ({needed / 1e9:.2f} GB)", unit="img", disable=not progress)
    with (folder / DATA).open("wb") as stream, bar:
        for number, decoded in enumerate(_decode_in_order(files, workers)):
            if isinstance(decoded, InputError):
                corrupt.append((files[number], str(decoded).removeprefix(f"{files[number]}: ")))
            elif on_corrupt == "skip" or not corrupt:  # after an error only the list of corrupt files is of interest
                # Written rather than assigned to a writable map, where a full disk kills the process.
                image, digest = decoded
                stream.write(image.data)
                kept.append(number)
                hashes.append(digest)
                shapes.append((image.shape[0], image.shape[1]))
                gray.append(is_gray(files[number]))
            bar.update()
        stream.flush()
        os.fsync(stream.fileno())  # the rename must not outlive the pixels in a power failure
    if corrupt and (on_corrupt == "error" or not kept):
        hint = "repair or remove them" + (", or set data.on_corrupt=skip to go on without" if kept else "")
        raise InputError(f"{len(corrupt)} of {len(files)} images are unreadable: {summary(corrupt, 3)}: {hint}")
    names = image_names(files)
    index = {
        "names": [names[number] for number in kept],
        "files": [os.path.abspath(files[number]) for number in kept],
        "shapes": shapes,
        "hashes": hashes,
        "gray": gray,
        "skipped": [(os.path.abspath(file), cause) for file, cause in corrupt],
    }
    (folder / INDEX).write_text(json.dumps(index))


def _remove(folder: Path) -> None:
    """Deletes a folder that a build has made; whatever else is in it stays, and the folder with it."""
    for name in (INDEX, DATA):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _remove_strays(place: Path, own_key: str) -> None:
    """Deletes what killed builds left, of these or other files; a build that still runs holds its lock."""
    for stray in place.glob("*.tmp"):
        if stray.stem == own_key:
            _remove(stray)
        elif KEY.fullmatch(stray.stem):
            with suppress(Timeout), FileLock(stray.with_suffix(".lock"), timeout=0):
                _remove(stray)


def make(files: Sequence[Path], folder: Path, on_corrupt: OnCorrupt, workers: int, progress: bool) -> None:
    """Makes `folder` appear complete, or not at all and nothing else either. The caller holds its lock."""
    cache_dir, temporary = folder.parent, folder.with_suffix(".tmp")
    _remove_strays(cache_dir, own_key=folder.name)
    with ThreadPool(workers) as pool:
        sizes = pool.map(partial(_attempt, decoded_bytes), files, chunksize=1)
        needed = sum(size for size in sizes if isinstance(size, int))  # decoding reports the others
    if needed > shutil.disk_usage(cache_dir).free:
        raise _disk_error(needed, cache_dir)
    temporary.mkdir()
    try:
        _write(files, temporary, needed, on_corrupt, workers, progress)
        _remove(folder)  # exists only if its content was found damaged
        temporary.rename(folder)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise _disk_error(needed, cache_dir) from error
        raise


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
