"""A dozen photographs that come with scikit-image: trains and evaluates without any download."""

from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path

from datamodules.errors import InputError
from datamodules.sources import Split

SPLITS: dict[Split, tuple[str, ...]] = {
    "train": (
        "brick.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "moon.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "rocket.jpg",
    ),
    "val": ("camera.png", "chelsea.png"),
    "test": ("astronaut.png", "coffee.png"),
}


class Sample:
    """Photographs inside the scikit-image package, fixed splits; for first steps and tests, too few for results.

    | split | file                  | width x height | content                                  |
    |-------|-----------------------|----------------|------------------------------------------|
    | train | brick.png             | 512 x 512      | brick wall, gray                         |
    | train | coins.png             | 384 x 303      | Greek coins, gray                        |
    | train | grass.png             | 512 x 512      | grass, gray                              |
    | train | gravel.png            | 512 x 512      | gravel, gray                             |
    | train | hubble_deep_field.jpg | 1000 x 872     | galaxies, colour                         |
    | train | moon.png              | 512 x 512      | surface of the moon, gray                |
    | train | motorcycle_left.png   | 741 x 500      | motorcycle in a garage, colour           |
    | train | motorcycle_right.png  | 741 x 500      | the same from a second camera, colour    |
    | train | rocket.jpg            | 640 x 427      | rocket on its pad at dusk, colour        |
    | val   | camera.png            | 512 x 512      | cameraman on a lawn, gray                |
    | val   | chelsea.png           | 451 x 300      | face of a cat, colour                    |
    | test  | astronaut.png         | 512 x 512      | portrait of Eileen Collins, colour       |
    | test  | coffee.png            | 600 x 400      | cup of coffee on a wooden table, colour  |

    No scene is in two splits. Left out of what the package ships: drawings, documents, medical and microscope
    pictures, and photographs that are blurred themselves.
    """

    name = "sample"

    def prepare(self) -> None:
        """Checks that the installed scikit-image has all files.

        Raises:
            InputError: a file is missing.
        """
        for split in SPLITS:
            self.files(split)

    def files(self, split: Split) -> list[Path]:
        """Paths of the photographs of a split inside the installed package, sorted by name.

        Raises:
            InputError: the installed scikit-image lacks one of them.
        """
        folder = Path(str(package_files("skimage"))) / "data"
        paths = [folder / name for name in SPLITS[split]]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise InputError(
                f"{folder}: scikit-image {version('scikit-image')} lacks {', '.join(missing)}, expected the files of "
                "its official wheel: reinstall scikit-image with pip, or choose other data"
            )
        return paths
