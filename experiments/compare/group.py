"""Records of several runs, sorted by what was measured on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from datamodules.errors import InputError
from experiments.compare.types import Run
from experiments.results.records import BASELINE, EvaluationRecord, canonical

Measured = tuple[Run, EvaluationRecord]


@dataclass(frozen=True)
class Setting:
    """What makes records rows of one method: the run without its seed, the model, the checkpoint where one run has
    several, and whether the result is a self-ensemble."""

    name: str
    model: str
    checkpoint: str = ""
    self_ensemble: bool = False


BICUBIC = Setting("", BASELINE)  # of all runs that measured it along


@dataclass
class Group:
    """Records of one benchmark: the same images under the same degradation, measured by the same protocol."""

    about: EvaluationRecord  # the first one: all agree in what they were measured on
    records: dict[Setting, list[Measured]] = field(default_factory=dict)  # a record a seed; of bicubic one a run

    @cached_property
    def place(self) -> str:
        """Suite, data set, cell and protocol by name."""
        return canonical([self.about.suite, self.about.dataset, self.about.cell, self.about.protocol_name])

    @property
    def table(self) -> tuple[str | None, str]:
        """Suite and protocol by name."""
        return self.about.suite, self.about.protocol_name

    @property
    def networks(self) -> list[str]:
        """The runs whose networks were measured here."""
        networks = [records for setting, records in self.records.items() if setting != BICUBIC]
        return list(dict.fromkeys(source.where for records in networks for source, _ in records))

    @property
    def baselines(self) -> list[str]:
        """The runs with which bicubic enlargement was measured here."""
        return [source.where for source, _ in self.records.get(BICUBIC, [])]


def group_records(records: Iterable[Measured]) -> list[Group]:
    """Sort records into benchmarks, in the order in which they come.

    Raises:
        InputError: one seed of a setting was given twice.
    """
    groups: dict[str, Group] = {}
    for source, record in records:
        group = groups.setdefault(canonical(record.conditions), Group(record))
        setting = _setting(source, record)
        seeds = group.records.setdefault(setting, [])
        for other, known in seeds if setting != BICUBIC else ():
            if known.seed == record.seed:
                raise InputError(
                    f"{source.where}: seed {record.seed} of {setting.name} a second time, beside {other.where}: give "
                    "one of the two"
                )
        seeds.append((source, record))
    return list(groups.values())


def _setting(source: Run, record: EvaluationRecord) -> Setting:
    if record.is_baseline:
        return BICUBIC
    several = len({r.checkpoint for r in source.records if r.model == record.model}) > 1
    checkpoint = str(record.checkpoint) if several else ""
    return Setting(setting_name(source.name), record.model, checkpoint, record.self_ensemble)


def setting_name(run: str) -> str:
    """`ed_dsrn-div2k-seed=1` -> `ed_dsrn-div2k`: what the seeds of a setting have in common."""
    return re.sub(r"(^|-)seed=\d+", "", run) or run


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    if not isinstance(node, Mapping) or not node:
        return {path: node}
    values: dict[str, Any] = {}
    for name, child in node.items():
        values |= flat(child, f"{path}.{name}" if path else name)
    return values


def shown(record: EvaluationRecord) -> str:
    """`usrnet_table1, bsd68 scale=2 noise=0, rgb_shave_s2`."""
    cell = "".join(f" {key}={value}" for key, value in record.cell.items())
    return f"{record.suite or 'no suite'}, {record.dataset}{cell}, {record.protocol_name}"
