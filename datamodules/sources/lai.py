"""Lai et al. 2016: synthetic and real blurred photographs, a test set of blind deblurring."""

from pathlib import Path
from typing import Literal

from datamodules.errors import InputError
from datamodules.sources import Split, images_of, refuse_unless_test
from datamodules.sources.paired_folder import Pair, Pairs

PAGE = "https://www.wslai.net/publications/deblur_study/"
COUNT, SHARP_COUNT = 100, 25  # blurred images of each kind; sharp images
# The folders are named differently in the authors' archives and in copies of them.
FOLDERS: dict[str, tuple[str, ...]] = {
    "uniform": ("uniform",),
    "nonuniform": ("nonuniform", "non-uniform", "non_uniform"),
    "sharp": ("ground_truth", "gt"),
}


class Lai(Pairs):
    """The synthetic part of the study's data, for test only.

    Layout: `root/ground_truth/manmade_01.png` (25 images), `root/uniform/manmade_01_kernel_01.png` (each with 4
    kernels) and `root/nonuniform/manmade_01_gyro_07.png` (each with 4 camera paths); `root/synthetic_dataset/...` and
    the names `gt` and `non-uniform` are found as well. The 100 images of the `real` part have no sharp version, so
    nothing can be measured on them: restore them with task=restore.

    To get it: the links on https://www.wslai.net/publications/deblur_study/ lead to cloud drives.

    Terms: research use; cite the paper.

    Source: W.-S. Lai, J.-B. Huang, Z. Hu, N. Ahuja and M.-H. Yang, "A Comparative Study for Single Image Blind
    Deblurring", CVPR 2016.

    Args:
        root: folder of the data set.
        variant: blur by one kernel for the whole image, or by camera paths.
    """

    scale = 1
    splits: tuple[Split, ...] = ("test",)
    training = "gopro"

    def __init__(self, root: str, variant: Literal["uniform", "nonuniform"]) -> None:
        self.root, self.variant = Path(root).expanduser(), variant
        self.name = f"lai_{variant}"  # two different tests

    def prepare(self) -> None:
        """Checks that the copy is there and complete.

        Raises:
            InputError: it is absent (with where to get it), images are missing, or one has no sharp version.
        """
        self._pairs("test")

    def _pairs(self, split: Split) -> list[Pair]:
        """Every blurred image, sorted by name; every sharp image appears four times."""
        refuse_unless_test(self, split)
        hint = f"complete the copy from {PAGE}"
        blurred = images_of(self._folder(self.variant), COUNT, hint)
        folder = self._folder("sharp")
        sharp = {path.stem: path for path in images_of(folder, SHARP_COUNT, hint)}
        # manmade_01_kernel_01 is a blurred manmade_01.
        names = ["_".join(path.stem.split("_")[:2]) for path in blurred]
        alone = [path for path, name in zip(blurred, names, strict=True) if name not in sharp]
        if alone:
            raise InputError(
                f"{alone[0]}: has no sharp version in {folder}, like {len(alone)} of {len(blurred)} images: {hint}"
            )
        return [(sharp[name], path) for name, path in zip(names, blurred, strict=True)]

    def _folder(self, kind: str) -> Path:
        for root in (self.root, self.root / "synthetic_dataset"):
            for name in FOLDERS[kind]:
                if (root / name).is_dir():
                    return root / name
        raise InputError(
            f"{self.root}: {FOLDERS[kind][0]} not found: get the synthetic data set from {PAGE}, unpack it so that"
            f" there are {self.root}/ground_truth/manmade_01.png, {self.root}/uniform/manmade_01_kernel_01.png and"
            f" {self.root}/nonuniform/manmade_01_gyro_07.png, or set data.root to an existing copy"
        )
