from pathlib import Path

import pytest

from datamodules.errors import InputError
from experiments.evaluate.partial_results import PartialResults


def test_lines_of_all_processes_are_found(tmp_path: Path) -> None:
    identity = {"model": "m", "scale": 2}
    for rank, image in enumerate("ab"):
        with PartialResults(tmp_path, identity, rank) as partial_results:
            partial_results.write(image, seconds=rank + 0.5)
    assert {name: entry["seconds"] for name, entry in PartialResults(tmp_path, identity).read().items()} == {
        "a": 0.5,
        "b": 1.5,
    }
    assert PartialResults(tmp_path, {**identity, "scale": 3}).read() == {}
    PartialResults(tmp_path, identity, 7).remove()
    assert list(tmp_path.iterdir()) == []


def test_torn_last_line_is_forgotten_and_written_over(tmp_path: Path) -> None:
    with PartialResults(tmp_path, {}) as partial_results:
        partial_results.write("a", psnr=float("inf"))
        partial_results.write("b", psnr=1.0)
    text = partial_results.path.read_text()
    partial_results.path.write_text(text[:-4])
    assert list(partial_results.read()) == ["a"]
    with partial_results:  # the next process goes on in the same file
        partial_results.write("b", psnr=2.0)
        partial_results.write("c", psnr=3.0)
    assert {name: entry["psnr"] for name, entry in partial_results.read().items()} == {
        "a": float("inf"),
        "b": 2.0,
        "c": 3.0,
    }


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with PartialResults(tmp_path, {}) as partial_results:
        partial_results.write("a")
        assert list(PartialResults(tmp_path, {}, rank=1).read()) == ["a"]


def test_the_same_is_measured_by_one_command_at_a_time(tmp_path: Path) -> None:
    with PartialResults(tmp_path, {}) as first:
        with pytest.raises(InputError, match="another process is measuring the same"), PartialResults(tmp_path, {}):
            pass
        with PartialResults(tmp_path, {}, rank=1):  # a rank of the first command
            pass
    first.remove()
    with PartialResults(tmp_path, {}) as again:
        pass
    again.remove()
    assert list(tmp_path.iterdir()) == []
