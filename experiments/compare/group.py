"""Records of several runs, sorted by what was measured on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datamodules.errors import InputError
from experiments.compare.read_runs import ComparedRun
from experiments.results.records import EvaluationRecord, canonical

# What has to be equal for two records to be of one benchmark; the first four name it.
_PLACE = ("suite", "dataset", "cell", "protocol")
_COMPARED = (*_PLACE, "split", "suite_seed", "scale", "degradation")


@dataclass(frozen=True)
class Setting:
    """What makes records rows of one method: the run without its seed, the model, the checkpoint where one run has
    several, and whether the result is a self-ensemble."""

    name: str
    model: str
    checkpoint: str = ""
    self_ensemble: bool = False


@dataclass
class Group:
    """Records of one benchmark: the same images under the same degradation, measured by the same protocol."""

    place: str
    about: EvaluationRecord  # the first one: all agree in what they were measured on
    records: dict[Setting, list[tuple[ComparedRun, EvaluationRecord]]] = field(default_factory=dict)
    baseline_records: list[tuple[ComparedRun, EvaluationRecord]] = field(default_factory=list)

    @property
    def sources(self) -> list[ComparedRun]:
        """Runs whose networks were measured here."""
        return list({s.where: s for found in self.records.values() for s, _ in found}.values())


def group_records(found: Iterable[tuple[ComparedRun, EvaluationRecord]]) -> list[Group]:
    """Sort records into benchmarks, in the order in which they come.

    Raises:
        InputError: one seed of a setting was given twice.
    """
    groups: dict[str, Group] = {}
    for source, record in found:
        place = canonical({**{name: getattr(record, name) for name in _PLACE}, "protocol": record.protocol_name})
        group = groups.setdefault(canonical(measured_on(record)), Group(place, record))
        if record.is_baseline:
            group.baseline_records.append((source, record))
            continue
        plain = Setting(setting_name(source.run.name), record.model, "", record.self_ensemble)
        several = len({r.checkpoint for r in source.records if r.model == record.model}) > 1
        setting = Setting(plain.name, plain.model, str(record.checkpoint), plain.self_ensemble)
        group.records.setdefault(setting if several else plain, []).append((source, record))
    _one_run_a_seed(groups.values())
    return list(groups.values())


def _one_run_a_seed(groups: Iterable[Group]) -> None:
    for group in groups:
        for setting, found in group.records.items():
            seen: dict[Any, ComparedRun] = {}
            for source, record in found:
                if record.seed in seen:
                    raise InputError(
                        f"{source.where}: seed {record.seed} of {setting.name} a second time, beside "
                        f"{seen[record.seed].where}: give one of the two"
                    )
                seen[record.seed] = source


def setting_name(run: str) -> str:
    """`ed_dsrn-div2k-seed=1` -> `ed_dsrn-div2k`: what the seeds of a setting have in common."""
    return re.sub(r"(^|-)seed=\d+", "", run) or run


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    if isinstance(node, Mapping) and node:
        return {
            k: v for name, child in node.items() for k, v in flat(child, f"{path}.{name}" if path else name).items()
        }
    return {path: node}


def measured_on(record: EvaluationRecord) -> dict[str, Any]:
    """What the values of a record depend on beside the network."""
    return {name: getattr(record, name) for name in _COMPARED}


def shown(record: EvaluationRecord) -> str:
    cell = "".join(f" {key}={value}" for key, value in record.cell.items())
    return f"{record.suite or 'no suite'}, {record.dataset}{cell}, {record.protocol_name}"
