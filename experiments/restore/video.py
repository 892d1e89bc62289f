"""task=restore of a video: its frames one by one, in pieces, so that who was killed goes on with the next piece."""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from datamodules.distributed import world
from datamodules.errors import ConfigError, InputError
from datamodules.io.atomic import part_of
from datamodules.io.video import (
    CONTAINERS,
    VIDEO_SUFFIXES,
    Frame,
    Piece,
    check_writable,
    examine,
    read_frames,
    write_video,
)
from datamodules.io.write_photo import writing
from experiments.restore.manifest import Manifest, state
from experiments.restore.paths import OF_PICTURES, Item
from experiments.restore.restorer import Restorer

log = logging.getLogger(__name__)

FRAMES, SECONDS = 250, 60.0  # a piece has so many frames at most, and none more after so long
NOTE = "its frames are restored one by one, each without those around it: what flickers between them, flickers on"


def names_video(given: str | Sequence[str]) -> bool:
    """Whether `input=` is a video.

    Raises:
        InputError: it is several files, one of which is a video.
    """
    parts = [given] if isinstance(given, str) else list(given)
    videos = [part for part in parts if Path(part).suffix.lower() in VIDEO_SUFFIXES]
    videos = [part for part in videos if os.path.isfile(os.path.expanduser(part))]
    if videos and len(parts) > 1:
        raise InputError(f"input={videos[0]}: is a video, which is restored by itself: give no other file with it")
    return bool(videos)


def plan_video(given: str, output: str) -> tuple[Path, Item]:
    """The folder of the result, and the video with its result: in a folder it keeps its name.

    Raises:
        InputError: `output` is the file itself, or ends as no video that is written.
    """
    source, target = (Path(os.path.expanduser(path)) for path in (given, output))
    suffix = target.suffix.lower()
    if suffix not in (*CONTAINERS, *OF_PICTURES) or target.is_dir() or output.endswith(os.sep):
        kept = source.suffix.lower() in CONTAINERS
        target = target / (source.name if kept else source.with_suffix(".mkv").name)
    elif suffix not in CONTAINERS:
        expected = f"{', '.join(CONTAINERS)}, or {target}{os.sep} for a folder"
        raise InputError(f"output={target}: found {target.suffix}, expected {expected}")
    if os.path.realpath(target) == os.path.realpath(source):
        raise InputError(f"{target}: the result would replace the video of input=: give another output=")
    return target.parent, Item(source, target)


def restore_video(
    cfg: DictConfig,
    restorer: Restorer,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Restore the video of `input=` into `output=`, unless that has been done.

    Args:
        arguments: of `Restorer.restore`.
        settings: all that the result depends on beside the video.
        notes: of the network.

    Raises:
        ConfigError: a key does not go with a video.
        InputError: the video cannot be read or restored, or its result cannot be written.
    """
    if world() > 1:
        raise ConfigError("trainer.devices: a video is restored by one process: start only one")
    for key, only in (("format", "lossless"), ("deblurred", False)):
        if cfg[key] != only:
            raise ConfigError(
                f"{key}: found {cfg[key]}, which is for photographs: the ending of output= says how a "
                "video is stored: omit it"
            )
    folder, item = plan_video(cfg.input if isinstance(cfg.input, str) else str(cfg.input[0]), cfg.output)
    kept = item.target != Path(cfg.output).expanduser()
    with Manifest(folder, settings, kept) as manifest:
        done = bool(manifest.finished([item], cfg.replace))
        if not done:
            log.warning("%s: %s", item.source, NOTE)
            for note in notes:
                log.warning("%s: %s", restorer.name, note)
            said = _restore(item, restorer, arguments, manifest, cfg.trainer.enable_progress_bar, cfg.max_pixels)
            for note in said:
                if note not in notes:
                    log.warning("%s: %s", item.source, note)
    print(f"restored: 1 in {folder}" + (", 1 of them before" if done else ""), flush=True)


def _restore(
    item: Item, restorer: Restorer, arguments: Mapping[str, Any], manifest: Manifest, show: bool, max_pixels: int
) -> list[str]:
    """Restore a video; its result is complete or absent. Returns what has to be said of it, each a few words."""
    source, target, before = item.source, item.target, state(item.source)
    form = CONTAINERS[target.suffix.lower()]
    clip = examine(source, max_pixels)
    check_writable(source, form)
    said, times = dict.fromkeys(clip.left_out), list[int]()
    with writing(target, lambda path: manifest.begin(path, source, before)) as part:
        pieces = _Pieces(part_of(target), [manifest.settings, str(source.resolve()), before])
        with tqdm(total=clip.frames, initial=pieces.done, unit="frame", disable=not show) as bar:
            for frame in read_frames(source):
                times.append(frame.time)
                if frame.number < pieces.done:
                    continue
                try:
                    restored = restorer.restore(frame.pixels(), **arguments)
                except InputError as error:
                    if error.key in arguments:  # no other frame would do
                        raise ConfigError(str(error), key=error.key) from error
                    raise InputError(f"{source}: frame {frame.number + 1}: {error}") from error
                said |= dict.fromkeys(restored.notes)
                if pieces.add(frame, restored.sr) and bar.disable:
                    log.info("%d of %d frames", pieces.done, clip.frames)
                bar.update()
        pieces.finish()
        if not times:
            raise InputError(f"{source}: no frame can be decoded: copy it again, or convert it to MP4 with H.264")
        write_video(part, form, source, pieces.files, times)
    shutil.rmtree(pieces.folder, ignore_errors=True)
    return list(said)


class _Pieces:
    """Restored frames in a hidden folder beside the result, in files that are complete or absent.

    Args:
        beside: a hidden name beside the result; the folder's begins with it.
        made_of: plain values: a folder that was made of others begins anew.

    Attributes:
        files: the complete ones, in the order of their frames.
        done: how many frames these have.
    """

    def __init__(self, beside: Path, made_of: Any) -> None:
        self.folder = beside.with_suffix(".pieces")
        about, text = self.folder / "made_of.json", json.dumps(made_of)
        if not about.is_file() or about.read_text("utf-8", "replace") != text:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            about.write_text(text, "utf-8")
        self.files, self.done = list[Path](), 0
        self.piece: Piece | None = None
        while found := sorted(self.folder.glob(f"{self.done:08}-*.mp4")):
            self.files.append(found[0])
            self.done = int(found[0].stem.partition("-")[2])

    def add(self, frame: Frame, pixels: Any) -> bool:
        """The next frame and what was made of it; returns whether a file is complete with it."""
        if self.piece is None:
            self.piece, self.count = Piece(self.folder / "part", frame), 0
            self.until = time.monotonic() + SECONDS
        self.piece.add(pixels)
        self.count += 1
        if self.count < FRAMES and time.monotonic() < self.until:
            return False
        self.finish()
        return True

    def finish(self) -> None:
        """Complete the file that is begun."""
        if self.piece is not None:
            self.piece.close()
            end = self.done + self.count
            self.files.append((self.folder / "part").replace(self.folder / f"{self.done:08}-{end:08}.mp4"))
            self.done, self.piece = end, None
