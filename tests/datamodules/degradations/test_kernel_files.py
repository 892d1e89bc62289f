import hashlib
import math
import re
import tomllib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from datamodules.degradations import kernel_files
from datamodules.degradations.kernel_files import KernelSuite, folder, twelve, usrnet12
from datamodules.errors import InputError
from run import CONF
from tests.experiments.config.test_configs import compose

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(3)


def kernel(size: int) -> np.ndarray:
    values = RNG.random((size, size)) + 0.01
    return values / values.sum()


def refusal(call: Callable[..., KernelSuite], path: Path, **options: bool) -> str:
    """The message of the InputError, which is one line and names the file."""
    with pytest.raises(InputError) as error:
        call(path, **options)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_twelve_has_the_published_moments() -> None:
    """To the printed digits: standard deviations along both axes, direction of the longer, centroid."""
    suite = twelve()
    assert len(suite.names) == len(set(suite.names)) == 12
    assert suite.kernels.shape == (12, 1, 25, 25)
    assert suite.kernels.dtype == torch.float32
    assert suite.kernels.min() >= 0
    assert (suite.kernels.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    table = [(0.699, 0.699), (1.2, 1.2), (1.6, 1.6), (2.0, 2.0), (1.414, 2.646), (1.225, 3.0), (1.225, 2.828)]
    directions = [None, None, None, None, 0.0, 144.0, 45.0, 52.2]
    peaks = [0.3247, 0.1105, 0.0622, 0.0398, 0.0425, 0.0433, 0.0459, 0.0269]
    grid = np.arange(25) - 12
    y, x = np.meshgrid(grid, grid, indexing="ij")
    rows = zip(suite.kernels[:8, 0].double().numpy(), [*table, (2.236, 2.646)], directions, peaks, strict=True)
    for k, (short, long), direction, peak in rows:
        assert abs((k * x).sum()) < 1e-6
        assert abs((k * y).sum()) < 1e-6
        values, vectors = np.linalg.eigh(
            [[(k * x * x).sum(), (k * x * y).sum()], [(k * x * y).sum(), (k * y * y).sum()]]
        )
        assert np.sqrt(values) == pytest.approx([short, long], abs=6e-4)
        assert k.max() == pytest.approx(peak, abs=5e-5)
        if direction is not None:
            assert math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])) % 180 == pytest.approx(direction, abs=0.05)


def test_the_shipped_kernels_are_the_published_ones() -> None:
    """Facts that were measured on the authors' kernels_12.mat, and the checksum of its arrays."""
    suite = usrnet12()
    assert suite.names == [f"k{i}" for i in range(1, 13)]
    assert suite.kernels.shape == (12, 1, 25, 25)
    assert suite.kernels.dtype == torch.float32
    stored = suite.kernels.numpy()
    assert hashlib.sha256(stored.astype("<f4").tobytes()).hexdigest() == (
        "0eb797dec55e9772e23dfa10abde726211166d183c4621e50d749364d01b1b98"
    )
    kernels = stored[:, 0].astype(np.float64)
    assert kernels.min() >= 0
    peaks = [0.3247, 0.1105, 0.0622, 0.0398, 0.0425, 0.0433, 0.0459, 0.0269, 0.0747, 0.0860, 0.0413, 0.0304]
    assert kernels.max((1, 2)) == pytest.approx(peaks, abs=5e-5)
    # Not quite 1, and where below it, the official blur of 8-bit images loses a level of a flat area.
    sums = kernels.sum((1, 2))
    assert np.abs(sums - 1).max() < 1.3e-8
    assert [i for i, total in enumerate(sums, 1) if total < 1] == [3, 4, 5, 7, 9]
    index = np.arange(25)
    centroids = np.stack([kernels.sum(2) @ index, kernels.sum(1) @ index], 1)
    motion = [[10.181, 13.020], [10.643, 14.000], [11.921, 10.839], [11.925, 13.109]]
    assert np.abs(centroids - np.array([[12, 12]] * 8 + motion)).max() < 6e-4
    widths = [(1.637, 6.417), (1.978, 5.951), (1.690, 5.939), (2.394, 3.749)]
    grid = np.stack(np.meshgrid(index, index, indexing="ij")).reshape(2, -1)
    for k, expected in zip(kernels[8:], widths, strict=True):
        variances = np.linalg.eigvalsh(np.cov(grid, aweights=k.ravel(), ddof=0))
        assert np.sqrt(variances) == pytest.approx(expected, abs=6e-4)
    # The ninth and tenth are Levin et al.'s, 23 pixels wide, with a border of zeros; the Gaussians follow a formula.
    for k in kernels[8:10]:
        assert not k[[0, -1]].any()
        assert not k[:, [0, -1]].any()
    assert np.abs(kernels[:8] - twelve().kernels[:8, 0].numpy()).max() < 1e-15
    licence = kernel_files.USRNET12.with_suffix(".LICENSE").read_text()
    assert "MIT License\n\nCopyright (c) 2019 Kai Zhang\n" in licence
    assert "permission notice shall be included" in licence


def test_the_shipped_kernels_are_the_default() -> None:
    for chosen in (["degradation=usrnet_test"], ["task=evaluate", "suite=usrnet_table1"]):
        node = compose(*chosen).degradation.kernels.suite
        assert torch.equal(hydra.utils.instantiate(node).kernels, usrnet12().kernels)


def test_an_installed_wheel_has_the_kernels_and_their_licence() -> None:
    config = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    there = kernel_files.USRNET12.parent
    files = {file.name for pattern in config["*"] for file in there.glob(pattern)}
    assert files == {"usrnet_kernels.npz", "usrnet_kernels.LICENSE"}


def test_the_shakes_of_twelve_stay_as_they_are() -> None:
    """They are part of a published protocol: neither the machine nor an edit may change them."""
    shakes = twelve().kernels[8:, 0].double().numpy()
    index = np.arange(25)
    centroids = np.stack((shakes.sum(2) @ index, shakes.sum(1) @ index), 1)
    expected = [[13.448, 10.849], [12.526, 12.843], [12.749, 12.865], [12.735, 10.581]]
    assert np.abs(centroids - expected).max() < 1e-3


def test_folder_reads_every_kind_and_pads_to_the_largest(tmp_path: Path) -> None:
    one, stack, cells = kernel(5), np.stack([kernel(4), kernel(4)]), np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = kernel(7).astype(np.float32), kernel(8)
    gray = RNG.integers(0, 65536, (3, 3)).astype(np.uint16)
    np.save(tmp_path / "a.npy", one)
    np.save(tmp_path / "b.npy", stack[:, None])
    scipy.io.savemat(tmp_path / "c.mat", {"kernels": cells})
    Image.fromarray(gray).save(tmp_path / "d.PNG")
    scipy.io.savemat(tmp_path / "e.mat", {"cube": np.moveaxis(stack, 0, 2)})
    (tmp_path / "readme.txt").write_text("no kernel")
    (tmp_path / "sub.npy").mkdir()
    suite = folder(tmp_path)
    assert suite.names == ["a", "b-1", "b-2", "c-1", "c-2", "d", "e-1", "e-2"]
    assert suite.kernels.shape == (8, 1, 8, 8)
    assert suite.kernels.dtype == torch.float32
    assert (suite.kernels.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    # Index floor(k/2) of each lies on index 4.
    originals = [one, *stack, cells[0, 0], cells[0, 1], gray / gray.sum(), *stack]
    for got, original in zip(suite.kernels[:, 0].numpy(), originals, strict=True):
        size = len(original)
        start = 4 - size // 2
        assert np.abs(got[start : start + size, start : start + size] - original).max() < 1e-7
    assert torch.equal(folder(tmp_path / "b.npy").kernels, suite.kernels[1:3, :, 2:6, 2:6])


@pytest.mark.parametrize("sizes", [(4, 5), (5, 4), (4, 8), (3, 9), (1, 2)])
def test_padding_keeps_the_centre(tmp_path: Path, sizes: tuple[int, int]) -> None:
    for name, size in zip("ab", sizes, strict=True):
        delta = np.zeros((size, size))
        delta[size // 2, size // 2] = 1
        np.save(tmp_path / f"{name}.npy", delta)
    kernels = folder(tmp_path).kernels
    assert torch.equal(kernels[0], kernels[1])


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0.6, -0.1], [0.25, 0.25]]), "negative value -0.1"),
        (np.array([[0.5, np.nan], [0.25, np.inf]]), "2 values that are not finite"),
        (
            np.full((3, 3), 0.12),
            "has the sum 1.08, expected 1 within 0.001: set degradation.kernels.suite.normalise=true",
        ),
        (np.zeros((3, 3)), "zero everywhere"),
        (np.full((3, 4), 1 / 12), r"shape (3, 4), expected a square kernel"),
        (np.ones((1, 5)) / 5, r"shape (1, 5)"),
        (np.zeros((0, 0)), r"shape (0, 0)"),
        (np.full((2, 2), 0.25 + 0j), "complex128 values"),
    ],
)
def test_what_is_no_kernel(tmp_path: Path, suffix: str, array: np.ndarray, message: str) -> None:
    path = tmp_path / f"bad{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        if array.dtype == complex:
            array = array * (1 + 1j)
        scipy.io.savemat(path, {"k": array})
    assert message in refusal(folder, path)


def test_normalising_on_request_and_within_the_tolerance(tmp_path: Path) -> None:
    good = kernel(5)
    np.save(tmp_path / "k.npy", good * 1.0009)
    assert np.abs(folder(tmp_path).kernels[0, 0].numpy() - good).max() < 1e-7
    np.save(tmp_path / "k.npy", good * 255)
    said = refusal(folder, tmp_path / "k.npy")
    assert "has the sum 255" in said
    key = re.findall(r"set (\S+) to divide", said)
    path = f"degradation.kernels.suite.path={tmp_path / 'k.npy'}"
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):  # as the line says
        cfg = hydra.compose("config", overrides=["degradation=own_kernels", path, *key])
    made = hydra.utils.instantiate(cfg.degradation.kernels.suite)
    assert np.abs(made.kernels[0, 0].numpy() - good).max() < 1e-7
    assert np.abs(folder(tmp_path, normalise=True).kernels[0, 0].numpy() - good).max() < 1e-7


def test_gray_kernel_stored_as_colour(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 5), np.uint8)
    for channels, name in ((1, "gray.png"), (3, "colour.png")):
        Image.fromarray(levels.repeat(channels, 1).reshape(5, 5, channels).squeeze()).save(tmp_path / name)
    found = folder(tmp_path).kernels
    assert torch.equal(found[0], found[1])
    assert np.abs(found[0, 0].numpy() - levels / levels.sum()).max() < 1e-7


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "not found, expected a folder of kernels" in refusal(folder, tmp_path / "absent")
    assert "holds no kernel" in refusal(folder, tmp_path)
    for name in ("a.npy", "b.mat", "c.png"):
        path = tmp_path / name
        for content in (b"", b"no such format, though long enough for a header" * 10):
            path.write_bytes(content)
            assert "cannot be read" in refusal(folder, path)
        path.unlink()
    np.save(tmp_path / "pickle.npy", np.array([{"code": 1}]), allow_pickle=True)
    assert "cannot be read" in refusal(folder, tmp_path / "pickle.npy")
    np.savez(tmp_path / "zip", a=kernel(3))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    assert "several arrays" in refusal(folder, tmp_path / "zip.npy")
    np.save(tmp_path / "flat.npy", np.ones(4) / 4)
    assert "has shape (4,)" in refusal(folder, tmp_path / "flat.npy")
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "rgb.png")
    said = refusal(folder, tmp_path / "rgb.png")
    assert "mode RGB, expected a gray one" in said
    exec(re.findall("in Python by (.*)", said)[0].replace("PIL.Image", "Image").replace("FILE", "tmp_path / 'rgb.png'"))
    assert torch.equal(folder(tmp_path / "rgb.png").kernels, torch.full((1, 1, 4, 4), 1 / 16))
    np.save(tmp_path / "3ch.npy", np.ones((5, 5, 3)))
    assert "has shape (5, 5, 3), expected (k, k), " in refusal(folder, tmp_path / "3ch.npy")
    Image.new("L", (4, 3), 7).save(tmp_path / "wide.png")
    assert "shape (3, 4)" in refusal(folder, tmp_path / "wide.png")


def test_usrnet12_takes_the_official_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kernels_12.mat"
    assert kernel_files.USRNET12_URL in refusal(usrnet12, path, download=False)
    path.write_bytes(b"x" * kernel_files.USRNET12_SIZE)
    assert "expected sha256 20a43a8b" in refusal(usrnet12, path)

    cells = np.empty((1, 12), dtype=object)
    for i in range(12):
        cells[0, i] = kernel(25).astype(np.float32)
    scipy.io.savemat(path, {"kernels": cells})
    asked = []
    monkeypatch.setattr(kernel_files, "fetch", lambda url, where, **check: asked.append((url, where, check["size"])))
    suite = usrnet12(path)
    assert asked == [(kernel_files.USRNET12_URL, path, 11191)]
    assert suite.names == [f"k{i}" for i in range(1, 13)]
    assert np.abs(suite.kernels[4, 0].numpy() - cells[0, 4]).max() < 1e-8


def test_matlab_73_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(kernel_files.importlib, "import_module", absent)
    path = tmp_path / "Levin09.mat"
    assert "not found, expected a folder of kernels" in refusal(folder, path)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header.ljust(512, b"\0"))
    assert "pip install -e '.[matlab]'" in refusal(folder, path)


def test_matlab_73_is_read(tmp_path: Path) -> None:
    """A file laid out as MATLAB does: transposed matrices in #refs#, a cell array of references, a 512-byte header."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "Levin09.mat"
    kernels = [kernel(size) for size in (19, 17, 15, 27, 13, 21, 24, 23)]
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_dataset("kernels", (8, 1), dtype=h5py.ref_dtype)
        for i, k in enumerate(kernels):
            cells[i, 0] = file.create_dataset(f"#refs#/{'bcdefghi'[i]}", data=k.T).ref
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    suite = folder(path)
    assert suite.names == [f"Levin09-{i}" for i in range(1, 9)]
    assert suite.kernels.shape == (8, 1, 27, 27)
    assert np.abs(suite.kernels[1, 0, 5:22, 5:22].numpy() - kernels[1]).max() < 1e-7
    path.write_bytes(path.read_bytes()[:2000])
    assert "cannot be read" in refusal(folder, path)


@pytest.mark.parametrize("suffix", [".mat", ".npy", ".png", "claimed.npy", "cells.mat", "many.mat"])
def test_kernels_are_not_unpacked_beyond_a_limit(tmp_path: Path, suffix: str) -> None:
    """A few MB, or a few bytes that claim to be more, that would take gigabytes."""
    file = tmp_path / f"a{suffix}"
    if suffix == ".mat":
        scipy.io.savemat(file, {"kernels": np.zeros((1300, 1300, 10))}, do_compression=True)
    elif suffix == ".npy":
        np.save(file, np.zeros((4200, 4200), np.uint8))
    elif suffix == ".png":
        Image.new("L", (4200, 4200)).save(file)
    elif suffix == "claimed.npy":
        np.save(file, np.zeros(3))
        file.write_bytes(file.read_bytes().replace(b"(3,), }" + 9 * b" ", b"(9" + 9 * b"0" + b",), }"))
    elif suffix == "cells.mat":
        scipy.io.savemat(file, {"kernels": np.array([[0.0], "b", "c"], object)[:, None]})
        file.write_bytes(file.read_bytes().replace(b"\x03\0\0\0\x01\0\0\0", b"\xff\xff\xff\x0f\x01\0\0\0", 1))
    else:  # all get the size of the largest
        scipy.io.savemat(file, {"large": kernel(1000), "small": np.stack([kernel(3)] * 20, -1)}, do_compression=True)
    tracemalloc.start()
    line = refusal(folder, file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.stat().st_size < 2**25
    assert peak < 2**28
    assert any(words in line for words in ("of values unpacked", "expected 16,777,216 at most", "cannot be read"))
