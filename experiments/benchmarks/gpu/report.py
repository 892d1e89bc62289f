"""Results of `experiments.benchmarks.gpu` on disk: a line of JSON each, and the report made of them anew after each."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.timing import figure, spread
from experiments.results.table import ResultTable, heads, words
from experiments.results.writers import markdown
from experiments.runtime.run_folder import write_text

Value = str | float | Sequence[float] | None  # of several: those of the rounds, shown by their median and range
Values = Mapping[str, Value]
SMOKE = "**A smoke run: few channels, small images, few steps. No figure below means anything.**"


@dataclass(frozen=True)
class Case:
    """One measurement, a row of the report.

    Attributes:
        part: key of `parts.PARTS`.
        model: option of conf/model/, or of conf/degradation/ where that is measured.
        dtype, mode: float32 or bfloat16, and what else: channels_last, compile.
        input: size in pixels, or what it is measured on.
    """

    part: str
    model: str
    dtype: str
    mode: str
    batch: int
    input: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.part, self.model, self.dtype, self.mode, self.input)))


@dataclass(frozen=True)
class Report:
    """`results.jsonl`, with a line for each case, and `report.md`; written by one process at a time.

    Attributes:
        about: what all is measured on, by heading.
        tables: title and explanation by part.
        cases: that were planned.
    """

    folder: Path
    about: Mapping[str, Any]
    tables: Mapping[str, tuple[str, str]]
    cases: Sequence[Case]

    def add(self, case: Case, values: Values | None = None, failed: str | None = None) -> None:
        """Keep what was measured, by heading, or in one line why nothing was."""
        record = {"card": self.about["card"], **asdict(case), "values": values, "failed": failed}
        text = json.dumps(record, allow_nan=False)
        with (self.folder / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"\n{text}")  # the line before may have been cut off
            file.flush()
            os.fsync(file.fileno())
        self.write()

    def read(self) -> dict[Case, dict[str, Any]]:
        """The records so far."""
        results: dict[Case, dict[str, Any]] = {}
        file = self.folder / "results.jsonl"
        for line in file.read_text("utf-8").splitlines() if file.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:  # cut off by a kill while it was written, or empty
                continue
            results[Case(**{key: record[key] for key in Case.__annotations__})] = record
        return results

    def left(self, part: str) -> list[Case]:
        """Cases of a part that are still to be measured; the first one is under way."""
        results = self.read()
        return [case for case in self.cases if case.part == part and case not in results]

    def write(self) -> None:
        """Make the page anew."""
        results = self.read()
        failed = sum(record["failed"] is not None for record in results.values())
        counts = f"{len(results) - failed} made, {failed} failed, {len(self.cases) - len(results)} not reached"
        page = [
            f"# deblur-sr on {self.about['card']}",
            *([SMOKE] if self.about["smoke"] else []),
            f"{len(self.cases)} measurements: {counts}.",
            _table(["", ""], ((name, str(value)) for name, value in self.about.items())),
        ]
        for part, (title, explanation) in self.tables.items():
            page += [f"## {title}", explanation, _of_part([case for case in self.cases if case.part == part], results)]
        write_text(self.folder / "report.md", "\n\n".join(page) + "\n")


def _of_part(cases: Sequence[Case], results: Mapping[Case, Mapping[str, Any]]) -> str:
    measured = [results[case]["values"] or {} for case in cases if case in results]
    titles = list(dict.fromkeys(title for values in measured for title in values))
    rows = []
    for case in cases:
        if case not in results:
            cells = ["not reached"]
        elif failed := results[case]["failed"]:
            cells = [f"failed: {failed}"]
        else:
            cells = [_cell(results[case]["values"].get(title)) for title in titles]
        rows.append([case.model, case.dtype, case.mode, str(case.batch), case.input, *cells])
    return _table(["model", "dtype", "mode", "batch", "input", *(titles or ["result"])], rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown(ResultTable("", heads(titles), [[words(*row) for row in rows]]))


def _cell(value: Value) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return figure(value) if isinstance(value, int | float) else spread(value)
