"""What the README and the pages under docs/ hold: commands, Python, links, tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
OF_FIGURES = [ROOT / "experiments" / room / "README.md" for room in ("results", "zoo")]
FENCE = re.compile(r"^```(\w*)$")
INLINE = re.compile(r"`(python (?!-c)[^`]+)`")
NAMED = re.compile(r"`([\w./-]+\.(?:py|yaml))`[^`]*:$")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Snippet:
    """A piece of a page that a reader may run: a fenced block, or one command inside a sentence.

    Attributes:
        page: relative to the repository.
        line: of its first line of text, from 1.
        language: of the fence; "bash" for a command inside a sentence.
        text: without the fence.
        before: the last line of text before the fence.
    """

    page: str
    line: int
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """Where the block belongs, if the sentence before it ends with the name of a file and a colon."""
        named = NAMED.search(self.before)
        return named[1] if named and self.language in ("python", "yaml") else None

    def commands(self) -> list[str]:
        """The commands of a shell block one by one, without comments; lines that go on with a backslash are one."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        for name, value in reversed(re.findall(r'^([A-Z_]+)="([^"]*)"', joined, flags=re.MULTILINE)):
            joined = re.sub(rf"\${name}\b", value, joined)
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
        return [part.strip() for line in lines if line for part in line.split(" && ")]


@cache
def snippets(of_figures: bool = False) -> tuple[Snippet, ...]:
    """All fenced blocks and commands inside sentences, in the order of the pages; or those beside figures."""
    return tuple(snippet for page in (OF_FIGURES if of_figures else PAGES) for snippet in _snippets(page))


def _snippets(page: Path) -> Iterator[Snippet]:
    name = page.relative_to(ROOT).as_posix()
    language: str | None = None
    block: list[str] = []
    before, start = "", 0
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if language is not None and line == "```":
            yield Snippet(name, start, language, "\n".join(block), before)
            language = None
        elif fence and language is None:
            language, block, start = fence[1], [], number + 1
        elif language is not None:
            block.append(line)
        else:
            before = line or before
            for found in INLINE.findall(line):
                if "..." not in found:
                    yield Snippet(name, number, "bash", found, before)
    assert language is None, f"{name}: the block that begins in line {start} has no end"


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    return LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables() -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(page, header, rows) of every table."""
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\|\n)+", prose(page) + "\n", flags=re.MULTILINE):
            rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
            yield page.relative_to(ROOT).as_posix(), rows[0], rows[2:]


def names(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)
