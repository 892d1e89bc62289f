"""The decoded image cache: every photograph as uint8 RGB in one memory-mapped file, decoded once."""

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from datamodules.errors import InputError, gone
from datamodules.images import decode_rgb8, decoded_bytes

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
INDEX, DATA = "index.json", "images.u8"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

OnCorrupt = Literal["error", "skip"]


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


def _cache_key(files: Sequence[Path], on_corrupt: OnCorrupt) -> str:
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


def _try_size(path: Path) -> int:
    try:
        return decoded_bytes(path)
    except InputError:
        return 0  # decoding reports it


def _try_decode(path: Path) -> np.ndarray | InputError:
    try:
        return decode_rgb8(path)
    except InputError as error:
        return error


def _decode_in_order(files: Sequence[Path], workers: int) -> Iterator[np.ndarray | InputError]:
    """Decodes in threads; few images are ahead of the consumer, so memory stays bounded.

    Threads, because Pillow releases the interpreter lock while it decodes: as fast as processes on PNG, faster on small
    JPEG files, where processes spend their time on sending the pixels back.
    """
    pending: deque[Future[np.ndarray | InputError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for file in files:
                pending.append(pool.submit(_try_decode, file))
                if len(pending) > workers + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _summary(corrupt: Sequence[tuple[Path, str]], shown: int) -> str:
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
    corrupt: list[tuple[Path, str]] = []
    bar = tqdm(total=len(files), desc=f"decode images ({needed / 1e9:.2f} GB)", unit="img", disable=not progress)
    with (folder / DATA).open("wb") as stream, bar:
        for number, image in enumerate(_decode_in_order(files, workers)):
            if isinstance(image, InputError):
                corrupt.append((files[number], str(image).removeprefix(f"{files[number]}: ")))
            elif on_corrupt == "skip" or not corrupt:  # after an error only the list of corrupt files is of interest
                # Written rather than assigned to a writable map, where a full disk kills the process.
                stream.write(image.data)
                kept.append(number)
                shapes.append((image.shape[0], image.shape[1]))
            bar.update()
        stream.flush()
        os.fsync(stream.fileno())  # the rename must not outlive the pixels in a power failure
    if corrupt and (on_corrupt == "error" or not kept):
        hint = "repair or remove them" + (", or set data.on_corrupt=skip to go on without" if kept else "")
        raise InputError(f"{len(corrupt)} of {len(files)} images are unreadable: {_summary(corrupt, 3)}: {hint}")
    names = image_names(files)
    index = {
        "names": [names[number] for number in kept],
        "files": [os.path.abspath(files[number]) for number in kept],
        "shapes": shapes,
        "skipped": [(os.path.abspath(file), cause) for file, cause in corrupt],
    }
    (folder / INDEX).write_text(json.dumps(index))


def _remove_strays(cache_dir: Path, own_key: str) -> None:
    """Deletes what killed builds left, of these or other files; a build that still runs holds its lock."""
    for stray in cache_dir.glob("*.tmp"):
        if stray.stem == own_key:
            shutil.rmtree(stray)
        else:
            with suppress(Timeout), FileLock(stray.with_suffix(".lock"), timeout=0):
                shutil.rmtree(stray, ignore_errors=True)


def _make(files: Sequence[Path], folder: Path, on_corrupt: OnCorrupt, workers: int, progress: bool) -> None:
    """Makes `folder` appear complete, or not at all and nothing else either. The caller holds its lock."""
    cache_dir, temporary = folder.parent, folder.with_suffix(".tmp")
    _remove_strays(cache_dir, own_key=folder.name)
    with ThreadPoolExecutor(workers) as pool:
        needed = sum(pool.map(_try_size, files))
    if needed > shutil.disk_usage(cache_dir).free:
        raise _disk_error(needed, cache_dir)
    temporary.mkdir()
    try:
        _write(files, temporary, needed, on_corrupt, workers, progress)
        shutil.rmtree(folder, ignore_errors=True)  # exists only if its content was found damaged
        temporary.rename(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise _disk_error(needed, cache_dir) from error
        raise


def _load(folder: Path) -> "ImageCache | None":
    """The cache in `folder`; None if it is absent or damaged."""
    try:
        index = json.loads((folder / INDEX).read_text())
        shapes = [(height, width) for height, width in index["shapes"]]
        *offsets, total = accumulate((3 * height * width for height, width in shapes), initial=0)
        if (folder / DATA).stat().st_size != total:
            return None
        skipped = [(Path(file), cause) for file, cause in index["skipped"]]
        return ImageCache(folder, index["names"], [Path(file) for file in index["files"]], shapes, offsets, skipped)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)  # every worker holds up to three images of any size


class ImageCache:
    """Decoded images in one file, which all processes of a machine map, so that they share the memory.

    Attributes:
        names: unique per image, see `image_names`.
        files: absolute paths of the image files.
        shapes: (H, W) of each image, pixels.
        skipped: unreadable files and the causes; empty with `on_corrupt="error"`.

    `cache[i]` is a read-only uint8 view [H, W, 3], RGB, 0 to 255, exactly `decode_rgb8(files[i])`; the operating system
    loads what is touched. The file stays open, so that a process reads on when it is deleted. What is pickled is the
    folder and, packed, which images of it are meant: workers read the index there.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        files: list[Path],
        shapes: list[tuple[int, int]],
        offsets: list[int],
        skipped: list[tuple[Path, str]],
    ) -> None:
        """Describes the finished cache in `folder`, image i starting at byte `offsets[i]`. Use `ImageCache.build`."""
        self.folder, self.names, self.files, self.shapes, self.skipped = folder, names, files, shapes, skipped
        self._offsets = offsets
        self._chosen: Sequence[int] = range(len(shapes))  # numbers in the folder's index
        self._named_like: ImageCache | None = None
        self._data: np.ndarray | None = None

    @classmethod
    def build(
        cls,
        files: Sequence[Path],
        cache_dir: Path,
        *,
        on_corrupt: OnCorrupt = "error",
        workers: int | None = None,
        progress: bool = True,
    ) -> "ImageCache":
        """Opens the cache of `files`; decodes them first unless that was done before.

        The cache is a folder in `cache_dir` named after a hash of the files' paths, sizes and times of change. Changes
        lead to a new folder; the old one stays until it is deleted by hand. A folder appears complete or not at all,
        and of several processes that ask for it one builds it while the others wait.

        Args:
            files: images, in the order of the cache.
            cache_dir: created if need be; takes 3 bytes a pixel.
            on_corrupt: "error" raises one error for all unreadable images; "skip" leaves them out and logs a warning.
            workers: decoding threads; None: one per core, at most 16.
            progress: whether to show a bar on stderr while decoding.

        Raises:
            InputError: `files` is empty or lists a file twice; images are unreadable (with "skip": all of them); the
                disk has too little room; `cache_dir` cannot be written.
        """
        if not files:
            raise InputError("no images to decode, expected at least 1: check the source of the data")
        image_names(files)  # refuses a list with duplicates before the long work
        folder = Path(os.path.abspath(cache_dir)) / _cache_key(files, on_corrupt)
        try:
            cache = _load(folder)
            if cache is None:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(folder.with_suffix(".lock")):
                    cache = _load(folder)  # another process may have built it while this one waited
                    if cache is None:
                        _make(files, folder, on_corrupt, workers or _default_workers(), progress)
                        cache = _load(folder)
        except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
            reason = getattr(error, "strerror", None) or str(error)
            message = f"{cache_dir}: cannot hold the decoded images ({reason}), expected a folder that can be written"
            raise InputError(f"{message}: set data.cache_dir to one") from error
        if cache is None:
            raise InputError(f"{folder}: was deleted or changed while it was built: run again")
        cache._open()
        if cache.skipped:
            log.warning("%d of %d images are skipped: %s", len(cache.skipped), len(files), _summary(cache.skipped, 10))
        return cache

    def subset(self, indices: Sequence[int]) -> "ImageCache":
        """The images at `indices`, in that order, from the same file; `skipped` stays."""
        part = ImageCache(
            self.folder,
            [self.names[i] for i in indices],
            [self.files[i] for i in indices],
            [self.shapes[i] for i in indices],
            [self._offsets[i] for i in indices],
            self.skipped,
        )
        part._chosen = [self._chosen[i] for i in indices]
        return part

    def name_like(self, other: "ImageCache") -> None:
        """Take the names of another cache, image by image."""
        self._named_like, self.names = other, other.names

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], read-only. Raises IndexError beyond the last image."""
        data = self._open()
        height, width = self.shapes[index]
        start = self._offsets[index]
        return data[start : start + 3 * height * width].reshape(height, width, 3)

    def _open(self) -> np.ndarray:
        if self._data is None:
            try:
                self._data = np.asarray(np.memmap(self.folder / DATA, dtype=np.uint8, mode="r"))
            except FileNotFoundError as error:
                raise gone(self.folder) from error
        return self._data

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "chosen": pack(self._chosen), "named_like": self._named_like}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self._data = state["folder"], None
        chosen = unpack(state["chosen"])
        whole = _load(self.folder)
        # A folder that is gone by now is reported by the first access, which a loader knows how to pass on.
        self.__dict__ |= whole.subset(chosen).__dict__ if whole else {"names": [], "shapes": [], "_chosen": chosen}
        if state["named_like"] is not None:
            self.name_like(state["named_like"])


def pack(numbers: Sequence[int]) -> bytes:
    """Numbers of images in few bytes, as they travel to workers: a million in order take one kilobyte."""
    return zlib.compress(np.diff(np.asarray(numbers, np.int32), prepend=np.int32(0)).tobytes())


def unpack(packed: bytes) -> list[int]:
    """What `pack` was given."""
    return np.cumsum(np.frombuffer(zlib.decompress(packed), np.int32)).tolist()
