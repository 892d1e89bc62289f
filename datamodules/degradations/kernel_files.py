"""Named kernels that every model meets in the same order.

`usrnet12`, `gaussian8` and `twelve` need no file of the user; `folder` reads what others published, checked kernel by
kernel.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.degradations.kernels import anisotropic_gaussian, axis_aligned_gaussian, isotropic_gaussian
from datamodules.degradations.keyed_random import make_key
from datamodules.degradations.trajectories import camera_shake
from datamodules.errors import InputError
from datamodules.io.download import download as fetch
from datamodules.io.mat import check_unpacked

# The arrays of the authors' kernels_12.mat as they are, [12, 25, 25] in float32; their licence lies beside them.
USRNET12 = Path(__file__).with_name("usrnet_kernels.npz")
USRNET12_URL = (
    "https://raw.githubusercontent.com/cszn/KAIR/1109364ed6a4c411bc215274ee40c27b7f7b18f3/kernels/kernels_12.mat"
)
USRNET12_SIZE = 11_191
USRNET12_SHA256 = "20a43a8b8b1a7922dcfe0e106e40f8d68be3fabd4e647c063e6f005937a4d8a9"

# Variances along the long and the short axis in pixels^2, angle of the long axis in degrees from right towards down.
TWELVE_GAUSSIANS: tuple[tuple[float, float, float], ...] = (
    (0.7**2, 0.7**2, 0),
    (1.2**2, 1.2**2, 0),
    (1.6**2, 1.6**2, 0),
    (2.0**2, 2.0**2, 0),
    (7, 2, 0),
    (9, 1.5, 144),
    (8, 1.5, 45),
    (7, 5, 52.2),
)
# Of the first 1000 draws of camera_shake, those about as long and wide as USRNet's four, centred and uncut.
TWELVE_SHAKES = (624, 238, 417, 495)
# Smallest and largest standard deviation in high-resolution pixels, by scale. That of x4 is in DAN's code; those of x2
# and x3 are IKC's, which DAN is believed to follow.
GAUSSIAN8_WIDTHS = {2: (0.8, 1.6), 3: (1.35, 2.4), 4: (1.8, 3.2)}
SUM_TOLERANCE = 1e-3
MOST_VALUES = 2**24  # of all kernels of a path together: 26,000 of 25x25, in 128 MB


# What a file holds: where each kernel was found, for messages, and the kernel as it was found.
Found = list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class KernelSuite:
    """Kernels [N, 1, k, k] (float32, sum 1, centre at index floor(k/2)) and a name for each."""

    names: list[str]
    kernels: Tensor


def twelve() -> KernelSuite:
    """Twelve 25x25 kernels in the manner of USRNet's test kernels, made by formula: those of earlier versions.

    The eight Gaussians are the first of its Table 1, by their parameters (`TWELVE_GAUSSIANS`). In the place of its four
    motion kernels are four draws of `camera_shake` of similar extent (`TWELVE_SHAKES`), on which figures do not compare
    with published ones (`usrnet12` has the originals).
    """
    rows = torch.tensor(TWELVE_GAUSSIANS, dtype=torch.float64)
    gaussians = anisotropic_gaussian(rows[:, :2], rows[:, 2].deg2rad(), 25)
    upright = rows[:, 2] == 0
    gaussians[upright] = axis_aligned_gaussian(rows[upright, :2].flip(1).sqrt(), 25)
    keys = torch.tensor([make_key("suites.twelve", i) for i in TWELVE_SHAKES])
    names = [f"gauss-{long:g}x{short:g}-{angle:g}deg" for long, short, angle in TWELVE_GAUSSIANS]
    names += [f"shake-{i}" for i in range(1, 5)]
    return KernelSuite(names, torch.cat((gaussians.float(), camera_shake(keys, 25))))


def gaussian8(scale: int, size: int = 21) -> KernelSuite:
    """Eight isotropic Gaussians of equally spaced widths, on which blind methods are tested ("Gaussian8").

    Args:
        scale: 2, 3 or 4; the widths are for it (`GAUSSIAN8_WIDTHS`).
        size: side in pixels.

    Sources: Gu et al. (IKC), CVPR 2019, section 4.1; Luo et al. (DAN), NeurIPS 2020, setting 1.

    Raises:
        ValueError: for a scale without published widths.
    """
    if scale not in GAUSSIAN8_WIDTHS:
        raise ValueError(f"scale is {scale}, expected one of {', '.join(map(str, GAUSSIAN8_WIDTHS))}")
    widths = torch.linspace(*GAUSSIAN8_WIDTHS[scale], 8, dtype=torch.float64)
    kernels = isotropic_gaussian(widths, size).float()
    return KernelSuite([f"gauss-{width:.3g}" for width in widths.tolist()], kernels)


def usrnet12(path: str | Path | None = None, download: bool = True) -> KernelSuite:
    """USRNet's twelve test kernels (25x25), named k1 to k12 as in its Table 1: the authors' arrays, to the bit.

    With `path` they are read from the official kernels_12.mat there, which is checked by size and checksum, and
    downloaded (11 KB) if it is absent and `download` is on; they are the same.

    Source: Zhang, Van Gool, Timofte, "Deep unfolding network for image super-resolution", CVPR 2020. k9 and k10 are
    kernels 8 and 7 of Levin, Weiss, Durand, Freeman, CVPR 2009, with a border of one pixel of zeros.

    Raises:
        InputError: the file at `path` is another one, or is absent and cannot be or may not be downloaded.
    """
    names = [f"k{i}" for i in range(1, 13)]
    if path is None:
        with np.load(USRNET12, allow_pickle=False) as file:
            return KernelSuite(names, torch.from_numpy(file["kernels"])[:, None])
    path = Path(path).expanduser()
    if not download:
        path = _existing(path, f"USRNet's kernels_12.mat: set download=true, or put {USRNET12_URL} there")
    fetch(USRNET12_URL, path, size=USRNET12_SIZE, sha256=USRNET12_SHA256)
    # Their sums are 1 but for 1.3e-8, too little for the division by them to change a value in float32.
    return _suite(names, [checked(label, array) for label, array in _read_mat(path)])


def folder(path: str | Path, normalise: bool = False) -> KernelSuite:
    """All kernels of a folder (not of its subfolders), or of one file, named after their files.

    .mat: every variable, a matrix, a stack [k, k, n] or a cell array of matrices. .npy: [k, k], [n, k, k] or
    [n, 1, k, k]. .png: gray or equal channels; an image has no scale, so it is normalised. Other files are passed over.
    The kernels are for true convolution. Smaller ones are padded with zeros to the largest, index floor(k/2) kept at
    the centre.

    Args:
        path: the folder or the file.
        normalise: divide .mat and .npy kernels by their sum too, which else must be within 1e-3 of 1.

    Raises:
        InputError: there is no kernel, or a file cannot be read or holds something else.
    """
    path = _existing(path, "a folder of kernels or a .mat, .npy or .png file")
    names: list[str] = []
    kernels: list[np.ndarray] = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        read = READERS.get(file.suffix.lower())
        if read is None or not file.is_file():
            continue
        of_file = [checked(label, array, normalise or read is _read_png) for label, array in read(file)]
        sizes = [len(kernel) for kernel in (*kernels, *of_file)]
        _refuse_large(file, len(sizes) * max(sizes, default=0) ** 2)
        names += [file.stem] if len(of_file) == 1 else [f"{file.stem}-{i}" for i in range(1, len(of_file) + 1)]
        kernels += of_file
    if not kernels:
        raise InputError(f"{path}: holds no kernel, expected .mat, .npy or .png files: give a path that has some")
    return _suite(names, kernels)


def _refuse_large(path: Path, values: int) -> None:
    if values > MOST_VALUES:
        raise InputError(
            f"{path}: makes {values:,} values (all kernels get the size of the largest), expected {MOST_VALUES:,} at "
            "most: give fewer or smaller kernels"
        )


def _existing(path: str | Path, expected: str) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path}: not found, expected {expected}")
    return path


def checked(label: str, array: np.ndarray, normalise: bool = False) -> np.ndarray:
    """The kernel in float64, divided by its sum; `label` says where it is from."""
    problem = ""
    if not isinstance(array, np.ndarray):  # a sparse matrix
        problem = f"is a {type(array).__name__}, expected a full matrix"
    elif array.dtype.kind not in "fiub":
        problem = f"holds {array.dtype} values, expected real numbers"
    elif array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        problem = f"has shape {array.shape}, expected a square kernel (k, k)"
    elif not np.isfinite(array).all():
        problem = f"has {(~np.isfinite(array)).sum()} values that are not finite, expected none"
    elif array.min() < 0:
        problem = f"has the negative value {array.min():.3g}, expected a blur kernel, at least 0 everywhere"
    elif not array.any():
        problem = "is zero everywhere, expected a blur kernel with sum 1"
    elif not normalise and abs(array.sum(dtype=np.float64) - 1) > SUM_TOLERANCE:
        total = array.sum(dtype=np.float64)
        key = "degradation.kernels.suite.normalise=true"  # of the configs whose kernels are files
        problem = f"has the sum {total:.6g}, expected 1 within {SUM_TOLERANCE}: set {key} to divide by it"
    if problem:
        raise InputError(f"{label}: {problem}")
    kernel = array.astype(np.float64)
    return kernel / kernel.sum()


def _suite(names: list[str], kernels: list[np.ndarray]) -> KernelSuite:
    size = max(len(kernel) for kernel in kernels)
    stack = np.stack([centred(kernel, size) for kernel in kernels])[:, None]
    return KernelSuite(names, torch.from_numpy(stack).float())


def centred(array: np.ndarray, size: int) -> np.ndarray:
    """Zeros around a matrix, up to a square; what lay at index floor(k/2) of both sides does so again."""
    top, left = (size // 2 - side // 2 for side in array.shape)
    square = np.zeros((size, size), array.dtype)
    square[top : top + array.shape[0], left : left + array.shape[1]] = array
    return square


def _read_mat(path: Path) -> Found:
    import scipy.io

    check_unpacked(path, 8 * MOST_VALUES)
    try:
        variables = scipy.io.loadmat(path)
    except NotImplementedError:  # MATLAB 7.3
        return _read_hdf5(path)
    except Exception as error:  # scipy lets through whatever a damaged file provokes
        raise unreadable(path, "a MATLAB file", error) from error
    kernels: Found = []
    for name, value in variables.items():
        if not name.startswith("__"):
            kernels += _matrices(f"{path}: {name}", value)
    return kernels


def _read_hdf5(path: Path) -> Found:
    """MATLAB 7.3: an HDF5 file whose arrays are transposed and whose cells are references into the group #refs#."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise InputError(
            f"{path}: is a MATLAB 7.3 file, which needs h5py: pip install -e '.[matlab]', or save it in MATLAB with -v7"
        ) from error
    kernels: Found = []
    try:
        with h5py.File(path, "r") as file:
            for name in sorted(key for key in file if key != "#refs#"):
                _refuse_large(path, file[name].size)
                array = np.asarray(file[name]).T
                cells = _matrices(f"{path}: {name}", array)
                if array.dtype == object:
                    _refuse_large(path, sum(file[cell.item()].size for _, cell in cells))
                    cells = [(label, np.asarray(file[cell.item()]).T) for label, cell in cells]
                kernels += cells
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise unreadable(path, "a MATLAB 7.3 file", error) from error
    return kernels


def _matrices(label: str, value: np.ndarray) -> Found:
    """The kernels of one MATLAB variable: a matrix, a stack along the last axis, or a cell array in MATLAB's order."""
    if value.dtype == object:
        return [(f"{label}{{{i}}}", np.asarray(cell)) for i, cell in enumerate(value.ravel(order="F"), 1)]
    if value.ndim == 3:
        return [(f"{label}(:,:,{i + 1})", value[:, :, i]) for i in range(value.shape[2])]
    return [(label, value)]


def _read_npy(path: Path) -> Found:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # not read before its size is known
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        raise unreadable(path, "a plain .npy array", error) from error
    if not isinstance(array, np.ndarray):  # an .npz by another name
        raise InputError(f"{path}: holds several arrays, expected one: save each as its own .npy file")
    _refuse_large(path, array.size)
    if array.ndim == 3 and array.shape[0] == array.shape[1] > array.shape[2]:
        expected = "(k, k), (n, k, k) or (n, 1, k, k)"
        raise InputError(
            f"{path}: has shape {array.shape}, expected {expected}: of colours save the mean, array.mean(2)"
        )
    array = np.array(array)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    return [(f"{path}[{i}]", kernel) for i, kernel in enumerate(array)] if array.ndim == 3 else [(str(path), array)]


def _read_png(path: Path) -> Found:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            _refuse_large(path, image.width * image.height)
            mode, array = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(path, "a PNG image", error) from error
    if mode == "RGB" and (array == array[:, :, :1]).all():
        array = array[:, :, 0]
    if array.ndim != 2 or mode == "P":
        way = "PIL.Image.open(FILE).convert('L').save(FILE)"
        raise InputError(
            f"{path}: is an image of mode {mode}, expected a gray one: convert it to gray, in Python by {way}"
        )
    return [(str(path), array)]


READERS: dict[str, Callable[[Path], Found]] = {".mat": _read_mat, ".npy": _read_npy, ".png": _read_png}


def unreadable(path: Path, expected: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path}: cannot be read ({reason}), expected {expected}: get the file again")
