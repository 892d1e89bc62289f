"""BSDS500: 500 photographs of the Berkeley segmentation benchmark, and BSD100, the part everybody tests on."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import InputError
from datamodules.io.download import download, locked
from datamodules.io.unpack import unpack_tar
from datamodules.sources import Split, images_of
from datamodules.sources.benchmark import Benchmark

BASE_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR"
ARCHIVE = "BSR_bsds500.tgz"
# The size is also in tensorpack's BSDS500 reader; the checksum is given by several independent public repositories.
SIZE, SHA256 = 70_763_455, "97e49d31764f3912f0c4122707d53062ac9e783ba0f095e447a4d53c1a41af8e"
IMAGES = "BSR/BSDS500/data/images"  # the archive also holds segmentations and code, which are left in it

COUNTS: dict[Split, int] = {"train": 200, "val": 100, "test": 200}
EVERY = 20  # one of so many training images is held out for validation


def fetch(root: Path, base_url: str) -> None:
    """Downloads the official archive (71 MB) and unpacks its photographs to `root`, unless `root` exists."""
    with locked(root.parent / "bsds500-download"):
        if root.exists():
            return  # another process made it while this one waited
        archive = root.parent / ARCHIVE
        download(f"{base_url.rstrip('/')}/{ARCHIVE}", archive, size=SIZE, sha256=SHA256)
        unpack_tar(archive, root, inside=IMAGES)
        archive.unlink()


class Bsds500:
    """The BSDS500 photographs (481x321, JPEG) under `root`, downloaded on demand.

    Layout: `root/{train,val,test}/*.jpg` with 200, 100 and 200 images; the official tree below `root` is found as well.

    The names of the folders mislead: `val` **is BSD100** (the test images of BSDS300) and contains the 68 images of
    BSD68, on which the field reports. Training on it would be training on the test set, so it is refused: `train` and
    `test` are the training images, every twentieth held out for validation, and `val` is the test split. For a copy
    without `val`, train on `parts: [train]` and test on `test_part: test`.

    Terms: non-commercial research and education.

    Source: P. Arbelaez, M. Maire, C. Fowlkes and J. Malik, "Contour Detection and Hierarchical Image Segmentation",
    IEEE TPAMI 33(5), 2011, https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html

    Args:
        root: folder of the data set.
        parts: folders to train on.
        test_part: folder of the test split.
        download: whether to fetch what is absent.
        base_url: folder of the archive.
    """

    name = "bsds500"

    def __init__(
        self,
        root: str,
        parts: Sequence[Split] = ("train", "test"),
        test_part: Split = "val",
        download: bool = True,
        base_url: str = BASE_URL,
    ) -> None:
        self.root, self.parts, self.test_part = Path(root).expanduser(), list(parts), test_part
        self.download, self.base_url = download, base_url

    def prepare(self) -> None:
        """Downloads 71 MB if `root` is absent, and checks the images.

        Raises:
            InputError: `val` is asked for in training, or one folder for both training and test; a folder is absent or
                incomplete; and as `download` and `unpack_tar`.
        """
        self._check_parts()
        if not self.root.exists() and self.download:
            fetch(self.root, self.base_url)
        for split in ("train", "test"):
            self.files(split)

    def files(self, split: Split) -> list[Path]:
        """Images of a split, by folder and name. Raises `InputError` as `prepare` does."""
        self._check_parts()
        if split == "test":
            return self._images(self.test_part)
        images = [path for part in self.parts for path in self._images(part)]
        return [path for i, path in enumerate(images) if (i % EVERY == EVERY // 2) == (split == "val")]

    def _check_parts(self) -> None:
        if "val" in self.parts:
            raise InputError(
                "data.source.parts: found val, which is BSD100 and contains BSD68, the test images of the field: train"
                " on [train,test] or [train]"
            )
        if not self.parts or self.test_part in self.parts or len(set(self.parts)) < len(self.parts):
            raise InputError(
                f"data.source.parts={self.parts} and test_part={self.test_part}: expected different folders, such as"
                " parts=[train] test_part=test"
            )

    def _images(self, part: Split) -> list[Path]:
        roots = [self.root / below for below in ("", "images", "data/images", "BSDS500/data/images", IMAGES)]
        folder = next((root / part for root in roots if (root / part).is_dir()), None)
        if folder is None:
            raise InputError(
                f"{self.root / part}: not found, expected {COUNTS[part]} images of BSDS500: choose"
                " data.source.parts and data.source.test_part among what is there, or set data.root to a complete copy"
                f" or to a folder that does not exist to have {ARCHIVE} downloaded to it"
            )
        return images_of(folder, COUNTS[part], "complete the folder")


class Bsd100(Benchmark):
    """BSD100, test only: any folder of the 100 images, or the `val` folder of a BSDS500 that is downloaded on demand.

    Args:
        root: folder of the images; if it is absent and called `val`, BSDS500 is unpacked to the folder above.
        download: whether to do so.
        base_url: folder of the archive.
    """

    def __init__(self, root: str, download: bool = True, base_url: str = BASE_URL) -> None:
        super().__init__(root, "bsd100")
        self.download, self.base_url = download, base_url

    def prepare(self) -> None:
        """Downloads 71 MB if the images are absent, and checks them. Raises `InputError` as `Bsds500.prepare` does."""
        if not self.root.exists() and self.root.name == "val" and self.download:
            fetch(self.root.parent, self.base_url)
        super().prepare()
