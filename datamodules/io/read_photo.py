"""Reads photographs of the usual formats with all that belongs to them."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageFile

from datamodules.errors import InputError
from datamodules.io import exif as exif_bytes
from datamodules.io import xmp as xmp_packet
from datamodules.io.decode import check_pixels, is_sixteen_bit, naming, open_image, sixteen_bit_pixels, upright
from datamodules.io.photo import Photograph

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of damaged files is said by `notes` or an error


def read_photograph(path: str | Path, max_pixels: int | None = None) -> Photograph:
    """Reads a photograph.

    - Gray stays gray, a palette becomes the colours it stands for, 1 bit becomes 0 and 255.
    - Alpha is separate, whether it is stored as a channel, premultiplied, in a palette or as a transparent colour.
    - 8 bits a channel stay 8, 16 stay 16 (PNG, TIFF). CMYK becomes sRGB by its profile, or by Pillow's formula.
    - EXIF orientation is applied. Colour profile, EXIF, XMP and dpi are kept; a profile for other channels is not.
    - Of animations and files with several pages the first picture is read.

    Args:
        path: PNG, JPEG, BMP, TIFF or WebP, recognised by its content.
        max_pixels: more are refused by the header, before anything is decoded; None: `images.MAX_PIXELS`.

    Raises:
        InputError: the file is missing, truncated, damaged or no image; has too many pixels; or stores float, signed,
            32-bit, CIELAB or 16-bit CMYK samples.
    """
    with naming(path), Path(path).open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about EXIF that is damaged, which `notes` tell of
        return _sixteen_bit_tiff(stream, max_pixels) or _by_pillow(stream, max_pixels)


def _by_pillow(stream: BinaryIO, max_pixels: int | None) -> Photograph:
    image = open_image(stream, max_pixels)
    sixteen_bit = is_sixteen_bit(image, stream)
    pages = getattr(image, "n_frames", 1)
    turned = image.getexif().get(exif_bytes.ORIENTATION) if image.format == "TIFF" else None
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have switched it on
    image.load()  # the whole file, also where OpenCV decodes it below: OpenCV returns partial pictures
    orientation = image.getexif().get(exif_bytes.ORIENTATION, 1)  # a TIFF has been turned, and has lost its tag
    icc, info, kind = image.info.get("icc_profile"), image.info, image.format
    if kind == "PNG" and image.mode == "L" and isinstance(level := info.get("transparency"), int):
        stream.seek(24)
        info["transparency"] = level * {2: 85, 4: 17}.get(stream.read(1)[0], 1)  # as Pillow has done with the pixels
    notes = []
    if image.mode == "CMYK":
        other = icc is not None and icc[16:20] != b"CMYK"
        image, icc = _from_cmyk(image, None if other else icc)
        notes.append("CMYK converted to sRGB" + (", its colour profile is for something else" if other else ""))
    pixels, alpha = _sixteen_bit_png(stream, info, image.size) if sixteen_bit else _eight_bit(image)
    try:
        described = exif_bytes.of_tiff(stream) if kind == "TIFF" else _exif(info)
    except exif_bytes.NoExif as error:
        described = None
        notes.append(f"its EXIF {error}, left out")
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    return _photograph(
        pixels,
        alpha,
        orientation,
        icc=icc,
        exif=described,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        dpi=_dots(info.get("dpi"), turned or orientation),
        format="JPEG" if kind == "MPO" else str(kind),
        notes=notes,
        pages=pages,
        colour=_colour_chunks(stream) if kind == "PNG" else (),
    )


def _photograph(
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    orientation: int,
    *,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    format: str,
    notes: list[str],
    pages: int,
    colour: tuple[tuple[bytes, bytes], ...] = (),
) -> Photograph:
    if icc and icc[16:20] != (b"GRAY" if pixels.shape[2] == 1 else b"RGB "):
        notes.append(f"its colour profile is for {icc[16:20].decode('latin-1').strip() or 'nothing'}, left out")
        icc = None
    if pages > 1:
        notes.append(f"the first of {pages} pictures")
    return Photograph(
        np.ascontiguousarray(upright(pixels, orientation)),
        None if alpha is None else np.ascontiguousarray(upright(alpha, orientation)),
        icc,
        exif,
        xmp_packet.upright(xmp) if xmp else None,
        dpi,
        format,
        tuple(notes),
        colour,
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


Planes = tuple[np.ndarray, np.ndarray | None]


def _eight_bit(image: Image.Image) -> Planes:
    """Pixels [H, W, C] and alpha [H, W] of an image that is decoded."""
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    gray = image.mode in ("1", "L", "LA")
    mode = ("LA" if transparent else "L") if gray else ("RGBA" if transparent else "RGB")
    stored = np.asarray(image if image.mode == mode else image.convert(mode))
    stored = stored[:, :, None] if stored.ndim == 2 else stored
    return (stored[:, :, :-1], stored[:, :, -1]) if transparent else (stored, None)


def _colour_chunks(stream: BinaryIO) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in (b"cICP", b"cHRM", b"gAMA", b"sRGB"):
            found.append((kind, stream.read(size)))
        else:
            stream.seek(size, io.SEEK_CUR)
        stream.seek(4, io.SEEK_CUR)
    return tuple(found)


def _from_cmyk(image: ImageFile.ImageFile, profile: bytes | None) -> tuple[Any, bytes | None]:
    """An RGB image of a CMYK one, and its profile if it has one."""
    if profile is None:
        converted: Image.Image | None = image.convert("RGB")
        found = None
    else:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            raise InputError(f"its CMYK profile is damaged ({error}): convert the file to RGB") from error
        found = srgb.tobytes()
    assert converted is not None
    image.info.pop("icc_profile", None)
    converted.format, converted.info = image.format, image.info
    return converted, found


def _sixteen_bit_png(stream: BinaryIO, info: Mapping[Any, Any], size: tuple[int, int]) -> Planes:
    stream.seek(25)
    gray = stream.read(1)[0] in (0, 4)  # colour type in the header chunk
    stored = sixteen_bit_pixels(stream, size)
    alpha = stored[:, :, -1] if stored.shape[2] == 4 else None
    key = info.get("transparency")
    if alpha is None and isinstance(key, int):  # a gray level that is transparent, which OpenCV passes over
        alpha = np.where(stored[:, :, 0] == key, 0, 65535).astype(np.uint16)
    return stored[:, :, :1] if gray else stored[:, :, :3], alpha


def _sixteen_bit_tiff(stream: BinaryIO, max_pixels: int | None) -> Photograph | None:
    """A TIFF file of 16-bit unsigned samples, of which Pillow knows only some; None if it is something else."""
    if stream.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page: Any = file.pages[0]
        if page.dtype != np.uint16 or page.bitspersample != 16:
            return None
        check_pixels(page.imagewidth, page.imagelength, max_pixels)
        tags = {code: page.tags[code].value for code in (282, 296, 700, 34675) if code in page.tags}
        turned = page.tags.get(exif_bytes.ORIENTATION)
        orientation = int(turned.value) if turned else 1
        pixels, alpha = _planes(stream, page, turned)
        resolution = page.get_resolution("inch") if tags.get(296, 2) in (2, 3) and 282 in tags else None
        described, notes = None, []
        try:
            described = exif_bytes.of_tiff(stream)
        except exif_bytes.NoExif as error:
            notes.append(f"its EXIF {error}, left out")
        return _photograph(
            pixels,
            alpha,
            orientation,
            icc=tags.get(34675),
            exif=described,
            xmp=bytes(tags[700]) if 700 in tags else None,
            dpi=_dots(resolution, orientation),
            format="TIFF",
            notes=notes,
            pages=len(file.pages),
        )


def _planes(stream: BinaryIO, page: Any, turned: Any) -> Planes:
    """Pixels and alpha as they are stored.

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
    if kind == 0:
        pixels = 65535 - pixels
    if extra and extra[0] in (1, 2) and stored.shape[2] > colours:
        alpha = stored[:, :, colours]
        if extra[0] == 1:
            pixels = _unmultiplied(pixels, alpha)
    return pixels, alpha


def _unmultiplied(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels without the alpha that they were multiplied by; black where nothing is left of them."""
    whole = np.maximum(alpha, 1).astype(np.uint32)[:, :, None]
    return np.minimum((pixels.astype(np.uint32) * 65535 + whole // 2) // whole, 65535).astype(np.uint16)


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
    return sixteen_bit_pixels(io.BytesIO(bytes(data)), (page.imagewidth, page.imagelength))


def _exif(info: Mapping[Any, Any]) -> bytes | None:
    found = info.get("exif")
    if found is None and (text := info.get("Raw profile type exif")):  # as ImageMagick has written it into PNG
        with contextlib.suppress(ValueError):
            found = bytes.fromhex("".join(text.split("\n")[3:]))
    return exif_bytes.upright(found) if found else None
