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
WRITTEN = (*LOSSLESS, ".jpg", ".jpeg", ".webp")


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
    folder = Path(output).expanduser()
    sources: dict[Path, tuple[Path, Path]] = {}
    for part in [given] if isinstance(given, str) else given:
        path, (base, names) = Path(part).expanduser(), _search(part)
        if path.is_dir() and folder.resolve() == base.resolve():
            raise InputError(f"output={folder}: is the folder of the photographs: give another one, also in it")
        is_below = base.resolve() in folder.resolve().parents and (path.is_dir() or not path.exists())
        for name in names:
            real = (base / name).resolve()
            if not is_below or not real.is_relative_to(folder.resolve()):
                sources.setdefault(real, (base / name, name))
    if not sources:
        raise InputError(f"input={given}: all of it lies in output={output}: nothing is left to restore")
    if folder.suffix.lower() not in IMAGE_SUFFIXES or folder.is_dir():
        items = [
            Item(path, folder / name.with_suffix(_suffix(name.suffix, form)), tuple(further))
            for path, name in sources.values()
        ]
    elif len(sources) > 1:
        raise InputError(f"output={folder}: is a file, and input= names {len(sources)} photographs: give a folder")
    elif folder.suffix.lower() not in WRITTEN:
        raise InputError(f"output={folder}: found {folder.suffix}, expected {', '.join(WRITTEN)}")
    else:
        items = [Item(path, folder, tuple(further)) for path, _ in sources.values()]
        folder = folder.parent
    _refuse_collisions(items, set(sources))
    return folder, items


def _suffix(suffix: str, form: Format) -> str:
    kept = {"lossless": LOSSLESS, "same": WRITTEN}  # BMP holds neither 16 bits nor a profile
    if form not in kept:
        return f".{form}"
    return suffix if suffix.lower() in kept[form] else ".png"


def _search(given: str) -> tuple[Path, list[Path]]:
    """The folder that is searched, and the paths in it of the photographs that are found."""
    path = Path(given).expanduser()
    if path.is_dir():
        try:
            return path, [file.relative_to(path) for file in list_images(path)]
        except InputError as error:
            raise InputError(f"input={error}") from error
    if path.exists():
        return path.parent, [Path(path.name)]
    if not glob.has_magic(given):
        raise InputError(f"input={given}: does not exist: give a photograph, a folder, or a pattern in quotes")
    base = _fixed(path)
    files = [Path(name) for name in sorted(glob.glob(str(path.relative_to(base)), root_dir=base, recursive=True))]
    photographs = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and (base / file).is_file()]
    if not photographs:
        others = f"{len(files)} other file(s)" if files else "nothing"
        raise InputError(f"input={given}: finds {others}, expected {', '.join(IMAGE_SUFFIXES)}")
    return base, photographs


def _fixed(pattern: Path) -> Path:
    """The folders of a pattern before the first special character; one that is there may have such in its name."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if glob.has_magic(part) and not (fixed / part).is_dir():
            break
        fixed /= part
    return fixed


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
