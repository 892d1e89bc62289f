"""What a photograph is."""

import dataclasses
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Photograph:
    """An upright photograph.

    Attributes:
        pixels: uint8 or uint16 [H, W, C], RGB or gray, values 0 to 255 or 65535.
        alpha: [H, W] in the dtype of `pixels`, not premultiplied; None where the file has none.
        icc: colour profile of `pixels`.
        exif: as `metadata.upright_exif` returns it.
        xmp: packet, as `metadata.upright_xmp` returns it.
        dpi: horizontally and vertically.
        format: of the file it was read from: PNG, JPEG, BMP, TIFF, WEBP, HEIF or RAW.
        notes: what of the file is not here, each a few words.
        colour: cICP, cHRM, gAMA and sRGB of a PNG file, its other ways to say what colours mean: type and content.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str = "PNG"
    notes: tuple[str, ...] = ()
    colour: tuple[tuple[bytes, bytes], ...] = ()

    def with_pixels(self, pixels: np.ndarray, alpha: np.ndarray | None = None) -> "Photograph":
        """The same photograph with other pixels, of any size; dpi stay as they are."""
        return dataclasses.replace(self, pixels=pixels, alpha=alpha)

    def filled(self) -> np.ndarray:
        """`pixels` where those that are wholly transparent have the colour of the nearest that are not.

        What lies there, mostly black, would get into the edges of what is seen when neighbours are mixed.
        """
        hidden = self.alpha == 0 if self.alpha is not None else np.zeros(1, bool)
        if hidden.all() or not hidden.any():
            return self.pixels
        from scipy.ndimage import distance_transform_edt  # few photographs need it, and it takes its time

        rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
        return np.asarray(self.pixels[rows, columns])
