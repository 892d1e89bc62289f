"""HEIC and raw photographs, what needs the extra `photos`; and files that are none."""

import builtins
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.io import read_photo
from datamodules.io.decode import decode_rgb8, decoded_bytes, list_images
from datamodules.io.read_photo import RAW_SUFFIXES, read_photograph, readable_suffixes
from datamodules.io.write_photo import write_photograph
from tests.datamodules.io.test_photographs import RGB, XMP, camera_exif, eight, sixteen
from tests.helpers.phone_and_camera import heic, write_raw
from tests.helpers.pipes import make_pipe


def test_heic_comes_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    path, pixels = tmp_path / "IMG_1.HEIC", eight()
    path.write_bytes(heic(pixels, exif=b"Exif\0\0" + camera_exif(), icc_profile=RGB, xmp=XMP))  # orientation 6
    found = read_photograph(path)
    assert np.array_equal(found.pixels, np.rot90(pixels, -1))
    assert (found.icc, found.format, found.notes) == (RGB, "HEIF", ())
    assert found.xmp is not None
    assert b"tiff:Orientation" not in found.xmp
    write_photograph(tmp_path / "a.png", found)
    with Image.open(tmp_path / "a.png") as image:
        exif = image.getexif()
        assert (exif.get(274, 1), exif[271]) == (1, "Camera")
        assert exif.get_ifd(34665)[40962] == 36
    assert np.array_equal(decode_rgb8(path), found.pixels)
    assert decoded_bytes(path) == pixels.size
    assert list_images(tmp_path) == [path, tmp_path / "a.png"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic_of_ten_bits_fills_sixteen(tmp_path: Path, channels: int) -> None:
    pixels = sixteen(36, 48, channels)
    pixels[:18] = 65535
    (tmp_path / "a.heic").write_bytes(heic(pixels))
    found = read_photograph(tmp_path / "a.heic")
    stored = found.pixels if found.alpha is None else np.dstack([found.pixels, found.alpha])
    assert (stored.dtype, stored.shape) == (np.uint16, pixels.shape)
    assert np.array_equal(stored, np.round((pixels >> 6) * (65535 / 1023)).astype(np.uint16))
    if channels == 3:
        assert np.array_equal(decode_rgb8(tmp_path / "a.heic"), np.round(found.pixels / 257).astype(np.uint8))


@pytest.mark.parametrize("deep", [False, True])
def test_heic_that_is_multiplied_by_its_alpha(tmp_path: Path, deep: bool) -> None:
    """100 of 255 at an alpha of 128 is a colour of 100 * 255 / 128."""
    pixels = np.full((64, 64, 4), 100, np.uint16 if deep else np.uint8) * (257 if deep else 1)
    pixels[..., 3] = 128 * (257 if deep else 1)
    pixels[:32] = 0
    pillow_heif = pytest.importorskip("pillow_heif")
    image = pillow_heif.from_bytes("RGBa;16" if deep else "RGBa", (64, 64), pixels.tobytes())
    image.save(tmp_path / "a.heic", quality=-1, chroma=444, matrix_coefficients=0)
    found = read_photograph(tmp_path / "a.heic")
    assert found.alpha is not None
    least = 65535 / 1023 if deep else 1  # one step of 10 bits
    assert np.abs(found.pixels[40, 40] - (199.2 * 257 if deep else 199.2)).max() < 2 * least
    assert np.abs(found.alpha[40, 40] - (128.0 * 257 if deep else 128)) <= least
    assert not found.pixels[:30].any()
    assert np.abs(decode_rgb8(tmp_path / "a.heic")[40, 40] - 199.2).max() < 1


def test_heic_whose_picture_is_not_the_first(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = pillow_heif.from_pillow(Image.fromarray(eight(1)))
    image.add_from_pillow(Image.fromarray(eight(2)))
    for index, expected in ((0, "the first of 2 pictures"), (1, "one of 2 pictures")):
        image.save(tmp_path / "a.heic", primary_index=index, quality=-1, chroma=444, matrix_coefficients=0)
        found = read_photograph(tmp_path / "a.heic")
        assert found.notes == (expected,)
        assert np.array_equal(found.pixels, eight(1 + index))


def test_colours_of_heic_without_a_profile_are_kept(tmp_path: Path) -> None:
    for name, codes in (("wide", (9, 16)), ("srgb", (1, 13))):
        options = {"color_primaries": codes[0], "transfer_characteristics": codes[1]}
        (tmp_path / f"{name}.heic").write_bytes(heic(eight(), **options))
    found = read_photograph(tmp_path / "wide.heic")
    assert found.colour == ((b"cICP", bytes([9, 16, 0, 1])),)
    assert write_photograph(tmp_path / "wide.png", found) == []
    assert read_photograph(tmp_path / "wide.png").colour == found.colour
    assert "cICP left out" in write_photograph(tmp_path / "wide.jpg", found)[0]
    assert read_photograph(tmp_path / "srgb.heic").colour == ()


def test_heic_that_is_cut_is_never_a_partial_picture(tmp_path: Path) -> None:
    path, data = tmp_path / "a.heic", heic(eight())
    for length in range(12, len(data), len(data) // 23):
        path.write_bytes(data[:length])
        for read in (read_photograph, decode_rgb8):
            with pytest.raises(InputError, match=r"a\.heic: (HEIC is truncated or damaged|cannot be decoded)"):
                read(path)


def test_limit_of_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(heic(eight()))
    write_raw(tmp_path / "a.dng", (40000, 20000, 10000))
    for name, size in (("a.heic", "48x36"), ("a.dng", "64x48")):
        with pytest.raises(InputError, match=rf"{name}: has {size} pixels, more than 1000"):
            read_photograph(tmp_path / name, 1000)


def test_raw_is_developed(tmp_path: Path) -> None:
    for orientation, name in ((1, "a.dng"), (6, "B.DNG")):
        left, right = write_raw(tmp_path / name, (40000, 20000, 10000), orientation)
        found = read_photograph(tmp_path / name)
        pixels = np.rot90(found.pixels) if orientation == 6 else found.pixels
        assert (pixels.shape, pixels.dtype) == ((48, 64, 3), np.uint16)
        assert np.abs(pixels[4:-4, 4:28] - left).max() < 8
        assert np.abs(pixels[4:-4, 36:-4] - right).max() < 8
        assert found.notes == ("developed by LibRaw: sRGB, white balance of the camera, not brightened",)
        assert found.exif is not None
        assert b"Maker" in found.exif
    (tmp_path / "c.nef").write_bytes(b"no photograph")
    with pytest.raises(InputError, match=r"c\.nef: cannot be developed \(.*develop it to a 16-bit TIFF"):
        read_photograph(tmp_path / "c.nef")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(heic(eight()))
    (tmp_path / "a.jpg").write_bytes(heic(eight()))  # by its content
    write_raw(tmp_path / "a.dng", (40000, 20000, 10000))
    assert {".heic", ".dng"} < set(readable_suffixes())
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name in ("pillow_heif", "rawpy"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(read_photo, "find_spec", lambda name: None)
    assert not {".heic", ".heif", *RAW_SUFFIXES} & set(readable_suffixes())
    way_out = r"pip install -c constraints\.txt -e '\.\[photos\]', or"
    for name, package in (("a.heic", "pillow-heif"), ("a.jpg", "pillow-heif"), ("a.dng", "rawpy")):
        with pytest.raises(InputError, match=rf"{name}: is (HEIC|raw), which needs {package}: {way_out}"):
            read_photograph(tmp_path / name)
    with pytest.raises(InputError, match="which needs pillow-heif"):
        decode_rgb8(tmp_path / "a.heic")


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pipe(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the names of sockets are short
        listening.bind("socket.png")
        kinds = {"pipe": "a named pipe", "link": "a named pipe", "zero": "a device", "socket": "a socket"}
        for name, kind in kinds.items():
            for read in (read_photograph, decode_rgb8, decoded_bytes):
                with pytest.raises(InputError, match=rf"{name}\.png: is {kind}, expected a regular file"):
                    read(tmp_path / f"{name}.png")
    Image.fromarray(eight()).save(tmp_path / "real.png")
    (tmp_path / "good.png").symlink_to(tmp_path / "real.png")
    assert np.array_equal(decode_rgb8(tmp_path / "good.png"), eight())
