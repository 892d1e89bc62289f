"""What was measured of an unfinished cell, image by image, so that a killed evaluation loses at most one image."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from datamodules.errors import InputError
from experiments.runtime.lock import held


class PartialResults:
    """Append-only JSON lines, one an image, in a hidden file of each process next to `results.json`.

    Whoever measures the same thing again, in however many processes, finds what all of them wrote.

    Args:
        folder: of the run.
        identity: everything that the values depend on; another identity is another file.
        rank: number of this process.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], rank: int = 0) -> None:
        text = json.dumps(identity, sort_keys=True, default=str)
        self.name = f".unfinished-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.folder, self.rank = folder, rank
        self.path = folder / f"{self.name}.{rank}.jsonl"
        self.lock = ExitStack()

    def read(self) -> dict[str, dict[str, Any]]:
        """By image what was written; a last line that was torn by a kill does not count."""
        entries = {}
        for file in sorted(self.folder.glob(f"{self.name}.*.jsonl")):
            for line in file.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(entry, dict) and isinstance(entry.get("image"), str):
                    entries[entry["image"]] = entry
        return entries

    def __enter__(self) -> Self:
        """Until `remove`, or an error, no other measurement of the same thing can begin.

        Raises:
            InputError: if one has begun, or the folder cannot be written.
        """
        try:
            self.lock.close()  # of an earlier time
            if self.rank == 0:
                what, hint = "another process is measuring the same", "wait for it, its results will be here"
                self.lock.enter_context(held(self.folder / f"{self.name}.lock", what, hint))
            self.folder.mkdir(parents=True, exist_ok=True)
            torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
            self.file = self.path.open("a")
        except OSError as error:
            self.lock.close()
            raise InputError(
                f"{self.folder}: cannot be written ({error.strerror}): results go into the folder of the run: mend the "
                "permissions, or measure a copy of it"
            ) from error
        if torn:
            self.file.write("\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.file.close()
        finally:
            if kind is not None:
                self.lock.close()

    def write(self, image: str, **values: Any) -> None:
        """Append a line; it is with the operating system when this returns."""
        self.file.write(json.dumps({"image": image, **values}) + "\n")
        self.file.flush()

    def remove(self) -> None:
        """Delete what all processes have written: their values are records now."""
        for file in self.folder.glob(f"{self.name}.*.jsonl"):
            file.unlink(missing_ok=True)
        self.lock.close()
        left = self.folder / f"{self.name}.lock"  # by a process that was killed: who takes it removes it
        with contextlib.suppress(InputError):
            if self.rank == 0 and left.exists():
                with held(left):
                    pass
