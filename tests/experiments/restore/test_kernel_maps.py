"""Photographs under kernels that share them."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.degradations import kernel_maps
from datamodules.degradations.kernel_maps import given_kernels
from datamodules.errors import InputError
from experiments.models import Model
from experiments.restore import Restorer
from experiments.restore.adapt import Continued, place_kernel, place_weights
from experiments.restore.tiling import Span
from networks.base import RestorationNetwork
from networks.dmbsr import DMBSR
from networks.restored import Restored
from networks.usrnet import official_name
from tests.conftest import Outcome, photograph
from tests.helpers.networks import tiny

Cli = Callable[..., Outcome]


class Seen(RestorationNetwork):
    """Keeps what it was given; the result is the first map of weights."""

    inputs = ("lr", "kernels", "weights", "scale", "noise_level")
    scales = (1, 2, 3, 4)
    lr_sampling = "corner"

    def forward(self, lr: Tensor, kernels: Tensor, weights: Tensor, scale: int, noise_level: Tensor) -> Restored:
        self.kernels, self.weights = kernels, weights
        return Restored(sr=weights[:, :1].expand(-1, 3, -1, -1))


def restorer_of(network: RestorationNetwork) -> Restorer:
    return Restorer(Model("dmbsr", lambda _: network, network.scales), device="cpu")


def maps(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(0))


def whole(n: int) -> Span:
    return Span(0, n, 0, n)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_kept_pixels_have_the_weights_of_the_photograph(scale: int) -> None:
    weights = maps(2, 5, 7)
    placed = place_weights(weights, (5, 7), scale, whole(5), whole(7), "corner")
    assert placed.shape == (2, 5 * scale, 7 * scale)
    torch.testing.assert_close(placed[:, : 4 * scale + 1 : scale, ::scale], weights)
    flat = place_weights(torch.full((2, 5, 7), 0.5), (5, 7), scale, whole(5), whole(7), "centre")
    torch.testing.assert_close(flat, torch.full((2, 5 * scale, 7 * scale), 0.5))
    rows = torch.arange(5.0).view(1, 5, 1).expand(1, 5, 7)  # linear, so that interpolation gives the place itself
    expected = ((torch.arange(5.0 * scale) + 0.5) / scale - 0.5).clamp(0, 4)
    found = place_weights(rows, (5, 7), scale, whole(5), whole(7), "centre")
    torch.testing.assert_close(found, expected.view(1, -1, 1).expand(1, -1, 7 * scale))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_maps_of_the_size_of_the_result_move_as_the_kernel_does(scale: int) -> None:
    weights = maps(2, 5 * scale, 7 * scale)
    assert torch.equal(place_weights(weights, (5, 7), scale, whole(5), whole(7), "centre"), weights)
    placed = place_weights(weights, (5, 7), scale, whole(5), whole(7), "corner")
    moved = place_kernel(torch.ones(1, 1), scale)  # a correlation with it is the same move
    expected = torch.nn.functional.conv2d(weights[:, None], moved.flip(0, 1)[None, None], padding="same")[:, 0]
    torch.testing.assert_close(placed[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2])


@pytest.mark.parametrize("lr_sampling", ["corner", "centre"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_part_is_cut_of_the_whole_and_goes_on_beyond_its_end(lr_sampling: str, times: int) -> None:
    weights = maps(3, 6 * times, 9 * times)
    all_of_it = place_weights(weights, (6, 9), 2, whole(8), whole(12), lr_sampling)
    part = place_weights(weights, (6, 9), 2, Span(2, 5, 2, 5), Span(4, 12, 4, 12), lr_sampling)
    assert torch.equal(part, all_of_it[:, 4:10, 8:24])
    assert torch.equal(all_of_it[:, :, 18:], all_of_it[:, :, 17:18].expand(-1, -1, 6))


def test_tiles_get_their_part_of_the_maps() -> None:
    seen = Seen()
    weights = maps(3, 40, 60)
    image = torch.from_numpy(photograph(40, 60, 1)).permute(2, 0, 1) / 255
    fields: dict[str, Any] = {"scale": 2, "noise_level": 0.01, "kernels": np.ones((3, 5, 4)), "weights": weights}
    at_once = restorer_of(seen).restore(image, **fields).sr
    share = weights[:1] / weights.sum(0)
    torch.testing.assert_close(at_once[0, :79:2, :119:2], share[0])
    assert seen.kernels.shape == (1, 3, 7, 7)
    torch.testing.assert_close(seen.kernels.sum((2, 3)), torch.ones(1, 3))
    torch.testing.assert_close(seen.weights.sum(1), torch.ones(1, 80, 120))
    tiled = restorer_of(seen).restore(image, **fields, tile=32, overlap=8, batch=2).sr
    torch.testing.assert_close(tiled, at_once)


def test_maps_are_continued_with_the_image() -> None:
    seen = Seen()
    ramp = torch.linspace(0.1, 0.9, 34).expand(1, 26, 34)
    weights = torch.stack([ramp, 1 - ramp], 1)
    kernels = torch.full((1, 2, 9, 9), 1 / 81)
    found = Continued(seen)(
        lr=torch.rand(1, 3, 13, 17), kernels=kernels, weights=weights, scale=2, noise_level=torch.zeros(1, 1, 1, 1)
    )
    assert seen.weights.shape == (1, 2, 48, 56)
    assert seen.weights.min() >= 0
    torch.testing.assert_close(seen.weights.sum(1), torch.ones(1, 48, 56))
    torch.testing.assert_close(seen.weights[..., :26, :34], weights)
    assert found.sr.shape == (1, 3, 26, 34)
    jump = (seen.weights[..., 0] - seen.weights[..., -1]).abs().max()  # opposite borders meet
    assert jump < (weights[..., 0] - weights[..., -1]).abs().max() / 4


def test_one_kernel_everywhere_is_the_kernel_of_the_photograph() -> None:
    restorer = restorer_of(tiny("dmbsr"))
    image = torch.from_numpy(photograph(19, 26, 1)).permute(2, 0, 1) / 255
    kernel = torch.rand(5, 5)
    one = restorer.restore(image, scale=2, kernel=kernel, noise_level=0.02).sr
    shared = restorer.restore(
        image, scale=2, kernels=kernel.expand(3, 5, 5), weights=maps(3, 19, 26) + 0.1, noise_level=0.02
    ).sr
    torch.testing.assert_close(one, shared, rtol=0, atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    image = torch.rand(3, 8, 9)
    good: dict[str, Any] = {"kernels": torch.ones(2, 3, 3), "weights": torch.ones(2, 8, 9)}
    dmbsr, usrnet, blind = (restorer_of(tiny(name)) for name in ("dmbsr", "usrnet", "edsr"))
    for restorer, fields, message in (
        (dmbsr, {}, r"kernel: dmbsr needs the blur kernel .*kernels=FILE\.npz"),
        (usrnet, good, "kernels: given, but dmbsr takes one for the whole image"),
        (dmbsr, good | {"kernel": torch.ones(3, 3)}, "kernel: given beside kernels"),
        (dmbsr, {"kernels": good["kernels"]}, "weights: not given"),
        (dmbsr, good | {"weights": torch.ones(3, 8, 9)}, "weights: found 3 maps for 2 kernels"),
        (
            dmbsr,
            good | {"weights": torch.ones(2, 9, 8)},
            "found maps of 8x9, expected 9x8 as the image, or 18x16",
        ),
        (dmbsr, good | {"weights": -torch.ones(2, 8, 9)}, "weights: the least is -1"),
        (dmbsr, good | {"weights": torch.zeros(2, 8, 9)}, "weights: at a pixel all are 0"),
        (dmbsr, good | {"kernels": torch.zeros(2, 3, 3)}, "kernels: the sum of kernel 1 is 0"),
        (dmbsr, good | {"kernels": torch.full((2, 3, 3), torch.nan)}, "kernels: there are values that are not finite"),
        (dmbsr, good | {"kernels": torch.ones(3, 3)}, r"kernels: found float32 of shape \[3, 3\], expected numbers"),
    ):
        with pytest.raises(InputError, match=message):
            restorer.restore(image, scale=2, noise_level=0.01, **fields)
    with pytest.raises(InputError, match="kernels: given, but dmbsr takes none"):
        blind.restore(image, **good)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("good.npz", kernels=np.full((2, 3, 3), 2), weights=np.stack([np.ones((4, 5)), np.full((4, 5), 3)]))
    kernels, weights = given_kernels("good.npz")
    torch.testing.assert_close(kernels, torch.full((2, 3, 3), 1 / 9))
    torch.testing.assert_close(weights[1], torch.full((4, 5), 0.75))
    np.savez("lacking.npz", kernels=np.ones((2, 3, 3)))
    np.save("one.npy", np.ones((2, 3, 3)))
    np.savez("pickled.npz", kernels=np.array([None]), weights=np.ones(3))
    np.savez("shape.npz", kernels=np.ones((2, 3, 3)), weights=np.ones((4, 5)))
    Path("text.npz").write_text("no archive")
    Path("half.npz").write_bytes(Path("good.npz").read_bytes()[:300])
    for name, message in (
        ("absent.npz", "no such file, expected a .npz file with kernels [K, k, k] and weights [K, h, w]"),
        ("lacking.npz", "lacking.npz: has no weights but kernels"),
        ("one.npy", "one.npy: is one array"),
        ("pickled.npz", "pickled.npz: cannot be read"),
        ("text.npz", "text.npz: cannot be read"),
        ("half.npz", "half.npz: cannot be read"),
        ("shape.npz", "shape.npz: weights: found float64 of shape [4, 5]"),
    ):
        with pytest.raises(InputError) as found:
            given_kernels(name)
        assert message in str(found.value)
        assert "\n" not in str(found.value)


def test_files_that_would_take_all_memory_or_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def header(shape: tuple[int, ...]) -> bytes:
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return stream.getvalue()

    rng, path = np.random.default_rng(0), tmp_path / "maps.npz"
    np.savez_compressed(path, kernels=rng.random((2, 9, 9)), weights=rng.random((2, 48, 64)))
    data = path.read_bytes()
    bombs = []
    for shape in ((1, 4_000_000, 4_000_000), (1, 2**10, 2**10), (2**63, 0, 1)):
        kernels = io.BytesIO()
        np.save(kernels, np.ones((1, 3, 3), np.float32))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("kernels.npy", kernels.getvalue())
            file.writestr("weights.npy", header(shape) + bytes(100))
        bombs.append(path.read_bytes())
    path.write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(kernel_maps, "_LARGEST", 2 * 48 * 64 - 1)
        with pytest.raises(InputError, match=r"weights of shape \[2, 48, 64\] is too large"):
            given_kernels(str(path))
    flipped = data[:3000] + bytes(255 - byte for byte in data[3000:3008]) + data[3008:]
    for content in (flipped, *bombs, header((1, 4_000_000, 4_000_000))):
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"maps.npz: cannot be read \(.*expected a .npz file with kernels"
        ) as caught:
            given_kernels(str(path))
        assert caught.value.key == "kernels"


def test_from_the_command_line(cli: Cli, tmp_path: Path, make_photographs: Any) -> None:
    folder = make_photographs(1)
    height, width = photograph_size(folder)
    np.savez("maps.npz", kernels=np.ones((2, 3, 3)), weights=maps(2, height, width).numpy())
    np.savez("small.npz", kernels=np.ones((2, 3, 3)), weights=np.ones((2, 3, 3)))
    torch.manual_seed(0)
    network = ["model=dmbsr", "model.n_iter=1", "model.widths=[2,2,2,2]", "weights=published.pth"]
    state = DMBSR(n_iter=1, widths=(2, 2, 2, 2)).state_dict()
    torch.save({official_name(name): value for name, value in state.items()}, "published.pth")
    command = ["task=restore", *network, f"input={folder}", "output=out", "scale=2", "noise_level=0.01"]
    outcome = cli(*command, "kernels=maps.npz")
    assert outcome.status == 0, outcome.err
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    outcome = cli(*command, "kernels=small.npz")
    assert "was made with kernels=maps.npz, this is small.npz" in outcome.err
    outcome = cli(*command, "kernels=small.npz", "replace=true")
    assert outcome.status == 1
    assert "found maps of 3x3, expected" in outcome.err
    outcome = cli(*command, "kernels=absent.npz")
    assert outcome.status == 1
    assert outcome.err.startswith("kernels=absent.npz: no such file")


def photograph_size(folder: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(next(folder.iterdir())) as image:
        return image.height, image.width
