"""Reads photographs of the usual formats with all that belongs to them."""

import contextlib
import io
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from datamodules.errors import InputError
from datamodules.io import metadata
from datamodules.io.decode import (
    HEIC_SUFFIXES,
    IMAGE_SUFFIXES,
    PHOTOS_EXTRA,
    check_parts,
    check_pixels,
    is_sixteen_bit,
    open_image,
    opened,
    orientation_of,
    sixteen_bit_pixels,
    unmultiplied,
    upright,
)
from datamodules.io.photo import Photograph

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of damaged files is said by `notes` or an error

_ORIENTATION = 274  # tag of EXIF and TIFF
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw")  # of cameras
DEVELOPED = "developed by LibRaw: sRGB, white balance of the camera, not brightened"
_LARGEST_EXIF = 1 << 16  # bytes outside TIFF, as in JPEG: Pillow reads entries that all refer to the same ones
Planes = tuple[np.ndarray, np.ndarray | None]


def readable_suffixes() -> tuple[str, ...]:
    """Of files that count as photographs here: HEIC and raw ones where the packages of the extra `photos` are."""
    unread = () if find_spec("pillow_heif") else HEIC_SUFFIXES
    raw = RAW_SUFFIXES if find_spec("rawpy") else ()
    return (*(suffix for suffix in IMAGE_SUFFIXES if suffix not in unread), *raw)


def read_photograph(path: str | Path, max_pixels: int | None = None) -> Photograph:
    """Reads a photograph.

    - Gray stays gray, a palette becomes the colours it stands for, 1 bit becomes 0 and 255.
    - Alpha is separate, whether it is stored as a channel, premultiplied, in a palette or as a transparent colour.
    - 8 bits a channel stay 8, 16 stay 16 (PNG, TIFF), 10 and 12 become 16 (HEIC). CMYK becomes sRGB by its profile, or
      by Pillow's formula. Raw ones are developed by LibRaw: 16 bits, sRGB, the camera's white balance, not brightened.
    - EXIF orientation is applied. Colour profile, EXIF, XMP and dpi are kept; a profile for other channels is not.
    - Of animations and files with several pages the first picture is read, of HEIC the one that it says.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP or HEIC, recognised by its content; or raw, by its suffix (`RAW_SUFFIXES`).
            HEIC and raw need the extra `photos`.
        max_pixels: more are refused by the header, before anything is decoded; None: `decode.MAX_PIXELS`.

    Raises:
        InputError: the file is missing, a pipe or the like, truncated, damaged or no image; has too many
            pixels; or stores float, signed, 32-bit, CIELAB or 16-bit CMYK samples; or its package is not installed.
    """
    with opened(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about what is damaged: `notes` tell of it
        if Path(path).suffix.lower() in RAW_SUFFIXES:
            return _raw(stream, max_pixels)
        start = stream.read(4)
        stream.seek(0)
        if start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            with tifffile.TiffFile(stream) as file:
                page: Any = file.pages[0]
                if sum(tag.valuebytecount for tag in page.tags) > Path(path).stat().st_size:  # Pillow would read them
                    raise InputError("TIFF has tags of more bytes than the file: replace or delete it")
                if page.dtype == np.uint16 and page.bitspersample == 16:  # Pillow knows only some of these
                    check_pixels(page.imagewidth, page.imagelength, max_pixels)
                    samples, tile = page.samplesperpixel * page.imagedepth, page.tilewidth * page.tilelength
                    check_parts(page.imagewidth, page.imagelength, samples, tile * page.tiledepth)
                    return _sixteen_bit_tiff(stream, page, len(file.pages))
        return _by_pillow(stream, max_pixels)


def _by_pillow(stream: BinaryIO, max_pixels: int | None) -> Photograph:
    image = open_image(stream, max_pixels)
    info, kind, notes = image.info, str(image.format), list[str]()
    sixteen_bit, pages = is_sixteen_bit(image), getattr(image, "n_frames", 1)
    turned = image.getexif().get(_ORIENTATION) if kind == "TIFF" else None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _note_channels(image.tag_v2.get(277, 1) - len(image.getbands()) + (image.mode == "RGBX"), notes)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have switched it on
    image.load()  # the whole file, also where OpenCV decodes it below: OpenCV returns partial pictures
    if len(info.get("exif") or b"") > _LARGEST_EXIF:
        notes.append(f"its EXIF has more than {_LARGEST_EXIF} bytes, left out")
        del info["exif"]
    orientation = orientation_of(image)  # a TIFF has been turned, and has lost its tag
    if kind == "PNG" and image.mode in ("1", "L") and isinstance(level := info.get("transparency"), int):
        stream.seek(24)
        steps = {1: 255 if level == 1 else 1, 2: 85, 4: 17}  # as Pillow does with pixels, 12 also with one bit
        info["transparency"] = level * steps.get(stream.read(1)[0], 1)
    if sixteen_bit and kind == "HEIF":
        stored = sixteen_bit_pixels(stream, image.size)
        planes = (stored[:, :, :3], stored[:, :, 3] if stored.shape[2] == 4 else None)
    elif sixteen_bit:
        planes = _sixteen_bit_png(stream, info, image.size)
    else:
        planes = _eight_bit(_from_cmyk(image, info, notes) if image.mode == "CMYK" else image)
    tags = stream if kind == "TIFF" else _exif(info)
    return _upright(
        planes,
        orientation,
        {**info, "dpi": _dots(info.get("dpi"), turned or orientation)},
        exif=metadata.upright_exif(tags, notes) if tags else None,
        format="JPEG" if kind == "MPO" else kind,
        notes=notes,
        pages=pages,
        first=image.tell() == 0,  # HEIC says which one counts
        colour=_colour_chunks(stream) if kind == "PNG" else _colour_codes(info),
    )


def _raw(stream: BinaryIO, max_pixels: int | None) -> Photograph:
    """Developed and upright."""
    try:
        import rawpy
    except ImportError as error:
        raise InputError(f"is raw, which needs rawpy: {PHOTOS_EXTRA}, or develop it to a 16-bit TIFF") from error
    try:
        with rawpy.imread(stream) as raw:
            check_pixels(raw.sizes.width, raw.sizes.height, max_pixels)
            pixels = raw.postprocess(use_camera_wb=True, no_auto_bright=True, gamma=(2.4, 12.92), output_bps=16)
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else error
        raise InputError(f"cannot be developed ({reason}): replace it, or develop it to a 16-bit TIFF") from error
    notes = [DEVELOPED]
    return Photograph(pixels, exif=metadata.upright_exif(stream, notes), format="RAW", notes=tuple(notes))


def _sixteen_bit_tiff(stream: BinaryIO, page: Any, pages: int) -> Photograph:
    turned, notes = page.tags.get(_ORIENTATION), list[str]()
    orientation = int(turned.value) if turned else 1
    info = {"xmp": page.tags.valueof(700), "icc_profile": page.tags.valueof(34675)}
    if 282 in page.tags and page.tags.valueof(296, 2) in (2, 3):  # a resolution with a unit
        info["dpi"] = _dots(page.get_resolution("inch"), orientation)
    planes, exif = _planes(stream, page, turned, notes), metadata.upright_exif(stream, notes)
    return _upright(planes, orientation, info, exif=exif, format="TIFF", notes=notes, pages=pages)


def _upright(
    planes: Planes,
    orientation: int,
    info: dict[Any, Any],
    *,
    notes: list[str],
    pages: int,
    first: bool = True,
    **others: Any,
) -> Photograph:
    """A photograph of what is stored: turned, without a colour profile that is for other channels."""
    pixels, alpha = planes
    icc, xmp = info.get("icc_profile"), info.get("xmp") or info.get("XML:com.adobe.xmp")
    if icc and icc[16:20] != (b"GRAY" if pixels.shape[2] == 1 else b"RGB "):
        notes.append(f"its colour profile is for {icc[16:20].decode('latin-1').strip() or 'nothing'}, left out")
        icc = None
    if pages > 1:
        notes.append(f"{'the first' if first else 'one'} of {pages} pictures")
    return Photograph(
        np.ascontiguousarray(upright(pixels, orientation)),
        None if alpha is None else np.ascontiguousarray(upright(alpha, orientation)),
        icc=icc,
        xmp=metadata.upright_xmp(xmp.encode() if isinstance(xmp, str) else bytes(xmp)) if xmp else None,
        dpi=info.get("dpi"),
        notes=tuple(notes),
        **others,
    )


def _dots(dpi: Any, orientation: int) -> tuple[float, float] | None:
    """Dots per inch across and down the upright photograph; None if that is nothing that a file can say."""
    try:
        across, down = (float(part) for part in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not (0.1 <= across < 1 << 16 and 0.1 <= down < 1 << 16):  # nor is NaN
        return None
    return (down, across) if orientation in (5, 6, 7, 8) else (across, down)


def _exif(info: dict[Any, Any]) -> BinaryIO | None:
    exif, text = info.get("exif"), info.get("Raw profile type exif")
    if exif is None and text:  # as ImageMagick stored it before PNG had a place for it: a name, a length, hexadecimals
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    return io.BytesIO(exif.removeprefix(metadata.PREFIX)) if exif else None


def _eight_bit(image: Image.Image) -> Planes:
    """Pixels [H, W, C] and alpha [H, W] of an image that is decoded."""
    transparent = image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info
    gray = image.mode in ("1", "L", "LA")
    mode = ("LA" if transparent else "L") if gray else ("RGBA" if transparent else "RGB")
    stored = np.asarray(image if image.mode == mode else image.convert(mode))
    stored = stored[:, :, None] if stored.ndim == 2 else stored
    return (stored[:, :, :-1], stored[:, :, -1]) if transparent else (stored, None)


def _colour_chunks(stream: BinaryIO) -> tuple[tuple[bytes, bytes], ...]:
    chunks = []
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in (b"cICP", b"cHRM", b"gAMA", b"sRGB"):
            chunks.append((kind, stream.read(size)))
            size = 0
        stream.seek(size + 4, io.SEEK_CUR)  # with the checksum
    return tuple(chunks)


def _colour_codes(info: dict[Any, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """What HEIC without a profile says of its colours, unless that is sRGB, as PNG says it."""
    nclx = info.get("nclx_profile") or {}
    codes = nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2)
    return () if info.get("icc_profile") or codes in ((1, 13), (2, 2)) else ((b"cICP", bytes([*codes, 0, 1])),)


def _from_cmyk(image: Image.Image, info: dict[Any, Any], notes: list[str]) -> Image.Image:
    """An RGB image of a CMYK one; its profile takes the place of the other one in `info`."""
    profile = info.pop("icc_profile", None)
    notes.append("CMYK converted to sRGB")
    if profile is None or profile[16:20] != b"CMYK":
        notes[-1] += ", its colour profile is for something else" if profile else ""
        return image.convert("RGB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise InputError(f"its CMYK profile is damaged ({error}): convert the file to RGB") from error
    assert converted is not None  # for it is not made in place
    info["icc_profile"] = srgb.tobytes()
    return converted


def _sixteen_bit_png(stream: BinaryIO, info: dict[Any, Any], size: tuple[int, int]) -> Planes:
    stream.seek(25)
    gray = stream.read(1)[0] in (0, 4)  # colour type in the header chunk
    stored = sixteen_bit_pixels(stream, size)
    alpha = stored[:, :, -1] if stored.shape[2] == 4 else None
    key = info.get("transparency")
    if alpha is None and isinstance(key, int):  # a gray level that is transparent, which OpenCV passes over
        alpha = np.where(stored[:, :, 0] == key, 0, 65535).astype(np.uint16)
    return stored[:, :, :1] if gray else stored[:, :, :3], alpha


def _planes(stream: BinaryIO, page: Any, turned: Any, notes: list[str]) -> Planes:
    """Pixels and alpha of a 16-bit TIFF file as they are stored.

    Args:
        turned: the tag of the orientation, if any.
    """
    kind, extra = int(page.photometric), [int(sample) for sample in page.extrasamples]
    colours = {0: 1, 1: 1, 2: 3}.get(kind)
    if colours is None:
        raise InputError(f"16-bit TIFF is {page.photometric.name}: save it as gray or RGB")
    if page.compression in tifffile.TIFF.DECOMPRESSORS:  # of those that exist: most need a package, imagecodecs
        stored = page.asarray()
        stored = np.moveaxis(stored, 0, -1) if page.axes.startswith("S") else stored
    else:
        stored = _packed_tiff(stream, page, turned)
    stored = stored.reshape(page.imagelength, page.imagewidth, -1)
    pixels, alpha = stored[:, :, :colours], None
    if kind == 0:  # white
        pixels = 65535 - pixels
    if extra and extra[0] in (1, 2) and stored.shape[2] > colours:
        alpha = stored[:, :, colours]
        if extra[0] == 1:  # premultiplied
            pixels = unmultiplied(pixels, alpha)
    _note_channels(stored.shape[2] - colours - (alpha is not None), notes)
    return pixels, alpha


def _note_channels(further: int, notes: list[str]) -> None:
    if further > 0:
        notes.append(f"{further} channel(s) that are neither colour nor transparency left out")


def _packed_tiff(stream: BinaryIO, page: Any, turned: Any) -> np.ndarray:
    """One whose compression tifffile does not know, by OpenCV, which decodes LZW but not every arrangement."""
    if int(page.planarconfig) == 2 or page.samplesperpixel == 2:
        raise InputError(
            f"16-bit TIFF is compressed ({page.compression.name}) and planar, or gray with alpha: save it without "
            "compression, or with that of ZIP"
        )
    stream.seek(0)
    data = bytearray(stream.read())
    if turned is not None:  # OpenCV would fail over it
        data[turned.valueoffset : turned.valueoffset + 2] = b"\1\0" if data[:2] == b"II" else b"\0\1"
    return sixteen_bit_pixels(io.BytesIO(data), (page.imagewidth, page.imagelength))
