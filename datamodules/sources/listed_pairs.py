"""Pairs that text files list: RealBlur and RSBlur, real blur with a sharp photograph of the same moment."""

from pathlib import Path, PurePosixPath
from typing import Literal

from datamodules.errors import InputError
from datamodules.sources import Split
from datamodules.sources.paired_folder import Pair, Pairs

HELD_OUT = 9  # scenes
REALBLUR_COUNTS: dict[Split, int] = {"train": 3758, "test": 980}
RSBLUR_COUNTS: dict[Split, int] = {"train": 8878, "val": 1120, "test": 3360}


class ListedPairs(Pairs):
    """Pairs of equal size under `root`; a text file of each split has a line `SHARP DEGRADED` for each of them.

    The paths are relative to `root`, or to the folder above it or the one of the same name below; or `root`, whatever
    its name, is the first folder of all of them.

    Attributes:
        name: of the data set and its variant.
        lists: of each split, where its list may be, relative to `root`: the first that is there counts.
        counts: of each split, how many pairs are listed.
        where: where to get the photographs.
        where_lists: where to get the lists.
    """

    scale = 1
    name: str
    lists: dict[Split, list[str]]
    counts: dict[Split, int]
    where: str
    where_lists: str

    def __init__(self, root: str, partial: bool) -> None:
        self.root, self.partial = Path(root).expanduser(), partial

    def prepare(self) -> None:
        """Checks that the lists and all that they name is there.

        Raises:
            InputError: a list is absent (with where to get it) or damaged, or has another number of lines than the
                official one; photographs are missing; a pair is in two lists.
        """
        listed = {split: self._listed(split) for split in self.lists}
        seen: dict[Pair, Split] = {}
        for split, pairs in listed.items():
            for pair in pairs:
                if (other := seen.setdefault(pair, split)) != split:
                    raise InputError(f"{pair[1]}: is in the lists of {other} and of {split}: get the official lists")

    def _pairs(self, split: Split) -> list[Pair]:
        return self._listed(split)

    def _listed(self, split: Split) -> list[Pair]:
        """The pairs of a list, in its order."""
        if not self.root.is_dir():
            raise InputError(f"{self.root}: not found: get {self.where}, or set data.root to an existing copy")
        file = next((self.root / name for name in self.lists[split] if (self.root / name).is_file()), None)
        if file is None:
            raise InputError(
                f"{self.root / self.lists[split][0]}: not found, expected lines SHARP DEGRADED: get it from"
                f" {self.where_lists}"
            )
        lines = _read(file)
        if not self.partial and len(lines) != self.counts[split]:
            raise InputError(
                f"{file}: {len(lines)} pairs, expected {self.counts[split]}: get the official list from"
                f" {self.where_lists}, or set data.source.partial=true to go on with it"
            )
        base, lines = self._placed(lines)
        pairs = [(self._file(base, sharp), self._file(base, self._degraded(degraded))) for sharp, degraded in lines]
        absent = {path for pair in pairs for path in pair if not path.is_file()}
        if self.partial:  # a pair is there or not; half of one is a mistake
            pairs = [pair for pair in pairs if not absent.issuperset(pair)]
        if missing := [path for pair in pairs for path in pair if path in absent]:
            raise InputError(
                f"{missing[0]}: not found, like {len(missing)} of {2 * len(pairs)} files that {file} lists: complete"
                f" the copy from {self.where}" + ("" if self.partial else ", or set data.source.partial=true")
            )
        if not pairs:
            raise InputError(
                f"{file}: none of its {len(lines)} pairs is below {self.root} (such as {base / lines[0][0]}): get"
                f" {self.where}"
            )
        return pairs

    def _placed(self, lines: list[tuple[str, str]]) -> tuple[Path, list[tuple[str, str]]]:
        """The folder to which the paths are relative, and they; without their first part if `root` stands for it."""
        places = [(base, lines) for base in (self.root, self.root.parent, self.root / self.root.name)]
        if len({path.partition("/")[0] for line in lines for path in line}) == 1:
            places.append((self.root, [(a.partition("/")[2], b.partition("/")[2]) for a, b in lines]))
        for base, placed in places:
            if any((base / path).is_file() for line in placed for path in line):
                return base, placed
        return self.root, lines

    def _degraded(self, path: str) -> str:
        """The degraded file of the variant."""
        return path

    def _file(self, base: Path, path: str) -> Path:
        return base / path


def _read(file: Path) -> list[tuple[str, str]]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{file}: cannot be read ({reason}), expected lines SHARP DEGRADED: get it again") from error
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := line.split()):
            continue
        if len(words) != 2 or any(PurePosixPath(word).is_absolute() or ".." in word.split("/") for word in words):
            raise InputError(
                f"{file}, line {number}: found {line[:100]!r}, expected SHARP DEGRADED, two paths below the folder of"
                " the data set"
            )
        pairs.append((words[0], words[1]))
    if not pairs:
        raise InputError(f"{file}: is empty, expected lines SHARP DEGRADED: get it again")
    if len(set(pairs)) < len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        raise InputError(f"{file}: lists {' '.join(twice)} twice, expected each pair once: get the official list")
    return pairs


class RealBlur(ListedPairs):
    """RealBlur under `root`: 232 scenes.

    Layout: the official tree, `root/RealBlur-J_ECC_IMCORR_centroid_itensity_ref/sceneNNN/{blur/blur_K.png,gt/gt_K.png}`
    (R: `RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref`) and beside it `RealBlur_{J,R}_{train,test}_list.txt`.

    Splits: `train` is 3,758 pairs of 182 scenes, of which the last 9 are held out whole as `val`; `test` is the 980 of
    the other 50. Published figures are of results that were aligned with the truth and matched in brightness, which is
    not done here: they do not compare.

    Terms: CC BY 4.0.

    Source: J. Rim, H. Lee, J. Won and S. Cho, "Real-World Blur Dataset for Learning and Benchmarking Deblurring
    Algorithms", ECCV 2020.

    Args:
        root: folder of the data set.
        variant: JPEG files of the camera, or raw files that were developed.
        partial: accept other lists, and copies that lack pairs; never for published figures.
    """

    where = "RealBlur from https://cgdata.postech.ac.kr/sharing/YhKdbtvD0 and unpack it"
    where_lists = "the same archive"

    def __init__(self, root: str, variant: Literal["J", "R"], partial: bool = False) -> None:
        super().__init__(root, partial)
        self.name = f"realblur_{variant.lower()}"  # two different tests
        self.lists = {split: [f"RealBlur_{variant}_{split}_list.txt"] for split in REALBLUR_COUNTS}
        self.counts = REALBLUR_COUNTS

    def _pairs(self, split: Split) -> list[Pair]:
        if split == "test":
            return self._listed("test")
        pairs = self._listed("train")
        scenes = sorted({_scene(pair) for pair in pairs})
        if len(scenes) <= HELD_OUT:
            raise InputError(
                f"{self.root}: {len(scenes)} training scene(s), expected at least {HELD_OUT + 1} to hold out {HELD_OUT}"
                " for validation: complete the copy"
            )
        return [pair for pair in pairs if (_scene(pair) in scenes[-HELD_OUT:]) == (split == "val")]

    def _file(self, base: Path, path: str) -> Path:
        """In some copies one scene has another name than in the list."""
        renamed = base / path.replace("/scene244/", "/scene244_reflect/")
        return renamed if renamed.is_file() else base / path


def _scene(pair: Pair) -> str:
    return pair[0].parents[1].name


class RSBlur(ListedPairs):
    """RSBlur under `root`: real blur, and blur made of frames of the same moment.

    Layout: the official tree, `root/DDDD/NNNNNN/{gt/gt_sharp.png,real_blur/real_blur.png,avg65_img/avg_blur.png}`, and
    the lists `RSBlur_real_{train,val,test}.txt` in `root`, or in `root/datalist/RSBlur` as in the authors' repository.

    Splits: the official ones, 8,878, 1,120 and 3,360 pairs. Frames of one day are in all of them, in blocks. Published
    figures are of results that were aligned with the truth and matched in brightness, which is not done here: they do
    not compare.

    Terms: CC BY 4.0.

    Source: J. Rim, G. Kim, J. Kim, J. Lee, S. Lee and S. Cho, "Realistic Blur Synthesis for Learning Image Deblurring",
    ECCV 2022.

    Args:
        root: folder of the data set.
        variant: the real blur, or the average of 65 frames.
        partial: accept other lists, and copies that lack pairs; never for published figures.
    """

    where = "RSBlur from https://cgdata.postech.ac.kr/sharing/kWA6K6J5G and unpack it"
    where_lists = "datalist/RSBlur of https://github.com/rimchang/RSBlur"

    def __init__(self, root: str, variant: Literal["real", "avg65"], partial: bool = False) -> None:
        super().__init__(root, partial)
        self.variant, self.name, self.counts = variant, f"rsblur_{variant}", RSBLUR_COUNTS
        files = {split: f"RSBlur_real_{split}.txt" for split in RSBLUR_COUNTS}
        self.lists = {split: [name, f"datalist/RSBlur/{name}"] for split, name in files.items()}

    def _degraded(self, path: str) -> str:
        if self.variant == "real":
            return path
        if len(folders := PurePosixPath(path).parents) < 2:
            raise InputError(
                f"{path}: in the list of data.source.variant=avg65, expected a path such as"
                f" 0001/000001/real_blur/real_blur.png: get the official lists from {self.where_lists}"
            )
        return (folders[1] / "avg65_img" / "avg_blur.png").as_posix()
