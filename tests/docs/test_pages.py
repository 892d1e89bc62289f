"""Links, pictures and tables of the README and the pages under docs/ agree with what is there."""

import re
from pathlib import Path

import pytest
import torch

import run
from tests.experiments.config.test_configs import OPTIONS, compose
from tests.helpers.pages import PAGES, ROOT, anchors, links, names, prose, tables

# Which page has the table of all options of a group; other pages may have tables of some.
HOMES = {
    "model": "docs/systems.md",
    "task": "README.md",
    "data": "docs/data.md",
    "degradation": "docs/data.md",
    "experiment": "docs/training.md",
    "protocol": "docs/measuring.md",
    "suite": "docs/measuring.md",
}
LARGEST = 300_000  # bytes of a picture in docs/


def options_in_tables(group: str, home: bool) -> list[str]:
    """The options in the first column of tables headed `GROUP=`, of the group's page or of the others."""
    of = [rows for page, header, rows in tables() if header[0] == f"`{group}=`" and (page == HOMES[group]) == home]
    return [name for rows in of for row in rows for name in names(row[0])]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong, f"{page.relative_to(ROOT)} links to what is not there: {', '.join(wrong)}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    alone = [page.name for page in PAGES[1:] if page not in linked]
    assert not alone, f"README.md has no link to docs/{', docs/'.join(alone)}"


def test_every_picture_is_shown_and_small() -> None:
    files = [file for file in (ROOT / "docs").rglob("*") if file.suffix in (".png", ".jpg", ".webp", ".gif")]
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert not [file.name for file in files if file not in shown], "pictures that no page shows"
    assert not [file.name for file in files if file.stat().st_size > LARGEST], f"more than {LARGEST} bytes"


@pytest.mark.parametrize("group", HOMES)
def test_tables_have_every_option_once(group: str) -> None:
    listed, there = options_in_tables(group, home=True), {option for g, option in OPTIONS if g == group}
    absent, surplus = there - set(listed), {*listed, *options_in_tables(group, home=False)} - there
    assert not absent, f"the table headed `{group}=` in {HOMES[group]} lacks {sorted(absent)}"
    assert not surplus, f"tables headed `{group}=` have options that conf/{group}/ has not: {sorted(surplus)}"
    assert len(listed) == len(set(listed)), f"twice in {HOMES[group]}: {sorted(listed)}"


@pytest.mark.slow
def test_parameters_and_inputs_of_the_systems() -> None:
    """The table of systems has the numbers of the networks as configured, rounded to thousands."""
    words = {"lr": "photograph", "kernel": "kernel", "kernels": "kernels", "weights": "maps of weights"}
    words |= {"noise_level": "noise level", "scale": "scale"}
    [(header, rows)] = [(h, rows) for page, h, rows in tables() if page == HOMES["model"] and h[0] == "`model=`"]
    column = {title: i for i, title in enumerate(header)}
    inputs: dict[str, str] = {}
    for row in rows:
        models, parameters = names(row[0]), row[column["parameters"]].split(", ")
        assert len(parameters) in (1, len(models)), row
        shown = row[column["inputs"]]
        for i, model in enumerate(models):
            with torch.device("meta"):
                network = run.hydra.utils.instantiate(compose(f"model={model}").model, _convert_="all")
            count = sum(parameter.numel() for parameter in network.parameters())
            expected = f"{count / 1e6:.3f} M" if count else "0"
            assert parameters[i % len(parameters)] == expected, f"{model}: {expected}"
            order = [word for field, word in words.items() if field in network.inputs]
            inputs[model] = ", ".join(order)
            assert shown in (inputs[model], "the same"), f"{model}: {inputs[model]}"


def test_prose_names_keys_that_exist() -> None:
    """`data.root=...` and `data.root` in sentences are on the page of all keys, or in the value of a key there."""
    rows = {name for page, _, rows in tables() if page == "docs/keys.md" for row in rows for name in names(row[0])}
    groups = {group for group, _ in OPTIONS} | {"hydra/launcher", "hydra/sweeper", "hydra.searchpath"}  # its own
    starts = {key.split(".")[0] for key in rows if "." in key}
    codes = re.compile(r"`\+?([a-z_/]+)((?:\.\w+)*)(=[^`\"]*)?`")  # quotes: an argument in Python
    found = [(page.name, *code) for page in PAGES for code in codes.findall(prose(page))]
    named = [(page, start + rest) for page, start, rest, value in found if value or (rest and start in starts)]
    assert len(named) > 500
    nodes = groups | {".".join(key.split(".")[:n]) for key in rows for n in range(1, key.count(".") + 2)}
    wrong = [
        (page, key) for page, key in named if key not in nodes and not key.startswith(tuple(f"{k}." for k in rows))
    ]
    assert not wrong


def all_code() -> str:
    """The source of everything but the tests; string literals that are one are joined."""
    folders = ("datamodules", "experiments", "lightning_modules", "networks")
    code = " ".join(file.read_text("utf-8") for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return re.sub(r"\"\s*\n\s*f?\"", "", code)


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """What stands there in quotes is said somewhere; "..." stands for what differs from case to case."""
    code = all_code()
    first = [row[0] for page, _, rows in tables() if page == "docs/troubleshooting.md" for row in rows]
    quoted = [message for cell in first for message in re.findall(r'"([^"]+)"', cell)]
    assert len(quoted) > 10
    unknown = [m for m in quoted if not all(part.strip() in code for part in m.split("..."))]
    assert not unknown, f"no message of the code says {unknown}"


def test_curves_are_logged_under_these_names() -> None:
    """Names of metrics in docs/wandb.md, up to the first word in capitals, which stands for many."""
    code = all_code()
    named = re.findall(r"`((?:train|val|test|speed)/[^`]*)`", prose(ROOT / "docs" / "wandb.md"))
    starts = {re.split(r"[A-Z.]|psnr|ssim|kernel", name)[0] for name in named}
    assert len(starts) > 8
    assert not [start for start in starts if f'"{start}' not in code]
