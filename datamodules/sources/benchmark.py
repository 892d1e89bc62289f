"""The small test sets on which super-resolution is compared: Set5, Set14, BSD68, BSD100, Urban100, Kodak24."""

from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.errors import InputError
from datamodules.sources import Split, images_of, refuse_unless_test

Name = Literal["set5", "set14", "bsd68", "bsd100", "urban100", "kodak24"]


class Facts(NamedTuple):
    """What is known of a set: number of images, an example of their file names, and where to get them."""

    images: int
    example: str
    where: str


_SELFEXSR = "https://github.com/jbhuang0604/SelfExSR (links in its README; take the HR images of one scale)"
SETS: dict[Name, Facts] = {
    "set5": Facts(
        5, "butterfly.png", f"http://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html or {_SELFEXSR}"
    ),
    "set14": Facts(14, "baboon.png", f"https://sites.google.com/site/romanzeyde/research-interests or {_SELFEXSR}"),
    "bsd68": Facts(
        68,
        "0000.png",
        "https://github.com/clausmichele/CBSD68-dataset (folder CBSD68/original_png), or pick the 68 images from the"
        " val folder of data=bsds500",
    ),
    "bsd100": Facts(100, "3096.jpg", f"the val folder of data=bsds500, which is BSD100, or {_SELFEXSR}"),
    "urban100": Facts(100, "img_001.png", _SELFEXSR),
    "kodak24": Facts(24, "kodim01.png", "https://r0k.us/graphics/kodak/ (kodim01.png to kodim24.png)"),
}


class Benchmark:
    """A test set in one folder: its images in `root`, at any depth, and nothing else.

    | name     | images | content                         | source                                                  |
    |----------|--------|---------------------------------|---------------------------------------------------------|
    | set5     | 5      | classic small images            | Bevilacqua et al., BMVC 2012                            |
    | set14    | 14     | classic images, two of them gray | Zeyde, Elad and Protter, Curves and Surfaces 2010      |
    | bsd68    | 68     | photographs, colour             | Roth and Black's choice from the Berkeley set, CVPR 2005 |
    | bsd100   | 100    | photographs                     | Martin et al., ICCV 2001, test images of BSDS300        |
    | urban100 | 100    | buildings                       | Huang, Singh and Ahuja, CVPR 2015                       |
    | kodak24  | 24     | photographs, 768 x 512          | Kodak PhotoCD sampler                                   |

    Only the number of images is checked: copies differ in names and suffixes. Give the uncut originals, or the HR
    images of one scale; they are cut to multiples of the scale when they are loaded. No set has an official direct
    link except BSD100 (see `datamodules.sources.bsds500`), so an absent folder is an error that says where to look.

    Terms: research use; the copyright belongs to the owners of the photographs.
    """

    splits: tuple[Split, ...] = ("test",)

    def __init__(self, root: str, name: Name) -> None:
        self.root, self.name = Path(root).expanduser(), name
        self.facts = SETS[name]

    def prepare(self) -> None:
        """Checks that the images are there.

        Raises:
            InputError: the folder is absent, with where to get the images, or holds another number of images.
        """
        self.files("test")

    def files(self, split: Split) -> list[Path]:
        """The images, sorted by name. Raises `InputError` as `prepare`, or for another split than `test`."""
        refuse_unless_test(self, split)
        if not self.root.is_dir():
            raise InputError(
                f"{self.root}: not found, expected the {self.facts.images} images of {self.name} there, such as"
                f" {self.root / self.facts.example}: get them from {self.facts.where}; or set data.root to an existing"
                " copy"
            )
        hint = f"give the folder that holds all originals of {self.name} and nothing else, by data.root=FOLDER"
        return images_of(self.root, self.facts.images, hint)
