"""What made each result in a folder, so that an interrupted restoration continues and nothing is mistaken."""

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from datamodules.errors import InputError
from datamodules.io.flock import lock
from experiments.restore.paths import Item

# No link, such as one in an unpacked folder, to a file that would be written to; Windows does not know the flag.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class Manifest:
    """JSON lines in the hidden file `.restored.jsonl` of a folder of results, one for each file, the last one counts.

    A line is written just before its file gets its name, and what had the name is removed before: a file that has a
    line was made as the line says.

    Args:
        folder: of the results.
        settings: all that a result depends on beside the photograph.
        kept: without it there is no such file, and whatever has the name of a result stays unless it may be replaced.
        rank: of this process among those that share the photographs. Each writes lines of its own, all but the first in
            `.restored.RANK.jsonl`; the first one of the next job puts them with the others.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], kept: bool = True, rank: int = 0) -> None:
        self.folder, self.kept, self.rank = folder, kept, rank
        self.path = folder / (f".restored.{rank}.jsonl" if rank else ".restored.jsonl")
        self.settings = json.loads(json.dumps(settings))  # as it will be read back
        self.lines: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        """Until the end no other job restores into this folder; of one job the first process has to enter first.

        Raises:
            InputError: if one does, the folder cannot be written, or the lines are no regular file.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.kept:
                return self
            self.file = _locked(self.path)
            if not self.rank:
                self._read(self.file)
                for path in sorted(self.folder.glob(".restored.*.jsonl")):
                    with _locked(path) as file:
                        self.file.writelines(self._read(file))
                        self.file.flush()
                        path.unlink()
        except BlockingIOError as error:
            raise InputError(f"output={self.folder}: another process restores into it: wait for it") from error
        except OSError as error:
            raise InputError(f"output={self.folder}: cannot be used ({error.strerror}): give another folder") from error
        return self

    def _read(self, file: TextIO) -> list[str]:
        """The lines of a file, each complete, of which those that are records count from now on."""
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # torn by a kill
            file.write("\n")
            lines[-1] += "\n"
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                self.lines[entry["name"]] = {**entry, "settings": dict(entry["settings"]), "of": str(entry["of"])}
        return lines

    def __exit__(self, *_: object) -> None:
        if self.kept:
            with contextlib.suppress(OSError):  # what has ended the block is what is to be told
                if not self.path.stat().st_size:
                    self.path.unlink()
            self.file.close()

    def finished(self, items: Iterable[Item], replace: bool) -> list[Item]:
        """Those of whose results all files are there, made with these settings of these photographs.

        An empty file, as a power cut or a full disk may leave, is none.

        Args:
            replace: whether other files in their place may be replaced.

        Raises:
            InputError: if there are such files and they may not.
        """
        done, others = [], []
        for item in items:
            existing = [path for path in item.files if not _is_absent(path)]
            different = [(path, why) for path in existing if (why := self._difference(path, item.source))]
            others += different[:1]
            if existing == list(item.files) and not different:
                made_of = [self.lines[self._name(path)].get("source") for path in existing]
                if made_of == [state(item.source)] * len(made_of):
                    done.append(item)
        if others and not replace:
            path, why = others[0]
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            raise InputError(f"{path}: exists{more} and {why}: give another output=, or make it anew with replace=true")
        return done

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _difference(self, path: Path, source: Path) -> str:
        """Why a file is not a result of a photograph with these settings; nothing if it may be one."""
        line = self.lines.get(self._name(path))
        if line is None:
            return "was not made by task=restore" if self.kept else "has no record of what made it"
        if line["of"] != str(source.resolve()):
            return f"was made of {line['of']}, this is of {source.resolve()}"
        before = line["settings"]
        for key in [*self.settings, *before]:
            if before.get(key) != self.settings.get(key):
                return f"was made with {key}={before.get(key)}, this is {self.settings.get(key)}"
        return ""

    def begin(self, path: Path, source: Path, before: list[int]) -> None:
        """To be called when a file is complete and about to get its name; `before`: the source's `state` when read."""
        path.unlink(missing_ok=True)
        if self.kept:
            line = {"name": self._name(path), "of": str(source.resolve()), "source": before, "settings": self.settings}
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())  # a power cut may not leave the file without its line


def _is_absent(path: Path) -> bool:
    return not path.exists() or (path.is_file() and not path.stat().st_size)


def _locked(path: Path) -> TextIO:
    file = open(path, "a+", encoding="utf-8", errors="replace", opener=_regular)  # noqa: SIM115  # stays open
    try:
        lock(file)
    except OSError:
        file.close()
        raise
    return file


def _regular(path: str, flags: int) -> int:
    found = "a link"
    if not os.path.islink(path):
        descriptor = os.open(path, flags | _NO_LINK, 0o666)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        found = "a pipe or the like"
    raise InputError(f"{path}: is {found}, expected a regular file: delete it, or give another output=")


def state(source: Path) -> list[int]:
    """Size and time of a file, by which a changed photograph is known; nothing if it is gone."""
    try:
        status = source.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
