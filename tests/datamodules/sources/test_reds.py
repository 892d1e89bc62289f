"""REDS from tiny archives on a real loopback server and from existing copies in both layouts."""

import hashlib
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from datamodules.degradations.pipelines import AsStored, ReducedPairs, StoredWithSharp
from datamodules.degradations.resample import bicubic_resize
from datamodules.errors import InputError
from datamodules.io import download as module
from datamodules.paired_datamodule import PairedDataModule
from datamodules.sources import reds
from datamodules.sources.reds import Reds
from tests.conftest import Outcome
from tests.experiments.config.test_configs import compose
from tests.helpers.hub import Hub, serving
from tests.helpers.results import read_records

NOWHERE = "http://127.0.0.1:1"  # nothing listens there: whoever asks fails
NETWORKS = ("ed_dsrn", "gfn", "nafnet_sr")
KINDS = ("sharp", "sharp_bicubic", "blur_bicubic", "blur", "blur_jpeg")
FRAMES = [f"{number:08d}" for number in range(20)]


def write_part(tree: Path, part: str, clips: tuple[str, ...], seed: int) -> None:
    """Frames of 16x12 pixels, reduced ones of 4x3, in the official layout."""
    random = np.random.default_rng(seed)
    for kind in KINDS:
        below, suffix = ("X4" if kind.endswith("bicubic") else ""), ("jpg" if kind == "blur_jpeg" else "png")
        size = (3, 4, 3) if kind.endswith("bicubic") else (12, 16, 3)
        for clip in clips:
            folder = tree / part / f"{part}_{kind}" / below / clip
            folder.mkdir(parents=True)
            for frame in FRAMES:
                pixels = random.integers(0, 256, size).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{frame}.{suffix}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("REDS")
    write_part(tree, "train", ("000", "001"), 0)
    write_part(tree, "val", ("000", "001"), 1)
    return tree


@pytest.fixture
def tree(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clips of 20 frames in either part, of which 000 is one of REDS4."""
    monkeypatch.setattr(reds, "CLIPS", {"train": 2, "val": 2})
    monkeypatch.setattr(reds, "FRAMES", 20)
    return Path(shutil.copytree(made, tmp_path / "REDS"))


@pytest.fixture
def hub(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server with the archives of the tree; of two of them size and checksum are known, of one only the size."""
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (site := tmp_path / "site").mkdir()
    archives = {}
    for part in ("train", "val"):
        for kind in KINDS:
            name = f"{part}_{kind}"
            with zipfile.ZipFile(site / f"{name}.zip", "w") as archive:
                for file in sorted((tree / part / name).rglob("*.*g")):
                    archive.write(file, file.relative_to(tree).as_posix())
            archives[name] = reds.Archive("1 kB")
    for name in ("train_sharp", "train_blur_bicubic"):
        content = (site / f"{name}.zip").read_bytes()
        archives[name] = reds.Archive("1 kB", len(content), hashlib.sha256(content).hexdigest())
    archives["val_sharp"] = reds.Archive("1 kB", (site / "val_sharp.zip").stat().st_size)
    monkeypatch.setattr(reds, "ARCHIVES", archives)
    with serving(site) as server:
        yield server


def names(files: list[Path]) -> list[str]:
    return [f"{path.parent.name}_{path.stem}" for path in files]


def test_published_facts() -> None:
    assert reds.CLIPS == {"train": 240, "val": 30}
    assert reds.FRAMES == 100
    known = {name: archive[1:] for name, archive in reds.ARCHIVES.items() if any(archive[1:])}
    assert known == {
        "train_sharp": (34261573976, "620294c1c3f23ed26c5ea228633770469c0b28e57d31eb41dc77deb401c6681b"),
        "train_blur": (None, "415c360c0d71d2d89af099b3c64e76bca7e1d8317750f8e056e02ebaab957bb8"),
        "train_blur_bicubic": (2416495641, "457171a9beafa8c5afd7ebb12e9dc9b5248da596027ef078f1a61d42d1d339e8"),
        "train_sharp_bicubic": (2652551733, "ff20eac3c20cd401d1380f9c36830f726d9fba6e926f247c99895eb82c7bebfe"),
        "val_sharp": (4273865704, None),
        "val_sharp_bicubic": (330490885, None),
    }
    assert reds.BASE_URL.endswith("/snah/REDS/resolve/62dc25d16e6f43d2214f1b365023abda86f7a0ae")


@pytest.mark.parametrize("layout", ["one root", "a folder each"])
def test_splits(tree: Path, layout: str) -> None:
    if layout == "a folder each":
        for folder in [*tree.glob("*/*")]:
            part = folder.parent.name
            (tree / folder.name / part).mkdir(parents=True)
            folder.rename(tree / folder.name / part / folder.name)
        shutil.rmtree(tree / "train")
        shutil.rmtree(tree / "val")
    before = sorted(tree.rglob("*"))
    source = Reds(str(tree), "blur_bicubic", base_url=NOWHERE)
    source.prepare()
    assert names(source.files("train")) == [f"001_{frame}" for frame in FRAMES]
    assert names(source.files("val")) == ["000_00000009", "000_00000019"]
    val300 = [f"{clip}_000000{number}" for clip in ("000", "001") for number in ("09", "19")]
    assert names(source.files("test")) == val300
    assert all("val_sharp" in path.parts for path in source.files("test"))
    assert len(Reds(str(tree), "blur_bicubic", frames="all").files("test")) == 40
    assert names(Reds(str(tree), "blur_bicubic", stride=8).files("train")) == [f"001_{FRAMES[i]}" for i in (0, 8, 16)]
    for split in ("train", "val", "test"):
        assert names(source.degraded_files(split)) == names(source.files(split))
        assert all(path.parts[-4:-1:2] == ("X4",) or "X4" in path.parts for path in source.degraded_files(split))
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize(
    ("variant", "scale", "folders", "suffix"),
    [
        ("blur_bicubic", 4, ("sharp", "blur_bicubic"), ".png"),
        ("lowres", 1, ("sharp_bicubic", "blur_bicubic"), ".png"),
        ("blur", 1, ("sharp", "blur"), ".png"),
        ("blur_jpeg", 1, ("sharp", "blur_jpeg"), ".jpg"),
    ],
)
def test_variants_reach_the_network(
    tree: Path, tmp_path: Path, variant: reds.Variant, scale: int, folders: tuple[str, str], suffix: str
) -> None:
    source = Reds(str(tree), variant, parts=["val"], download=False)
    assert (source.name, source.scale, source.splits) == (f"reds_{variant}_val300", scale, ("test",))
    assert Reds(str(tree), variant, frames="all").name == f"reds_{variant}_val"
    degradation = StoredWithSharp(4) if scale == 4 else AsStored()
    data = PairedDataModule(source, degradation, seed=0, patch=8, cache_dir=str(tmp_path / "c"), num_workers=0)
    data.prepare_data()
    data.setup("test")
    pairs = list(zip(source.files("test"), source.degraded_files("test"), strict=True))
    files = dict(zip(data.image_names("test"), pairs, strict=True))
    assert len(files) == 4
    for batch in data.test_dataloader():
        sharp, degraded = files[batch.name[0]]
        assert degraded.suffix == suffix
        assert (f"val_{folders[0]}" in sharp.parts, f"val_{folders[1]}" in degraded.parts) == (True, True)
        batch = data.on_after_batch_transfer(batch, 0)
        hr, lr = (
            torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255 for file in files[batch.name[0]]
        )
        assert batch.lr is not None
        assert torch.equal(batch.hr, hr)
        assert batch.scale == scale
        if suffix == ".png":
            assert torch.equal(batch.lr, lr)
        if scale == 4:
            expected = bicubic_resize(hr.double(), 4, down=True).clamp(0, 1).mul(255)
            assert batch.lr_sharp is not None
            levels = batch.lr_sharp * 255
            assert levels.shape == (1, 3, 3, 4)
            assert (levels - expected).abs().max() <= 0.5001
            assert (levels - levels.round()).abs().max() < 1e-4
    with pytest.raises(InputError, match=r"data\.source\.parts=\['val'\].*data=reds for training"):
        source.files("train")


def test_degradations_that_do_not_fit_are_refused_before_anything_is_downloaded(tree: Path, tmp_path: Path) -> None:
    def data(root: Path, variant: reds.Variant, degradation: AsStored | ReducedPairs) -> PairedDataModule:
        source = Reds(str(root), variant, parts=["val"], base_url=NOWHERE)
        return PairedDataModule(source, degradation, seed=0, cache_dir=str(tmp_path / "c"), num_workers=0)

    for step in (lambda module: module.prepare_data(), lambda module: module.setup("test")):
        with pytest.raises(InputError, match=r"scale=4: a degradation to 1/1 .*with data=reds degradation=reds"):
            step(data(tmp_path / "none", "blur_bicubic", AsStored()))
        with pytest.raises(InputError, match="those of reds_blur_val300 are of equal size: choose degradation=none"):
            step(data(tmp_path / "none", "blur", StoredWithSharp(4)))
    data(tree, "blur", ReducedPairs(4)).setup("test")


def test_training_that_cannot_be_is_refused_before_anything_is_downloaded(cli: Callable[..., Outcome]) -> None:
    outcome = cli("data=reds_val", "data.variant=blur_bicubic")
    assert outcome.status == 2
    assert outcome.err.startswith("data: reds_val is a test set, it has no images for training: choose data=reds for")
    outcome = cli("data=reds", "data.variant=blur_bicubic")
    assert outcome.status == 2
    assert "would ignore the degraded ones of data=reds: choose degradation=reds, or" in outcome.err


def test_downloads_what_the_variant_needs(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    root = tmp_path / "data"
    hub.cuts = 2
    source = Reds(str(root), "blur_bicubic", base_url=hub.url)
    source.prepare()
    wanted = ["train_sharp", "train_blur_bicubic", "val_sharp", "val_blur_bicubic"]
    assert sorted(path.name for path in root.iterdir() if path.suffix != ".lock") == sorted(wanted)
    assert names(source.files("val")) == ["000_00000009", "000_00000019"]
    # The first answer was cut in the middle, and so was the second: each time the rest was asked for.
    assert hub.contents[0] == ("train_sharp.zip", None)
    begins = [int(str(wanted)[6:-1]) for name, wanted in hub.contents[1:3] if name == "train_sharp.zip"]
    size = (hub.folder / "train_sharp.zip").stat().st_size
    assert size / 2 - 1000 < begins[0] < begins[1] < size
    assert [name for name, _ in hub.contents[2:]] == [f"{name}.zip" for name in wanted]
    # ... at the address that leads on, never at where it had led.
    assert sum(path.startswith("/resolve/0123/") for method, path, _ in hub.asked if method == "GET") == 6
    # Of what is published nothing is asked; what was learnt is in the log.
    heads = [Path(path).name for method, path, _ in hub.asked if method == "HEAD"]
    assert heads == ["val_sharp.zip", "val_blur_bicubic.zip"]
    checksum = hashlib.sha256((hub.folder / "val_sharp.zip").read_bytes()).hexdigest()
    assert f"val_sharp.zip has {(hub.folder / 'val_sharp.zip').stat().st_size} bytes, sha256 {checksum}" in caplog.text
    assert "downloading train_sharp.zip (1 kB), train_blur_bicubic.zip (1 kB)" in caplog.text
    asked = len(hub.asked)
    source.prepare()
    assert len(hub.asked) == asked


def test_two_at_once(hub: Hub, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def prepare() -> None:
        try:
            Reds(str(tmp_path / "data"), "lowres", parts=["val"], base_url=hub.url).prepare()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(hub.contents) == 2


def test_interrupted_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "data"
    content = (hub.folder / "val_sharp_bicubic.zip").read_bytes()
    root.mkdir()
    (root / "val_sharp_bicubic.zip.part").write_bytes(content[:1000])
    (root / "val_blur_bicubic.zip").write_bytes((hub.folder / "val_blur_bicubic.zip").read_bytes())  # by hand
    source = Reds(str(root), "lowres", parts=["val"], base_url=hub.url)
    source.prepare()
    assert hub.contents == [("val_sharp_bicubic.zip", "bytes=1000-")]
    assert len(source.files("test")) == 4


def test_archives_got_by_hand_need_no_network_and_stay(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("val_sharp", "val_blur"):
        shutil.copy(hub.folder / f"{name}.zip", root)
    source = Reds(str(root), "blur", parts=["val"], base_url=NOWHERE)
    (root / "val_sharp.zip").write_bytes((root / "val_sharp.zip").read_bytes() + b"0")
    with pytest.raises(InputError, match=r"val_sharp\.zip: expected \d+ bytes, found \d+: delete it"):
        source.prepare()
    shutil.copy(hub.folder / "val_sharp.zip", root)
    source.prepare()
    assert len(source.files("test")) == 4
    assert (root / "val_sharp.zip").is_file()
    assert caplog.text.count("is unpacked and not needed any more: delete it") == 2
    # ... as is one that a run left which was killed before it could delete it.
    (root / "val_blur.zip").unlink()
    caplog.clear()
    source.prepare()
    assert caplog.messages == [f"{root}/val_sharp.zip is unpacked and not needed any more: delete it"]


def test_space_for_archives_and_frames(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ((hub.folder / f"val_{kind}.zip").stat().st_size for kind in ("sharp", "blur"))
    (root := tmp_path / "data").mkdir()
    (root / "val_sharp.zip.part").write_bytes((hub.folder / "val_sharp.zip").read_bytes()[:100])
    # The frames of the first, and the second twice; of what is there 100 bytes go with their archive.
    needed = first - 100 + 2 * second
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    source = Reds(str(root), "blur", parts=["val"], base_url=hub.url)
    with pytest.raises(InputError, match=r"unpacking val_sharp\.zip, val_blur\.zip: needs .* on the disk of .*data"):
        source.prepare()
    assert hub.contents == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    source.prepare()


@pytest.mark.parametrize(("name", "below"), [("val_sharp", "val_sharp"), ("val_blur_bicubic", "val/val_blur_bicubic")])
def test_another_layout_is_refused_before_anything_is_downloaded(tree: Path, name: str, below: str) -> None:
    inner = "val/val_blur_bicubic/X4" if name == "val_blur_bicubic" else "val/val_sharp"
    (tree / inner).rename(tree / "clips")
    (tree / below).mkdir(parents=True, exist_ok=True)
    (tree / "clips" / "000").rename(tree / below / "000")
    for download in (True, False):
        with pytest.raises(InputError) as error:
            Reds(str(tree), "blur_bicubic", parts=["val"], download=download, base_url=NOWHERE).prepare()
        assert str(error.value).startswith(f"{tree / below}: is there, but not in the layout of REDS, expected")
        assert f"expected {tree / inner}/000/00000000.png" in str(error.value)


def test_a_busy_server_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.busy = 3
    Reds(str(tmp_path / "data"), "lowres", parts=["val"], base_url=hub.url).prepare()
    hub.busy = 4
    with pytest.raises(InputError, match=r"answered HTTP 503 .*: run again later, or get the file .* put it at .*zip"):
        Reds(str(tmp_path / "other"), "lowres", parts=["val"], base_url=hub.url).prepare()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_to_be_waited_for(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status = status
    with pytest.raises(InputError, match=f"answered HTTP {status} .*: that address does not give it: get") as error:
        Reds(str(tmp_path / "data"), "blur", parts=["val"], base_url=hub.url).prepare()
    assert "later" not in str(error.value)
    assert f"put it at {tmp_path}/data/val_sharp.zip" in str(error.value)
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("told", "status", "said"),
    [
        ({"X-Linked-Size": "77"}, 302, r"val_sharp\.zip: expected bytes \d+, the server says 77: the file was changed"),
        ({"X-Linked-Etag": '"abc"'}, 302, "answered HTTP 302 with size [0-9]+ and sha256 abc, expected both"),
        ({"X-Linked-Size": "", "X-Linked-Etag": ""}, 404, "answered HTTP 404 with size none and sha256 none"),
        ({"X-Linked-Etag": f'"{"0" * 64}"'}, 302, "wrong checksum: expected sha256 0000"),
    ],
)
def test_answers_that_cannot_be_trusted(hub: Hub, tmp_path: Path, told: dict[str, str], status: int, said: str) -> None:
    hub.told, hub.status = told, status
    with pytest.raises(InputError, match=said) as error:
        Reds(str(tmp_path / "data"), "blur", parts=["val"], base_url=hub.url).prepare()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "val_sharp").exists()


def test_no_network(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.0)
    with pytest.raises(
        InputError, match=r"val_sharp\.zip: its size and checksum cannot be asked for \(Connection refused\): check"
    ):
        Reds(str(tmp_path / "data"), "blur_jpeg", parts=["val"], base_url=NOWHERE).prepare()


def test_absent_copy_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        Reds(str(tmp_path / "none"), "blur_bicubic", download=False).prepare()
    for part in (
        "train_sharp.zip, 34.3 GB",
        f"{reds.BASE_URL}/train_sharp.zip",
        "data.root",
        "data.source.download=true",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "none").exists()


def damaged(tree: Path, *, partial: bool = False, variant: reds.Variant = "blur_bicubic") -> str:
    with pytest.raises(InputError) as error:
        Reds(str(tree), variant, partial=partial, download=False).prepare()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_incomplete_copies(tree: Path) -> None:
    (tree / "train" / "train_sharp" / "001" / "00000003.png").unlink()
    assert re.search(
        r"train_sharp/001: 19 frames, expected 20: complete the copy, or set .*partial=true", damaged(tree)
    )
    assert re.search(r"train_sharp lacks partners of 1 of 40 files \(001/00000003\)", damaged(tree, partial=True))
    (tree / "train" / "train_blur_bicubic" / "X4" / "001" / "00000003.png").unlink()
    source = Reds(str(tree), "blur_bicubic", partial=True)
    source.prepare()
    assert len(source.files("train")) == 19
    shutil.rmtree(tree / "val" / "val_sharp" / "001")
    shutil.rmtree(tree / "val" / "val_blur_bicubic" / "X4" / "000")
    assert re.search("val_sharp: 1 clips, expected 2", damaged_part(tree))
    assert "lacks partners of 20 of 20 files (000/00000000" in damaged(tree, partial=True)
    shutil.rmtree(tree / "train" / "train_sharp" / "000")
    shutil.rmtree(tree / "train" / "train_blur_bicubic" / "X4" / "000")
    with pytest.raises(InputError, match="no frame of the clips 000, 011, 015, 020 is there"):
        source.files("val")


def test_frames_of_other_names(tree: Path) -> None:
    for folder in ("train_sharp", "train_blur_bicubic/X4"):
        clip = tree / "train" / folder / "001"
        (clip / "00000019.png").rename(clip / "00000020.png")
    assert re.search(r"train_sharp/001: found 00000020, expected 00000000 to 00000019: complete", damaged(tree))
    Reds(str(tree), "blur_bicubic", partial=True, download=False).prepare()


def damaged_part(tree: Path) -> str:
    with pytest.raises(InputError) as error:
        Reds(str(tree), "blur_bicubic", parts=["val"], download=False).prepare()
    return str(error.value)


@pytest.mark.parametrize("partial", [False, True])
def test_validation_clips_among_the_training_clips_are_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch, partial: bool
) -> None:
    monkeypatch.setattr(reds, "CLIPS", {"train": 240, "val": 30})
    sharp = tree / "train" / "train_sharp"
    shutil.copytree(tree / "val" / "val_sharp" / "000", sharp / "240")
    line = damaged(tree, partial=partial)
    assert line.startswith(
        f"{sharp}: found 1 folder(s) such as 240 that are no clip of this part, expected 000 to 239 ("
    )
    assert "keep the validation clips so among the training clips" in line
    (sharp / "240").rename(sharp / "more")
    assert re.search(
        "such as more that are no clip of this part, expected 000 to 239: move", damaged(tree, partial=True)
    )


@pytest.mark.parametrize("options", [{"stride": 0}, {"parts": ["train"]}, {"parts": []}])
def test_impossible_options(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        Reds(str(tmp_path), "blur", **options)  # type: ignore[arg-type]


def test_suite_of_the_challenge(cli: Callable[..., Outcome], tree: Path, tmp_path: Path) -> None:
    """Frames of 64x48 pixels: the smallest that both protocols measure."""
    for file in (tree / "val" / "val_sharp").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(file)).repeat(4, 0).repeat(4, 1)).save(file)
    for file in (tree / "val" / "val_blur_bicubic").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(file)).repeat(4, 0).repeat(4, 1)).save(file)
    common = ["task=evaluate", "model=bicubic", "pictures=none", "data.num_workers=0", "trainer.accelerator=cpu"]
    outcome = cli(*common, "suite=ntire2021_lr", f"data_dir={tree.parent}", "data.source.download=false", "name=b")
    assert outcome.status == 0, outcome.err
    records = read_records(tmp_path / "runs" / "b" / "results.json")
    about = [(r["suite"], r["dataset"], r["scale"], r["protocol"]["name"], len(r["images"])) for r in records]
    assert about == [("ntire2021_lr", "reds_blur_bicubic_val300", 4, f"rgb_shave{n}", 4) for n in (0, 4)]


@pytest.mark.parametrize(
    ("overrides", "degradation", "parts", "variant"),
    [
        (["model=bicubic", "data=reds", "data.variant=blur_bicubic"], "reds", ["train", "val"], "blur_bicubic"),
        (["data=reds", "data.variant=lowres", "degradation=none"], "none", ["train", "val"], "lowres"),
        (["model=bicubic", "data=reds_val", "data.variant=blur_bicubic"], "reds", ["val"], "blur_bicubic"),
        *(([f"experiment={name}_reds"], "reds", ["train", "val"], "blur_bicubic") for name in NETWORKS),
        (["suite=reds", "task=evaluate", "model=bicubic"], "none", ["val"], "blur_jpeg"),
    ],
)
def test_configs_choose_what_fits(overrides: list[str], degradation: str, parts: list[str], variant: str) -> None:
    cfg = compose(*overrides, return_hydra_config=True)
    choices = {"data": "reds" if "train" in parts else "reds_val", "degradation": degradation}
    found = {key.partition("@")[0]: value for key, value in cfg.hydra.runtime.choices.items()}
    assert choices.items() <= found.items()
    assert (cfg.data.source.parts, cfg.data.source.variant) == (parts, variant)
    built = instantiate(cfg.degradation)
    assert (built.file_scale, instantiate(cfg.data.source).scale) == ((4, 4) if degradation == "reds" else (1, 1))


def test_variant_is_required(cli: Callable[..., Outcome]) -> None:
    outcome = cli("data=reds")
    assert outcome.status == 2
    assert outcome.err.startswith(
        "data.variant: a value is required (conf/data/reds.yaml): set data.variant=blur_bicub"
    )
