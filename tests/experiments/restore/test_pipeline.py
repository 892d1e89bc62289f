"""Photographs in a row: what is done at the same time, what is not, and what is said of each."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.errors import ConfigError, InputError
from datamodules.io.write_photo import NotWritten
from experiments.restore.paths import Item
from experiments.restore.pipeline import AHEAD, Notes, restore_all

PATIENCE = 20.0  # seconds, after which what should have happened at the same time has not
STEPS = ["read", "restore", "write"]


class Stub:
    """What a photograph goes through; every step is noted, and may do something else besides."""

    def __init__(self, item: Item, row: "Row") -> None:
        self.item, self.row, self.seconds = item, row, 1.0
        self.size = row.sizes.get(item.source.name, 1)

    def read(self) -> None:
        self.row.holds(self.size)
        self._step("read")

    def restore(self, progress: Callable[[int, int], None]) -> None:
        self._step("restore")
        progress(1, 1)

    def write(self) -> Notes:
        self._step("write")
        self.row.holds(-self.size)
        return self.row.notes.get(self.item.source.name, ([], []))

    def _step(self, step: str) -> None:
        row, name = self.row, self.item.source.name
        row.taken.append((step, name, threading.current_thread() is threading.main_thread()))
        row.begun[step, name].set()
        if action := row.actions.get((step, name)):
            action()


class Row:
    """Photographs of one letter each, and what happens to them."""

    def __init__(self, names: str, said: set[str] | None = None) -> None:
        self.items = [Item(Path(name), Path("out", name)) for name in names]
        self.sizes: dict[str, float] = {}
        self.actions: dict[tuple[str, str], Callable[[], object]] = {}
        self.notes: dict[str, Notes] = {}
        self.begun = {(step, name): threading.Event() for step in STEPS for name in names}
        self.taken: list[tuple[str, str, bool]] = []  # step, name, in the main thread
        self.told: list[str] = []
        self.in_memory = self.largest = 0.0
        self.lock = threading.Lock()
        self.said = said or set()

    def holds(self, more: float) -> None:
        with self.lock:
            self.in_memory += more
            self.largest = max(self.largest, self.in_memory)

    def waits(self, step: str, name: str) -> Callable[[], object]:
        def wait() -> None:
            assert self.begun[step, name].wait(PATIENCE), f"{step} {name} has not begun meanwhile"

        return wait

    def fails(self, error: BaseException) -> Callable[[], object]:
        def fail() -> None:
            raise error

        return fail

    def run(self) -> int:
        return restore_all(self.items, lambda item: Stub(item, self), self.said, False, self.told.append)  # type: ignore

    def steps(self, name: str) -> list[str]:
        return [step for step, of, _ in self.taken if of == name]


def test_next_is_read_and_last_is_written_meanwhile() -> None:
    row = Row("abc")
    row.actions["restore", "b"] = row.waits("read", "c")
    row.actions["write", "a"] = row.waits("restore", "b")
    assert row.run() == 0
    assert all(row.steps(name) == STEPS for name in "abc")


def test_no_more_than_fits_is_in_memory() -> None:
    row = Row("abcdefgh")
    row.sizes = dict.fromkeys("abcdefgh", AHEAD / 2.5)
    assert row.run() == 0
    assert row.largest <= AHEAD
    row = Row("abcdefgh")
    row.sizes = dict.fromkeys("abcdefgh", AHEAD / 2.5) | {"d": AHEAD * 2, "g": AHEAD * 3}
    assert row.run() == 0
    assert row.largest == AHEAD * 3  # alone
    large = [(step, in_main) for step, name, in_main in row.taken if name in "dg"]
    assert large == 2 * [(step, True) for step in STEPS]  # where a signal ends it at once


def test_large_ones_come_one_after_the_other() -> None:
    row = Row("abc")
    row.sizes = dict.fromkeys("abc", AHEAD + 1)
    assert row.run() == 0
    assert [(step, name) for step, name, _ in row.taken] == [(step, name) for name in "abc" for step in STEPS]


def test_what_fails_is_told_in_order_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    row = Row("abcdef", said={"known"})
    row.actions["write", "a"] = row.waits("read", "b")
    row.actions["read", "b"] = row.fails(InputError("b cannot be read"))
    row.actions["restore", "d"] = row.fails(InputError("d is too large"))
    row.actions["write", "e"] = row.fails(InputError("e has too long a name"))
    row.notes = {"a": (["lost"], ["assumed", "known"]), "c": (["lost"], ["assumed"]), "f": ([], ["other"])}
    assert row.run() == 3
    assert row.told == [
        "a: lost",
        "a: assumed",
        "b cannot be read",
        "c: lost",
        "d is too large",
        "e has too long a name",
        "f: other",
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"{number}/6 {name} -> out/{name} (1.0 s)" for number, name in ((1, "a"), (3, "c"), (6, "f"))
    ]


@pytest.mark.parametrize("step", ["restore", "write"])
@pytest.mark.parametrize("kind", [NotWritten, ConfigError])
def test_what_no_other_could_do_ends_the_row(step: str, kind: type[Exception]) -> None:
    row = Row("abcdef")
    row.actions["read", "a"] = row.fails(InputError("a cannot be read"))
    row.actions[step, "b"] = row.fails(kind("no space"))
    with pytest.raises(kind, match="no space"):
        row.run()
    assert row.told == ["a cannot be read"]
    assert not row.steps("f")


def test_interrupted_row_finishes_the_file_that_is_written() -> None:
    row = Row("abcd")
    release, written = threading.Event(), list[str]()

    def write() -> None:
        assert release.wait(PATIENCE)
        written.append("a")

    def interrupt() -> None:
        row.waits("write", "a")()
        threading.Timer(0.05, release.set).start()
        raise KeyboardInterrupt

    row.actions["write", "a"] = write
    row.actions["restore", "b"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        row.run()
    assert written == ["a"]
    assert not row.steps("d")
