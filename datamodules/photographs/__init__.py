"""Photographs as people have them, read and written with all that belongs to them: depth, alpha, profile, EXIF.

Training data go through `datamodules.images`, which wants 8-bit RGB and nothing else; what is shared with it is there.
"""

from datamodules.photographs.reading import read_photograph
from datamodules.photographs.record import Photograph
from datamodules.photographs.writing import NotWritten, refuse_unwritable, replacing, write_photograph

__all__ = ["NotWritten", "Photograph", "read_photograph", "refuse_unwritable", "replacing", "write_photograph"]
