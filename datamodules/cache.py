"""The decoded image cache: every photograph as uint8 RGB in one memory-mapped file, decoded once."""

import json
import logging
import multiprocessing.context
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from datamodules.cache_build import (
    DATA,
    INDEX,
    MOST_THREADS,
    PLACE,
    OnCorrupt,
    cache_key,
    cores,
    image_names,
    make,
    summary,
)
from datamodules.errors import InputError, folder_vanished

log = logging.getLogger(__name__)


@dataclass(eq=False)
class ImageCache:
    """Decoded images in one file, which all processes of a machine map, so that they share the memory.

    Attributes:
        folder: of the cache.
        names: unique per image, see `image_names`.
        files: absolute paths of the image files.
        shapes: (H, W) of each image, pixels.
        hashes: of the pixels: equal for equal images.
        gray: whether the file of each image stores one channel (`io.decode.is_gray`).
        offsets: where each image starts in the file of the pixels, bytes.
        skipped: unreadable files and the causes; empty with `on_corrupt="error"`.
        stream: the file of the pixels.

    `cache[i]` is a read-only uint8 view [H, W, 3], RGB, 0 to 255, exactly `decode_rgb8(files[i])`; the operating system
    loads what is touched. The file stays open, so that everything goes on when it is deleted: a process that is started
    with a cache inherits it.
    """

    folder: Path
    names: list[str]
    files: list[Path]
    shapes: list[tuple[int, int]]
    hashes: list[str]
    gray: list[bool]
    offsets: list[int]
    skipped: list[tuple[Path, str]]
    stream: BinaryIO
    _data: np.ndarray | None = None

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

        The cache is a folder in `cache_dir/images` named after a hash of the files' paths, sizes and times of change.
        Changes lead to a new folder; the old one stays until it is deleted by hand. A folder appears complete or not at
        all, and of several processes that ask for it one builds it while the others wait.

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
        folder = Path(os.path.abspath(cache_dir)) / PLACE / cache_key(files, on_corrupt)
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
        if cache.skipped:
            log.warning("%d of %d images are skipped: %s", len(cache.skipped), len(files), summary(cache.skipped, 10))
        return cache

    def subset(self, indices: Sequence[int]) -> "ImageCache":
        """The images at `indices`, in that order, from the same file; `skipped` stays."""
        return replace(
            self,
            names=[self.names[i] for i in indices],
            files=[self.files[i] for i in indices],
            shapes=[self.shapes[i] for i in indices],
            hashes=[self.hashes[i] for i in indices],
            gray=[self.gray[i] for i in indices],
            offsets=[self.offsets[i] for i in indices],
        )

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], read-only. Raises IndexError beyond the last image."""
        if self._data is None:
            self._data = np.asarray(np.memmap(self.stream, dtype=np.uint8, mode="r"))
        height, width = self.shapes[index]
        start = self.offsets[index]
        return self._data[start : start + 3 * height * width].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        inherits = multiprocessing.context.get_spawning_popen() is not None
        return {**vars(self), "stream": DupFd(self.stream.fileno()) if inherits else None, "_data": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        inherited = state["stream"]
        try:
            stream = os.fdopen(inherited.detach(), "rb") if inherited else (state["folder"] / DATA).open("rb")
        except FileNotFoundError as error:
            raise folder_vanished(state["folder"]) from error
        self.__dict__ |= {**state, "stream": stream}


def _load(folder: Path) -> ImageCache | None:
    """The cache in `folder`; None if it is absent, damaged, or of a version that did not write all of it."""
    try:
        index = json.loads((folder / INDEX).read_text())
        shapes = [(height, width) for height, width in index["shapes"]]
        *offsets, total = accumulate((3 * height * width for height, width in shapes), initial=0)
        gray = [bool(value) for value in index["gray"]]
        skipped = [(Path(file), cause) for file, cause in index["skipped"]]
        files = [Path(file) for file in index["files"]]
        stream = (folder / DATA).open("rb")
        complete = os.fstat(stream.fileno()).st_size == total
        lists = index["names"], files, shapes, index["hashes"], gray
        return ImageCache(folder, *lists, offsets, skipped, stream) if complete else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
