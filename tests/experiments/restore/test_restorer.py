"""What goes in and what comes out, for every model of conf/model/."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.errors import InputError
from experiments.models import Model
from experiments.restore import Restorer
from experiments.restore.receptive_field import alignment
from networks.bicubic import Bicubic
from networks.ensemble import SelfEnsemble
from networks.ops.resize import bicubic_resize
from tests.conftest import photograph
from tests.helpers.networks import MODELS, tiny

KERNEL = np.ones((3, 3)) / 9


def restorer_of(option: str, **options: Any) -> Restorer:
    network = tiny(option)
    return Restorer(Model(option, lambda _: network, network.scales), device="cpu", **options)


def needed(restorer: Restorer) -> dict[str, Any]:
    return {
        **({"kernel": KERNEL} if restorer.needs_kernel else {}),
        **({"noise_level": 0.02} if "noise_level" in restorer.inputs else {}),
        **({"scale": restorer.scales[1]} if len(restorer.scales) > 1 else {}),
    }


@pytest.mark.many
@pytest.mark.parametrize("option", MODELS)
def test_any_size_and_kind_of_image(option: str) -> None:
    restorer = restorer_of(option)
    fields = needed(restorer)
    scale = fields.get("scale", restorer.scales[0])
    for height, width in ((1, 1), (1, 7), (23, 18)):
        colour = photograph(height, width, 2)
        found = restorer.restore(colour, **fields)
        assert found.scale == scale
        assert found.sr.shape == (scale * height, scale * width, 3)
        assert found.sr.dtype == np.uint8
        deep = restorer.restore(colour[..., 0].astype(np.uint16) * 257, **fields).sr
        assert (deep.shape, deep.dtype) == ((scale * height, scale * width), np.uint16)
        tensor = restorer.restore(torch.from_numpy(colour).permute(2, 0, 1) / 255, **fields)
        assert isinstance(tensor.sr, Tensor)
        assert tensor.sr.dtype == torch.float32
        np.testing.assert_array_equal((tensor.sr * 255).round().to(torch.uint8).permute(1, 2, 0), found.sr)
        has_deblurred = "deblurred" in restorer._network(scale).outputs  # type: ignore[operator]  # a tuple of str
        assert (found.deblurred is not None) == has_deblurred
        if found.deblurred is not None:
            assert found.deblurred.shape == (height, width, 3)
        assert (found.kernel is not None) == (restorer.needs_kernel or restorer.estimates_kernel)


@pytest.mark.slow
@pytest.mark.parametrize("option", MODELS)
def test_in_half_precision_in_tiles_and_turned(option: str) -> None:
    restorer = restorer_of(option, precision="bf16", self_ensemble=True)
    fields = needed(restorer)
    scale = fields.get("scale", restorer.scales[0])
    done: list[tuple[int, int]] = []
    found = restorer.restore(
        photograph(70, 83, 3), **fields, tile=64, overlap=16, batch=2, progress=lambda *counts: done.append(counts)
    )
    assert found.sr.shape == (scale * 70, scale * 83, 3)
    assert done[-1] == (4, 4)
    field = restorer.field(scale)
    is_exact = field is not None and 2 * field + alignment(restorer._network(scale), scale) <= 16
    assert any("approximate" in note for note in found.notes) != is_exact


@pytest.mark.parametrize("option", ["ed_dsrn", "bicubic"])
def test_the_result_is_that_of_the_network(option: str) -> None:
    restorer, image = restorer_of(option), photograph(37, 52, 1)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = tiny(option)(lr=tensor)
    found = restorer.restore(tensor[0])
    torch.testing.assert_close(found.sr, expected.sr[0].clamp(0, 1), atol=1e-5, rtol=0)
    if expected.deblurred is not None:
        torch.testing.assert_close(found.deblurred, expected.deblurred[0].clamp(0, 1), atol=1e-5, rtol=0)
    ensemble = Restorer(Model(option, lambda _: tiny(option), restorer.scales), "cpu", self_ensemble=True)
    even = tensor[:, :, :32, :48]
    with torch.inference_mode():
        mean = SelfEnsemble(tiny(option))(lr=even).sr[0].clamp(0, 1)
    torch.testing.assert_close(ensemble.restore(even[0]).sr, mean, atol=1e-5, rtol=0)


def test_turned_tiles_equal_the_whole_on_odd_sizes() -> None:
    restorer = restorer_of("ed_dsrn", self_ensemble=True)
    image = torch.from_numpy(photograph(21, 141, 1)).permute(2, 0, 1) / 255
    whole = restorer.restore(image, tile=141)
    tiled = restorer.restore(image, tile=136)
    assert not tiled.notes
    for one, other in ((whole.sr, tiled.sr), (whole.deblurred, tiled.deblurred)):
        assert isinstance(one, Tensor)
        assert isinstance(other, Tensor)
        assert (one - other).abs().max() < 1e-5


def test_gray_images_are_restored_as_colour_ones_of_equal_channels() -> None:
    gray = torch.rand(1, 20, 24)
    with torch.inference_mode():
        red, green, blue = tiny("ed_dsrn")(lr=gray.expand(1, 3, -1, -1)).sr[0]
    expected = (0.299 * red + 0.587 * green + 0.114 * blue).clamp(0, 1)[None]
    torch.testing.assert_close(restorer_of("ed_dsrn").restore(gray).sr, expected, atol=1e-5, rtol=0)
    luma = restorer_of("vdsr")
    expected = luma.restore(gray.expand(3, -1, -1), scale=2).sr  # in which the channels are equal
    torch.testing.assert_close(luma.restore(gray, scale=2).sr, expected[:1], atol=2e-4, rtol=0)


def test_gray_stays_what_it_is() -> None:
    class Same(Bicubic):
        def forward(self, lr: Tensor) -> Any:
            restored = super().forward(lr)
            restored.sr = lr.expand(-1, 3, -1, -1)
            return restored

    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(Restorer(Model("same", lambda _: Same(1), (1,))).restore(levels).sr, levels)


def test_a_turned_kernel_and_images_that_are_none() -> None:
    wiener, image = Restorer.load(None, "wiener"), torch.rand(3, 24, 20)
    kernel = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    turned = wiener.restore(image, 1, kernel[::-1, ::-1], 0.01).sr
    assert isinstance(turned, Tensor)
    torch.testing.assert_close(turned, wiener.restore(image, 1, torch.from_numpy(kernel).flip(0, 1), 0.01).sr)
    bicubic = Restorer.load(None, "bicubic")
    with pytest.raises(InputError, match=r"values 0 to 255, expected 0 to 1: divide by 255"):
        bicubic.restore(torch.tensor([0.0, 255.0]).expand(3, 4, 2), 2)
    with pytest.raises(InputError, match="an image as list, expected a tensor or an array"):
        bicubic.restore([[1]], 2)  # type: ignore[arg-type]
    closed = np.zeros((8, 4), np.uint8)
    closed.flags.writeable = False
    with pytest.raises(InputError, match="out: is read-only"):
        bicubic.restore(np.zeros((4, 2), np.uint8), 2, out=closed)


def test_a_result_does_not_go_where_the_image_is() -> None:
    """Tiles would be read of what others have left there."""
    restorer, image = Restorer.load(model="bicubic", device="cpu"), photograph(30, 60, 0)
    for out in (image, image[::-1], image[:, :, ::-1]):
        with pytest.raises(InputError, match="out: is the memory of the image, expected another array") as caught:
            restorer.restore(image, 1, out=out)
        assert caught.value.key == "out"
    np.testing.assert_array_equal(image, photograph(30, 60, 0))
    restorer.restore(image[:, ::2], 1, out=image[:, 1::2])  # beside it


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize("option", ["drunet", "srn"])
def test_values_that_are_not_finite_are_no_result(option: str, tile: int | None) -> None:
    network = tiny(option)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = torch.nan
    restorer = Restorer(Model("damaged", lambda _: network, network.scales), device="cpu", engine="torch")
    with pytest.raises(InputError, match="damaged makes values that are not finite: its weights are damaged, or"):
        restorer.restore(photograph(80, 70, 0), **needed(restorer), tile=tile, overlap=None if tile is None else 16)


def test_a_private_map_keeps_the_result(tmp_path: Path) -> None:
    np.save(tmp_path / "out.npy", np.zeros((128, 96, 3), np.uint8))
    out = np.load(tmp_path / "out.npy", mmap_mode="c")
    image = photograph(64, 48, 0)
    bicubic = Restorer.load(None, "bicubic")
    np.testing.assert_array_equal(bicubic.restore(image, 2, out=out, tile=32).sr, bicubic.restore(image, 2, tile=32).sr)


def test_the_result_goes_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photograph(90, 70, 0)
    out = np.lib.format.open_memmap(tmp_path / "result.npy", "w+", np.uint16, (360, 280, 3))
    restorer = restorer_of("ed_dsrn")
    found = restorer.restore(image, tile=72, overlap=16, out=out)
    assert found.sr is out
    expected = restorer.restore(torch.from_numpy(image).permute(2, 0, 1) / 255, tile=72, overlap=16).sr
    assert isinstance(expected, Tensor)
    monkeypatch.delattr(mmap, "MADV_DONTNEED")  # as on Windows
    np.testing.assert_array_equal(restorer.restore(image, tile=72, overlap=16, out=out).sr, out)
    written = np.load(tmp_path / "result.npy")
    np.testing.assert_allclose(written.transpose(2, 0, 1), expected * 65535, atol=0.51)
    for wrong in (np.zeros((360, 280), np.uint8), np.zeros((360, 280, 3), np.float32), np.zeros((90, 70, 3), np.uint8)):
        with pytest.raises(InputError, match=r"out: found .* expected an array \[360, 280, 3\] of uint8 or uint16"):
            restorer.restore(image, out=wrong)


def test_values_are_rounded_and_clamped() -> None:
    class Doubled(Bicubic):
        def forward(self, lr: Tensor) -> Any:
            restored = super().forward(lr)
            restored.sr = 2 * restored.sr - 0.25
            return restored

    restorer = Restorer(Model("doubled", lambda _: Doubled(1), (1,)))
    image = np.array([[0, 32, 100, 127, 160, 255]], np.uint8)
    assert restorer.restore(image).sr.tolist() == [[0, 0, 136, 190, 255, 255]]


def test_images_of_other_kinds_are_refused() -> None:
    restorer = restorer_of("bicubic")
    for wrong, found in (
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\] and type uint8"),
        (np.zeros((4, 4, 3), np.float32), r"\[4, 4, 3\] and type float32"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (torch.zeros(1, 3, 4, 4), r"\[1, 3, 4, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"type uint8, expected a float tensor \[C, H, W\]"),
        (torch.zeros(4, 4), r"\[4, 4\]"),
    ):
        with pytest.raises(InputError, match=found):
            restorer.restore(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not finite"):
        restorer.restore(torch.full((3, 4, 4), torch.nan))


def test_values_that_do_not_fit_the_network_are_refused() -> None:
    image = photograph(16, 16, 0)
    blind, told, found = restorer_of("ed_dsrn"), restorer_of("usrnet"), restorer_of("dan_usrnet")
    for restorer, fields, message in (
        (blind, {"scale": 2}, "scale: found 2, ed_dsrn enlarges by 4"),
        (blind, {"kernel": KERNEL}, "kernel: given, but ed_dsrn takes none"),
        (blind, {"noise_level": 0.1}, "noise_level: found 0.1, but ed_dsrn takes none"),
        (found, {"kernel": KERNEL}, "kernel: given, but dan_usrnet estimates the kernel itself"),
        (told, {"kernel": KERNEL}, "scale: usrnet enlarges by 1, 2, 3, 4"),
        (told, {"scale": 2}, "kernel: usrnet needs the blur kernel"),
        (told, {"scale": 2, "kernel": KERNEL[0]}, r"kernel: of shape \[3\], expected \[k, k\]"),
        (told, {"scale": 2, "kernel": -KERNEL}, "kernel: its sum is -1"),
        (told, {"scale": 2, "kernel": KERNEL * np.nan}, "kernel: its sum is nan"),
        (told, {"scale": 2, "kernel": KERNEL, "noise_level": 5}, "noise_level: found 5, expected 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            restorer.restore(image, **fields)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch: found 0"):
        blind.restore(image, batch=0)
    note = told.restore(image, scale=2, kernel=3 * KERNEL).notes
    assert note == ["The noise level was not given: 2/255 is assumed."]
    with pytest.raises(InputError, match="device: found 'abacus'"):
        Restorer.load(None, "bicubic", device="abacus")
    with pytest.raises(InputError, match="precision: found '16'"):
        Restorer.load(None, "bicubic", precision="16")  # type: ignore[arg-type]


def test_bicubic_without_weights_enlarges_by_what_is_asked() -> None:
    restorer = Restorer.load(None, "bicubic")
    assert (restorer.name, restorer.scales) == ("bicubic", (1, 2, 3, 4))
    image = torch.rand(3, 9, 8)
    torch.testing.assert_close(restorer.restore(image, scale=3).sr, bicubic_resize(image[None], 3)[0].clamp(0, 1))


@pytest.mark.parametrize("order", [">", "<"])
def test_arrays_of_any_byte_order(order: str) -> None:
    image = photograph(9, 8, 3).astype(np.uint16) * 257 + 1
    restorer = restorer_of("wiener")
    fields = {"scale": 2, "noise_level": 0.02}
    expected = restorer.restore(image, kernel=KERNEL, **fields).sr
    found = restorer.restore(image.astype(f"{order}u2"), kernel=KERNEL.astype(f"{order}f8"), **fields).sr
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)
    out = np.zeros((18, 16, 3), f"{order}u2")
    restorer.restore(image, kernel=KERNEL, out=out, **fields)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"kernel": "gaussian:1.6"},
            "kernel: found 'gaussian:1.6', expected an array of numbers [k, k]: given_kernel(",
        ),
        *(({"kernel": kernel}, "kernel: found a ") for kernel in ({}, [[1, 2], [3]], KERNEL + 1j, np.array([["a"]]))),
        ({"kernel": 3}, "kernel: of shape []"),
        *(({"scale": scale}, f"scale: found {scale!r}, expected a whole number") for scale in ("2", 2.0, True, [2], 0)),
        *(({"tile": tile}, f"tile: found {tile!r}, expected a whole number") for tile in ("9", 9.5, 0)),
        *(({"overlap": n}, f"overlap: found {n!r}, expected a whole number") for n in ("9", -1)),
        *(({"batch": n}, f"batch: found {n!r}, expected a whole number") for n in ("1", None, 0)),
        *(({"noise_level": n}, f"noise_level: found {n!r}, expected 0 to 1") for n in ("0.1", True, [0.1], 2)),
        ({"noise_level": float("nan")}, "noise_level: found nan"),
        ({"progress": 3}, "progress: found 3"),
        ({"out": "x"}, "out: found str"),
        ({"image": [[0]]}, "an image as list"),
        ({"image": None}, "an image as NoneType"),
        ({"image": np.zeros((4, 4), ">f4")}, "an image of shape [4, 4] and type >f4"),
    ],
)
def test_arguments_of_the_wrong_type(values: dict[str, Any], line: str) -> None:
    given = {"image": photograph(9, 8, 3), "scale": 2, "kernel": KERNEL, "noise_level": 0.02, **values}
    with pytest.raises(InputError) as caught:
        restorer_of("wiener").restore(**given)
    assert str(caught.value).startswith(line)


def test_numbers_of_numpy_and_torch() -> None:
    image, restorer = photograph(9, 8, 3), restorer_of("wiener")
    expected = restorer.restore(image, 2, KERNEL, 0.5).sr
    found = restorer.restore(image, np.int64(2), torch.ones(3, 3, dtype=torch.bfloat16), torch.tensor(0.5)).sr
    np.testing.assert_array_equal(found, expected)
