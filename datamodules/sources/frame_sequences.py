"""Blurred and sharp pairs from video: frame averaging over sequences of a fast camera, stored in GOPRO's layout."""

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.io.decode import IMAGE_SUFFIXES, decode_rgb8
from datamodules.io.write_photo import writing
from datamodules.sources.average_frames import average_frames, check_response

RECORD = "pairs.json"


def prepare_pairs(
    root: str | Path,
    out: str | Path,
    *,
    window: int = 7,
    stride: int | None = None,
    gamma: float | None = None,
    response: Tensor | None = None,
    test_fraction: float = 1 / 3,
    progress: bool = True,
) -> int:
    """Average windows of consecutive frames into blurred images and store them with their middle frame.

    Reads `root/CLIP/FRAME.*`, one folder per clip, frames in the natural order of their names (2 before 10). Writes
    8-bit PNGs `out/train|test/CLIP/blur/NAME.png` (`blur_gamma` if `gamma` or `response` is given) and
    `.../sharp/NAME.png`, NAME that of the middle frame. Whole clips go to one split, chosen by a hash of their names,
    so no scene is in both.

    Files appear complete or not at all, and existing ones are kept, so an interrupted run goes on where it stopped;
    linear and gamma pairs may be written into one tree, one call each. `out/pairs.json` records the choices, and a
    call with others is refused.

    Args:
        root: folder of clips; folders and files whose name starts with a dot are skipped.
        window: frames averaged, odd (GOPRO: 7 to 13).
        stride: frames from one window to the next; by default `window`, so that windows do not overlap.
        gamma, response: see `average_frames`; `reds_response()` is that of REDS.
        test_fraction: share of the clips for test (GOPRO: 11 of 33); 0 and 1 give all to one split, other values at
            least one clip to each.

    Returns:
        The number of pairs in `out` for this kind of average.

    Raises:
        ValueError: if `window` is even, `stride` < 1, `gamma` <= 0, `test_fraction` outside [0, 1], or `response` is no
            increasing table or given beside `gamma`.
        InputError: `root` is missing or holds no clips; a clip is shorter than `window`, has frames of different sizes,
            two frames of one name or a damaged frame; there are too few clips to split; `out` was made with other
            choices or cannot be written.
    """
    root, out = Path(root).expanduser(), Path(out).expanduser()
    stride = window if stride is None else stride
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}, expected an odd number of frames")
    if stride < 1 or not 0 <= test_fraction <= 1 or (gamma is not None and gamma <= 0):
        raise ValueError(
            f"stride is {stride}, test_fraction {test_fraction} and gamma {gamma}, expected at least 1, 0 ... 1 and > 0"
        )
    if response is not None:
        check_response(response)
        if gamma is not None:
            raise ValueError("gamma and response are both given, expected one of them")
    blur = "blur" if gamma is None and response is None else "blur_gamma"
    curve = gamma if response is None else hashlib.sha256(response.double().numpy().tobytes()).hexdigest()[:16]
    try:
        clips = {clip.name: _frames(clip, window) for clip in _clips(root)}
        test = _test_clips(list(clips), test_fraction, root)
        splits = {name: "test" if name in test else "train" for name in clips}
        record = {name: {"split": splits[name], "frames": len(frames)} for name, frames in clips.items()}
        _remember(out / RECORD, {"window": window, "stride": stride, "clips": record}, curve)
        windows = [
            (out / splits[name] / name, frames[start : start + window])
            for name, frames in clips.items()
            for start in range(0, len(frames) - window + 1, stride)
        ]
        load = lru_cache(maxsize=window)(decode_rgb8)  # overlapping windows decode a frame once
        sizes: dict[Path, tuple[int, ...]] = {}
        bar = tqdm(windows, f"average frames ({blur})", unit="pair", disable=None if progress else True)
        for folder, frames in bar:
            name = f"{frames[window // 2].stem}.png"
            if not ((folder / blur / name).exists() and (folder / "sharp" / name).exists()):
                images = [load(path) for path in frames]
                _check_sizes(frames, images, sizes.setdefault(folder, images[0].shape))
                _write_png(folder / blur / name, _average(images, gamma, response))
                _write_png(folder / "sharp" / name, images[window // 2])
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be written or read ({error.strerror}): check space and permissions"
        ) from error
    return len(windows)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorting key under which frame2 comes before frame10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts]


def _clips(root: Path) -> list[Path]:
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root}: {problem}, expected a folder with one subfolder of frames per clip")
    clips = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if not clips:
        raise InputError(
            f"{root}: holds no folders, expected one subfolder of frames per clip: give their parent folder"
        )
    return sorted(clips, key=_natural)


def _frames(clip: Path, window: int) -> list[Path]:
    images = (path for path in clip.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    frames = sorted((path for path in images if not path.name.startswith(".")), key=_natural)
    if len(frames) < window:
        raise InputError(
            f"{clip}: {len(frames)} frame(s), expected at least {window} to average: add frames, remove the clip or "
            "choose a smaller window"
        )
    by_name: dict[str, Path] = {}
    for frame in frames:
        if by_name.setdefault(frame.stem, frame) != frame:
            raise InputError(f"{frame}: a second frame named {frame.stem}, expected one of each name: remove one")
    return frames


def _test_clips(names: list[str], fraction: float, root: Path) -> set[str]:
    """The `fraction` of the clips whose names have the smallest hashes."""
    count = round(len(names) * fraction)
    if 0 < fraction < 1:
        if len(names) < 2:
            raise InputError(
                f"{root}: {len(names)} clip, expected at least 2 to fill train and test: add clips or set "
                "test_fraction to 0 or 1"
            )
        count = min(max(count, 1), len(names) - 1)
    return set(sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())[:count])


def _remember(path: Path, record: dict[str, Any], curve: float | str | None) -> None:
    """Write the choices to `path`, or compare with those an earlier call wrote; linear pairs fit to any curve.

    The curve is an exponent or the digest of a measured response, both under the key `gamma`.
    """
    known: dict[str, Any] = {}
    if path.exists():
        try:
            known = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: is no JSON file: delete {path.parent} and start again") from error
    record = record | {"gamma": known.get("gamma") if curve is None else curve}
    for key, value in record.items():
        if known.get(key) not in (None, value):
            what = "other clips, frames or splits" if key == "clips" else f"{key} {known[key]}, not {value}"
            raise InputError(f"{path}: these pairs were made with {what}: choose another folder for the output")
    _write(path, json.dumps(record, indent=1).encode())


def _check_sizes(frames: list[Path], images: list[np.ndarray], expected: tuple[int, ...]) -> None:
    for path, image in zip(frames, images, strict=True):
        if image.shape != expected:
            raise InputError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, expected {expected[1]}x{expected[0]} like the "
                "frames before: remove it or put it into a clip of its own"
            )


def _average(images: list[np.ndarray], gamma: float | None, response: Tensor | None) -> np.ndarray:
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[None].to(torch.float32) / 255
    average = average_frames(stack, gamma, response)[0].mul(255).round().clamp(0, 255).to(torch.uint8)
    return average.permute(1, 2, 0).numpy()


def _write_png(path: Path, pixels: np.ndarray) -> None:
    _, code = cv2.imencode(".png", pixels[..., ::-1])
    _write(path, code.tobytes())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as part:
        part.write_bytes(data)
