"""Videos: frames as players show them, and what is put together of them again."""

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import InputError
from datamodules.io.video import CONTAINERS, Frame, Piece, check_writable, examine, read_frames, write_video
from tests.helpers.clips import TIMES, pattern, psnr, shown, sounds, truncate, write_clip, write_sound

av = pytest.importorskip("av")


def pieces_of(path: Path, lengths: tuple[int, ...]) -> list[Path]:
    """The frames of a video, in files of so many."""
    frames, files = read_frames(path), list[Path]()
    for number, length in enumerate(lengths):
        part = list(itertools.islice(frames, length))
        piece = Piece(path.with_name(f"piece{number}"), part[0])
        for frame in part:
            piece.add(frame.pixels())
        piece.close()
        files.append(piece.path)
    assert next(frames, None) is None
    return files


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_pieces_in_a_row_have_sound_and_times_of_the_source(tmp_path: Path, suffix: str) -> None:
    source, result = tmp_path / "a.mp4", tmp_path / f"b{suffix}"
    frames = write_clip(source)
    assert examine(source).frames == len(frames) == len(TIMES)
    check_writable(source, CONTAINERS[suffix])
    write_video(
        result, CONTAINERS[suffix], source, pieces_of(source, (3, 1, 4)), [frame.time for frame in read_frames(source)]
    )
    times, heard = shown(result), sounds(result)
    if (
        suffix == ".mkv"
    ):  # which counts milliseconds, from 0 on: the sound begins before that, to have been decoded then
        shift = sounds(source)[0][0]
        assert times == pytest.approx([float(time - shift) for time in shown(source)], abs=1.1e-3)
        assert [time for time, _ in heard] == pytest.approx(
            [float(time - shift) for time, _ in sounds(source)], abs=1.1e-3
        )
    else:
        assert times == [Fraction(time, 30) for time in TIMES]
        assert [time for time, _ in heard] == [time for time, _ in sounds(source)]
    assert [data for _, data in heard] == [data for _, data in sounds(source)]
    for frame, expected in zip(read_frames(result), frames, strict=True):
        assert psnr(frame.pixels(), expected) > 33  # colours have half the resolution


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_frames_are_upright(tmp_path: Path, rotation: int, turns: int) -> None:
    frames = write_clip(tmp_path / "a.mp4", rotation=rotation)
    found = [frame.pixels() for frame in read_frames(tmp_path / "a.mp4")]
    assert all(psnr(one, np.rot90(frame, turns)) > 38 for one, frame in zip(found, frames, strict=True))
    write_video(tmp_path / "b.mp4", "mp4", tmp_path / "a.mp4", pieces_of(tmp_path / "a.mp4", (8,)), TIMES)
    again = next(read_frames(tmp_path / "b.mp4"))
    assert again.decoded.rotation == 0
    assert psnr(again.pixels(), np.rot90(frames[0], turns)) > 33


@pytest.mark.parametrize(("colours", "deep"), [(1, False), (5, False), (9, True), (None, False)])
def test_colours_are_read_and_written_by_one_matrix(tmp_path: Path, colours: int | None, deep: bool) -> None:
    source = tmp_path / "a.mp4"
    (given,) = write_clip(source, (0,), (33, 48), colours=colours, deep=deep)  # odd: colours keep their resolution
    (frame,) = read_frames(source)
    pixels = frame.pixels()
    assert pixels.dtype == (np.uint16 if deep else np.uint8)
    assert psnr((pixels / (257 if deep else 1)).round().astype(np.uint8), given) > 40
    (again,) = read_frames(pieces_of(source, (1,))[0])
    assert psnr(again.pixels(), pixels) > 38
    assert again.look() == frame.look()
    assert again.decoded.color_primaries == (colours or 2)


@pytest.mark.parametrize(("stored", "off"), [("yuv420p", 0.3), ("yuv420p10le", 0.6), ("yuv444p", 0.1)])
def test_frames_are_as_bright_as_they_were(stored: str, off: float) -> None:
    given = pattern(96, 128, 0)
    decoded = av.VideoFrame.from_ndarray(given, format="rgb24")
    decoded = decoded.reformat(format=stored, dst_colorspace=5, src_color_range=2, dst_color_range=1)
    pixels = Frame(0, 0, decoded).pixels()
    bias = given - pixels / (257 if pixels.dtype == np.uint16 else 1)
    assert np.abs(bias.mean((0, 1))).max() < off
    assert np.abs(bias).mean() < 1


def test_what_goes_with_a_video(tmp_path: Path) -> None:
    source, result = tmp_path / "a.mkv", tmp_path / "b.mp4"
    write_clip(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as given, av.open(str(source), "w") as made:
        made.metadata["title"] = "Tide"
        chapters: Any = [{"id": 1, "start": 0, "end": 300, "time_base": Fraction(1, 1000), "metadata": {"title": "x"}}]
        made.set_chapters(chapters)
        streams = {stream: made.add_stream_from_template(stream) for stream in given.streams}
        made.add_attachment("cover.txt", "text/plain", b"text")
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream]
                made.mux(packet)
    assert examine(source).left_out == ("1 further stream(s) (attachment) left out",)
    write_video(result, "mp4", source, pieces_of(source, (8,)), [frame.time for frame in read_frames(source)])
    with av.open(str(result)) as found:
        assert found.metadata["title"] == "Tide"
        assert [chapter["metadata"] for chapter in found.chapters()] == [{"title": "x"}]
    assert examine(result).left_out == ()


def test_pixels_that_are_no_squares(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", (0, 1), sound=None, rotation=90, ratio=Fraction(4, 3))
    write_video(tmp_path / "b.mp4", "mp4", tmp_path / "a.mp4", pieces_of(tmp_path / "a.mp4", (2,)), (0, 1))
    with av.open(str(tmp_path / "b.mp4")) as found:
        assert found.streams.video[0].sample_aspect_ratio == Fraction(3, 4)


def write_text(path: Path) -> None:
    path.write_text("no video\n" * 100)


def write_list(path: Path) -> None:
    write_clip(path.with_name("other.mp4"))
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n")


def write_truncated(path: Path) -> None:
    write_clip(path)
    truncate(path, 0.5)


def write_without_end(path: Path) -> None:
    write_clip(path)
    truncate(path, 0.7, index_first=True)


def write_long(path: Path) -> None:
    write_clip(path, range(0, 240, 2))
    truncate(path, 0.5)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.mp4", write_text, "is no video that can be read, or is truncated or damaged"),
        ("a.mp4", write_list, "is no video that can be read, or is truncated or damaged"),
        ("a.mp4", write_truncated, "is no video that can be read, or is truncated or damaged"),
        ("a.mp4", write_without_end, "is truncated: "),
        ("a.mkv", write_long, "is truncated: "),
        ("a.mp4", write_sound, "has no moving picture, only audio"),
        ("a.mp4", Path.mkdir, "is no regular file"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError) as caught:
        examine(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert "\n" not in str(caught.value)


def join(path: Path, sizes: list[tuple[int, int]], later: int = 50, sound: str | None = None) -> None:
    """Write a video of files behind one another, as cameras store theirs in parts."""
    parts = [path.with_name(f"{number}.mts") for number in range(len(sizes))]
    for part, size in zip(parts, sizes, strict=True):
        start = later * int(part.stem)
        write_clip(part, range(start, start + 50), size, sound=sound)
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


def test_joined_streams_are_read_to_their_end(tmp_path: Path) -> None:
    join(tmp_path / "a.mts", [(32, 48)] * 2)
    found = examine(tmp_path / "a.mts")
    assert (found.frames, len(found.left_out)) == (100, 1)
    assert found.left_out[0].endswith("damaged, or it was joined of several files: look at its frames")
    assert sum(1 for _ in read_frames(tmp_path / "a.mts")) == 100
    for later, sound in ((0, None), (50, "aac")):  # a tone begins at 0
        join(tmp_path / "b.mts", [(32, 48)] * 2, later, sound)
        with pytest.raises(InputError, match=r"b\.mts: was joined of files whose times each begin anew: restore these"):
            examine(tmp_path / "b.mts")


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    join(tmp_path / "a.mts", [(32, 48), (64, 96)])
    found = read_frames(tmp_path / "a.mts")
    assert [next(found).pixels().shape for _ in range(50)] == [(32, 48, 3)] * 50
    with pytest.raises(InputError, match=r"a\.mts: frame 51 is 96x64, the first 48x32: convert the video to one size"):
        next(found)


def test_sound_that_a_format_cannot_hold(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", (0, 1), sound="libopus")
    check_writable(tmp_path / "a.mkv", "mp4")
    with pytest.raises(
        InputError, match=r"a\.mkv: its sound \(opus\) cannot be in mov: give output= of another ending"
    ):
        check_writable(tmp_path / "a.mkv", "mov")


def test_large_frames_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", (0,), sound=None)
    with pytest.raises(InputError, match="has 48x32 pixels, more than 1000"):
        examine(tmp_path / "a.mp4", 1000)
