"""Finds image files in a folder and decodes one into 8-bit RGB: the only way photographs enter the suite."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from datamodules.errors import InputError
from datamodules.installed import extra

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", *HEIC_SUFFIXES)
FORMATS = "PNG, JPEG, BMP, TIFF, WebP or HEIC"  # as people say it
PHOTOS_EXTRA = extra("photos")
MAX_PIXELS = 1_000_000_000

# By content, not by suffix, and no others: Pillow would start a PostScript interpreter for an .eps renamed to .png.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # of ISO 23008-12
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}  # RGBa: premultiplied
_MOST_SAMPLES, _LARGEST_TILE = 8, 4096 * 4096  # of TIFF: samples of a pixel, pixels of a tile
_ORIENTATION = 274  # tag number in EXIF and TIFF

# Registers all formats now rather than in whichever thread decodes first.
Image.init()
# Pillow warns from this limit on and raises from twice the limit on; `_open` raises from the limit on.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 26  # bytes, of colour profiles too, which in other formats have more than its 1 MB


def list_images(root: str | Path) -> list[Path]:
    """All images under `root`, at any depth.

    A file counts by its suffix (`IMAGE_SUFFIXES`, upper or lower case). Files and folders whose name starts with a dot
    are skipped. Symbolic links are followed, but every real folder is read once: a loop of links ends, and two links
    to one folder do not list its images twice.

    Returns:
        Paths that start with `root`, sorted by their POSIX path relative to it: the same order on every machine.

    Raises:
        InputError: `root` is missing, is a file, holds no image, or a folder in it cannot be read.
    """
    root = Path(root)
    accepted = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root}: {found}, expected a folder of images ({accepted}): give the path of such a folder")
    files = list(visible_files(root))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        found = f" but {len(files)} other file(s) such as {min(files).name}" if files else ", and no other file either"
        raise InputError(f"{root}: holds no image{found}, expected {accepted}: give a folder with such files")
    return sorted(images, key=lambda path: path.relative_to(root).as_posix())


def visible_files(root: Path) -> Iterator[Path]:
    """What lies under `root` at any depth, as `list_images` looks for it, in no order."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: folder cannot be read ({error.strerror}): check its permissions")

    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # Sorted, so that the one path under which a twice linked folder is listed does not depend on the file system.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def decoded_bytes(path: str | Path) -> int:
    """Size in bytes of what `decode_rgb8(path)` returns, from the file's header alone.

    Raises:
        InputError: as `decode_rgb8`, as far as the header shows it.
    """
    with opened(path) as stream:
        image = open_image(stream)
        _refuse_unusual(image)
        return 3 * image.width * image.height


def is_gray(path: str | Path) -> bool:
    """Whether the file stores one channel, with alpha or without, and no palette; from its header alone.

    Raises:
        InputError: as `decode_rgb8`, as far as the header shows it.
    """
    with opened(path) as stream:
        return open_image(stream).mode.startswith(("1", "L", "I"))


def decode_rgb8(path: str | Path) -> np.ndarray:
    """Decodes an image file into 8-bit RGB.

    - Gray: three equal channels. Palette: the colours it stands for. 1 bit: 0 and 255.
    - Alpha (RGBA, gray with alpha, palette with transparent entries) is dropped; the stored colours stay as they are,
      nothing is blended with a background. HEIC that was multiplied by its alpha is divided by it.
    - 16 bits a channel (PNG, TIFF, HEIC; gray or colour): round(v / 257), exact, so that 65535 becomes 255.
    - CMYK and YCbCr are converted by Pillow's formulas. Colour profiles are ignored.
    - EXIF orientation is applied. Of animations and files with several pages the first picture is read.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP or HEIC (with the extra `photos`), recognised by its content.

    Returns:
        uint8 [H, W, 3], RGB, values 0 to 255, contiguous.

    Raises:
        InputError: the file is missing, a pipe or the like, truncated, damaged or no image (a partial picture is never
            returned); needs a package that is not installed; has more than `MAX_PIXELS` (1e9) pixels, which leaves room
            for every camera and stops decompression bombs; or stores what has no exact 8-bit value here: float, signed,
            32-bit or CIELAB samples, and the rare 16-bit TIFF that is planar, turned by its orientation tag, inverted
            or premultiplied by its alpha; or is a TIFF in YCbCr that is not compressed.
    """
    with opened(path) as stream:
        image = open_image(stream)
        _refuse_unusual(image)
        sixteen_bit = is_sixteen_bit(image)
        # Another library may have switched this on; a truncated file would then come back partly gray.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        image.load()  # reads the whole file, also where OpenCV decodes it below: OpenCV returns partial pictures
        # After load(), which itself turns a TIFF and then removes the tag.
        orientation = orientation_of(image)
        # Transparency is dropped anyway; left in, it makes Pillow warn of some palettes.
        image.info.pop("transparency", None)
        if sixteen_bit:
            pixels = to_eight_bit(sixteen_bit_pixels(stream, image.size)[:, :, :3])
            pixels = pixels if pixels.shape[2] == 3 else pixels[:, :, :1].repeat(3, 2)
        else:
            whole = image.convert("RGBA") if image.mode == "RGBa" else image
            pixels = np.asarray(whole.convert("RGB"))
        return np.ascontiguousarray(upright(pixels, orientation))


def orientation_of(image: Image.Image) -> int:
    """By the tag of EXIF; 1 where there is none, or none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises many kinds for a damaged header of a PNG or WebP; the pixels are sound
        return 1


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A file to read. Whatever goes wrong with it becomes an InputError that names the file and the cause.

    Only a regular file is opened: a named pipe would wait for ever for somebody to write into it.
    """
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode):
            kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
            raise InputError(
                f"is {kinds.get(stat.S_IFMT(mode), 'a device')}, expected a regular file: save what it holds as one"
            )
        with Path(path).open("rb") as stream:
            yield stream
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything: SyntaxError, struct.error, KeyError
        raise InputError(f"{path}: {_cause(error, Path(path))}") from error


def _cause(error: Exception, path: Path) -> str:
    replace = "replace or delete the file"
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS} pixels: {replace}"
    if isinstance(error, UnidentifiedImageError):
        start = path.read_bytes()[:4] if path.stat().st_size else b""
        if not start:
            return f"is empty (0 bytes): {replace}"
        if start in (b"II*\0", b"MM\0*"):
            return "TIFF is damaged or of an unusual kind such as float: save it with 8- or 16-bit integer samples"
        if _is_heic(path.read_bytes()[:12]):
            return f"HEIC is truncated or damaged: {replace}"
        return f"is no {FORMATS} image, whatever its suffix: convert it to one of them, or delete it"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"cannot be decoded ({reason}): {replace}"


def open_image(stream: BinaryIO, max_pixels: int | None = None) -> ImageFile.ImageFile:
    """Reads the header of a PNG, JPEG, BMP, TIFF, WebP or HEIC file, recognised by its content; decodes nothing.

    Raises:
        InputError: it has more than `max_pixels` (None: `MAX_PIXELS`) pixels, or samples that are not unsigned
            integers of 1 to 8 or 16 bits; or it is HEIC, and the extra `photos` is not installed.
        Exception: what Pillow raises of damaged files; `naming` makes an InputError of it.
    """
    start = stream.read(12)
    stream.seek(0)
    image = Image.open(stream, formats=_heic_formats() if _is_heic(start) else _FORMATS)
    check_pixels(image.width, image.height, max_pixels)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and (image.tag_v2.get(262), image.tag_v2.get(259, 1)) == (6, 1):
        raise InputError("TIFF is YCbCr without compression, which Pillow does not read: save it as RGB")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        check_parts(image.width, image.height, tags.get(277, 1), tags.get(322, 1) * tags.get(323, 1))
    if not is_sixteen_bit(image) and image.mode not in _MODES:
        raise InputError(f"has pixels of mode {image.mode}: save it as RGB with 8 or 16 bits a channel")
    return image


def _is_heic(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


def _heic_formats() -> tuple[str, ...]:
    """What Pillow calls HEIC, which a package reads that need not be installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise InputError(f"is HEIC, which needs pillow-heif: {PHOTOS_EXTRA}, or save it as PNG or TIFF") from error
    register_heif_opener()
    return ("HEIF",)


def check_pixels(width: int, height: int, max_pixels: int | None = None) -> None:
    """The size that a header gives.

    Raises:
        InputError: it is more than `max_pixels`, or `MAX_PIXELS` if that is None.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if width * height > limit:
        raise InputError(f"has {width}x{height} pixels, more than {limit}: cut or shrink it")


def check_parts(width: int, height: int, samples: int, tile: int) -> None:
    """What a TIFF file takes in memory beside its pixels.

    Args:
        samples: of a pixel.
        tile: pixels of a tile, of which one at least is decoded, however small the image.

    Raises:
        InputError: it is more than a photograph needs.
    """
    if samples > _MOST_SAMPLES:
        raise InputError(f"TIFF has {samples} samples a pixel, expected at most {_MOST_SAMPLES}: save it as RGB")
    most = max(_LARGEST_TILE, -(-width // 16) * -(-height // 16) * 256)  # sides of tiles are multiples of 16
    if tile > most:
        raise InputError(f"TIFF has {width}x{height} pixels in tiles of {tile}, expected at most {most}: save it anew")


def is_sixteen_bit(image: ImageFile.ImageFile) -> bool:
    """Whether samples have 16 bits, which Pillow's mode conceals: RGB of 16 bits is cut to the high byte by Pillow.

    HEIC of 10 or 12 bits counts. To be asked before the image is loaded.
    """
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8)) > 8
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.format == "PNG" and "16" in str(image.tile[0][3])  # how Pillow will read it, such as RGB;16B
    tags = image.tag_v2
    bits, kinds = set(tags.get(258, (1,))), set(tags.get(339, (1,)))
    if kinds != {1} or max(bits) > 16 or (16 in bits and bits != {16}) or any(8 < b < 16 for b in bits):
        kind = {1: "unsigned", 2: "signed", 3: "float"}.get(max(kinds), "unknown")
        raise InputError(f"TIFF has {max(bits)}-bit {kind} samples: save it with 8- or 16-bit unsigned integer samples")
    return bits == {16}


def _refuse_unusual(image: ImageFile.ImageFile) -> None:
    """Refuses 16-bit TIFF files that Pillow and OpenCV decode wrongly, each in its own way."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not is_sixteen_bit(image):
        return
    tags = image.tag_v2
    plain = tags.get(262) in (1, 2) and tags.get(284, 1) == tags.get(_ORIENTATION, 1) == 1
    if not plain or 1 in tags.get(338, ()):
        raise InputError(
            "16-bit TIFF is neither gray nor RGB, or white is 0, or it is planar, turned by its orientation tag or "
            "premultiplied by its alpha: save it upright as plain gray or RGB"
        )


def sixteen_bit_pixels(stream: BinaryIO, size: tuple[int, int]) -> np.ndarray:
    """uint16 [H, W, C], channels in the order of RGB; HEIC of 10 or 12 bits fills the range.

    Args:
        size: width and height as the header says.

    Raises:
        InputError: OpenCV cannot decode it; of PNG it knows at most a million pixels a side.
    """
    stream.seek(0)
    data = stream.read()
    if _is_heic(data[:12]):
        from pillow_heif import open_heif

        image = open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
        deep, largest = np.asarray(image).astype(np.uint32), 2 ** image.info["bit_depth"] - 1
        scaled = ((deep * 65535 + largest // 2) // largest).astype(np.uint16)
        if image.premultiplied_alpha:
            scaled[:, :, :3] = unmultiplied(scaled[:, :, :3], scaled[:, :, 3])
        return scaled[:, :, None] if scaled.ndim == 2 else scaled
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != size[::-1]:
        other = "TIFF" if max(size) > 1_000_000 else "PNG"
        raise InputError(f"16-bit image cannot be decoded by OpenCV: save it as a 16-bit {other}")
    return pixels[:, :, None] if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]]


def unmultiplied(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours uint16 [H, W, C] that were stored multiplied by their alpha [H, W]; black where nothing is left."""
    whole = np.maximum(alpha, 1).astype(np.uint32)[:, :, None]
    return np.minimum((pixels.astype(np.uint32) * 65535 + whole // 2) // whole, 65535).astype(np.uint16)


def to_eight_bit(values: np.ndarray) -> np.ndarray:
    """uint8 as they are; of uint16 round(v / 257), so that 65535 becomes 255."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 257 is odd: v / 257 is never halfway


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the EXIF orientation 1 to 8; other values mean nothing and leave the image as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
