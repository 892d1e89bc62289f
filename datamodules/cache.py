"""The decoded image cache: every photograph as uint8 RGB in one memory-mapped file, decoded once."""

import json
import logging
import multiprocessing.context
import os
from collections.abc import Sequence
from itertools import accumulate
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from datamodules.cache_build import DATA, INDEX, MOST_THREADS, OnCorrupt, cache_key, cores, image_names, make, summary
from datamodules.errors import InputError, folder_vanished

log = logging.getLogger(__name__)


def _load(folder: Path) -> "ImageCache | None":
    """The cache in `folder`; None if it is absent or damaged."""
    try:
        return _read(folder, ((folder / INDEX).open("rb"), (folder / DATA).open("rb")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(folder: Path, files: tuple[BinaryIO, BinaryIO]) -> "ImageCache | None":
    """The cache whose files are open; None if they are damaged."""
    try:
        descriptor = files[0].fileno()
        # Without moving the position, which processes share that have inherited the open file.
        index = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        shapes = [(height, width) for height, width in index["shapes"]]
        *offsets, total = accumulate((3 * height * width for height, width in shapes), initial=0)
        if os.fstat(files[1].fileno()).st_size != total:
            return None
        skipped = [(Path(file), cause) for file, cause in index["skipped"]]
        paths = [Path(file) for file in index["files"]]
        return ImageCache(folder, files, index["names"], paths, shapes, offsets, skipped)
    except (ValueError, KeyError, TypeError):
        return None


class ImageCache:
    """Decoded images in one file, which all processes of a machine map, so that they share the memory.

    Attributes:
        names: unique per image, see `image_names`.
        files: absolute paths of the image files.
        shapes: (H, W) of each image, pixels.
        skipped: unreadable files and the causes; empty with `on_corrupt="error"`.

    `cache[i]` is a read-only uint8 view [H, W, 3], RGB, 0 to 255, exactly `decode_rgb8(files[i])`; the operating system
    loads what is touched. Its files stay open, so that everything goes on when they are deleted: a process that is
    started with a cache inherits them. What is pickled besides is which images are meant.
    """

    def __init__(
        self,
        folder: Path,
        opened: tuple[BinaryIO, BinaryIO],
        names: list[str],
        files: list[Path],
        shapes: list[tuple[int, int]],
        offsets: list[int],
        skipped: list[tuple[Path, str]],
    ) -> None:
        """Describes the finished cache in `folder`, image i starting at byte `offsets[i]`. Use `ImageCache.build`."""
        self._opened = opened
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
        folder = Path(os.path.abspath(cache_dir)) / cache_key(files, on_corrupt)
        try:
            cache = _load(folder)
            if cache is None:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(folder.with_suffix(".lock")):
                    cache = _load(folder)  # another process may have built it while this one waited
                    if cache is None:
                        make(files, folder, on_corrupt, workers or min(cores(), MOST_THREADS), progress)
                        cache = _load(folder)
        except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
            reason = getattr(error, "strerror", None) or str(error)
            message = f"{cache_dir}: cannot hold the decoded images ({reason}), expected a folder that can be written"
            raise InputError(f"{message}: set data.cache_dir to one") from error
        if cache is None:
            raise InputError(f"{folder}: was deleted or changed while it was built: run again")
        cache._open()
        if cache.skipped:
            log.warning("%d of %d images are skipped: %s", len(cache.skipped), len(files), summary(cache.skipped, 10))
        return cache

    def subset(self, indices: Sequence[int]) -> "ImageCache":
        """The images at `indices`, in that order, from the same file; `skipped` stays."""
        part = ImageCache(
            self.folder,
            self._opened,
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
            self._data = np.asarray(np.memmap(self._opened[1], dtype=np.uint8, mode="r"))
        return self._data

    def __getstate__(self) -> dict[str, Any]:
        inherits = multiprocessing.context.get_spawning_popen() is not None
        return {
            "folder": self.folder,
            "opened": tuple(DupFd(file.fileno()) for file in self._opened) if inherits else None,
            "chosen": self._chosen,
            "named_like": self._named_like,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder, opened = state["folder"], state["opened"]
        files = tuple(os.fdopen(file.detach(), "rb") for file in opened) if opened else None
        whole = _read(folder, files) if files else _load(folder)  # type: ignore[arg-type]  # two of them
        if whole is None:
            raise folder_vanished(folder)
        self.__dict__ |= whole.subset(state["chosen"]).__dict__
        if state["named_like"] is not None:
            self.name_like(state["named_like"])
