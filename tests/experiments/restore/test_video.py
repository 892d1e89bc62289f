"""task=restore of a video."""

import os
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.io.video import read_frames
from experiments.restore import Restorer
from tests.conftest import Outcome
from tests.helpers.clips import TIMES, psnr, shown, sounds, truncate, write_clip, write_sound
from tests.helpers.marks import quick

Cli = Callable[..., Outcome]
BICUBIC = ["task=restore", "model=bicubic", "trainer.accelerator=cpu"]


def pictures(path: Path) -> list[np.ndarray]:
    return [frame.pixels() for frame in read_frames(path)]


def test_frames_as_pictures_with_sound_and_times(cli: Cli, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", rotation=90)
    command = [*BICUBIC, "input=clip.mp4", "output=out", "scale=2"]
    outcome = cli(*command)
    assert (outcome.status, outcome.out) == (0, "restored: 1 in out\n"), outcome.err
    assert outcome.err.count("clip.mp4: its frames are restored one by one") == 1
    assert shown(tmp_path / "out" / "clip.mp4") == [Fraction(time, 30) for time in TIMES]
    assert sounds(tmp_path / "out" / "clip.mp4") == sounds(tmp_path / "clip.mp4")
    restorer = Restorer.load(None, model="bicubic", device="cpu")
    found = pictures(tmp_path / "out" / "clip.mp4")
    for pixels, frame in zip(found, pictures(tmp_path / "clip.mp4"), strict=True):
        expected = restorer.restore(frame, scale=2).sr
        assert isinstance(expected, np.ndarray)
        assert pixels.shape == expected.shape == (96, 64, 3)
        assert psnr(pixels, expected) > 36
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", ".restored.jsonl"}
    assert cli(*command).out == "restored: 1 in out, 1 of them before\n"
    outcome = cli(*BICUBIC, "input=clip.mp4", "output=out", "scale=3")
    assert outcome.err.startswith("out/clip.mp4: exists and was made with scale=2, this is 3: ")


def interrupted_at(frame: int, calls: list[int]) -> Callable[..., Any]:
    """`Restorer.restore` that ends the process at a frame, from 1."""
    restore = Restorer.restore

    def restoring(self: Restorer, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == frame:
            os.kill(os.getpid(), signal.SIGTERM)
        return restore(self, *arguments, **options)

    return restoring


@pytest.mark.parametrize("engine", quick(["auto", "openvino"], "auto"))
def test_interrupted_video_goes_on_where_it_was(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    if engine != "auto":
        pytest.importorskip(engine)
    write_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr("experiments.restore.video.FRAMES", 3)
    command = [*BICUBIC, f"engine={engine}", "input=clip.mp4", "scale=1"]
    assert cli(*command, "output=whole.mkv").status == 0
    for scale, left in ((1, 5), (1, 5), (2, 8)):
        with monkeypatch.context() as patch:
            patch.setattr(Restorer, "restore", interrupted_at(5, []))
            outcome = cli(*command, "output=a.mkv")
        assert outcome.status == 128 + signal.SIGTERM
        assert "Traceback" not in outcome.err
        assert not (tmp_path / "a.mkv").exists()
        calls: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(Restorer, "restore", interrupted_at(99, calls))
            outcome = cli(*command, "output=a.mkv", f"scale={scale}")
        assert outcome.status == 0, outcome.err
        assert len(calls) == left  # of another scale all are made anew
        assert "8 of 8 frames" not in outcome.err  # the last piece has two
        assert shown(tmp_path / "a.mkv") == shown(tmp_path / "whole.mkv")
        if scale == 1:
            for one, other in zip(pictures(tmp_path / "a.mkv"), pictures(tmp_path / "whole.mkv"), strict=True):
                assert np.array_equal(one, other)
        assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"clip.mp4", "whole.mkv", "a.mkv"}
        (tmp_path / "a.mkv").unlink()


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["output=x.avi"], 1, "output=x.avi: found .avi, expected .mp4, .mov, .mkv, or x.avi/ for a folder"),
        (["output=x.png"], 1, "output=x.png: found .png, expected .mp4, .mov, .mkv, or x.png/ for a folder"),
        (["output=clip.mp4"], 1, "clip.mp4: the result would replace the video of input="),
        (["output=."], 1, "clip.mp4: the result would replace the video of input="),
        (["output=out", "input=[clip.mp4,a.png]"], 1, "input=clip.mp4: is a video, which is restored by itself"),
        (["output=out", "format=png"], 2, "format: found png, which is for photographs"),
        (["output=out", "max_pixels=1000"], 1, "clip.mp4: has 48x32 pixels, more than 1000"),
        (["output=out", "input=text.mp4"], 1, "text.mp4: is no video that can be read"),
        (["output=out", "input=sound.mp4"], 1, "sound.mp4: has no moving picture, only audio"),
        (["output=out", "input=cut.mp4"], 1, "cut.mp4: is truncated: "),
        (["output=out", "input=absent.mp4"], 1, "input=absent.mp4: does not exist"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, tmp_path: Path, overrides: list[str], status: int, message: str) -> None:
    write_clip(tmp_path / "clip.mp4")
    write_clip(tmp_path / "cut.mp4")
    truncate(tmp_path / "cut.mp4", 0.7, index_first=True)
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    outcome = cli(*BICUBIC, "input=clip.mp4", "scale=1", *overrides)
    assert outcome.status == status, outcome.err
    said = [line for line in outcome.err.splitlines() if "one by one" not in line]
    assert len(said) == 1
    assert said[0].startswith(message)


def test_missing_extra_is_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    outcome = cli(*BICUBIC, "input=clip.mp4", "output=out", "scale=1")
    assert outcome.status == 1
    *_, last = outcome.err.splitlines()
    assert last == ("clip.mp4: is a video, which needs PyAV: pip install -c constraints.txt -e '.[video]'")


def test_videos_in_a_folder_are_passed_over(cli: Cli, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "clip.mp4", (0,), sound=None)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "in" / "a.png")
    outcome = cli(*BICUBIC, "input=in", "output=out", "scale=1")
    assert outcome.status == 0, outcome.err
    assert "input=in: passed over 1 other file(s) (1 .mp4): a video is restored by itself, input=FILE; " in outcome.err
