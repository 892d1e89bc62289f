import contextlib
from pathlib import Path

import pytest

from datamodules.io.atomic import part_of, replacing


def test_the_name_is_taken_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with replacing(path, sync=True) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with contextlib.suppress(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "gone" / "a.json", sync=True) as part:
        part.write_text("after")
    assert not (tmp_path / "gone").exists()


def test_a_link_under_its_name_is_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / "a.json", tmp_path / "target"
    target.write_text("of the user")
    part_of(path).symlink_to(target)
    with replacing(path) as part:
        part.write_text("after")
    assert (path.read_text(), path.is_symlink(), target.read_text()) == ("after", False, "of the user")
