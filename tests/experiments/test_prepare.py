"""task=prepare through the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Outcome
from tests.helpers.pipes import make_pipe

Cli = Callable[..., Outcome]


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_says_what_it_made_and_a_run_finds_it(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((33, 40, 3), np.uint8)).save(tmp_path / "photographs" / "small.png")
    data = [item for item in tiny if item.startswith("data")]
    outcome = cli("task=prepare", *data)
    assert outcome.status == 0, outcome.err
    title, header, _, *table = rows(outcome.out)
    assert title == ["photographs"]
    assert header == ["split", "content", "images", "smallest", "median", "largest", "decoded", "folder"]
    assert [row[:2] for row in table] == [[split, "sharp"] for split in ("train", "val", "test")]
    assert sum(int(row[2]) for row in table) == 7
    assert [row[3] for row in table].count("40x33") == 1
    assert {row[5] for row in table} <= {"96x80", "40x33"}
    made = {Path(row[-1]) for row in table}
    assert made == {path for path in (tmp_path / "cache" / "images").iterdir() if path.is_dir()}
    for row in table:
        assert float(row[6]) == pytest.approx((Path(row[-1]) / "images.u8").stat().st_size / 1e6, abs=0.06)
    assert not (tmp_path / "runs").exists()
    assert cli(*tiny).status == 0
    assert {path for path in (tmp_path / "cache" / "images").iterdir() if path.is_dir()} == made


def test_pairs_have_two_rows(cli: Cli, make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    make_photographs(count=4, name="pairs/sharp")
    make_photographs(count=4, height=40, width=48, name="pairs/degraded")
    common = ["task=prepare", "data=paired_folder", f"data.root={tmp_path / 'pairs'}", "degradation=none"]
    outcome = cli(*common, "data.source.scale=2")
    assert outcome.status == 0, outcome.err
    table = rows(outcome.out)[3:]
    assert [row[:4] for row in table[:2]] == [["train", "sharp", "2", "96x80"], ["train", "degraded", "2", "48x40"]]
    assert len(table) == 6
    refused = cli(*common)
    assert refused.status == 1
    assert "set data.source.scale=2" in refused.err


@pytest.mark.parametrize("given", ["ed_dsrn", "own_kernels", "gaussian8 degradation.scale=7"])
def test_pairs_are_prepared_whatever_the_degradation(
    cli: Cli, make_photographs: Callable[..., Path], given: str
) -> None:
    root = make_photographs(count=3, name="pairs/sharp").parent
    make_photographs(count=3, name="pairs/degraded")
    outcome = cli("task=prepare", "data=paired_folder", f"data.root={root}", *f"degradation={given}".split())
    assert outcome.status == 0, outcome.err


def test_pipes_are_named_and_may_be_passed_over(cli: Cli, make_photographs: Callable[..., Path]) -> None:
    folder = make_photographs(count=10)
    pipe = make_pipe(folder / "pipe.png")
    command = ["task=prepare", "data=folder", f"data.root={folder}"]
    outcome = cli(*command)
    assert outcome.status == 1
    assert f"images are unreadable: {pipe}: is a named pipe, expected a regular file" in outcome.err
    outcome = cli(*command, "data.on_corrupt=skip")
    assert outcome.status == 0, outcome.err
    assert sum(int(row[2]) for row in rows(outcome.out)[3:]) == 10


def test_test_set_has_one_split(cli: Cli, make_photographs: Callable[..., Path]) -> None:
    outcome = cli("task=prepare", "data=set5", f"data.root={make_photographs(count=5)}")
    assert outcome.status == 0, outcome.err
    assert [row[:3] for row in rows(outcome.out)[3:]] == [["test", "sharp", "5"]]


def test_missing_data_say_where_to_get_them(cli: Cli) -> None:
    outcome = cli("task=prepare", "data=gopro", "data.variant=blur", "degradation=none")
    assert outcome.status == 1
    assert "get GOPRO_Large.zip from https://seungjunnah.github.io/Datasets/gopro" in outcome.err
    assert outcome.err.count("\n") == 1
