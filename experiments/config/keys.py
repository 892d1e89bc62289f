"""Writes docs/keys.md, every key of conf/ with the comment that explains it: python -m experiments.config.keys."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import yaml

from experiments.config import CONF
from experiments.config.markdown import plain, table

PAGE = CONF.parent / "docs" / "keys.md"
HEAD = """# Every key

`GROUP=OPTION` on the command line chooses a file of `conf/GROUP/`, `KEY=VALUE` sets a value. Recipes (`model=`,
`experiment=`, `suite=`) set keys of other groups too, in the column *sets*; what the command line says wins. In the
column *default*, `???` has to be given, `null` is none, `${KEY}` takes the value of another key, and `NAME` stands for
the name of the option. `python run.py task=restore --help` shows the keys of a task, `--cfg job` behind a command all
that it would run with, and `+KEY=VALUE` adds an argument of a class that no file mentions. Of Hydra's own keys,
those of launchers and sweepers are here. This page is made of the files in `conf/` and their comments, by
`python -m experiments.config.keys`.
"""
GROUPS = {  # in the order of the page, with what the files themselves do not say
    "data": "The photographs; a data set of pairs brings its degraded images along ([data](data.md)).",
    "degradation": "What makes the inputs ([data](data.md)).",
    "model": "The network, and with it the recipe by which it is trained ([systems](systems.md)).",
    "loss": "`loss.terms` has a term for every branch of the network that is supervised, `{fn, weight, reduction}`: "
    "`fn` is mse, l1, charbonnier or psnr, `reduction` mean, sum (over an image) or literal (as the paper's equations "
    "have it). `sr` and `pyramid` also take `colour`, rgb or y, and `pyramid` takes `resize`, which makes its targets.",
    "optimizer": "Model files set values of their own.",
    "scheduler": "Of the learning rate; model files set values of their own.",
    "procedure": "How a training proceeds ([training](training.md#parts-of-a-network-stages-starting-weights)). A rule "
    "of `procedure.parameters` is `{match, lr, freeze, clip}`: a pattern of parameter names, or several, a factor on "
    "their learning rate, whether they rest, the largest norm of their gradients. A stage is `{epochs, lr, step, "
    "decay, train, network, inputs, terms}`: its length, its learning rate, times `decay` every `step` epochs, "
    "patterns of what trains, options of the network, other batch fields for its inputs, loss terms of its own.",
    "protocol": "What PSNR and SSIM are measured on, one or a list ([measuring](measuring.md)).",
    "metric": "Of a test, beside PSNR and SSIM; a list ([measuring](measuring.md)).",
    "suite": "What `task=evaluate` measures: the data sets `suite.sets`, with every combination of the values in "
    "`suite.grid`, recorded under `suite.name` ([measuring](measuring.md)).",
    "trainer": "Processes, devices, precision, length ([scale](scale.md)).",
    "callbacks": "One or a list ([scale](scale.md#averaged-weights-early-stopping-warm-up)).",
    "logger": "Curves and tables, one or a list ([W&B, TensorBoard, MLflow](wandb.md)).",
    "experiment": "Whole recipes ([training](training.md)).",
    "debug": "Does it run at all ([training](training.md)).",
    "hydra/launcher": "How the jobs of a sweep, `-m`, are started; without it one after the other "
    "([sweeps](scale.md#sweeps)).",
    "hydra/sweeper": "Which jobs a sweep has ([sweeps](scale.md#sweeps)).",
}
RECIPES = ("experiment", "suite", "debug")  # groups without keys of their own
BASES = {"data": "sharp_images"}  # the file of what all options of a group have


@dataclass(frozen=True)
class Key:
    """A key of a file: its path on the command line, what is written there, the comment beside it or "".

    `argument` is where it ends up: the `_target_` of the node around it, and its path there.
    """

    path: str
    value: str
    comment: str
    argument: tuple[str, str]


@dataclass(frozen=True)
class Option:
    """A file of conf/.

    Attributes:
        about: the first sentence of the comment that it begins with.
        base: the option that it goes on from.
        chosen: what it chooses in other groups, and `sets` what it sets there.
        keys: those of its group, with the base's, by path.
    """

    name: str
    about: str
    base: str | None
    chosen: list[str]
    sets: list[Key]
    keys: dict[str, Key]
    targets: dict[str, str] = field(repr=False)  # `_target_` by the path of its node


def read(file: Path, group: str) -> Option:
    """A file of conf/ as an option of a group; "" for config.yaml."""
    text = file.read_text("utf-8")
    base, chosen = None, []
    for entry in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(entry, dict):
            [(key, value)] = entry.items()
            values = f"[{','.join(value)}]" if isinstance(value, list) else value
            chosen.append(f"{key.removeprefix('override ').lstrip('/').partition('@')[0]}={values}")
        elif entry != "_self_":
            base = entry.partition("@")[0]
    keys, targets = {}, {}
    if base:
        origin = read((CONF if base.startswith("/") else file.parent) / f"{base.lstrip('/')}.yaml", group)
        keys, targets = dict(origin.keys), dict(origin.targets)
        if base.startswith("/"):  # it is no option that a reader could look up
            base, chosen = None, [*origin.chosen, *chosen]
    place = group.replace("/", ".")
    above = "" if "# @package _global_" in text else place
    root = yaml.compose(text, yaml.SafeLoader)
    found = [*_walk(root, text, above, ("", ""), targets)] if root else []  # of a file without a key
    mine = [key for key in found if group in ("", "task") or (group not in RECIPES and key.path.startswith(place))]
    keys |= {key.path: key for key in mine}
    return Option(file.stem, about(text), base, chosen, [key for key in found if key not in mine], keys, targets)


def comment(text: str) -> Iterator[str]:
    """The lines of the comment that a file begins with."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return (line.removeprefix("# ") for line in lines if line != "# @package _global_")


def about(text: str) -> str:
    """The first sentence of that comment."""
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(comment(text)))[0].removesuffix(".")


def _walk(node: yaml.Node, text: str, path: str, argument: tuple[str, str], targets: dict[str, str]) -> Iterator[Key]:
    """The keys of a node in their order; a node in braces is one value."""
    assert isinstance(node, yaml.MappingNode)
    targets.update((path, value.value) for key, value in node.value if key.value == "_target_")
    owner, above = (targets[path], "") if path in targets else argument
    for key, value in node.value:
        name = key.value
        if name.startswith("_") or (not path and name == "hydra") or name == "defaults":
            continue
        inside, place = f"{path}.{name}".lstrip("."), (owner, f"{above}.{name}".lstrip("."))
        block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = key.end_mark.index + 1 if block else value.end_mark.index
        rest = text[end:].partition("\n")[0].strip()
        beside = rest.removeprefix("# ") if rest.startswith("# ") else ""
        if block and isinstance(value, yaml.MappingNode):
            if beside:
                yield Key(inside, "", beside, place)
            yield from _walk(value, text, inside, place, targets)
        elif block:  # a list, an item a line
            yield Key(inside, f"[{', '.join(item.value for item in value.value)}]", beside, place)
        else:
            yield Key(inside, " ".join(text[value.start_mark.index : value.end_mark.index].split()), beside, place)


def options(group: str) -> list[Option]:
    """What can be chosen in a group."""
    return [read(file, group) for file in sorted((CONF / group).glob("*.yaml"))]


def explained(keys: Sequence[Key]) -> Iterator[tuple[Key, str]]:
    """Each of the keys of a group with its comment, or that of the same argument of the same class elsewhere in it.

    A comment beside the same value comes first. A key that hands on the value of another one needs none. "" is left
    for what nobody explains.
    """
    by_value = {(key.argument, key.value): key.comment for key in reversed(keys) if key.comment}
    by_argument = {key.argument: key.comment for key in reversed(keys) if key.comment}
    for key in keys:
        handed = re.fullmatch(r"\$\{([\w.]+)\}", key.value)
        known = key.comment or by_value.get((key.argument, key.value)) or by_argument.get(key.argument, "")
        yield key, known or (f"that of `{handed[1]}`" if handed else "")


def page() -> str:
    """The page in Markdown."""
    root = read(CONF / "config.yaml", "")
    parts = [HEAD, "## Of every task", key_table(root.keys.values())]
    for task in options("task"):
        said = " ".join(comment((CONF / "task" / f"{task.name}.yaml").read_text("utf-8")))
        keys = key_table(task.keys.values()) if task.keys else "No keys of its own."
        parts += [f"## `task={task.name}`", plain(said), keys]
    defaults = dict(choice.split("=") for choice in root.chosen)
    for group, intro in GROUPS.items():
        there = options(group)
        parts += [f"## `{group}=`", _introduced(intro, defaults.get(group)), option_table(group, there)]
        if group not in RECIPES:
            base = read(CONF / f"{BASES[group]}.yaml", group).keys if group in BASES else {}
            parts.append(group_table(group, there, base, defaults.get(group)))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _introduced(intro: str, default: str | None) -> str:
    chosen = default not in (None, "None", "[]")
    return f"{intro} Where nothing chooses another, `{default}`." if chosen else intro


def key_table(keys: Iterable[Key]) -> str:
    """A table of keys, one a row."""
    rows = [[f"`{key.path}`", _code(key.value), plain(said)] for key, said in explained([*keys])]
    return table(["key", "default", "what"], rows)


def option_table(group: str, there: Sequence[Option]) -> str:
    """A table of the options of a group, with what they set elsewhere."""
    rows = []
    for option in there:
        chosen = dict(choice.split("=") for choice in option.chosen)  # the last one wins
        values = {**chosen, **{key.path: key.value for key in option.sets if key.value}}
        sets = " ".join(f"{key}={value}" for key, value in values.items())
        begins = f"as `{option.base}`" if option.base else ""
        rows.append([f"`{option.name}`", plain(option.about), "; ".join(filter(None, [begins, _code(sets)]))])
    wide = 3 if any(row[2] for row in rows) else 2
    return table([f"`{group}=`", "what", "sets"][:wide], [row[:wide] for row in rows])


def group_table(group: str, there: Sequence[Option], base: Mapping[str, Key], default: str | None) -> str:
    """A table of the keys of a group: one row for what has one name and one meaning, whatever the options.

    Args:
        base: keys that all options have.
        default: the option that is chosen where nothing else is.
    """
    keys = [(option.name, key) for option in there for key in option.keys.values() if key != base.get(key.path)]
    comments = dict(explained([*base.values(), *(key for _, key in keys)]))
    rows: dict[tuple[str, str], dict[str, list[str]]] = {
        (key.path, comments[key]): {key.value: []} for key in base.values()
    }
    for name, key in keys:
        path = f"{group}.NAME{key.path.removeprefix(f'{group}.{name}')}" if group == "protocol" else key.path
        value = "NAME" if key.value == name else key.value
        rows.setdefault((path, comments[key]), {}).setdefault(value, []).append(name)
    order = list(dict.fromkeys(path for path, _ in rows))  # what one key means here and there stands together
    return table(
        ["key", "default", "what", "in"],
        (
            [f"`{path}`", _values(values, default), plain(said), _in(values, there)]
            for (path, said), values in sorted(rows.items(), key=lambda row: order.index(row[0][0]))
        ),
    )


def _values(values: Mapping[str, Sequence[str]], default: str | None) -> str:
    """The values of a key: that of all options, of the default one or of most, then others with who has them."""
    first, *others = sorted(values, key=lambda v: (bool(values[v]), default not in values[v], -len(values[v])))
    return "; ".join([_code(first), *(f"{_code(value)} ({_names(values[value])})" for value in others)])


def _in(values: Mapping[str, Sequence[str]], there: Sequence[Option]) -> str:
    having = {name for names in values.values() for name in names}
    all_of_them = not all(values.values()) or len(having) == len(there)
    return "all" if all_of_them else _names([option.name for option in there if option.name in having])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
