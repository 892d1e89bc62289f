"""Frame averaging by hand, Cooperative's three degradation orders, and pairs written from frame sequences."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from datamodules.degradations.noise import to_eight_bit_levels
from datamodules.degradations.resample import bicubic_resize
from datamodules.errors import InputError
from datamodules.io.decode import decode_rgb8
from datamodules.sources import frame_sequences
from datamodules.sources.average_frames import average_frames, reds_response
from datamodules.sources.frame_sequences import prepare_pairs


def test_averages_by_hand() -> None:
    frames = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(2, 3, 3, 4, 5)
    assert torch.allclose(average_frames(frames), torch.full((2, 3, 4, 5), 0.5).double())
    expected = ((0.5**2.2 + 1) / 3) ** (1 / 2.2)
    assert torch.allclose(average_frames(frames, 2.2), torch.full((2, 3, 4, 5), expected).double())
    assert expected == pytest.approx(0.6637, abs=1e-4)
    assert torch.allclose(average_frames(frames, 1.0), average_frames(frames))
    flat = torch.rand(1, 1, 3, 4, 4)
    assert torch.allclose(average_frames(flat.expand(1, 7, 3, 4, 4), 2.2), flat[0], atol=1e-6)
    beyond = torch.tensor([-0.5, 0.5, 1.5]).view(1, 3, 1, 1, 1)
    assert torch.allclose(average_frames(beyond, 2.2), torch.tensor(expected), atol=1e-6)  # clipped, no NaN
    assert torch.allclose(average_frames(beyond), torch.tensor(0.5))


def test_wrong_frames() -> None:
    with pytest.raises(ValueError, match="odd number"):
        average_frames(torch.zeros(1, 4, 3, 2, 2))
    with pytest.raises(ValueError, match=r"expected floating point \[B, M, C, H, W\]"):
        average_frames(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="expected floating point"):
        average_frames(torch.zeros(1, 3, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="gamma is 0"):
        average_frames(torch.zeros(1, 3, 3, 2, 2), 0)


def test_averages_by_a_measured_response() -> None:
    # By hand: light 0 at level 0, 1 at level 1 ... and twice as steep from level 100 on, for all channels alike.
    levels = torch.arange(256, dtype=torch.float64)
    table = torch.where(levels > 100, 100 + 2 * (levels - 100), levels)[None]
    frames = torch.tensor([50.0, 90.0, 200.0], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(2, 3, 3, 4, 5) / 255
    # Lights 50, 90 and 300 have the mean 146 2/3, which is that of level 123 1/3.
    assert torch.allclose(average_frames(frames, response=table) * 255, torch.tensor(370 / 3).double())
    # A power law as a table is the power law, at levels, and the unit of light does not matter.
    power = 5 * (levels / 255).pow(2.2)[None].expand(3, -1)
    some = torch.randint(256, (2, 5, 3, 6, 7), generator=torch.Generator().manual_seed(0)).double() / 255
    assert (average_frames(some, 2.2) - average_frames(some, response=power)).abs().max() < 1e-4
    assert torch.allclose(average_frames(some, response=power), average_frames(some, response=3 * power))
    # Each channel by its own row, each image of a batch by itself; what lies outside [0, 1] is clipped.
    rows = torch.cat([table, power[:1], 7 * levels[None]])
    found = average_frames(some, response=rows)
    for channel in range(3):
        single = average_frames(some[1:, :, channel : channel + 1], response=rows[channel : channel + 1])
        assert torch.allclose(found[1:, channel : channel + 1], single)
    assert torch.allclose(found[:, 2], average_frames(some)[:, 2])
    beyond = torch.tensor([-0.5, 0.0, 1.5]).view(1, 3, 1, 1, 1)
    assert torch.allclose(average_frames(beyond, response=levels[None]), torch.tensor(1 / 3))


def test_response_of_reds() -> None:
    table = reds_response()
    assert table.shape == (3, 256)
    assert (table.diff() > 0).all()
    published = {16: (0.00392, 0.00374, 0.00455), 128: (0.10602, 0.10780, 0.11172), 255: (1.24112, 1.29850, 1.12281)}
    for level, light in published.items():
        assert table[:, level].tolist() == pytest.approx(light)
    assert table[:, 250].tolist() == [1, 1, 1]
    # From there on it is straight: level 252 is two fifths of the way to 255.
    assert table[:, 252].tolist() == pytest.approx([1 + 0.4 * 0.24112, 1 + 0.4 * 0.29850, 1 + 0.4 * 0.12281])
    # The exponents of the power laws that fit best from level 1 to 250 are those of the whole measured table.
    levels = torch.arange(1, 251, dtype=torch.float64) / 250
    exponents = torch.arange(3.0, 4.5, 0.01, dtype=torch.float64)
    errors = (levels ** exponents[:, None, None] - table[:, 1:251]).square().mean(2)
    assert exponents[errors.argmin(0)].tolist() == pytest.approx([3.77, 3.79, 3.63], abs=0.06)
    # What does not move stays: at every level, in every channel.
    still = (torch.arange(256).double() / 255).expand(1, 7, 3, 1, -1)
    assert torch.allclose(average_frames(still, response=table), still[:, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (torch.arange(256.0), r"response is \[256\], expected \[1, 256\] or \[3, 256\]"),
        (torch.arange(512.0).view(2, 256), r"response is \[2, 256\], expected \[1, 256\] or \[3, 256\]"),
        (torch.zeros(1, 256), "does not increase"),
        (torch.arange(-1.0, 255.0)[None], "expected finite light of at least 0"),
    ],
)
def test_wrong_response(response: Tensor, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        average_frames(torch.zeros(1, 3, 3, 2, 2), response=response)
    with pytest.raises(ValueError, match="are both given"):
        average_frames(torch.zeros(1, 3, 3, 2, 2), 2.2, response)


def pan(image: Tensor, m: int = 7, height: int = 160, width: int = 200) -> Tensor:
    """A camera moving over an image: [1, M, 3, H, W], two pixels right and one down from frame to frame."""
    return torch.stack([image[:, i : i + height, 2 * i : 2 * i + width] for i in range(m)])[None]


def portrait() -> Tensor:
    return torch.from_numpy(skimage.data.astronaut()[:, 100:].copy()).permute(2, 0, 1).float() / 255


def lights() -> Tensor:
    """Small saturated lamps in the dark."""
    y, x = torch.meshgrid(torch.arange(170), torch.arange(220), indexing="ij")
    image = torch.full((170, 220), 0.05)
    for row, column in np.random.default_rng(0).integers(0, (170, 220), (21, 2)).tolist():
        image[(y - row) ** 2 + (x - column) ** 2 <= 4] = 1
    return image.expand(3, -1, -1)


def resized(frames: Tensor, *, down: bool) -> Tensor:
    return bicubic_resize(frames[0], 4, down=down)[None]


def decibel(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b).double() ** 2).mean()))


def distances(frames: Tensor, gamma: float | None = None, eight_bit: bool = False) -> tuple[float, float, float]:
    """Between the orders old and new, old and released, new and released, in decibels."""

    def store(x: Tensor) -> Tensor:
        return to_eight_bit_levels(x) if eight_bit else x

    low = store(resized(frames, down=True))
    old = store(average_frames(store(resized(low, down=False)), gamma))
    new = store(resized(store(average_frames(low, gamma))[None], down=False))[0]
    blurred = store(average_frames(frames, gamma))
    released = store(resized(store(resized(blurred[None], down=True)), down=False))[0]
    return decibel(old, new), decibel(old, released), decibel(new, released)


@pytest.mark.parametrize("scene", [portrait, lights])
def test_linear_averaging_makes_cooperatives_orders_one(scene: Callable[[], Tensor]) -> None:
    """Down-up-blur, down-blur-up and blur-down-up are one linear map, except for rounding."""
    frames = pan(scene())
    assert min(distances(frames)) > 135
    assert min(distances(frames.double())) > 300
    assert all(50 < distance < 65 for distance in distances(frames, eight_bit=True))


@pytest.mark.parametrize(
    ("scene", "old_new", "released"),
    # Real GOPRO frames panned alike: 49 to 59 and 39 to 51 dB. White noise: 58 and 22 dB.
    [(portrait, (49, 62), (35, 50)), (lights, (45, 50), (33, 37))],
)
def test_averaging_light_sets_cooperatives_released_order_apart(
    scene: Callable[[], Tensor], old_new: tuple[float, float], released: tuple[float, float]
) -> None:
    """A reduction before the average has mixed dark and bright code values by then, and their light is lost."""
    found = distances(pan(scene()), gamma=2.2)
    assert old_new[0] < found[0] < old_new[1], found
    assert all(released[0] < distance < min(released[1], found[0] - 5) for distance in found[1:]), found
    # Without motion there is nothing to lose but overshoot, which the power law cuts off.
    still = scene()[None, None, :, :160, :200].expand(-1, 7, -1, -1, -1)
    assert min(distances(still, gamma=2.2)) > released[1], distances(still, gamma=2.2)


def write_clip(folder: Path, count: int, size: tuple[int, int] = (12, 10), start: int = 0) -> np.ndarray:
    """`count` random frames frame0.png, frame1.png ... (no leading zeros); returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(start).integers(0, 256, (count, *size, 3)).astype(np.uint8)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{i + start}.png")
    return frames


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for i in range(3):
        write_clip(tmp_path / "video" / f"clip{i}", 12, start=i)
    return tmp_path / "video"


def test_pairs_on_disk(clips: Path, tmp_path: Path) -> None:
    """12 frames, window 5, stride 3: pairs around frames 2, 5 and 8, in natural order, 1 of 3 clips for test."""
    out = tmp_path / "out"
    assert prepare_pairs(clips, out, window=5, stride=3, progress=False) == 9
    assert prepare_pairs(clips, out, window=5, stride=3, gamma=2.2, progress=False) == 9
    folders = sorted(path.relative_to(out).as_posix() for path in out.glob("*/*"))
    assert len(folders) == 3
    assert sum(folder.startswith("test/") for folder in folders) == 1
    for i in range(3):
        (folder,) = out.glob(f"*/clip{i}")
        originals = np.random.default_rng(i).integers(0, 256, (12, 12, 10, 3)).astype(np.uint8)
        assert sorted(path.name for path in folder.iterdir()) == ["blur", "blur_gamma", "sharp"]
        for start in (0, 3, 6):
            name = f"frame{start + 2 + i}.png"
            window = originals[start : start + 5].astype(np.float64) / 255
            assert np.array_equal(decode_rgb8(folder / "sharp" / name), originals[start + 2])
            linear = decode_rgb8(folder / "blur" / name) - 255 * window.mean(0)
            power = decode_rgb8(folder / "blur_gamma" / name) - 255 * (window**2.2).mean(0) ** (1 / 2.2)
            assert np.abs(linear).max() < 0.501
            assert np.abs(power).max() < 0.501
        assert len(list((folder / "sharp").iterdir())) == 3
    assert not list(out.rglob("*.part"))


def test_pairs_of_a_measured_response(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table = reds_response()
    assert prepare_pairs(clips, out, window=5, progress=False) == 6
    assert prepare_pairs(clips, out, window=5, response=table, progress=False) == 6
    (folder,) = out.glob("*/clip1")
    assert sorted(path.name for path in folder.iterdir()) == ["blur", "blur_gamma", "sharp"]
    window = np.random.default_rng(1).integers(0, 256, (12, 12, 10, 3)).astype(np.uint8)[:5]
    for channel in range(3):
        light = table[channel].numpy()
        expected = np.interp(light[window[..., channel]].mean(0), light, np.arange(256))
        found = decode_rgb8(folder / "blur_gamma" / "frame3.png")[..., channel]
        assert np.abs(found - expected).max() < 0.502
    for other in ({"gamma": 2.2}, {"response": 2 * table}):
        with pytest.raises(InputError, match=r"these pairs were made with gamma [0-9a-f]{16}, not"):
            prepare_pairs(clips, out, window=5, progress=False, **other)
    with pytest.raises(ValueError, match="gamma and response are both given"):
        prepare_pairs(clips, out, gamma=2.2, response=table, progress=False)
    with pytest.raises(ValueError, match=r"response is \[256\]"):
        prepare_pairs(clips, out, response=table[0], progress=False)


def test_an_interrupted_run_is_taken_up(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write = frame_sequences._write_png
    written: list[Path] = []

    def failing(path: Path, pixels: np.ndarray) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, pixels)

    monkeypatch.setattr(frame_sequences, "_write_png", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare_pairs(clips, out, progress=False)
    stamps = {path: path.stat().st_mtime_ns for path in written}
    written.clear()
    monkeypatch.setattr(frame_sequences, "_write_png", lambda path, pixels: (written.append(path), write(path, pixels)))
    assert prepare_pairs(clips, out, progress=False) == 3
    assert len(written) == 4  # of the second pair both images, of the third too
    complete = list(stamps)[:2]
    assert all(path.stat().st_mtime_ns == stamps[path] for path in complete)
    written.clear()
    prepare_pairs(clips, out, progress=False)
    assert not written


def test_split_fractions(clips: Path, tmp_path: Path) -> None:
    def tests(fraction: float) -> set[str]:
        out = tmp_path / f"out{fraction}"
        prepare_pairs(clips, out, test_fraction=fraction, progress=False)
        splits = json.loads((out / "pairs.json").read_text())["clips"]
        test = {name for name, clip in splits.items() if clip["split"] == "test"}
        assert test == {path.name for path in out.glob("test/*")}
        assert set(splits) - test == {path.name for path in out.glob("train/*")}
        return test

    sizes = {fraction: tests(fraction) for fraction in (0.0, 0.01, 0.6, 0.99, 1.0)}
    assert [len(test) for test in sizes.values()] == [0, 1, 2, 2, 3]
    assert sizes[0.01] < sizes[0.6]


def test_bad_input(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(message: str, root: Path = clips, **options: float) -> None:
        with pytest.raises(InputError, match=message):
            prepare_pairs(root, out, progress=False, **options)  # type: ignore[arg-type]

    refused("missing: does not exist", root=tmp_path / "missing")
    refused("is a file", root=clips / "clip0" / "frame0.png")
    refused("holds no folders", root=clips / "clip0")
    refused(r"clip0: 12 frame\(s\), expected at least 13", window=13)
    assert not out.exists()
    prepare_pairs(clips, out, progress=False)
    refused("made with window 7, not 5", window=5)
    refused("made with other clips", test_fraction=0)
    prepare_pairs(clips, out, gamma=2.2, progress=False)
    refused("made with gamma 2.2, not 1.8", gamma=1.8)
    out = tmp_path / "second"
    Image.new("RGB", (10, 11)).save(clips / "clip1" / "frame6.png")
    refused("frame6.png: 10x11 pixels, expected 10x12")
    Image.new("RGB", (10, 12)).save(clips / "clip1" / "frame6.jpg")
    refused("a second frame named frame6")
    single = tmp_path / "single"
    write_clip(single / "clip", 7)
    refused("1 clip, expected at least 2", root=single)
    out = tmp_path / "third"
    out.mkdir()
    (out / "train").write_text("in the way")
    refused("train/clip/blur: cannot be written", root=single, test_fraction=0)


@pytest.mark.parametrize("options", [{"window": 6}, {"stride": 0}, {"gamma": 0}, {"test_fraction": 1.5}])
def test_impossible_options(options: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        prepare_pairs(tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
