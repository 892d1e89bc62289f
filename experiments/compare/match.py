"""Which records may stand in one table, and the refusal of those that may not.

Records are compared where suite, data set, cell of the grid and protocol agree by name; then everything else that was
measured on has to agree too: the whole degradation, its seed, the images, and the bicubic enlargement of each input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from datamodules.errors import InputError
from experiments.compare.types import Run
from experiments.results.records import BASELINE, METRICS, EvaluationRecord, canonical
from experiments.runtime.run_folder import flat

WITNESS_DB = 0.01  # bicubic results of the same input differ by less, whatever the machine
MOST_SHOWN = 6  # places that a note lists
_OF_ONE_MACHINE = ("sharp", "degraded", "gray")  # states of files that hold their paths and times
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


def match(sources: Sequence[Run], chosen: Mapping[str, Sequence[str]], mixed: bool) -> tuple[list[Group], list[str]]:
    """The benchmarks on which the runs can be compared, in the order of the records, and notes about the others.

    Args:
        sources: the runs.
        chosen: "suites", "datasets", "protocols": as in `compare`.
        mixed: compare results with self-ensemble and results without it.

    Raises:
        InputError: the runs were measured on different things: the message names the first difference.
    """
    records, notes = _one_kind_of_ensemble(_chosen(sources, chosen), mixed)
    groups = group_records(records)
    places: dict[str, list[Group]] = {}
    for group in groups:
        places.setdefault(group.place, []).append(group)
    for alternatives in places.values():
        if conflict := _conflict(alternatives):
            if alternatives[0].about.suite is not None:  # a suite is one set of inputs
                raise InputError(conflict)
            notes.append(f"left out: {conflict}")
    networks = {run for group in groups for run in group.networks}
    kept = [group for group in groups if len(networks) < 2 or _belongs(group, groups)]
    _everyone_shares(sources, groups, kept)
    known = {group.place for group in kept}
    single = sorted({shown(g.about) for g in groups if g.place not in known and len(places[g.place]) == 1})
    if single:
        more = [f"and {len(single) - MOST_SHOWN} more"] if len(single) > MOST_SHOWN else []
        notes.append(f"left out, measured for one run only: {'; '.join([*single[:MOST_SHOWN], *more])}")
    for group in kept:
        _same_images(group)
        _same_inputs(group)
        notes += _same_files(group)
    unseen = {source.name for source in sources for g in kept if source.where in {*g.networks} - {*g.baselines}}
    if unseen:
        runs = ", ".join(sorted(unseen))
        notes.append(f"the inputs of {runs} could not be checked: there is no bicubic record with theirs")
    return kept, list(dict.fromkeys(notes))


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
    model = f"{record.model} ({record.computed})" if record.computed else record.model
    return Setting(setting_name(source.name), model, checkpoint, record.self_ensemble)


def setting_name(run: str) -> str:
    """`ed_dsrn-div2k-seed=1` -> `ed_dsrn-div2k`: what the seeds of a setting have in common."""
    return re.sub(r"(^|-)seed=\d+", "", run) or run


def shown(record: EvaluationRecord) -> str:
    """`usrnet_table1, bsd68 scale=2 noise=0, rgb_shave_s2`."""
    cell = "".join(f" {key}={value}" for key, value in record.cell.items())
    return f"{record.suite or 'no suite'}, {record.dataset}{cell}, {record.protocol_name}"


def _chosen(sources: Sequence[Run], chosen: Mapping[str, Sequence[str]]) -> list[Measured]:
    records = [(source, record) for source in sources for record in source.records]
    for key, value in (
        ("suites", lambda record: record.suite or "none"),
        ("datasets", lambda record: record.dataset),
        ("protocols", lambda record: record.protocol_name),
    ):
        known = {value(record) for _, record in records}
        wanted = chosen.get(key, ())
        for item in wanted:
            if item not in known:
                raise InputError(f"{key}={item}: no such record in these runs, there is {', '.join(sorted(known))}")
        records = [item for item in records if not wanted or value(item[1]) in wanted]
    return records


def _one_kind_of_ensemble(records: list[Measured], mixed: bool) -> tuple[list[Measured], list[str]]:
    """Self-ensemble costs eight passes and gains tenths of a decibel: not to be compared with one pass by accident."""
    with_it = {source.where for source, record in records if record.self_ensemble}
    without = {source.where for source, record in records if not record.self_ensemble and not record.is_baseline}
    if mixed or not with_it or not without:
        return records, []
    keep = with_it > without  # one pass, if all runs have it
    if not keep and not with_it <= without:
        raise InputError(
            f"self_ensemble is true in {min(with_it - without)} and false in {min(without - with_it)}: evaluate both "
            "the same way, or compare them all the same with mixed_ensemble=true"
        )
    kept = [(source, record) for source, record in records if record.is_baseline or record.self_ensemble == keep]
    return kept, [f"left out: records with self_ensemble={str(not keep).lower()} (mixed_ensemble=true shows both)"]


def _conflict(place: Sequence[Group]) -> str | None:
    """What is wrong if two runs measured one place under different conditions only."""
    for first, second in combinations(sorted({run for group in place for run in group.networks}), 2):
        one, two = ([group for group in place if run in group.networks] for run in (first, second))
        if not any(group is other for group in one for other in two):
            return _difference(first, one[0].about, second, two[0].about)
    return None


def _difference(first: str, a: EvaluationRecord, second: str, b: EvaluationRecord) -> str:
    """The first thing in which two records were not measured alike."""
    one, two = flat(a.conditions), flat(b.conditions)
    for key in {**one, **two}:
        if canonical({key: one.get(key)}) != canonical({key: two.get(key)}) or (key in one) != (key in two):
            return (
                f"{key} is {_value(one, key)} in {first} and {_value(two, key)} in {second} ({shown(a)}): "
                "not the same input or not measured alike: evaluate both the same way"
            )
    return f"{first} and {second} differ"


def _value(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    return "none" if values[key] is None else json.dumps(values[key])


def _belongs(group: Group, groups: Sequence[Group]) -> bool:
    """Outside a suite a benchmark of one run compares nothing; a suite's grid shows its empty cells."""
    if len(group.networks) > 1:
        return True
    if group.about.suite is None or not group.networks:
        return False
    shared = [other for other in groups if len(other.networks) > 1 and other.table == group.table]
    return bool(shared) and not any(other.place == group.place for other in shared)


def _everyone_shares(sources: Sequence[Run], groups: Sequence[Group], kept: Sequence[Group]) -> None:
    """No run drops out of a comparison unseen: that of a network is compared, that of bicubic only is of the same."""
    networks = {run for group in groups for run in group.networks}
    for source in sources:
        run = source.where
        mine = [group for group in groups if run in (group.networks if run in networks else group.baselines)]
        if not mine or not networks or any(group is other and group.networks for group in kept for other in mine):
            continue
        pairs = [(a.about, other, b.about) for a in mine for b in groups for other in b.networks if other != run]
        raise InputError(_difference(run, *max(pairs, key=lambda pair: _alike(pair[0], pair[2]))))


def _alike(a: EvaluationRecord, b: EvaluationRecord) -> int:
    """In how many things two records were measured alike."""
    one, two = a.conditions, b.conditions
    return sum(canonical({key: one[key]}) == canonical({key: two[key]}) for key in one)


def _same_images(group: Group) -> None:
    measured = [item for records in group.records.values() for item in records]
    full_source, full = max(measured, key=lambda item: len(item[1].images))
    for source, record in measured:
        lacking = sorted(full.images.keys() - record.images.keys())
        if lacking:
            raise InputError(
                f"{source.where}: no image {lacking[0]} in {shown(group.about)} ({len(record.images)} images), "
                f"{full_source.where} has it ({len(full.images)} images): evaluate both on the same images"
            )


def _same_inputs(group: Group) -> None:
    for source, record in group.records.get(BICUBIC, [])[1:]:
        first_source, first = group.records[BICUBIC][0]
        for image, values in record.images.items():
            a, b = first.images[image]["psnr"], values["psnr"]
            if a != b and not abs(a - b) <= WITNESS_DB:
                raise InputError(
                    f"{source.where}: another input than in {first_source.where}: enlarged bicubically, image {image} "
                    f"has {b:.4f} dB here and {a:.4f} dB there ({shown(group.about)}): evaluate both on the same files"
                )


def _same_files(group: Group) -> list[str]:
    """What networks were told, kernels or noise levels, agrees; metrics of several models are left out, and noted."""
    known: dict[str, tuple[str, str]] = {}  # what -> its state, and the first run with it
    unlike: dict[str, str] = {}
    for source, record in (item for records in group.records.values() for item in records):
        for what, state in record.files.items():
            if what in _OF_ONE_MACHINE or (what in METRICS and what not in record.means):
                continue
            first, where = known.setdefault(what, (state, source.where))
            if state == first:
                continue
            if what not in METRICS:
                raise InputError(
                    f"{source.where}: {what} has other content than in {where} ({shown(group.about)}): not the same "
                    "input: evaluate both with the same files"
                )
            unlike.setdefault(
                what,
                f"left out: {what} on {group.about.dataset}, measured with another model or other options in "
                f"{source.where} than in {where}: evaluate both with the same metric=[{what}]",
            )
    for setting, records in group.records.items() if unlike else ():
        group.records[setting] = [(source, _without(record, unlike)) for source, record in records]
    return list(unlike.values())


def _without(record: EvaluationRecord, metrics: Container[str]) -> EvaluationRecord:
    means, *images = (
        {metric: value for metric, value in values.items() if metric not in metrics}
        for values in (record.means, *record.images.values())
    )
    return replace(record, means=means, images=dict(zip(record.images, images, strict=True)))
