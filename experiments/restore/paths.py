"""Which photographs are restored, and where each result goes: all settled before anything is read or written."""

import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from datamodules.errors import InputError
from datamodules.io.decode import HEIC_SUFFIXES, IMAGE_SUFFIXES, PHOTOS_EXTRA, visible_files
from datamodules.io.read_photo import RAW_SUFFIXES, readable_suffixes
from datamodules.io.video import VIDEO_SUFFIXES
from experiments.config.arguments import as_one, command, exists
from experiments.config.errors import did_you_mean

LOSSLESS = (".png", ".tif", ".tiff")
WRITTEN = (*LOSSLESS, ".jpg", ".jpeg", ".webp")
OF_PICTURES = {
    *Image.registered_extensions(),
    *IMAGE_SUFFIXES,
    *RAW_SUFFIXES,
    *VIDEO_SUFFIXES,
}  # in output=, of a file and not of a folder
_NAMED = 20  # at most, of results that cannot be


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


def plan(
    given: str | Sequence[str], output: str, form: str, further: Sequence[str] = ()
) -> tuple[Path, list[Item], list[str]]:
    """The photographs that `given` names, the folder of their results, and what has to be said of other files.

    - A file keeps its name. Of a folder, or of the fixed part of a pattern such as photos/**/*.jpg, the tree is kept.
    - A file counts by its suffix (`readable_suffixes`) where a folder or a pattern finds it; the others are passed
      over, in a line. Hidden files and what lies below `output` do not count, each file counts once.
    - `form`, that is `format=`, says which suffix a result has: with `lossless` PNG and TIFF stay, the others become
      .png, as a JPEG of a JPEG loses again what was restored.

    Args:
        given: a file, a folder, a pattern, or several of these.
        output: a folder; with the suffix of an image and a single photograph, the file of the result. One before
            another suffix, as in photo.png.bak, can be neither: only a / at the end makes that a folder.
        further: endings of other files that are written beside a result.

    Raises:
        InputError: something is not there, holds no photograph, or results would have one name, or that of a
            photograph: all of these are named.
    """
    folder, suffixes = Path(os.path.expanduser(output)), readable_suffixes()
    sources: dict[Path, tuple[Path, Path]] = {}
    notes: list[str] = []
    for part in [given] if isinstance(given, str) else given:
        path, (base, found) = Path(os.path.expanduser(part)), _search(part)
        if os.path.isdir(path) and folder.resolve() == base.resolve():
            raise InputError(f"output={folder}: is the folder of the photographs: give another one, also in it")
        if not exists(part) or os.path.isdir(path):
            names = [name for name in found if name.suffix.lower() in suffixes]
            if not names:
                what = "holds no image" if os.path.isdir(path) else "finds no image"
                raise InputError(f"input={part}: {what}{' but' if found else ','} {_others(found, suffixes)}")
            if base.resolve() in folder.resolve().parents:
                found = [name for name in found if not (base / name).resolve().is_relative_to(folder.resolve())]
            names = [name for name in found if name.suffix.lower() in suffixes]
            if others := set(found) - set(names):
                notes.append(f"input={part}: passed over {_others(others, suffixes)}")
        else:
            names = found
        for name in names:
            sources.setdefault((base / name).resolve(), (base / name, name))
    if not sources:
        raise InputError(f"input={given}: all of it lies in output={output}: nothing is left to restore")
    of_image = any(suffix.lower() in OF_PICTURES for suffix in folder.suffixes)
    if not of_image or folder.is_dir() or output.endswith(os.sep):
        items = [
            Item(path, folder / name.with_suffix(_suffix(name.suffix, form)), tuple(further))
            for path, name in sources.values()
        ]
    elif folder.suffix.lower() not in WRITTEN:
        raise InputError(
            f"output={folder}: found {folder.suffix}, expected {', '.join(WRITTEN)}, or {folder}{os.sep} for a folder"
        )
    elif len(sources) > 1:
        raise InputError(f"output={folder}: is a file, and input= names {len(sources)} photographs: give a folder")
    else:
        items = [Item(path, folder, tuple(further)) for path, _ in sources.values()]
        folder = folder.parent
    _refuse_collisions(items, set(sources))
    return folder, items, notes


def _others(files: Collection[Path], suffixes: Sequence[str]) -> str:
    """What files are there beside those that count, and how to restore them all the same."""
    kinds = Counter(file.suffix.lower() or "no suffix" for file in files)
    if not kinds:
        return f"and no other file either, expected {', '.join(suffixes)}"
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    photos = [kind for kind in kinds if kind in (*HEIC_SUFFIXES, *RAW_SUFFIXES)]
    extra = f"{' and '.join(sorted(photos))} are read after {PHOTOS_EXTRA}; " if photos else ""
    extra += "a video is restored by itself, input=FILE; " if {*VIDEO_SUFFIXES} & {*kinds} else ""
    return f"{len(files)} other file(s) ({counts}): {extra}convert photographs among them to PNG or TIFF"


def _suffix(suffix: str, form: str) -> str:
    kept = {"lossless": LOSSLESS, "same": WRITTEN}  # BMP holds neither 16 bits nor a profile
    if form not in kept:
        return f".{form}"
    return suffix if suffix.lower() in kept[form] else ".png"


def _search(given: str) -> tuple[Path, list[Path]]:
    """The folder that is searched, and the paths in it of the files that are found."""
    path = Path(os.path.expanduser(given))
    if os.path.isdir(path):
        try:
            files = [file.relative_to(path) for file in visible_files(path)]
        except InputError as error:
            raise InputError(f"input={error}") from error
        return path, sorted(files, key=lambda file: file.as_posix())
    if exists(given):
        return path.parent, [Path(path.name)]
    if not glob.has_magic(given):
        raise InputError(f"input={given}: does not exist: {_meant_by(given)}")
    base = _fixed(path)
    files = [Path(name) for name in sorted(glob.glob(str(path.relative_to(base)), root_dir=base, recursive=True))]
    return base, [file for file in files if not (base / file).is_dir()]


def _meant_by(given: str) -> str:
    """What to do about an input that is not there."""
    parts = [part for part in re.split(r"[\s,;]+", given) if part]
    if parts and all(map(exists, parts)):
        return f"did you mean: {command(f'input={as_one(parts)}')}"
    path = Path(os.path.expanduser(given))
    names = [file.name for file in path.parent.iterdir()] if os.path.isdir(path.parent) else []
    return f"give a photograph, a folder, or a pattern in quotes{did_you_mean(path.name, names)}"


def _fixed(pattern: Path) -> Path:
    """The folders of a pattern before the first special character; one that is there may have such in its name."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if glob.has_magic(part) and not (fixed / part).is_dir():
            break
        fixed /= part
    return fixed


def _refuse_collisions(items: Sequence[Item], sources: set[Path]) -> None:
    """Results that would replace one another, or a photograph: all of them in one line."""
    made_of: dict[Path, list[Path]] = {}
    for item in items:
        for target in item.files:
            made_of.setdefault(target, []).append(item.source)
    replaced = [target for target in made_of if Path(os.path.realpath(target)) in sources]
    equal = {tuple(of): target for target, of in reversed(made_of.items()) if len(of) > 1}
    problems = [f"{target}: the result would replace a photograph of input=" for target in replaced]
    problems += [f"{equal[of]}: is the result of {' and of '.join(map(str, of))}" for of in reversed(equal)]
    if not problems:
        return
    if len(problems) > _NAMED:
        problems[_NAMED:] = [f"and {len(problems) - _NAMED} more"]
    ways = ["give another output="] if replaced else []
    if equal:
        ways += ["restore them into different folders"]
        kept = [{_suffix(path.suffix, "same") for path in of} for of in equal]
        if not items[0].endings and [len(suffixes) for suffixes in kept] == [len(of) for of in equal]:
            ways += ["keep their suffixes with format=same"]
        if all(len({path.suffix for path in of}) == len(of) for of in equal):  # as cameras write two files of each
            one = next(reversed(equal))[-1]
            ways += [f"take those of one suffix by a pattern, such as input='{one.with_name('*' + one.suffix)}'"]
    raise InputError(f"{'; '.join(problems)}: {', or '.join(ways)}")
