"""REDS: clips of a fast camera, blurred by averaging light, at full size and reduced: deblurring and joint tracks."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.errors import InputError
from datamodules.io.decode import list_images
from datamodules.io.download import check_space, locked
from datamodules.io.download import download as fetch
from datamodules.io.hub import facts
from datamodules.io.unpack import unpack_zip
from datamodules.sources import Split
from datamodules.sources.paired_folder import Pair, Pairs, match

PAGE = "https://seungjunnah.github.io/Datasets/reds"
BASE_URL = "https://huggingface.co/datasets/snah/REDS/resolve/62dc25d16e6f43d2214f1b365023abda86f7a0ae"
CLIPS = {"train": 240, "val": 30}
FRAMES = 100  # of a clip
REDS4 = ("000", "011", "015", "020")  # training clips on which papers on video validate

Part = Literal["train", "val"]
Variant = Literal["blur_bicubic", "lowres", "blur", "blur_jpeg", "blur_comp"]

log = logging.getLogger(__name__)


class Archive(NamedTuple):
    """What is published of an archive; what is not, its server is asked."""

    shown: str  # size for messages
    size: int | None = None
    sha256: str | None = None


ARCHIVES: dict[str, Archive] = {
    "train_sharp": Archive(
        "34.3 GB", 34_261_573_976, "620294c1c3f23ed26c5ea228633770469c0b28e57d31eb41dc77deb401c6681b"
    ),
    "train_blur": Archive("28.3 GB", None, "415c360c0d71d2d89af099b3c64e76bca7e1d8317750f8e056e02ebaab957bb8"),
    "train_blur_jpeg": Archive("1.18 GB"),
    "train_blur_comp": Archive("22.8 GB"),
    "train_sharp_bicubic": Archive(
        "2.65 GB", 2_652_551_733, "ff20eac3c20cd401d1380f9c36830f726d9fba6e926f247c99895eb82c7bebfe"
    ),
    "train_blur_bicubic": Archive(
        "2.42 GB", 2_416_495_641, "457171a9beafa8c5afd7ebb12e9dc9b5248da596027ef078f1a61d42d1d339e8"
    ),
    "val_sharp": Archive("4.27 GB", 4_273_865_704),
    "val_blur": Archive("3.54 GB"),
    "val_blur_jpeg": Archive("145 MB"),
    "val_blur_comp": Archive("2.81 GB"),
    "val_sharp_bicubic": Archive("330 MB", 330_490_885),
    "val_blur_bicubic": Archive("300 MB"),
}


class _Wanted(NamedTuple):
    """An archive of which nothing is unpacked: where it is and will be, and what is known of it."""

    name: str
    url: str
    path: Path
    by_hand: bool  # it is there already
    size: int
    sha256: str | None  # None by hand only, where nobody has published it


class Reds(Pairs):
    """The REDS data set under `root`, downloaded on demand: frames of 1280x720, reduced ones of 320x180.

    Layout: `root/{train,val}/{train,val}_KIND/CLIP/FRAME.png`, all archives unpacked at one place, or each of them in a
    folder of its own name, `root/train_sharp/train/train_sharp/...`; the reduced kinds have `X4/` above the clips. An
    existing copy is used as it is, without network and without writing to it. Clips 000 to 239 are the training
    part, 000 to 029 the validation part: equal names, other clips. Copies that keep the latter as 240 to 269 among the
    training clips are refused. The ground truth of the test part is not public.

    `variant` has to be chosen, for these are different tasks:

    | variant      | sharp    | degraded            | scale | archives for training, for test |
    |--------------|----------|---------------------|-------|---------------------------------|
    | blur_bicubic | sharp    | blurred and reduced | 4     | 36.7 GB, 4.6 GB                 |
    | lowres       | reduced  | blurred and reduced | 1     | 5.1 GB, 0.6 GB                  |
    | blur         | sharp    | blurred             | 1     | 62.6 GB, 7.8 GB                 |
    | blur_jpeg    | sharp    | blurred, JPEG       | 1     | 35.4 GB, 4.4 GB                 |
    | blur_comp    | sharp    | blurred, MPEG       | 1     | 57.1 GB, 7.1 GB                 |

    Splits: `train` is the training clips but for the four of REDS4, of which `val` has the frames whose number ends in
    9, 40 of them. `test` is Val300, every tenth frame of the validation clips (00000009, 00000019, ...), or all of
    them.

    Terms: CC BY 4.0.

    Source: S. Nah, S. Baik, S. Hong, G. Moon, S. Son, R. Timofte and K. M. Lee, "NTIRE 2019 Challenge on Video
    Deblurring and Super-Resolution: Dataset and Study", CVPR Workshops 2019, https://seungjunnah.github.io/Datasets/reds

    Args:
        root: folder of the data set.
        variant: which degraded frames, and which sharp ones.
        frames: those of the test split: "val300", or "all" 3,000.
        stride: train on every n-th frame of a clip.
        parts: "val" alone is a test set, without the training clips.
        download: whether to fetch archives that are absent.
        partial: accept a copy with fewer clips or frames than the official one; never for published figures.
        base_url: folder of the archives.
    """

    training = "reds"  # for its test part alone

    def __init__(
        self,
        root: str,
        variant: Variant,
        frames: Literal["val300", "all"] = "val300",
        stride: int = 1,
        parts: Sequence[Part] = ("train", "val"),
        download: bool = True,
        partial: bool = False,
        base_url: str = BASE_URL,
    ) -> None:
        if stride < 1:
            raise ValueError(f"stride is {stride}, expected at least 1: every n-th frame is trained on")
        if list(parts) not in (["train", "val"], ["val"]):
            raise ValueError(f"parts is {list(parts)}, expected [train,val], or [val] for test only")
        self.root, self.variant, self.frames, self.stride = Path(root).expanduser(), variant, frames, stride
        self.parts, self.download, self.partial = list(parts), download, partial
        self.base_url = base_url.rstrip("/")
        self.kinds = ("sharp_bicubic", "blur_bicubic") if variant == "lowres" else ("sharp", variant)
        self.scale = 4 if variant == "blur_bicubic" else 1
        self.splits: tuple[Split, ...] = ("train", "val", "test") if "train" in parts else ("test",)
        # Figures of different tracks and frames must never meet under one name.
        self.name = f"reds_{variant}_{'val300' if frames == 'val300' else 'val'}"

    def prepare(self) -> None:
        """Downloads and unpacks the archives that are absent, one after the other, and checks the frames.

        Each archive is deleted once it is unpacked, but for those that were there before, `root/NAME.zip` got by hand,
        which need no network. Safe to interrupt and to call from several processes.

        Raises:
            InputError: an archive is absent with `download` off; clips or frames are missing, too many or without
                partner; something else is where they belong; the disk has not the space for archives and frames; and
                as `facts`, `download` and `unpack_zip`.
        """
        if self.download and self._absent():
            with locked(self.root / "reds"):
                self._fetch(self._absent())  # another process may have made some while this one waited
        for part in self.parts:
            self._clips(part)
        for name in self._names() if self.download else ():
            if (archive := self._archive(name)).is_file():
                log.warning("%s is unpacked and not needed any more: delete it", archive)

    def _pairs(self, split: Split) -> list[Pair]:
        if split not in self.splits:
            raise InputError(
                f"data.source.parts={self.parts}: the training clips of REDS are left out, for {split} too: choose"
                " data=reds for training"
            )
        if split == "test":
            clips = self._clips("val")
            return [pair for clip in clips.values() for pair in clip if self.frames == "all" or _ends_in_9(pair)]
        clips = {name: clip for name, clip in self._clips("train").items() if (name in REDS4) == (split == "val")}
        if split == "val":
            pairs = [pair for clip in clips.values() for pair in clip if _ends_in_9(pair)]
        else:
            pairs = [pair for clip in clips.values() for pair in clip[:: self.stride]]
        if not pairs:
            what = f"of the clips {', '.join(REDS4)}" if split == "val" else f"but for the clips {', '.join(REDS4)}"
            raise InputError(f"{self._folder('train', self.kinds[0])}: no frame {what} is there: complete the copy")
        return pairs

    def _clips(self, part: Part) -> dict[str, list[Pair]]:
        """The pairs of each clip of a part, checked."""
        sharp, degraded = (self._folder(part, kind) for kind in self.kinds)
        files = [_by_clip(folder, part) for folder in (sharp, degraded)]
        for folder, clips in zip((sharp, degraded), files, strict=True):
            self._check_complete(folder, part, clips)
        named = [{f"{c}/{path.stem}": path for c, clip in clips.items() for path in clip} for clips in files]
        pairs: dict[str, list[Pair]] = {}
        for name, of_one in match(named[0], named[1], sharp, degraded).items():
            pairs.setdefault(name.partition("/")[0], []).extend(of_one)
        return pairs

    def _check_complete(self, folder: Path, part: Part, clips: dict[str, list[Path]]) -> None:
        if self.partial:
            return
        hint = "complete the copy, or set data.source.partial=true to go on with what is there"
        if len(clips) != CLIPS[part]:
            raise InputError(f"{folder}: {len(clips)} clips, expected {CLIPS[part]}: {hint}")
        for name, clip in clips.items():
            if len(clip) != FRAMES:
                raise InputError(f"{folder / name}: {len(clip)} frames, expected {FRAMES}: {hint}")
            names = [f"{number:08d}" for number in range(FRAMES)]
            if foreign := sorted({path.stem for path in clip} - set(names)):
                raise InputError(f"{folder / name}: found {foreign[0]}, expected {names[0]} to {names[-1]}: {hint}")

    def _folder(self, part: Part, kind: str) -> Path:
        """Where the clips are. Raises `InputError` if they are nowhere."""
        name = f"{part}_{kind}"
        if found := self._found(name):
            return found
        self._refuse_others(name)
        archive = ARCHIVES[name]
        raise InputError(
            f"{self.root}: holds no {name} of REDS ({name}.zip, {archive.shown}): set"
            f" data.source.download=true, or get {self.base_url}/{name}.zip (see {PAGE}) and unpack it to"
            f" {self.root / name}, or set data.root to an existing copy"
        )

    def _refuse_others(self, name: str) -> None:
        """Raises `InputError` if there is something in the folders in which `_found` looks for a kind in vain."""
        part = name.partition("_")[0]
        for folder in (self.root / name, self.root / part / name):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                clip = self.root / part / name / ("X4/000" if name.endswith("bicubic") else "000")
                raise InputError(
                    f"{folder}: is there, but not in the layout of REDS, expected {clip}/00000000.png and so on: move"
                    " its clips there, or delete it"
                )

    def _found(self, name: str) -> Path | None:
        part = name.partition("_")[0]
        for root in (self.root, self.root / name):
            folder = root / part / name / ("X4" if name.endswith("bicubic") else "")
            if folder.is_dir():
                return folder
        return None

    def _names(self) -> list[str]:
        return [f"{part}_{kind}" for part in self.parts for kind in self.kinds]

    def _absent(self) -> list[str]:
        return [name for name in self._names() if self._found(name) is None]

    def _archive(self, name: str) -> Path:
        return self.root / f"{name}.zip"

    def _fetch(self, names: list[str]) -> None:
        """Downloads and unpacks archives; all that can be known before is looked at first."""
        for name in names:
            self._refuse_others(name)
        wanted = [self._wanted(name) for name in names]
        check_space(self.root, _peak(wanted), "unpacking " + ", ".join(archive.path.name for archive in wanted))
        if sizes := ", ".join(f"{a.path.name} ({ARCHIVES[a.name].shown})" for a in wanted if not a.by_hand):
            log.info("REDS: downloading %s; until it is unpacked, each takes twice that of the disk", sizes)
        for archive in wanted:
            if archive.sha256 is not None:
                fetch(archive.url, archive.path, size=archive.size, sha256=archive.sha256)
            unpack_zip(archive.path, self.root / archive.name)
            if self._found(archive.name) is None:
                folder = self.root / archive.name
                raise InputError(f"{archive.path}: holds no {archive.name} of REDS: delete {folder} and look at it")
            if not archive.by_hand:
                archive.path.unlink()

    def _wanted(self, name: str) -> _Wanted:
        url, path, (_, size, sha256) = f"{self.base_url}/{name}.zip", self._archive(name), ARCHIVES[name]
        if not path.is_file():
            return _Wanted(name, url, path, False, *facts(url, path, size, sha256))
        found = path.stat().st_size  # there may be no network here: the checksums inside have to do
        if size not in (None, found):
            raise InputError(f"{path}: expected {size} bytes, found {found}: delete it to download it again")
        return _Wanted(name, url, path, True, found, sha256)


def _peak(wanted: list[_Wanted]) -> int:
    """The most bytes that are taken at once beyond those taken now. PNG and JPEG do not shrink in an archive."""
    taken = peak = 0
    for archive in wanted:
        file = archive.path if archive.by_hand else archive.path.with_suffix(".zip.part")
        there = file.stat().st_size if file.is_file() else 0
        peak = max(peak, taken + 2 * archive.size - there)
        taken += archive.size if archive.by_hand else archive.size - there
    return peak


def _ends_in_9(pair: Pair) -> bool:
    return pair[0].stem.endswith("9")


def _by_clip(folder: Path, part: Part) -> dict[str, list[Path]]:
    """The frames of each clip, sorted. Raises `InputError` for clips that are none of this part."""
    clips: dict[str, list[Path]] = {}
    known = {f"{number:03d}" for number in range(CLIPS[part])}
    for path in list_images(folder):
        clips.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
    if foreign := sorted(set(clips) - known):
        last = f"{CLIPS[part] - 1:03d}"
        why = ""
        if part == "train" and all(name.isdecimal() for name in foreign):
            why = " (some copies keep the validation clips so among the training clips, which would be trained on)"
        raise InputError(
            f"{folder}: found {len(foreign)} folder(s) such as {foreign[0]} that are no clip of this part, expected 000"
            f" to {last}{why}: move them away"
        )
    return clips
