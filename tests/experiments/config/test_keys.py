"""docs/keys.md: made of conf/, complete, and with every key explained."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import run
from experiments.config.keys import BASES, GROUPS, PAGE, RECIPES, explained, options, page, read
from experiments.config.markdown import plain, table
from tests.experiments.config.test_configs import OPTIONS, compose

UNSEEN = ("hydra/job_logging",)  # what the log looks like


def test_the_page_is_made_of_the_files() -> None:
    assert PAGE.read_text("utf-8") == page(), "run python -m experiments.config.keys"


def test_every_group_and_option_is_there() -> None:
    groups = {file.parent.relative_to(run.CONF).as_posix() for file in run.CONF.glob("*/**/*.yaml")}
    assert {*GROUPS, "task", *UNSEEN} == groups
    assert {(group, option.name) for group in (*GROUPS, "task") for option in options(group)} >= {*OPTIONS}


@pytest.mark.parametrize("group", [*GROUPS, "task"])
def test_every_option_says_what_it_is(group: str) -> None:
    silent = [option.name for option in options(group) if not option.about]
    assert not silent, f"conf/{group}/: files without a comment on their first line: {silent}"


@pytest.mark.parametrize("group", ["", "task", *(group for group in GROUPS if group not in RECIPES)])
def test_every_key_is_explained(group: str) -> None:
    there = options(group) if group else [read(run.CONF / "config.yaml", "")]
    base = [*read(run.CONF / f"{BASES[group]}.yaml", group).keys.values()] if group in BASES else []
    keys = [*base, *(key for option in there for key in option.keys.values())]
    silent = {key.path for key, comment in explained(keys) if not comment}
    assert not silent, f"conf/{group}: no comment beside {sorted(silent)}, nor for the same argument elsewhere"


def leaves(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not str(key).startswith("_"):
            inside = f"{path}.{key}".lstrip(".")
            yield from leaves(value, inside) if isinstance(value, dict) and value else [inside]


@pytest.mark.parametrize(
    "overrides",
    [
        *([], ["model=usrgan_tiny"], ["task=serve"], ["model=dpir_small", "degradation=own_kernels", "data=reds_val"]),
        ["callbacks=[ema,early_stopping]", "data=paired_folder", "degradation=second_order", "scheduler=cosine"],
    ],
    ids=" ".join,
)
def test_what_hydra_composes_is_on_the_page(overrides: list[str]) -> None:
    """Whatever this module makes of the files: the keys that a command has are those of the page."""
    config = OmegaConf.to_container(compose(*overrides))
    assert isinstance(config, dict)
    rows = {line.split("`")[1] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")}
    named = {re.sub(r"^protocol\.\w+", "protocol.NAME", path) for path in leaves(config)}
    named -= {"metric", "callbacks", "suite", "procedure.parameters"}  # empty
    # A value in braces is one row; so is a node that a file leaves empty, for names of one's own.
    unknown = {p for p in named if not any(p == row or p.startswith(f"{row}.") for row in rows)}
    assert len(named) > 60
    assert not unknown


def test_comments_values_and_what_an_option_goes_on_from(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(
        "# @package _global_\n# A first one (e.g. this), plainly. More of it.\ndefaults:\n  - override /loss: sr_l1\n"
        "  - override /protocol: [a, b]\n\nmodel:\n  _target_: some.Class\n  width: 8 # channels\n"
        '  words: "a # b" # of it\n  nested: # all of\n    deep: {a: 1,  b: 2}\nseed: 3 # ours\n'
    )
    (tmp_path / "second.yaml").write_text(
        "# @package _global_\n# A second one\ndefaults:\n  - first\n\nmodel:\n  width: 4\n  list:\n    - x\n    - y\n"
    )
    first, second = (read(tmp_path / f"{name}.yaml", "model") for name in ("first", "second"))
    assert (first.about, first.base, first.chosen) == (
        "A first one (e.g. this), plainly",
        None,
        ["loss=sr_l1", "protocol=[a,b]"],
    )
    assert [(key.path, key.value) for key in first.sets] == [("seed", "3")]
    found = [(key.path, key.value, key.comment) for key in first.keys.values()]
    assert found == [
        ("model.width", "8", "channels"),
        ("model.words", '"a # b"', "of it"),
        ("model.nested", "", "all of"),
        ("model.nested.deep", "{a: 1, b: 2}", ""),
    ]
    assert second.base == "first"
    assert second.keys["model.width"].value == "4"
    assert second.keys["model.list"].value == "[x, y]"
    known = {key.path: comment for key, comment in explained([*first.keys.values(), *second.keys.values()])}
    assert known["model.width"] == "channels"  # of the other value of the same argument
    assert known["model.nested.deep"] == known["model.list"] == ""


def test_markdown_means_itself() -> None:
    assert plain("a_b, _c_, *d* and <e>") == r"a_b, \_c\_, \*d\* and \<e>"
    assert table(["a", "b"], [["x|y", "z"]]) == "| a | b |\n| --- | --- |\n| x\\|y | z |"
