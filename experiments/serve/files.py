"""Files of the page: photographs are read, results and pictures written, within the room there is."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from datamodules.errors import InputError
from datamodules.io.photo import Photograph
from datamodules.io.read_photo import read_photograph
from datamodules.io.write_photo import write_photograph
from experiments.serve.temp_files import Room

FORMATS = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "WEBP": ".webp"}
OWN_FORMAT = "Of the photograph"
Save: TypeAlias = Callable[[str, int, Callable[[Path], Any]], tuple[str, Any]]


def read(file: str, max_pixels: int | None = None) -> Photograph:
    """A photograph or a result, whose size is looked at before anything is decoded."""
    if not Path(file).exists():
        raise InputError(f"{file}: was deleted, as all files are in time: give the photograph again")
    return read_photograph(file, max_pixels)


@contextmanager
def new_folder(room: Room) -> Iterator[Save]:
    """A folder for files that belong together, where gradio would copy them to, which it then does not.

    It is hidden, and none of it makes room for anything, until the context ends; an exception deletes it.

    Yields:
        A function of the name of a file, of the bytes that it has at most, and of what writes it to a path. It returns
        the path that the file is going to have, and what that function returns, and raises InputError if there is no
        room.
    """
    with ExitStack() as promises:
        promises.enter_context(room.reserved(0))
        begun = Path(tempfile.mkdtemp(prefix=".", dir=room.folder))
        done = begun.with_name(begun.name[1:])

        def save(name: str, size: int, write: Callable[[Path], Any]) -> tuple[str, Any]:
            promises.enter_context(room.reserved(size))
            written = write(begun / name)
            return str(done / name), written

        try:
            yield save
            begun.rename(done)
        except BaseException:
            shutil.rmtree(begun, ignore_errors=True)
            raise


def suffix_of(file_format: str | None, own_format: str) -> str:
    """Of a file in the format that is wanted, or in that of its photograph."""
    return FORMATS[own_format if file_format in (None, OWN_FORMAT) else file_format]


def write(save: Save, name: str, photograph: Photograph) -> tuple[str, list[str]]:
    """A file of a photograph, and what of it the format cannot hold."""
    further = sum(len(part) for part in (photograph.icc, photograph.exif, photograph.xmp) if part)
    channels = photograph.pixels.shape[2] + (photograph.alpha is not None)
    size = largest_file(photograph.pixels.shape[:2], channels * photograph.pixels.itemsize) + further
    return save(name, size, lambda path: write_photograph(path, photograph))


def write_picture(save: Save, name: str, picture: Image.Image) -> str:
    """A file of a picture."""
    size = largest_file((picture.height, picture.width), len(picture.getbands()))
    return save(name, size, lambda path: picture.save(path, compress_level=1))[0]


def largest_file(size: tuple[int, ...], bytes_a_pixel: int) -> int:
    """Bytes of a picture [H, W] in the worst case: noise, as JPEG of high quality, or as TIFF in whole tiles."""
    height, width = (-(-side // 256) * 256 for side in size)
    return int(1.3 * height * width * bytes_a_pixel)
