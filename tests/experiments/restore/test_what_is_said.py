"""task=restore: what is said of photographs that lose something, of files that are passed over, and of results."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from datamodules.io.read_photo import RAW_SUFFIXES, read_photograph
from experiments.restore import Restorer
from tests.conftest import Outcome, photograph
from tests.helpers.phone_and_camera import heic, write_raw
from tests.helpers.pipes import make_pipe

Cli = Callable[..., Outcome]
BICUBIC = ["task=restore", "model=bicubic", "scale=2", "trainer.accelerator=cpu"]
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROFILE = _SRGB[:16] + b"GRAY" + _SRGB[20:]  # says that it is for gray


def eight(seed: int = 0) -> np.ndarray:
    return photograph(16, 18, seed)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def said_of(outcome: Outcome, path: Path) -> list[str]:
    return [line.removeprefix(f"{path}: ") for line in outcome.err.splitlines() if line.startswith(f"{path}: ")]


def test_every_photograph_that_loses_something_is_named(cli: Cli, photographs: Path) -> None:
    first, second = (Image.fromarray(eight(seed)) for seed in range(2))
    for name in "ab":
        first.save(photographs / f"{name}.webp", save_all=True, append_images=[second])
        first.convert("CMYK").save(photographs / f"{name}_print.jpg")
        extra = np.dstack([eight(), eight()[..., 0]])
        tifffile.imwrite(photographs / f"{name}.tif", extra, photometric="rgb", extrasamples=[0])
        deep = np.dstack([eight(), eight()[..., :2]]).astype(np.uint16)
        tifffile.imwrite(photographs / f"{name}_deep.tif", deep, photometric="rgb", extrasamples=[2, 0])
        first.save(photographs / f"{name}.png")
    outcome = cli(*BICUBIC, f"input={photographs}", "output=out", "format=same")
    assert outcome.status == 0, outcome.err
    for name in "ab":
        assert said_of(outcome, photographs / f"{name}.webp") == ["the first of 2 pictures"]
        assert said_of(outcome, photographs / f"{name}_print.jpg") == ["CMYK converted to sRGB"]
        for tif in (f"{name}.tif", f"{name}_deep.tif"):
            said = said_of(outcome, photographs / tif)
            assert said == ["1 channel(s) that are neither colour nor transparency left out"]
        assert said_of(outcome, photographs / f"{name}.png") == []


def test_what_holds_for_the_network_is_said_once(cli: Cli, photographs: Path) -> None:
    for seed in range(3):
        Image.fromarray(eight(seed)).save(photographs / f"{seed}.png")
    command = ["task=restore", "model=wiener", "scale=1", "kernel=disk:1", "trainer.accelerator=cpu"]
    outcome = cli(*command, f"input={photographs}", "output=out")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("The noise level was not given") == 1
    assert "wiener: The noise level was not given: 2/255 is assumed.\n" in outcome.err
    assert "assumed" not in cli(*command, f"input={photographs}", "output=out").err  # nothing is left to be done


def test_what_is_no_loss_is_said_once_for_all(cli: Cli, photographs: Path) -> None:
    for name in "abc":
        write_raw(photographs / f"{name}.dng", (40000, 20000, 10000))
        first, second = (Image.fromarray(photograph(48, 48, seed)) for seed in range(2))
        first.save(photographs / f"{name}_two.webp", save_all=True, append_images=[second])
    command = ["task=restore", "model=wiener", "scale=1", "kernel=disk:1", "trainer.accelerator=cpu", "tile=32"]
    outcome = cli(*command, f"input={photographs}", "output=out")
    assert outcome.status == 0, outcome.err
    approximated = [note for note in said_of(outcome, photographs / "a.dng") if "tiles" in note]
    assert len(approximated) == 1
    for note in (approximated[0], "developed by LibRaw"):
        assert outcome.err.count(note) == 1
    for name in "abc":
        assert said_of(outcome, photographs / f"{name}_two.webp") == ["the first of 2 pictures"]


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (".png", []),
        (".tif", []),
        (".jpg", ["16 bits a channel reduced to the 8 that .jpg holds"]),
        (
            ".webp",
            [
                "16 bits a channel reduced to the 8 that .webp holds",
                "gray stored as colour and its colour profile left out, for WebP has no gray",
                "its dpi left out, which WebP does not hold",
            ],
        ),
    ],
)
def test_what_the_format_of_a_result_cannot_hold(
    cli: Cli, tmp_path: Path, photographs: Path, suffix: str, expected: list[str]
) -> None:
    gray = eight()[..., 0].astype(np.uint16) * 257
    path = photographs / "deep.tif"
    tifffile.imwrite(
        path, gray, resolution=(300, 300), resolutionunit="inch", iccprofile=PROFILE, metadata=None, software=False
    )
    outcome = cli(*BICUBIC, f"input={path}", f"output=x{suffix}")
    assert outcome.status == 0, outcome.err
    assert said_of(outcome, path) == expected
    pixels = read_photograph(tmp_path / f"x{suffix}").pixels
    assert pixels.dtype == (np.uint8 if expected else np.uint16)
    enlarged = Restorer.load(None, model="bicubic", device="cpu").restore(gray, 2).sr
    assert np.abs(pixels[..., 0] * (257.0 if expected else 1) - enlarged).mean() < 2 * 257


def test_other_files_are_counted(cli: Cli, tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(eight()).save(photographs / "a.png")
    Image.fromarray(eight()).save(photographs / "b.gif")
    (photographs / "below").mkdir()
    (photographs / "below" / "IMG_1.HEIC").write_bytes(heic(eight(1)))
    (photographs / "IMG_2.heic").write_bytes(heic(eight(2)))
    write_raw(photographs / "IMG_3.DNG", (40000, 20000, 10000))
    (photographs / ".hidden.gif").write_bytes(b"")
    monkeypatch.setattr("datamodules.io.read_photo.find_spec", lambda name: None)  # without the extra
    extra = ".dng and .heic are read after pip install -c constraints.txt -e '.[photos]'; "
    for given in (photographs, f"{photographs}/**/*"):
        outcome = cli(*BICUBIC, f"input={given}", "output=in/out", "replace=true")
        assert outcome.status == 0, outcome.err
        others = f"4 other file(s) (1 .dng, 1 .gif, 2 .heic): {extra}convert photographs among them to PNG or TIFF"
        assert outcome.err.splitlines()[0] == f"input={given}: passed over {others}"
        assert outcome.out.startswith("restored: 1 in ")
    outcome = cli(*BICUBIC, f"input={photographs / 'below'}", "output=other")
    assert outcome.status == 1
    assert f"input={photographs / 'below'}: holds no image but 1 other file(s) (1 .heic): .heic are" in outcome.err
    assert outcome.err.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    outcome = cli(*BICUBIC, f"input={photographs}", "output=in/out")
    assert outcome.status == 0, outcome.err
    assert outcome.out == "restored: 4 in in/out, 1 of them before\n"
    assert "passed over 1 other file(s) (1 .gif): convert" in outcome.err
    assert said_of(outcome, photographs / "IMG_3.DNG")[0].startswith("developed by LibRaw")
    expected = Restorer.load(None, model="bicubic", device="cpu").restore(eight(1), 2).sr
    assert np.array_equal(read_photograph(photographs / "out" / "below" / "IMG_1.png").pixels, expected)
    assert read_photograph(photographs / "out" / "IMG_3.png").pixels.dtype == np.uint16


def test_pipes_are_named_and_the_rest_is_restored(cli: Cli, tmp_path: Path, photographs: Path) -> None:
    Image.fromarray(eight()).save(tmp_path / "real.png")
    (photographs / "a.png").symlink_to(tmp_path / "real.png")
    make_pipe(photographs / "b.png")
    for given in (photographs, photographs / "*.png"):
        outcome = cli(*BICUBIC, f"input={given}", "output=out")
        assert outcome.status == 1
        assert said_of(outcome, photographs / "b.png") == [
            "is a named pipe, expected a regular file: save what it holds as one"
        ]
        assert (tmp_path / "out" / "a.png").exists()
    outcome = cli(*BICUBIC, f"input={photographs / 'b.png'}", "output=other")
    assert outcome.status == 1
    assert "is a named pipe" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("model=wiener scale=1 kernel=pipe.npy", "kernel=pipe.npy: no such file, nor a formula"),
        ("ckpt=pipe.ckpt", "pipe.ckpt: no such checkpoint"),
        ("model=ed_dsrn weights=pipe.pth", "pipe.pth: no such file of weights"),
        ("run=run", "run=run: no run folder (config.yaml is missing there)"),
    ],
)
def test_pipes_are_no_files_of_other_keys(cli: Cli, tmp_path: Path, arguments: str, expected: str) -> None:
    Image.fromarray(eight()).save(tmp_path / "a.png")
    (tmp_path / "run").mkdir()
    for name in ("pipe.npy", "pipe.ckpt", "pipe.pth", "run/config.yaml"):
        make_pipe(tmp_path / name)
    outcome = cli("task=restore", "input=a.png", "output=out", "trainer.accelerator=cpu", *arguments.split())
    assert outcome.status == 1
    assert outcome.err.startswith(expected)
    assert outcome.err.count("\n") == 1


def test_all_results_of_one_name_are_told(cli: Cli, tmp_path: Path, photographs: Path) -> None:
    for name in ("a.jpg", "a.png", "a.bmp", "b.jpg", "b.png", "c.png"):
        Image.fromarray(eight()).save(photographs / name)
    outcome = cli(*BICUBIC, "input=in", "output=out")
    assert outcome.status == 1
    assert outcome.err == (
        "out/a.png: is the result of in/a.bmp and of in/a.jpg and of in/a.png; out/b.png: is the result of in/b.jpg "
        "and of in/b.png: restore them into different folders, or take those of one suffix by a pattern, such as "
        "input='in/*.png'\n"  # format=same would not do for BMP
    )
    (photographs / "a.bmp").unlink()
    outcome = cli(*BICUBIC, "input=in", "output=out")
    ways = "restore them into different folders, or keep their suffixes with format=same, or take those of one suffix"
    assert f": {ways} by a pattern" in outcome.err
    assert cli(*BICUBIC, "input=in", "output=out", "format=same").out == "restored: 5 in out\n"
    for number in range(25):
        for suffix in ("jpg", "png"):
            Image.fromarray(eight()).save(photographs / f"{number:02}.{suffix}")
    outcome = cli(*BICUBIC, "input=in", "output=more")
    assert outcome.err.count("is the result of") == 20
    assert "; and 7 more: " in outcome.err
    outcome = cli(*BICUBIC, "input=[in/a.png,in/c.png]", "output=in")
    assert outcome.err == (
        "in/a.png: the result would replace a photograph of input=; in/c.png: the result would replace a photograph of "
        "input=: give another output=\n"
    )
    assert not (tmp_path / "more").exists()


def test_pairs_of_a_camera_are_restored_by_a_pattern(cli: Cli, photographs: Path) -> None:
    for number in range(2):
        Image.fromarray(eight()).save(photographs / f"IMG_{number}.JPG")
        write_raw(photographs / f"IMG_{number}.CR2", (40000, 20000, 10000))
    outcome = cli(*BICUBIC, "input=in", "output=out")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    pattern = outcome.err.split(" such as input='")[1].removesuffix("'\n")
    assert pattern == "in/*.JPG"
    assert cli(*BICUBIC, f"input={pattern}", "output=out").out == "restored: 2 in out\n"


def test_an_input_that_is_not_there(cli: Cli, photographs: Path) -> None:
    for name in ("a.png", "b.png", "a(1.png"):
        Image.fromarray(eight()).save(photographs / name)
    command = f"did you mean: python run.py {' '.join(BICUBIC)}"
    for given, said in (
        ("in/A.PNG", "give a photograph, a folder, or a pattern in quotes; did you mean a.png?"),
        ("in/a.png in/b.png", f"{command} 'input=[in/a.png,in/b.png]' output=out"),
        (",", "give a photograph, a folder, or a pattern in quotes"),
        ("a" * 300, "give a photograph, a folder, or a pattern in quotes"),
        ("in/a.png ~b.png", "give a photograph, a folder, or a pattern in quotes"),
        ("~b.png", "give a photograph, a folder, or a pattern in quotes"),
        ("in/a.png,in/a(1.png", f"{command} 'input=[in/a.png,'\"'\"'in/a(1.png'\"'\"']' output=out"),
        ("in/a.png,", f"{command} input=in/a.png output=out"),
        ("in/a.png;in/c.png", "give a photograph, a folder, or a pattern in quotes"),
    ):
        assert cli(*BICUBIC, f"input={given}", "output=out").err.startswith(f"input={given}: does not exist: {said}")


@pytest.mark.many
@pytest.mark.parametrize("suffix", [".gif", ".heic", ".BMP", ".avif", ".jp2", ".png.bak", *RAW_SUFFIXES[:1]])
def test_output_that_cannot_be_written(cli: Cli, tmp_path: Path, photographs: Path, suffix: str) -> None:
    Image.fromarray(eight()).save(photographs / "a.png")
    for given in ("in/a.png", "in"):
        outcome = cli(*BICUBIC, f"input={given}", f"output=x{suffix}")
        assert outcome.status == 1
        expected = f".png, .tif, .tiff, .jpg, .jpeg, .webp, or x{suffix}/ for a folder\n"
        assert outcome.err == f"output=x{suffix}: found {Path(f'x{suffix}').suffix}, expected {expected}"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert cli(*BICUBIC, "input=in", f"output=x{suffix}/").out == f"restored: 1 in x{suffix}\n"
    assert cli(*BICUBIC, "input=in", "output=v1.5").out == "restored: 1 in v1.5\n"
