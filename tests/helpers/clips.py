"""Videos of a few small frames at uneven times, with a tone."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")  # the extra `video`

TIMES = (0, 3, 4, 9, 10, 11, 20, 22)  # of the frames, in thirtieths of a second
_RATE = 48_000


def pattern(height: int, width: int, number: int) -> np.ndarray:
    """A smooth picture in colour that moves with its number, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width][..., None]
    waves = np.sin((x + 2 * number) / 9 + np.arange(3)) + np.cos(y / 7 + np.arange(3) * 2)
    return (127 + 60 * waves).round().astype(np.uint8)


def write_clip(
    path: Path,
    times: Sequence[int] = TIMES,
    size: tuple[int, int] = (32, 48),
    sound: str | None = "aac",
    rotation: int | None = None,
    colours: int | None = None,
    deep: bool = False,
    ratio: Fraction = Fraction(1),
) -> list[np.ndarray]:
    """Write a video and return its frames as they were before it was compressed.

    Args:
        sound: name of an encoder.
        rotation: that players apply, in degrees to the left.
        colours: H.273's number of primaries, curve and matrix.
        deep: 10 bits.
        ratio: width to height of a pixel.
    """
    frames = [pattern(*size, number) for number in range(len(times))]
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=30, options={"crf": "4"})
        video.height, video.width = size
        video.pix_fmt = "yuv444p10le" if deep else "yuv444p"
        video.codec_context.time_base = Fraction(1, 30)
        if rotation is not None:
            video.set_display_rotation(rotation)
        video.codec_context.sample_aspect_ratio = ratio
        if colours is not None:
            context = video.codec_context
            context.color_primaries = context.color_trc = context.colorspace = colours
        audio: Any = container.add_stream(sound, rate=_RATE, layout="mono") if sound else None
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format=video.pix_fmt, dst_colorspace=colours)
            frame.pts, frame.time_base = time, Fraction(1, 30)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(40 if sound else 0):
            wave = np.sin(np.arange(960 * number, 960 * (number + 1)) * 2 * np.pi * 440 / _RATE)
            tone = av.AudioFrame.from_ndarray((wave * 9000).astype(np.int16)[None], format="s16", layout="mono")
            tone.sample_rate, tone.pts = _RATE, 960 * number
            container.mux(audio.encode(tone))
        if sound:
            container.mux(audio.encode(None))
    return frames


def write_sound(path: Path) -> None:
    """A file of sound alone."""
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("aac", rate=_RATE, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        tone.sample_rate = _RATE
        container.mux(audio.encode(tone))
        container.mux(audio.encode(None))


def truncate(path: Path, share: float, index_first: bool = False) -> None:
    """Cut off the end of a file, of MP4 with the index at its start or, as cameras write it, at its end."""
    whole = path
    if index_first:
        whole = path.with_stem("whole")
        with (
            av.open(str(path)) as given,
            av.open(str(whole), "w", options={"movflags": "faststart"}) as made,
        ):
            streams = {stream: made.add_stream_from_template(stream) for stream in given.streams}
            for packet in given.demux():
                if packet.size:
                    packet.stream = streams[packet.stream]
                    made.mux(packet)
    data = whole.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def sounds(path: Path) -> list[tuple[Fraction, bytes]]:
    """The packets of sound, each with its time in seconds."""
    with av.open(str(path)) as container:
        packets: Any = container.demux(container.streams.audio)
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets if packet.size]


def shown(path: Path) -> list[Fraction]:
    """The times of the frames in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]  # type: ignore[operator]


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Of two pictures of one type, in dB."""
    peak = np.iinfo(first.dtype).max
    return float(20 * np.log10(peak / np.sqrt(np.mean((first.astype(float) - second) ** 2) + 1e-9)))
