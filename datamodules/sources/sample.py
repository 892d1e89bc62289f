"""Thirteen photographs that come with scikit-image: trains and evaluates without any download."""

from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path

from datamodules.errors import InputError
from datamodules.sources import Split

SPLITS: dict[Split, tuple[str, ...]] = {
    "train": (
        "brick.png",  # wall, gray
        "coins.png",  # Greek ones, gray
        "grass.png",  # gray
        "gravel.png",  # gray
        "hubble_deep_field.jpg",  # galaxies, colour
        "moon.png",  # its surface, gray
        "motorcycle_left.png",  # in a garage, colour
        "motorcycle_right.png",  # the same from a second camera
        "rocket.jpg",  # on its pad at dusk, colour
    ),
    "val": ("camera.png", "chelsea.png"),  # cameraman on a lawn, gray; face of a cat, colour
    "test": ("astronaut.png", "coffee.png"),  # portrait of Eileen Collins; cup on a wooden table; colour
}


class Sample:
    """Photographs inside the scikit-image package, fixed splits; for first steps and tests, too few for results.

    No scene is in two splits. Left out of what the package ships: drawings, documents, medical and microscope
    pictures, and photographs that are blurred themselves.
    """

    name = "sample"

    def prepare(self) -> None:
        """Checks that the installed scikit-image has all files. Raises `InputError` if a file is missing."""
        for split in SPLITS:
            self.files(split)

    def files(self, split: Split) -> list[Path]:
        """Paths of the photographs of a split inside the installed package, sorted by name. Raises as `prepare`."""
        folder = Path(str(package_files("skimage"))) / "data"
        paths = [folder / name for name in SPLITS[split]]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise InputError(
                f"{folder}: scikit-image {version('scikit-image')} lacks {', '.join(missing)}, expected the files of "
                "its official wheel: reinstall scikit-image with pip, or choose other data"
            )
        return paths
