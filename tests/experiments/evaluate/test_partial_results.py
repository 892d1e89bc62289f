from pathlib import Path

import pytest

from datamodules.errors import InputError
from experiments.evaluate.partial_results import Journal


def test_lines_of_all_processes_are_found(tmp_path: Path) -> None:
    identity = {"model": "m", "scale": 2}
    for rank, image in enumerate("ab"):
        with Journal(tmp_path, identity, rank) as journal:
            journal.write(image, seconds=rank + 0.5)
    assert {name: entry["seconds"] for name, entry in Journal(tmp_path, identity).read().items()} == {
        "a": 0.5,
        "b": 1.5,
    }
    assert Journal(tmp_path, {**identity, "scale": 3}).read() == {}
    Journal(tmp_path, identity, 7).remove()
    assert list(tmp_path.iterdir()) == []


def test_torn_last_line_is_forgotten_and_written_over(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        journal.write("a", psnr=float("inf"))
        journal.write("b", psnr=1.0)
    text = journal.path.read_text()
    journal.path.write_text(text[:-4])
    assert list(journal.read()) == ["a"]
    with journal:  # the next process goes on in the same file
        journal.write("b", psnr=2.0)
        journal.write("c", psnr=3.0)
    assert {name: entry["psnr"] for name, entry in journal.read().items()} == {"a": float("inf"), "b": 2.0, "c": 3.0}


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        journal.write("a")
        assert list(Journal(tmp_path, {}, rank=1).read()) == ["a"]


def test_the_same_is_measured_by_one_command_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as first:
        with pytest.raises(InputError, match="another process is measuring the same"), Journal(tmp_path, {}):
            pass
        with Journal(tmp_path, {}, rank=1):  # a rank of the first command
            pass
    first.remove()
    with Journal(tmp_path, {}) as again:
        pass
    again.remove()
    assert list(tmp_path.iterdir()) == []
