"""Photographs that are damaged, malicious or merely rare, each of which once went wrong."""

import io
import random
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datamodules.errors import InputError
from datamodules.io import metadata
from datamodules.io.decode import decode_rgb8
from datamodules.io.photo import Photograph
from datamodules.io.read_photo import read_photograph
from datamodules.io.write_photo import write_photograph
from tests.datamodules.io.test_photographs import RGB, camera_exif, chunk, eight, png16, read, sixteen


def test_packet_of_openings_takes_no_time() -> None:
    packet = b"<xmp:Thumbnails>" * 200_000  # hours, once
    assert metadata.upright_xmp(packet) == b""
    assert metadata.upright_xmp(b"a<xmp:Thumbnails>b</xmp:Thumbnails>c" * 2) == b"acac"


def test_an_orientation_of_spaces_takes_no_time() -> None:
    packet = b"<tiff:Orientation>" + b" " * 1_000_000  # ten minutes, once
    assert metadata.upright_xmp(packet) == packet
    assert metadata.upright_xmp(b"a<tiff:Orientation> 6 </tiff:Orientation>b") == b"ab"


def test_exif_that_imagemagick_wrote_as_text_is_kept(tmp_path: Path) -> None:
    info = PngInfo()
    exif = camera_exif()
    content = b"Exif\0\0" + exif
    info.add_text("Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png", exif=content)
    as_text, as_chunk = (read_photograph(tmp_path / name).exif for name in ("a.png", "b.png"))
    assert as_text is not None
    assert as_text == as_chunk


def tiff_with(tags: list[tuple[int, int]], behind: bytes, bits: int = 16) -> bytes:
    """4x4 pixels, and tags of so many bytes, all of them the same ones at the end."""
    short = {256: 4, 257: 4, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 2 * bits}
    rows = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in short.items()}
    at = 8 + 2 + 12 * (len(short) + len(tags)) + 4
    rows |= {tag: struct.pack("<HHII", tag, 7, size, at) for tag, size in tags}
    directory = b"".join(row for _, row in sorted(rows.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(rows)) + directory + bytes(4) + behind


@pytest.mark.parametrize("bits", [8, 16])
def test_tags_that_share_their_bytes_take_no_memory(tmp_path: Path, bits: int) -> None:
    data = tiff_with([(50_000 + i, 1 << 20) for i in range(300)], bytes(1 << 20), bits)
    tracemalloc.start()
    with pytest.raises(InputError, match="TIFF has tags of more bytes than the file"):
        read(tmp_path, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 << 20  # of 300


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ((64, 64, 9), {"planarconfig": "contig"}, "TIFF has 9 samples a pixel, expected at most 8"),
        ((64, 64, 3), {"tile": (4096, 4112)}, "TIFF has 64x64 pixels in tiles of 16842752, expected at most 16777216"),
    ],
)
def test_tiff_that_takes_more_than_its_pixels(
    tmp_path: Path, depth: type, shape: tuple[int, ...], options: dict[str, Any], says: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros(shape, depth), photometric="rgb", compression="zlib", **options)
    readers = [read_photograph, decode_rgb8]
    for reader in readers if shape[2] == 3 else readers[: depth == np.uint16]:  # of the others Pillow has no mode
        with pytest.raises(InputError, match=says):
            reader(path)
    tifffile.imwrite(path, np.zeros((64, 64, 3), depth), photometric="rgb", compression="zlib", tile=(4096, 4096))
    assert read_photograph(path).pixels.shape == (64, 64, 3)


def exif_with_tags_that_share(count: int, size: int) -> bytes:
    """A first directory that refers to a further one, whose tags are all of the same bytes at the end."""
    first = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 34665, 4, 1, 26, 0)
    at = 26 + 2 + 12 * count + 4
    rows = b"".join(struct.pack("<HHII", 50_000 + i, 7, size, at) for i in range(count))
    return first + struct.pack("<H", count) + rows + bytes(4) + bytes(size)


def test_exif_that_shares_its_bytes_takes_no_memory(tmp_path: Path) -> None:
    for exif in (exif_with_tags_that_share(300, 1 << 20), exif_with_tags_that_share(5000, 5000)):
        tracemalloc.start()
        found = read(tmp_path, png16(sixteen(), 2, chunk(b"eXIf", exif)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 70 << 20
        assert len(found.notes) == 1
    notes: list[str] = []
    tracemalloc.start()
    metadata.upright_exif(io.BytesIO(exif_with_tags_that_share(300, 1 << 19)), notes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20  # of 150 in four forms
    assert notes == ["some of its tags are damaged or have more than 1 MB: what they say of the photograph is left out"]


def test_large_values_are_left_out_of_exif_and_said(tmp_path: Path) -> None:
    found = read(tmp_path, tiff_with([(270, 400), (37724, 2 << 20)], b"x" * (3 << 20)))  # the last is Photoshop's
    assert found.exif is not None
    assert found.notes == (
        "some of its tags are damaged or have more than 1 MB: what they say of the photograph is left out",
    )
    exif = tiff_with([(270, 400), (37724, 70_000)], b"x" * 70_000)
    found = read(tmp_path, png16(sixteen(), 2, chunk(b"eXIf", exif)))
    assert found.exif is None
    assert found.notes == ("its EXIF has more than 65536 bytes, left out",)


def test_damaged_exif_is_found_by_the_reader() -> None:
    """Whatever `upright_exif` lets through can be written, and read again."""
    generator = random.Random(0)
    written = 0
    for _ in range(1500):
        data = bytearray(camera_exif(generator.choice("<>")))
        for _ in range(generator.choice((1, 1, 2, 4))):
            data[generator.randrange(400)] = generator.choice((0, 1, 2, 3, 5, 7, 12, 13, 255, generator.randrange(256)))
        upright = metadata.upright_exif(io.BytesIO(data), [])
        if upright is None:
            continue
        for size in ((10, 10), (70_000, 300)):
            notes: list[str] = []
            assert metadata.upright_exif(io.BytesIO(metadata.exif_with(upright, *size, (300, 300))), notes)
            assert not notes
        written += 1
    assert written > 300


def test_thumbnail_that_lies_about_its_size_takes_nothing_along() -> None:
    inner = struct.pack("<HHHII", 1, 36867, 2, 20, 150) + bytes(4)
    data = b"II*\0" + struct.pack("<IHHHII", 8, 1, 34665, 4, 1, 120) + struct.pack("<I", 50)
    small = struct.pack("<HHHIIHHIII", 2, 513, 4, 1, 90, 514, 4, 1, 5000, 0)
    data = data.ljust(50, b"\0") + small.ljust(70, b"\0") + inner.ljust(30, b"\0") + b"2026:01:02 03:04:05\0"
    upright = metadata.upright_exif(io.BytesIO(data), [])
    assert upright is not None
    exif = Image.Exif()
    exif.load(upright)
    assert exif.get_ifd(34665) == {36867: "2026:01:02 03:04:05"}


@pytest.mark.parametrize(
    ("across", "down"), [((0, 0), (0, 0)), ((1, 0), (1, 0)), ((300, 0), (1, 1)), ((2**32 - 1, 1),) * 2]
)
@pytest.mark.parametrize("bits", [8, 16])
def test_resolution_that_is_none(tmp_path: Path, bits: int, across: tuple[int, int], down: tuple[int, int]) -> None:
    pixels = eight() if bits == 8 else sixteen()
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", resolution=((300, 1), (300, 1)), resolutionunit=2)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for code, value in ((282, across), (283, down)):
            at = file.pages[0].tags[code].valueoffset
            data[at : at + 8] = struct.pack("<II", *value)
    found = read(tmp_path, bytes(data))
    assert found.dpi is None or (bits == 16 and across[1] == 0)  # tifffile takes n/0 for n
    assert np.array_equal(found.pixels, pixels)
    for suffix in (".png", ".tif"):
        write_photograph(tmp_path / f"b{suffix}", found)


@pytest.mark.parametrize("dots", [0.1, 65535.0])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_every_resolution_that_is_read_can_be_written(tmp_path: Path, suffix: str, dots: float) -> None:
    write_photograph(tmp_path / f"a{suffix}", Photograph(eight(), dpi=(dots, dots)))


@pytest.mark.parametrize(("orientation", "expected"), [(3, (200, 100)), (6, (100, 200))])
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "16"])
def test_quarter_turn_turns_the_resolution(
    tmp_path: Path, kind: str, orientation: int, expected: tuple[int, int]
) -> None:
    if kind == "16":
        tags = [(274, 3, 1, orientation, True)]
        tifffile.imwrite(
            tmp_path / "a", sixteen(), photometric="rgb", resolution=(200, 100), resolutionunit=2, extratags=tags
        )
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(eight()).save(tmp_path / "a", kind, exif=exif, dpi=(200, 100))
    assert read_photograph(tmp_path / "a").dpi == pytest.approx(expected)


@pytest.mark.parametrize(("depth", "key"), [(1, 1), (2, 2), (4, 5), (8, 5)])
def test_transparent_level_of_few_bits(tmp_path: Path, depth: int, key: int) -> None:
    levels = np.arange(16).reshape(2, 8) % 2**depth
    packed = [int("".join(f"{level:0{depth}b}" for level in row), 2).to_bytes(depth, "big") for row in levels.tolist()]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 2, depth, 0, 0, 0, 0)) + chunk(b"tRNS", struct.pack(">H", key))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed))) + chunk(b"IEND", b"")
    found = read(tmp_path, b"\x89PNG\r\n\x1a\n" + header + body)
    assert found.alpha is not None
    assert np.array_equal(found.alpha == 0, levels == key)


def test_png_keeps_how_its_colours_are_meant(tmp_path: Path) -> None:
    chunks = [
        (b"cICP", b"\x09\x10\0\1"),
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"cHRM", struct.pack(">8I", *range(8))),
    ]
    found = read(tmp_path, png16(sixteen(), 2, *(chunk(*one) for one in chunks)))
    write_photograph(tmp_path / "b.png", found)
    data = (tmp_path / "b.png").read_bytes()
    assert all(chunk(*one) in data[: data.index(b"IDAT")] for one in chunks)


@pytest.mark.parametrize(
    ("kinds", "icc", "lost"),
    [
        (["gAMA", "cHRM"], None, True),
        (["gAMA", "cHRM"], RGB, False),  # which counts
        (["gAMA", "sRGB"], None, False),  # is taken for granted where nothing is said
        (["cICP", "sRGB"], None, True),  # the former counts
        (["cICP"], RGB, True),
        ([], None, False),
    ],
)
def test_what_colours_mean_is_lost_where_it_counts(
    tmp_path: Path, kinds: list[str], icc: bytes | None, lost: bool
) -> None:
    found = Photograph(eight(), icc=icc, colour=tuple((kind.encode(), b"") for kind in kinds))
    for suffix in ("jpg", "tif", "webp"):
        notes = write_photograph(tmp_path / f"a.{suffix}", found)
        assert notes == ([f"its {', '.join(kinds)} left out, which only PNG holds: colours may look different"] * lost)
    assert write_photograph(tmp_path / "a.png", found) == []


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_large_profiles_come_back(tmp_path: Path, suffix: str) -> None:
    profile = RGB + np.random.default_rng(0).bytes(1_500_000)
    path = tmp_path / f"a.{suffix}"
    assert write_photograph(path, Photograph(eight(), icc=profile)) == []
    assert read_photograph(path).icc == profile


@pytest.mark.parametrize("beyond", [0, 1])
def test_what_jpeg_cannot_hold_is_left_out_and_said(tmp_path: Path, beyond: int) -> None:
    """The most that its markers hold, EXIF to a few bytes, and more."""
    tags = metadata.Directory()
    tags[305], tags.tagtype[305] = b"", 2
    size = 65533 - 6 - len(metadata.exif_with(metadata._to_bytes(tags, {}), 48, 36, None)) - 2 + 4 * beyond
    tags[305] = "x" * size
    xmp = b"x" * (65533 - 29 + beyond)
    exif = metadata._to_bytes(tags, {})
    notes = write_photograph(tmp_path / "a.jpg", Photograph(eight(), exif=exif, xmp=xmp))
    found = read_photograph(tmp_path / "a.jpg")
    assert len(notes) == 2 * beyond
    assert all(note.endswith(" bytes left out, for JPEG holds 64 KB") for note in notes)
    assert (found.exif is not None, found.xmp is not None) == (not beyond, not beyond)
    assert np.abs(found.pixels.astype(int) - eight()).mean() < 8


def test_profile_for_gray_is_not_put_into_colours(tmp_path: Path) -> None:
    write_photograph(tmp_path / "a.webp", Photograph(eight()[:, :, :1], icc=RGB[:16] + b"GRAY" + RGB[20:]))
    with Image.open(tmp_path / "a.webp") as image:
        assert "icc_profile" not in image.info


def test_too_wide_for_opencv_names_another_format(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png16(np.zeros((1, 1_000_001, 1), np.uint16), 0))
    for decode in (read_photograph, decode_rgb8):
        with pytest.raises(InputError, match="save it as a 16-bit TIFF"):
            decode(tmp_path / "a.png")


def test_tifffile_says_nothing_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(tiff_with([(270, 4)], bytes(4)))
    row = data.index(struct.pack("<HH", 270, 7))
    data[row + 2 : row + 4] = struct.pack("<H", 99)  # no type
    read(tmp_path, bytes(data))
    assert not caplog.records


def test_a_tiff_in_ycbcr_is_read_or_called_what_it_is(tmp_path: Path) -> None:
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([y * 5, x * 4, 255 - x * 3], -1).astype(np.uint8)
    for compression, options in (("tiff_lzw", {}), ("jpeg", {"quality": 95})):
        file = tmp_path / f"{compression}.tif"
        Image.fromarray(pixels).convert("YCbCr").save(file, compression=compression, **options)
        for found in (decode_rgb8(file), read_photograph(file).pixels):
            assert np.abs(found.astype(int) - pixels).max() <= 4
    Image.fromarray(pixels).convert("YCbCr").save(tmp_path / "plain.tif")  # Pillow would call it truncated
    for reader in (decode_rgb8, read_photograph):
        with pytest.raises(InputError, match=r"plain\.tif: TIFF is YCbCr without compression, .*: save it as RGB"):
            reader(tmp_path / "plain.tif")
