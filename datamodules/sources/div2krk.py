"""DIV2KRK: photographs blurred by a random kernel each and reduced, the test set of blind super-resolution."""

from pathlib import Path
from typing import Literal

from torch import Tensor

from datamodules.errors import InputError
from datamodules.io.decode import list_images
from datamodules.sources import Split, refuse_unless_test
from datamodules.sources.known_blur import check_noise_level, kernels_of
from datamodules.sources.paired_folder import Pair, Pairs

ADDRESS = "http://www.wisdom.weizmann.ac.il/~vision/kernelgan/DIV2KRK_public.zip"
COUNT = 100


class Div2krk(Pairs):
    """The DIV2KRK data set under `root`, for test only.

    Layout: `root/gt/img_N_gt.png`, `root/lr_x2/im_N.png`, `root/lr_x4/im_N.png`, N from 1 to 100, and the kernels
    `root/gt_k_x2/kernel_N.mat` (11x11) and `root/gt_k_x4/kernel_N.mat` (31x31); `root/DIV2KRK/...` is found as well.

    The kernels are anisotropic Gaussians with multiplicative noise; those of x4 are those of x2 applied twice. The
    images were correlated with them, with repeated edges, and every s-th pixel was kept, without noise; here the
    kernels are turned by 180 degrees, for true convolution. Users report that the stored kernels do not give the
    stored images exactly: what networks that are told them reach is to be read with that in mind.

    To get it: http://www.wisdom.weizmann.ac.il/~vision/kernelgan/DIV2KRK_public.zip, whose size and checksum nobody has
    published.

    Terms: academic use; made of the validation images of DIV2K.

    Source: S. Bell-Kligler, A. Shocher and M. Irani, "Blind Super-Resolution Kernel Estimation using an Internal-GAN",
    NeurIPS 2019.

    Args:
        root: folder of the data set.
        scale: of the reduced images.
        kernels: "stored": networks that are told the kernel get those that come along.
        noise_level: what they are told of the noise, as a standard deviation on the [0, 1] scale.
    """

    name = "div2krk"
    splits: tuple[Split, ...] = ("test",)

    def __init__(
        self,
        root: str,
        scale: Literal[2, 4] = 4,
        kernels: Literal["stored"] | None = None,
        noise_level: float = 0.0,
    ) -> None:
        check_noise_level(noise_level)
        if scale not in (2, 4):
            raise ValueError(f"scale is {scale}, expected 2 or 4: there are no other images")
        self.root, self.scale, self.stored = Path(root).expanduser(), scale, kernels
        self.noise_level = noise_level

    def prepare(self) -> None:
        """Checks that the copy is there and complete.

        Raises:
            InputError: it is absent (with where to get it), or images are missing, or kernels that are asked for.
        """
        self.kernels("test")
        self._pairs("test")

    def _pairs(self, split: Split) -> list[Pair]:
        """Sorted by number, as the names are without leading zeros."""
        refuse_unless_test(self, split)
        tree = self._tree()
        sharp = _numbered(tree / "gt", "img_{}_gt")
        return list(zip(sharp, _numbered(tree / f"lr_x{self.scale}", "im_{}"), strict=True))

    def kernels(self, split: Split) -> Tensor | None:
        """See `Pairs`. Raises `InputError` as `known_blur.kernels_of`."""
        if self.stored is None:
            return None
        names = [[f"kernel_{number}"] for number in range(1, COUNT + 1)]
        return kernels_of(self._tree() / f"gt_k_x{self.scale}", self._pairs(split), names).flip(-1, -2)

    def noise_levels(self, split: Split) -> list[float]:
        """See `Pairs`."""
        return [float(self.noise_level)] * COUNT

    def _tree(self) -> Path:
        for root in (self.root, self.root / "DIV2KRK"):
            if (root / "gt").is_dir() and (root / f"lr_x{self.scale}").is_dir():
                return root
        raise InputError(
            f"{self.root}: holds no DIV2KRK data set: get {ADDRESS} and unpack it so that there are"
            f" {self.root}/gt/img_1_gt.png and {self.root}/lr_x{self.scale}/im_1.png, or set data.root to an existing"
            " copy"
        )


def _numbered(folder: Path, form: str) -> list[Path]:
    """The files called so, number 1 to 100. Raises `InputError` if one is missing, or there are others."""
    images = list_images(folder)
    files = {path.stem: path for path in images}
    names = [form.format(number) for number in range(1, COUNT + 1)]
    if set(files) != set(names) or len(images) != COUNT:
        lacking = next((name for name in names if name not in files), None)
        problem = f"lacks {lacking}" if lacking else f"holds more than {COUNT} images"
        raise InputError(
            f"{folder}: {problem}, expected {names[0]} to {names[-1]} and nothing else: complete the copy from"
            f" {ADDRESS}"
        )
    return [files[name] for name in names]
