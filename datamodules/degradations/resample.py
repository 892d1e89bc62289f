"""Resampling of images. The one bicubic routine of the suite serves degradations and networks alike."""

from networks.resize import bicubic_resize

__all__ = ["bicubic_resize"]
