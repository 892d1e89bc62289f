"""DIV2K: 900 photographs of 2K resolution, the usual training and test set of super-resolution."""

from pathlib import Path

from datamodules.errors import InputError
from datamodules.io.download import download, locked
from datamodules.io.unpack import unpack_zip
from datamodules.sources import Split
from datamodules.sources.sample import Sample

TRAIN, VALID = "DIV2K_train_HR", "DIV2K_valid_HR"

# Size and sha256 of each .zip, as published in the checksum list of TensorFlow Datasets (div2k.txt).
ARCHIVES: dict[str, tuple[int, str]] = {
    TRAIN: (3_530_603_713, "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
    VALID: (448_993_893, "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"),
}
IMAGES: dict[str, range] = {TRAIN: range(1, 801), VALID: range(801, 901)}
SPLITS: dict[str, tuple[str, range]] = {
    "train": (TRAIN, range(1, 791)),
    "val": (TRAIN, range(791, 801)),
    "test": (VALID, range(801, 901)),
}


def _file_name(number: int) -> str:
    return f"{number:04d}.png"


class Div2k:
    """The DIV2K data set under `root`, downloaded on demand.

    Layout: `root/DIV2K_train_HR/0001.png` to `0800.png` and `root/DIV2K_valid_HR/0801.png` to `0900.png`, the official
    names. An existing copy is used as it is, without network and without writing to it.

    Splits: `train` is 0001 to 0790. `val` is 0791 to 0800, held out of training, so that choosing a checkpoint never
    touches the test set; with `train_on_all` these are trained on too, as in papers, and `val` is the photographs that
    `datamodules.sources.sample` validates and tests on. `test` is 0801 to 0900, the official validation set and the one
    on which papers report; the ground truth of the official test set is not public.

    Terms: academic use only, the copyright belongs to the original owners of the images.

    Source: E. Agustsson and R. Timofte, "NTIRE 2017 Challenge on Single Image Super-Resolution: Dataset and Study",
    CVPR Workshops 2017, https://data.vision.ee.ethz.ch/cvl/DIV2K/
    """

    name = "div2k"

    def __init__(
        self,
        root: str,
        download: bool = True,
        train_on_all: bool = False,
        base_url: str = "http://data.vision.ee.ethz.ch/cvl/DIV2K",
    ) -> None:
        self.root, self.train_on_all = Path(root).expanduser(), train_on_all
        self.download = download
        self.base_url = base_url.rstrip("/")

    def prepare(self) -> None:
        """Downloads and unpacks what is absent: up to 4.0 GB to transfer, 7.1 GB of disk at the peak.

        Each archive is deleted once it is unpacked. Safe to interrupt and to call from several processes.

        Raises:
            InputError: a folder is incomplete, or absent with `download` off; and as `download` and `unpack_zip`.
        """
        for folder in (self.root / name for name in ARCHIVES):
            # Before the lock, which writes: a complete copy may be read-only.
            if not folder.exists() and self.download:
                with locked(self.root / self.name):
                    if not folder.exists():  # else another process made it while this one waited
                        self._fetch(folder)
            self._check(folder)

    def files(self, split: Split) -> list[Path]:
        """Paths of the images of a split, in the order of their numbers. Raises `InputError` as `prepare` does."""
        if self.train_on_all and split == "val":
            return [path for other in ("val", "test") for path in Sample().files(other)]
        name, numbers = SPLITS[split]
        if self.train_on_all and split == "train":
            numbers = IMAGES[name]
        self._check(self.root / name)
        return [self.root / name / _file_name(number) for number in numbers]

    def _fetch(self, folder: Path) -> None:
        size, sha256 = ARCHIVES[folder.name]
        archive = self.root / f"{folder.name}.zip"
        download(f"{self.base_url}/{archive.name}", archive, size=size, sha256=sha256)
        unpack_zip(archive, folder)
        archive.unlink()

    def _check(self, folder: Path) -> None:
        names = [_file_name(number) for number in IMAGES[folder.name]]
        expected = f"expected {names[0]} to {names[-1]}"
        if not folder.is_dir():
            raise InputError(
                f"{folder}: not found, {expected}: set data.root to a folder that contains {folder.name}, or turn"
                " download on"
            )
        present = {entry.name for entry in folder.iterdir()}
        if missing := [name for name in names if name not in present]:
            raise InputError(
                f"{folder / missing[0]}: not found, {len(missing)} of {len(names)} images are missing, {expected}:"
                f" complete the folder, or delete {folder} and turn download on"
            )
