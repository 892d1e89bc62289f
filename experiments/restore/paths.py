"""Which photographs are restored, and where each result goes: all settled before anything is read or written."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.errors import InputError
from datamodules.io.decode import IMAGE_SUFFIXES, list_images

Format = Literal["lossless", "same", "png", "tif", "jpg", "webp"]
LOSSLESS = (".png", ".tif", ".tiff")
WRITTEN = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Item:
    """A photograph and its result.

    Attributes:
        source: the file.
        target: of the result.
        endings: of the files that are written beside it, see `beside`.
    """

    source: Path
    target: Path
    endings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is written."""
        return (self.target, *map(self.beside, self.endings))

    def beside(self, ending: str) -> Path:
        """Another file of the result: its name without the suffix, then `ending`, which may have a suffix itself."""
        return self.target.with_name(self.target.stem + ending + ("" if "." in ending else self.target.suffix))


def plan(given: str | Sequence[str], output: str, form: Format, further: Sequence[str] = ()) -> tuple[Path, list[Item]]:
    """The photographs that `given` names, and the folder of their results.

    - A file keeps its name. Of a folder, or of the fixed part of a pattern such as photos/**/*.jpg, the tree is kept.
    - A file counts by its suffix (`IMAGE_SUFFIXES`) where a folder or a pattern finds it. Hidden files and what lies
      below `output` do not count, each file counts once.
    - `form` says which suffix a result has: with `lossless` PNG and TIFF stay, the others become .png, as a JPEG of a
      JPEG loses again what was restored.

    Args:
        given: a file, a folder, a pattern, or several of these.
        output: a folder; with an image suffix and a single photograph, the file of the result.
        further: endings of other files that are written beside a result.

    Raises:
        InputError: something is not there, holds no photograph, or two results would have one name, or that of a
            photograph.
    """
    parts = [given] if isinstance(given, str) else list(given)
    folder = Path(output).expanduser()
    found: dict[Path, tuple[Path, Path]] = {}
    for part in parts:
        inside = _inside(folder, Path(part).expanduser())
        for path, relative in _find(part):
            real = path.resolve()
            if not inside or not real.is_relative_to(folder.resolve()):
                found.setdefault(real, (path, relative))
    if not found:
        raise InputError(f"input={given}: all of it lies in output={output}: nothing is left to restore")
    if folder.suffix.lower() in IMAGE_SUFFIXES and not folder.is_dir():
        return _single(folder, found, further)
    items = []
    for path, relative in found.values():
        name = relative.with_suffix(_suffix(relative.suffix, form))
        items.append(Item(path, folder / name, tuple(further)))
    _refuse_collisions(items, set(found))
    return folder, items


def _single(file: Path, found: dict[Path, tuple[Path, Path]], further: Sequence[str]) -> tuple[Path, list[Item]]:
    if len(found) > 1:
        raise InputError(f"output={file}: is a file, and input= names {len(found)} photographs: give a folder")
    if file.suffix.lower() not in WRITTEN:
        raise InputError(f"output={file}: found {file.suffix}, expected {', '.join(WRITTEN)}")
    items = [Item(path, file, tuple(further)) for path, _ in found.values()]
    _refuse_collisions(items, set(found))
    return file.parent, items


def _suffix(suffix: str, form: Format) -> str:
    low = suffix.lower()
    if form == "lossless":
        return suffix if low in LOSSLESS else ".png"
    if form == "same":
        return suffix if low in WRITTEN else ".png"  # BMP holds neither 16 bits nor a profile
    return f".{form}"


def _find(given: str) -> list[tuple[Path, Path]]:
    """Files and their paths relative to what was given."""
    path = Path(given).expanduser()
    if path.is_dir():
        try:
            return [(file, file.relative_to(path)) for file in list_images(path)]
        except InputError as error:
            raise InputError(f"input={error}") from error
    if path.exists():
        return [(path, Path(path.name))]
    if not glob.has_magic(given):
        raise InputError(f"input={given}: does not exist: give a photograph, a folder, or a pattern in quotes")
    base = _fixed(path)
    files = [Path(name) for name in sorted(glob.glob(str(path.relative_to(base)), root_dir=base, recursive=True))]
    photographs = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and (base / file).is_file()]
    if not photographs:
        found = f"{len(files)} other file(s)" if files else "nothing"
        raise InputError(f"input={given}: finds {found}, expected {', '.join(IMAGE_SUFFIXES)}")
    return [(base / file, file) for file in photographs]


def _fixed(pattern: Path) -> Path:
    """The folders of a pattern before the first special character; one that is there may have such in its name."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if glob.has_magic(part) and not (fixed / part).is_dir():
            break
        fixed /= part
    return fixed


def _inside(folder: Path, given: Path) -> bool:
    """Whether results go below the folder that is searched for photographs.

    Raises:
        InputError: if they go into that very folder, where the next search would take them for photographs.
    """
    searched = given if given.is_dir() else _fixed(given) if glob.has_magic(str(given)) else None
    if searched is None or not folder.resolve().is_relative_to(searched.resolve()):
        return False
    if folder.resolve() == searched.resolve():
        if given.is_dir():
            raise InputError(f"output={folder}: is the folder of the photographs: give another one, also in it")
        return False
    return True


def _refuse_collisions(items: Sequence[Item], sources: set[Path]) -> None:
    """Results that would replace one another, or a photograph."""
    taken: dict[Path, Item] = {}
    for item in items:
        for target in item.files:
            if Path(os.path.realpath(target)) in sources:
                raise InputError(f"{target}: the result would replace a photograph of input=: give another output=")
            if target in taken:
                raise InputError(
                    f"{target}: is the result of {taken[target].source} and of {item.source}: restore them into "
                    "different folders, or keep their suffixes with format=same"
                )
            taken[target] = item
