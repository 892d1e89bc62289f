"""Videos by PyAV (the extra `video`): frames in and out, with sound and time stamps handed on as they are."""

import contextlib
import heapq
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError
from datamodules.installed import extra
from datamodules.io.decode import check_pixels

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv")
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # that are written: they hold H.264 at any time
VIDEO_EXTRA = extra("video")
# By content, as of photographs; and nothing but this file is opened: some formats are lists of others, or of addresses.
_READ = {"format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,asf", "protocol_whitelist": "file"}
# So good that a viewer sees no loss. A frame refers to none that is shown later, so that pieces can follow one another.
_ENCODER = {"crf": "16", "preset": "medium", "bf": "0"}
_OF_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")  # which say what kind of a file it is
_BT709, _BT601 = 1, 5  # matrices of ITU-T H.273
_FULL = 2  # range of values: 0 to 255
_LATE = 1.0  # seconds before the end that a header tells, at which a file is truncated
_BACK = 0.3  # seconds that pictures of a joined file may go back: those that refer to others are decoded ahead


@dataclass(frozen=True)
class Clip:
    """What there is in a video, by its packets; nothing has been decoded.

    Attributes:
        path: the file.
        frames: how many, as far as can be known before they are decoded.
        left_out: what the result will not have, or not as it should be, each a few words.
    """

    path: Path
    frames: int
    left_out: tuple[str, ...] = ()


def examine(path: Path, max_pixels: int | None = None) -> Clip:
    """Look through a file, all of which is read.

    Raises:
        InputError: it is no video, has no picture, is truncated or has frames of more pixels; or PyAV is not there.
    """
    with _opened(path) as (container, stream), _naming(path):
        check_pixels(stream.width, stream.height, max_pixels)
        count, last, damaged, again = 0, 0.0, 0, False
        latest = dict[int, int]()
        for packet in container.demux():
            if packet.size:
                count += packet.stream is stream
                damaged += packet.is_corrupt
                if packet.dts is not None:
                    back = (latest.get(packet.stream_index, packet.dts) - packet.dts) * packet.time_base
                    again |= back > (_BACK if packet.stream is stream else 0)  # sound is handed on as it is
                    latest[packet.stream_index] = packet.dts
                start = packet.dts if packet.pts is None else packet.pts
                last = max(last, float(((start or 0) + (packet.duration or 0)) * packet.time_base))
        # Of others it is only estimated, and their headers or indices count the frames.
        told = container.duration if container.format.name.startswith("matroska") else 0
        end = ((told or 0) + max(0, container.start_time or 0)) / 1e6
        joined = (
            damaged and container.format.name == "mpegts"
        )  # whose packets are counted, anew in a file behind another
        if joined and again:
            raise InputError("was joined of files whose times each begin anew: restore these one by one")
        if (damaged and not joined) or count < stream.frames or not count or last < end - _LATE:
            raise InputError(f"is truncated: it ends after {count} frames and {last:.1f} s: copy it again")
        kept = ["audio", "data"] if container.chapters() else ["audio"]  # in MP4 chapters are such a stream
        others = [other.type for other in container.streams if other is not stream and other.type not in kept]
        left_out = [f"{len(others)} further stream(s) ({', '.join(sorted(set(others)))}) left out"] if others else []
        if any(component.is_alpha for component in stream.codec_context.format.components):
            left_out.append("its transparency left out")
        if joined:
            left_out.append(
                f"{damaged} of its packets are damaged, or it was joined of several files: look at its frames"
            )
        return Clip(path, count, tuple(left_out))


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: from 0.
        time: at which it is shown, in units of the stream's time base, greater than that of the one before.
        decoded: by PyAV.
        ratio: width to height of a pixel as it is stored.
    """

    number: int
    time: int
    decoded: Any
    ratio: Fraction = Fraction(1)

    def pixels(self) -> np.ndarray:
        """Upright, RGB, uint8 or of more than 8 bits uint16 [H, W, 3]."""
        deep = any(component.bits > 8 for component in self.decoded.format.components)
        array = self.decoded.to_ndarray(
            format="rgb48le" if deep else "rgb24",
            src_colorspace=_matrix(self.decoded),
            dst_color_range=_FULL,
            interpolation=_exactly(),
        )
        return np.ascontiguousarray(np.rot90(array, round(self.decoded.rotation / 90)))  # both count to the left

    def look(self) -> dict[str, int]:
        """What its colours mean, as `Piece` stores it: H.273's numbers of primaries, curve and matrix."""
        frame = self.decoded
        return {
            "color_primaries": frame.color_primaries,
            "color_trc": frame.color_trc,
            "colorspace": _matrix(frame),
        }

    def shape_of_pixels(self) -> Fraction:
        """Width to height of a pixel of the upright frame."""
        return 1 / self.ratio if round(self.decoded.rotation / 90) % 2 else self.ratio


def _exactly() -> int:
    """How FFmpeg makes RGB: by its fast way, which it takes otherwise, 8 bits come out a level too dark."""
    from av.video.reformatter import Interpolation

    return int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)


def _matrix(frame: Any) -> int:
    """That of the frame; of one that does not say it what players take, by the size."""
    told = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9}.get(int(frame.colorspace))
    return told or (_BT709 if frame.height >= 720 else _BT601)


def read_frames(path: Path) -> Iterator[Frame]:
    """The frames of a video in the order in which they are shown.

    Raises:
        InputError: one cannot be decoded, or is of another size than the first.
    """
    with _opened(path) as (container, stream), _naming(path):
        step = max(1, round(1 / (stream.average_rate or 25) / stream.time_base))
        last, first = None, None
        for number, frame in enumerate(container.decode(stream)):
            first = first or (frame.width, frame.height)
            if first != (frame.width, frame.height):
                found = f"frame {number + 1} is {frame.width}x{frame.height}, the first {first[0]}x{first[1]}"
                raise InputError(f"{found}: convert the video to one size")
            time = frame.pts if frame.pts is not None else 0 if last is None else last + step
            last = time if last is None else max(time, last + 1)
            yield Frame(number, last, frame, stream.sample_aspect_ratio or Fraction(1))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A file and the stream of its pictures."""
    with _naming(path):
        if not path.is_file():
            raise InputError("is no regular file: save what it holds as one")
        container = imported().open(str(path), container_options=_READ)
        pictures = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not pictures:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise InputError(f"has no moving picture, only {kinds}: give a video")
        pictures[0].thread_type = "AUTO"
    with container:
        yield container, pictures[0]


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What goes wrong with a file that is read becomes an InputError that names it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:  # of PyAV, by their bases
        raise InputError(
            f"{path}: is no video that can be read, or is truncated or damaged ({_reason(error)}): copy it again, or "
            "convert it to MP4 with H.264"
        ) from error


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a picture that goes with music."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def imported() -> Any:
    """PyAV. Raises InputError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise InputError(f"is a video, which needs PyAV: {VIDEO_EXTRA}") from error
    return av


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


class Piece:
    """A file of frames that `write_video` puts into a row with others: H.264 without time stamps of its own.

    Args:
        path: of a file in MP4, to be written.
        first: frame of the video, of which it takes what the colours mean.
    """

    def __init__(self, path: Path, first: Frame) -> None:
        self.path, self.first = path, first
        self.container = imported().open(str(path), "w", format="mp4")
        self.stream: Any = None

    def add(self, pixels: np.ndarray) -> None:
        """The next frame: uint8 or uint16 [H, W, 3], all of one size and type."""
        av, deep = imported(), pixels.dtype == np.uint16
        if self.stream is None:
            self._start(pixels.shape[0], pixels.shape[1], deep)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le" if deep else "rgb24")
        frame = frame.reformat(
            format=self.stream.pix_fmt, dst_colorspace=self.look["colorspace"], src_color_range=_FULL, dst_color_range=1
        )
        frame.pts, frame.time_base = self.count, Fraction(1, 25)
        self.count += 1
        self.container.mux(self.stream.encode(frame))

    def _start(self, height: int, width: int, deep: bool) -> None:
        self.count, self.look = 0, self.first.look()
        self.stream = self.container.add_stream("libx264", rate=25, options=_ENCODER)
        halves = "420" if height % 2 == width % 2 == 0 else "444"  # colours at half the resolution
        self.stream.width, self.stream.height = width, height
        self.stream.pix_fmt = f"yuv{halves}p{'10le' if deep else ''}"
        context = self.stream.codec_context
        context.sample_aspect_ratio = self.first.shape_of_pixels()
        context.color_range = 1  # 16 to 235
        for name, value in self.look.items():
            setattr(context, name, value)

    def close(self) -> None:
        """Finish the file."""
        self.container.mux(self.stream.encode(None))
        self.container.close()


def check_writable(source: Path, form: str) -> None:
    """Whether a format can hold the sound of a video, before its frames are restored.

    Args:
        form: one of the values of `CONTAINERS`.

    Raises:
        InputError: it cannot.
    """
    av = imported()
    with _opened(source) as (given, _):
        for sound in given.streams.audio:
            try:
                with av.open(io.BytesIO(), "w", format=form) as container:
                    container.add_stream_from_template(sound)
                    container.start_encoding()
            except (OSError, ValueError, RuntimeError, LookupError) as error:
                raise InputError(
                    f"{source}: its sound ({sound.codec_context.name}) cannot be in {form}: give output= of another "
                    "ending, such as .mkv"
                ) from error


def write_video(path: Path, form: str, source: Path, pieces: Sequence[Path], times: Sequence[int]) -> None:
    """Put pieces in a row, at the times of the frames, with the sound of the source, of which nothing is encoded anew.

    Args:
        path: to be written.
        form: one of the values of `CONTAINERS`.
        times: `Frame.time` of all frames.

    Raises:
        InputError: the source or a piece cannot be read.
        OSError: the file cannot be written.
    """
    with (
        _opened(source) as (given, pictures),
        _opened(pieces[0]) as (_, like),
        imported().open(str(path), "w", format=form) as made,
    ):
        made.metadata.update({key: text for key, text in given.metadata.items() if key.lower() not in _OF_FILE})
        if chapters := given.chapters():
            made.set_chapters(chapters)
        video = made.add_stream_from_template(like)
        video.time_base = pictures.time_base
        sounds = {sound: made.add_stream_from_template(sound) for sound in given.streams.audio}
        for sound, stream in sounds.items():
            stream.metadata.update(sound.metadata)
        rows = [_shown(pieces, times, pictures.time_base, video)]
        rows += [_heard(source, given, sounds)] if sounds else []
        for packet in heapq.merge(*rows, key=lambda packet: packet.dts * packet.time_base):
            made.mux(packet)


def _shown(pieces: Sequence[Path], times: Sequence[int], time_base: Fraction, stream: Any) -> Iterator[Any]:
    """The packets of pieces, each of a frame, at these times."""
    lengths = [after - before for before, after in itertools.pairwise(times)]
    lengths.append(lengths[-1] if lengths else 0)
    shown = zip(times, lengths, strict=True)
    for piece in pieces:
        with _opened(piece) as (container, pictures), _naming(piece):
            for packet in container.demux(pictures):
                if packet.size:
                    packet.pts, packet.duration = next(shown)
                    packet.dts, packet.time_base, packet.stream = packet.pts, time_base, stream
                    yield packet


def _heard(source: Path, container: Any, streams: dict[Any, Any]) -> Iterator[Any]:
    """The packets of sound, as they are."""
    with _naming(source):
        for packet in container.demux(*streams):
            if packet.size:
                packet.dts = packet.pts if packet.dts is None else packet.dts
                packet.stream = streams[packet.stream]
                yield packet
