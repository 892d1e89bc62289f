import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from datamodules.errors import InputError
from datamodules.io import decode as images
from datamodules.io.decode import decode_rgb8, decoded_bytes, is_gray

# 2 rows, 3 columns: no two pixels and no two channels are equal.
COLOURS = np.array(
    [[[10, 20, 30], [40, 50, 60], [70, 80, 90]], [[100, 110, 120], [130, 140, 150], [160, 170, 255]]], np.uint8
)
# round(v / 257) by hand: 128 / 257 = 0.498, 129 / 257 = 0.502, 33023 / 257 = 128.494, 33024 / 257 = 128.498,
# 33025 / 257 = 128.502, 65407 / 257 = 254.502; the high byte alone would give 0 0 0 0 128 128 129 129 255 255.
SIXTEEN = np.array([0, 127, 128, 129, 33023, 33024, 33025, 33152, 65407, 65535], np.uint16).reshape(2, 5)
SIXTEEN_AS_8 = np.array([0, 0, 0, 1, 128, 128, 129, 129, 255, 255], np.uint8).reshape(2, 5)


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG file, chunk by chunk; every row of `rows` starts with filter byte 0."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(chunk(*each) for each in extra) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


@pytest.fixture
def decoded(tmp_path: Path) -> Callable[[bytes], np.ndarray]:
    """Writes bytes into a file and decodes it."""

    def decode(data: bytes) -> np.ndarray:
        path = tmp_path / "picture.png"
        path.write_bytes(data)
        pixels = decode_rgb8(path)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert decoded_bytes(path) == pixels.nbytes
        return pixels

    return decode


Decode = Callable[[bytes], np.ndarray]


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_colours_come_back_exactly(decoded: Decode, kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    np.testing.assert_array_equal(decoded(encoded(COLOURS, kind, **options)), COLOURS)


def test_gray_becomes_three_equal_channels(decoded: Decode) -> None:
    gray = np.array([[0, 7], [200, 255]], np.uint8)
    np.testing.assert_array_equal(decoded(encoded(gray, "png")), np.dstack([gray] * 3))


def test_gray_files_are_known(tmp_path: Path) -> None:
    """By what they store, one channel, and not by what is in it."""
    path, eight_bit = tmp_path / "picture", Image.fromarray(COLOURS[..., 0])
    for mode, kind in (("L", "png"), ("L", "bmp"), ("L", "jpeg"), ("L", "tiff"), ("1", "png"), ("LA", "png")):
        eight_bit.convert(mode).save(path, kind)
        assert is_gray(path), (mode, kind)
    for kind in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"gray{kind}"), SIXTEEN)
        cv2.imwrite(str(tmp_path / f"colour{kind}"), np.dstack([SIXTEEN] * 3))
        assert is_gray(tmp_path / f"gray{kind}")
        assert not is_gray(tmp_path / f"colour{kind}")
    for mode, kind in (("RGB", "png"), ("RGB", "bmp"), ("RGBA", "png"), ("RGB", "webp"), ("CMYK", "jpeg")):
        eight_bit.convert(mode).save(path, kind)
        assert not is_gray(path), (mode, kind)
    Image.fromarray(COLOURS).quantize(4).save(path, "png")
    assert not is_gray(path)


def test_one_bit_becomes_0_and_255(decoded: Decode) -> None:
    pixels = decoded(png(4, 1, 1, 0, b"\0\xa0"))
    np.testing.assert_array_equal(pixels[0, :, 0], [255, 0, 255, 0])


def test_palette_becomes_its_colours(decoded: Decode) -> None:
    pixels = decoded(png(3, 1, 8, 3, b"\0\2\0\1", (b"PLTE", bytes([1, 2, 3, 40, 50, 60, 255, 0, 128]))))
    np.testing.assert_array_equal(pixels, [[[255, 0, 128], [1, 2, 3], [40, 50, 60]]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alphas", [b"\0", b"\0\x80", b"\xff\0\x10"])
def test_palette_with_transparency_keeps_its_colours(decoded: Decode, alphas: bytes) -> None:
    palette = bytes([1, 2, 3, 40, 50, 60, 255, 0, 128])
    pixels = decoded(png(3, 1, 8, 3, b"\0\2\0\1", (b"PLTE", palette), (b"tRNS", alphas)))
    np.testing.assert_array_equal(pixels, [[[255, 0, 128], [1, 2, 3], [40, 50, 60]]])


def test_transparent_colour_is_kept(decoded: Decode) -> None:
    pixels = decoded(png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", (b"tRNS", b"\0\1\0\2\0\3")))
    np.testing.assert_array_equal(pixels, [[[1, 2, 3], [4, 5, 6]]])


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_alpha_is_dropped_and_not_blended(decoded: Decode, kind: str) -> None:
    alpha = np.array([[0, 1, 128], [200, 254, 255]], np.uint8)
    np.testing.assert_array_equal(decoded(encoded(np.dstack([COLOURS, alpha]), kind)), COLOURS)
    gray = COLOURS[:, :, 0]
    np.testing.assert_array_equal(decoded(encoded(np.dstack([gray, alpha]), kind)), np.dstack([gray] * 3))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_gray_is_rounded(decoded: Decode, suffix: str) -> None:
    pixels = decoded(cv2.imencode(suffix, SIXTEEN)[1].tobytes())
    np.testing.assert_array_equal(pixels, np.dstack([SIXTEEN_AS_8] * 3))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bit_colour_is_rounded(decoded: Decode, suffix: str, alpha: bool) -> None:
    red, green, blue = SIXTEEN, SIXTEEN[::-1], SIXTEEN[:, ::-1]
    layers = [blue, green, red] + [SIXTEEN] * alpha  # the order of OpenCV
    pixels = decoded(cv2.imencode(suffix, np.dstack(layers))[1].tobytes())
    np.testing.assert_array_equal(pixels, np.dstack([SIXTEEN_AS_8, SIXTEEN_AS_8[::-1], SIXTEEN_AS_8[:, ::-1]]))


def test_sixteen_bit_gray_with_alpha(decoded: Decode) -> None:
    pixels = decoded(png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 129, 7, 65535, 0)))
    np.testing.assert_array_equal(pixels, [[[1, 1, 1], [255, 255, 255]]])


def test_every_sixteen_bit_value(decoded: Decode) -> None:
    values = np.arange(65536)
    pixels = decoded(cv2.imencode(".png", values.astype(np.uint16).reshape(256, 256))[1].tobytes())
    np.testing.assert_array_equal(pixels[:, :, 1].ravel(), np.round(values / 257))


def test_big_endian_and_compressed_sixteen_bit_tiff(tmp_path: Path) -> None:
    colour = np.dstack([SIXTEEN, SIXTEEN[::-1], SIXTEEN])
    expected = np.dstack([SIXTEEN_AS_8, SIXTEEN_AS_8[::-1], SIXTEEN_AS_8])
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", byteorder=">")
    tifffile.imwrite(tmp_path / "b.tif", colour, photometric="rgb", compression="deflate", predictor=True)
    np.testing.assert_array_equal(decode_rgb8(tmp_path / "a.tif"), expected)
    np.testing.assert_array_equal(decode_rgb8(tmp_path / "b.tif"), expected)


@pytest.mark.parametrize(
    ("array", "options", "cause"),
    [
        (SIXTEEN / np.float32(65535), {}, "32-bit float"),
        (np.dstack([SIXTEEN / np.float32(65535)] * 3), {"photometric": "rgb"}, "float"),
        (SIXTEEN / 65535, {}, "float"),
        (SIXTEEN.astype(np.int32), {}, "32-bit signed"),
        (SIXTEEN.astype(np.uint32), {}, "32-bit unsigned"),
        ((SIXTEEN // 2).astype(np.int16), {}, "16-bit signed"),
        (SIXTEEN, {"photometric": "miniswhite"}, "white is 0"),
        (np.stack([SIXTEEN] * 3), {"photometric": "rgb", "planarconfig": "separate"}, "planar"),
        (np.dstack([SIXTEEN] * 3), {"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}, "orientation"),
        (np.dstack([SIXTEEN] * 4), {"photometric": "rgb", "extrasamples": ["assocalpha"]}, "premultiplied"),
    ],
)
def test_samples_without_exact_value_are_refused(
    tmp_path: Path, array: np.ndarray, options: dict[str, Any], cause: str
) -> None:
    tifffile.imwrite(tmp_path / "odd.tif", array, **options)
    with pytest.raises(InputError, match=rf"odd\.tif.*{cause}.*save it"):
        decode_rgb8(tmp_path / "odd.tif")


def test_cmyk_jpeg_becomes_rgb(decoded: Decode) -> None:
    # Pillow's formula: 255 - min(255, C + K) and so on, up to JPEG's own rounding.
    ink = Image.new("CMYK", (8, 8), (255, 0, 100, 0))
    stream = io.BytesIO()
    ink.save(stream, "jpeg", quality=100)
    assert np.abs(decoded(stream.getvalue()).astype(int) - [0, 255, 155]).max() <= 2


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_exif_orientation_is_applied(decoded: Decode, kind: str) -> None:
    a, b, c, d, e, f = COLOURS.reshape(6, 3)  # stored as abc / def
    upright = {
        1: [[a, b, c], [d, e, f]],
        2: [[c, b, a], [f, e, d]],
        3: [[f, e, d], [c, b, a]],
        4: [[d, e, f], [a, b, c]],
        5: [[a, d], [b, e], [c, f]],
        6: [[d, a], [e, b], [f, c]],  # turned clockwise
        7: [[f, c], [e, b], [d, a]],
        8: [[c, f], [b, e], [a, d]],
        9: [[a, b, c], [d, e, f]],  # no such orientation
    }
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[274] = orientation
        np.testing.assert_array_equal(decoded(encoded(COLOURS, kind, exif=exif)), expected)


def test_exif_orientation_of_jpeg_and_of_sixteen_bit_png(decoded: Decode) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, :8] = 255
    pixels = decoded(encoded(picture, "jpeg", exif=exif))
    assert pixels.shape == (16, 8, 3)
    assert pixels[:8].min() > 250
    assert pixels[8:].max() < 5
    rows = b"\0" + struct.pack(">2H", 129, 65535)
    pixels = decoded(png(2, 1, 16, 0, rows, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))))
    np.testing.assert_array_equal(pixels[:, :, 0], [[1], [255]])


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_first_frame_of_several(decoded: Decode, kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    more = [Image.fromarray(255 - COLOURS)]
    pixels = decoded(encoded(COLOURS, kind, save_all=True, append_images=more, **options))
    np.testing.assert_array_equal(pixels, COLOURS)


NOISE = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
DEEP_NOISE = NOISE.astype(np.uint16) * 257
INTACT = {
    "png": encoded(NOISE, "png"),
    "jpeg": encoded(NOISE, "jpeg"),
    "progressive jpeg": encoded(np.tile(NOISE, (3, 3, 1)), "jpeg", progressive=True),
    "bmp": encoded(NOISE, "bmp"),
    "tiff": encoded(NOISE, "tiff"),
    "lzw tiff": encoded(NOISE, "tiff", compression="tiff_lzw"),
    "webp": encoded(NOISE, "webp"),
    "16-bit png": cv2.imencode(".png", DEEP_NOISE)[1].tobytes(),
    "16-bit tiff": cv2.imencode(".tif", DEEP_NOISE)[1].tobytes(),
}


@pytest.mark.many
@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged TIFF tags
@pytest.mark.parametrize("kind", INTACT)
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_file_never_gives_a_partial_picture(
    tmp_path: Path, kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "cut.png", INTACT[kind]
    path.write_bytes(data)
    whole = decode_rgb8(path)
    refused = []
    cuts = range(0, len(data), 5)
    for length in cuts:
        path.write_bytes(data[:length])
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # as some libraries do
        try:
            pixels = decode_rgb8(path)
        except InputError as error:
            refused.append(str(error))
        else:  # only the end mark is missing
            np.testing.assert_array_equal(pixels, whole)
    assert len(refused) >= len(cuts) - 5
    assert all(message.startswith(f"{path}: ") for message in refused)


def test_flipped_bit_in_png_is_found(decoded: Decode) -> None:
    data = bytearray(INTACT["png"])
    data[100] ^= 1
    with pytest.raises(InputError, match=r"picture\.png: cannot be decoded"):
        decoded(bytes(data))


def test_what_is_no_image_is_refused(decoded: Decode, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"picture\.png: is no PNG, JPEG, BMP, TIFF, WebP or HEIC"):
        decoded(b"just some text in a file named .png")
    with pytest.raises(InputError, match=r"picture\.png: is empty \(0 bytes\)"):
        decoded(b"")
    with pytest.raises(InputError, match="is no PNG"):
        decoded(encoded(COLOURS, "gif"))
    with pytest.raises(InputError, match=r"absent\.png: cannot be decoded \(No such file or directory\)"):
        decode_rgb8(tmp_path / "absent.png")
    with pytest.raises(InputError, match="is a folder, expected a regular file"):
        decode_rgb8(tmp_path)


def test_cielab_is_refused(decoded: Decode) -> None:
    stream = io.BytesIO()
    Image.new("LAB", (2, 2)).save(stream, "tiff")
    with pytest.raises(InputError, match="mode LAB"):
        decoded(stream.getvalue())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [32_000, 60_000])  # between and beyond Pillow's two limits
def test_decompression_bomb_is_refused(decoded: Decode, side: int) -> None:
    with pytest.raises(InputError, match=r"pixels.*1000000000|1000000000.*pixels"):
        decoded(png(side, side, 8, 0, b"\0"))


@pytest.mark.filterwarnings("error")
def test_500_megapixels_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(25_000, 20_000, 8, 2, b"\0"))
    assert decoded_bytes(tmp_path / "large.png") == 1_500_000_000


def test_pixel_limit(decoded: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 6)
    decoded(encoded(COLOURS, "png"))
    monkeypatch.setattr(images, "MAX_PIXELS", 5)
    with pytest.raises(InputError, match="has 3x2 pixels, more than 5"):
        decoded(encoded(COLOURS, "png"))
