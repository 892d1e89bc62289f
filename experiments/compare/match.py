"""Which records may stand in one table, and the refusal of those that may not.

Records are compared where suite, data set, cell of the grid and protocol agree by name; then everything else that was
measured on has to agree too: the whole degradation, its seed, the images, and the bicubic enlargement of each input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datamodules.errors import InputError
from experiments.compare.group import Group, flat, group_records, measured_on, shown
from experiments.compare.read_runs import ComparedRun
from experiments.results.records import EvaluationRecord, canonical

WITNESS_DB = 0.01  # bicubic results of the same input differ by less, whatever the machine
MOST_SHOWN = 6  # places that a message lists


def match(
    sources: Sequence[ComparedRun],
    suites: Sequence[str],
    datasets: Sequence[str],
    protocols: Sequence[str],
    mixed: bool,
) -> tuple[list[Group], list[str]]:
    """The benchmarks on which the runs can be compared, in the order of the records, and notes about the others.

    Args:
        sources: the runs.
        suites, datasets, protocols: keep records of these only; empty keeps all.
        mixed: compare results with self-ensemble and results without it.

    Raises:
        InputError: the runs were measured on different things: the message names the first difference.
    """
    notes: list[str] = []
    groups = group_records(_chosen(sources, suites, datasets, protocols))
    _one_kind_of_ensemble(groups, mixed, notes)
    conflicts = [text for place in _places(groups).values() if (text := _conflict(place))]
    inside = [group for group in groups if group.about.suite is not None]
    strict = [text for place in _places(inside).values() if (text := _conflict(place))]
    if strict:
        raise InputError(strict[0])
    several = len({source.where for group in groups for source in group.sources}) > 1
    kept = [group for group in groups if not several or _belongs(group, groups)]
    if several and not any(len(group.sources) > 1 for group in kept):
        raise InputError(conflicts[0] if conflicts else _nothing_in_common(groups))
    notes += [f"left out: {text}" for text in conflicts]
    there = {group.place for group in kept} | {group.place for group in groups if len(_places(groups)[group.place]) > 1}
    alone = sorted({shown(group.about) for group in groups if group not in kept and group.place not in there})
    if alone:
        notes.append(f"left out, measured for one run only: {_listed(alone)}")
    for group in kept:
        _same_images(group)
        _same_inputs(group)
    _everyone_shares(groups, kept)
    _bicubic_shares(sources, groups)
    if unseen := sorted(
        {s.run.name for g in kept for s in g.sources if s.where not in {w.where for w, _ in g.baseline_records}}
    ):
        notes.append(
            f"the inputs of {', '.join(unseen)} could not be checked: there is no bicubic record beside theirs"
        )
    return kept, notes


def _chosen(
    sources: Sequence[ComparedRun], suites: Sequence[str], datasets: Sequence[str], protocols: Sequence[str]
) -> list[tuple[ComparedRun, EvaluationRecord]]:
    found = [(source, record) for source in sources for record in source.records]
    for key, wanted, value in (
        ("suites", suites, lambda r: r.suite or "none"),
        ("datasets", datasets, lambda r: r.dataset),
        ("protocols", protocols, lambda r: r.protocol_name),
    ):
        there = sorted({str(value(record)) for _, record in found})
        for item in wanted:
            if item not in there:
                raise InputError(f"{key}={item}: no such record in these runs, there is {', '.join(there)}")
        found = [(s, r) for s, r in found if not wanted or value(r) in wanted]
    return found


def _one_kind_of_ensemble(groups: list[Group], mixed: bool, notes: list[str]) -> None:
    """Self-ensemble costs eight passes and gains tenths of a decibel: not to be compared with one pass by accident."""
    kinds: dict[bool, dict[tuple[str, str], ComparedRun]] = {False: {}, True: {}}
    for group in groups:
        for setting, found in group.records.items():
            kinds[setting.self_ensemble][setting.name, setting.model] = found[0][0]
    if mixed or not kinds[False] or not kinds[True]:
        return
    keep = next((kind for kind in (False, True) if kinds[kind].keys() >= kinds[not kind].keys()), None)
    if keep is None:
        with_it = next(source for key, source in kinds[True].items() if key not in kinds[False])
        without = next(source for key, source in kinds[False].items() if key not in kinds[True])
        raise InputError(
            f"self_ensemble is true in {with_it.where} and false in {without.where}: evaluate both the same way, or "
            "compare them all the same with mixed_ensemble=true"
        )
    before = {source.where: source for group in groups for source in group.sources}
    for group in groups:
        group.records = {setting: found for setting, found in group.records.items() if setting.self_ensemble == keep}
    after = {source.where for group in groups for source in group.sources}
    if lost := [where for where in before if where not in after]:
        raise InputError(
            f"{lost[0]}: has records with self_ensemble={str(not keep).lower()} alone, unlike the others: evaluate all "
            "the same way, or compare them all the same with mixed_ensemble=true"
        )
    notes.append(f"left out: records with self_ensemble={str(not keep).lower()} (mixed_ensemble=true shows both)")


def _places(groups: Iterable[Group]) -> dict[str, list[Group]]:
    places: dict[str, list[Group]] = {}
    for group in groups:
        places.setdefault(group.place, []).append(group)
    return places


def _conflict(place: list[Group]) -> str | None:
    """What is wrong if two runs measured one place under different conditions only."""
    names = {source.where: source for group in place for source in group.sources}
    for first in names:
        for second in names:
            if first < second:
                own = [[g for g in place if any(s.where == name for s in g.sources)] for name in (first, second)]
                if not any(group in own[1] for group in own[0]):
                    return _difference(first, own[0][0].about, second, own[1][0].about)
    return None


def _difference(first: str, a: EvaluationRecord, second: str, b: EvaluationRecord) -> str:
    one, two = flat(measured_on(a)), flat(measured_on(b))
    for key in [*one, *(key for key in two if key not in one)]:
        if canonical({key: one.get(key)}) != canonical({key: two.get(key)}) or (key in one) != (key in two):
            return (
                f"{key} is {_value(one, key)} in {first} and {_value(two, key)} in {second} ({shown(a)}): "
                "not the same input or not measured alike: evaluate both the same way"
            )
    return f"{first} and {second} differ"


def _value(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"


def _belongs(group: Group, groups: list[Group]) -> bool:
    """Outside a suite a benchmark of one run alone compares nothing; a suite's grid shows its empty cells."""
    if len(group.sources) > 1:
        return True
    if group.about.suite is None or not group.sources:
        return False
    shared = [g for g in groups if len(g.sources) > 1 and _table(g) == _table(group)]
    return bool(shared) and not any(g.place == group.place for g in shared)


def _table(group: Group) -> tuple[Any, str]:
    return group.about.suite, group.about.protocol_name


def _listed(items: Sequence[str]) -> str:
    more = len(items) - MOST_SHOWN
    return "; ".join(items[:MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _nothing_in_common(groups: list[Group]) -> str:
    """The runs share no place: name the first part of the closest pair of places that differs."""
    names = list(dict.fromkeys(source.where for group in groups for source in group.sources))
    own = {name: [measured_on(g.about) for g in groups if any(s.where == name for s in g.sources)] for name in names}
    parts = ("suite", "dataset", "cell", "protocol")
    first, second = names[:2]
    one, two = max(
        ((a, b) for a in own[first] for b in own[second]),
        key=lambda pair: sum(canonical(pair[0][part]) == canonical(pair[1][part]) for part in parts),
    )
    part = next(part for part in parts if canonical(one[part]) != canonical(two[part]))
    a, b = ((f["protocol"]["name"] if part == "protocol" else _text(f[part])) for f in (one, two))
    return (
        f"{first} and {second} have nothing in common: {part} is {a} in the one and {b} in the other: evaluate both on "
        "the same data by the same protocol"
    )


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _everyone_shares(groups: list[Group], kept: list[Group]) -> None:
    """No run drops out of a comparison unseen."""
    there = {source.where for group in kept for source in group.sources}
    for group in groups:
        for source in group.sources:
            if source.where not in there:
                theirs, others = ({_brief(g.about) for g in of} for of in (_of(source, groups), kept))
                if theirs & others:  # the cells differ
                    theirs, others = ({shown(g.about) for g in of} for of in (_of(source, groups), kept))
                raise InputError(
                    f"{source.where}: nothing in common with the other runs: it has {_listed(sorted(theirs))}, "
                    f"they have {_listed(sorted(others))}: evaluate it on the same, or leave it out"
                )


def _bicubic_shares(sources: Sequence[ComparedRun], groups: list[Group]) -> None:
    """A run of bicubic alone has no row of its own, but has to be measured like the others all the same."""
    measured = {source.where for group in groups for source in group.sources}
    for source in sources:
        own = [g for g in groups if any(source.where == w.where for w, _ in g.baseline_records)]
        if not measured or source.where in measured or not own or any(group.sources for group in own):
            continue
        for group in own:
            if other := next((g for g in groups if g.place == group.place and g.sources), None):
                raise InputError(_difference(source.where, group.about, other.sources[0].where, other.about))
        raise InputError(
            f"{source.where}: nothing in common with the other runs: it has "
            f"{_listed(sorted({shown(g.about) for g in own}))}: evaluate it on the same, or leave it out"
        )


def _of(source: ComparedRun, groups: Iterable[Group]) -> list[Group]:
    return [group for group in groups if source in group.sources]


def _brief(record: EvaluationRecord) -> str:
    return f"{record.suite or 'no suite'}, {record.dataset}, {record.protocol_name}"


def _same_images(group: Group) -> None:
    found = [item for items in [*group.records.values(), group.baseline_records] for item in items]
    full_source, full = max(found, key=lambda item: len(item[1].images))
    for source, record in found:
        lacking = sorted(full.images.keys() - record.images.keys())
        if lacking or len(record.images) != len(full.images):
            raise InputError(
                f"{source.where}: no image {lacking[0]} in {shown(group.about)} ({len(record.images)} images), "
                f"{full_source.where} has it ({len(full.images)} images): evaluate both on the same images"
            )


def _same_inputs(group: Group) -> None:
    if not group.baseline_records:
        return
    first_source, first = group.baseline_records[0]
    for source, record in group.baseline_records[1:]:
        for image, values in record.images.items():
            a, b = first.images[image]["psnr"], values["psnr"]
            if a != b and not abs(a - b) <= WITNESS_DB and not (math.isinf(a) and math.isinf(b)):
                raise InputError(
                    f"{source.where}: another input than in {first_source.where}: enlarged bicubically, image {image} "
                    f"has {b:.4f} dB here and {a:.4f} dB there ({shown(group.about)}): evaluate both on the same files"
                )
