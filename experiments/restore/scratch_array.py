"""Room for images that may be larger than the memory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.io.write_photo import NotWritten

MAPPED = 256 * 2**20  # bytes from which on it is a file


@contextmanager
def scratch_array(folder: Path | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """An array; a large one is a nameless file in `folder` (None: that of temporary files).

    Raises:
        NotWritten: where the disk has no room.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if size < MAPPED:
        yield np.empty(shape, dtype)
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            if hasattr(os, "posix_fallocate"):  # a full disk is noticed now; later it would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            array = np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            place, way_out = folder or tempfile.gettempdir(), "" if folder else ", or set TMPDIR to another folder"
            raise NotWritten(
                f"{place}: no room for a file of {size / 2**30:.1f} GiB ({error.strerror}): free disk space{way_out}"
            ) from error
        yield array
