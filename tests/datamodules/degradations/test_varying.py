from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from datamodules.degradations.blur import convolve
from datamodules.degradations.kernel_samplers import usrnet_mixture
from datamodules.degradations.keyed_random import bits, make_key, normal
from datamodules.degradations.pipelines import ClassicalDegradation
from datamodules.degradations.resample import bicubic_resize
from datamodules.degradations.varying import SpatiallyVaryingDegradation, smooth_fields, spline_taps, weight_maps
from tests.helpers.filled import off_centre_kernel, waves
from tests.helpers.varying import images, near, rows, three_kernels, three_maps

KEYS = torch.tensor([make_key("fixture", 0), make_key("fixture", 1)])
KERNELS = partial(usrnet_mixture, size=13)


def always(keys: Tensor) -> Tensor:
    return off_centre_kernel().float().expand(len(keys), -1, -1, -1)


def batch_of(hr: Tensor, first: int = 0) -> Batch:
    key = torch.tensor([make_key("image", first + i) for i in range(len(hr))])
    return Batch(hr=hr, name=[""] * len(hr), index=torch.arange(len(hr)), key=key)


def degrade(hr: Tensor, kernels: Callable[..., Tensor] = KERNELS, first: int = 0, **options: Any) -> Any:
    return SpatiallyVaryingDegradation(kernels, **options)(batch_of(hr, first))


def test_values_of_the_fields_and_of_their_weights() -> None:
    logits = normal(KEYS, "varying/weights", (3, 5, 6))
    found = [logits[0, 0, 0, 0], logits[0, 1, 2, 3], logits[1, 2, -1, -1]]
    assert [value.item() for value in found] == pytest.approx([-0.1803278, 1.7333386, 1.7764035], abs=6e-8)
    field = smooth_fields(KEYS, 3, (26, 34), 16)
    assert field.shape == (2, 3, 26, 34)
    found = [field[0, 0, 0, 0], field[0, 1, 5, 7], field[1, 2, -1, -1]]
    assert [value.item() for value in found] == pytest.approx([-0.55565256, 0.34963922, 0.27846580], abs=6e-9)
    w = (8 * field).softmax(1)
    found = [w[0, 0].mean(), w[0, 0].std(correction=0), w[0, 0, 0, 0], w[0, 1, 5, 7], w[1, 2, -1, -1]]
    expected = [0.0553204483, 0.0986004742, 0.0025017414, 0.9544924965, 0.9785810802]
    assert [value.item() for value in found] == pytest.approx(expected, rel=0, abs=6e-11)
    maps = weight_maps(KEYS, 3, (26, 34), 16, torch.full((2,), 8.0))
    assert torch.equal(maps, w.float())


def test_values_of_the_spline() -> None:
    first, taps = spline_taps(130, 64)
    assert taps[0].tolist() == pytest.approx([0.1627908548, 0.6666058699, 0.1706031958, 7.947e-8], rel=1e-4)
    torch.testing.assert_close(taps.sum(1), torch.ones(130).double())
    assert first.tolist() == [*[0] * 64, *[1] * 64, 2, 2]


def test_values_of_the_keys_of_the_kernels() -> None:
    assert bits(KEYS, "varying/kernel", (3,)).tolist() == [
        [7917543016866794208, -8076370613107176710, -3636475455518857122],
        [2387933738161140837, 4938434125705372498, -2896551134918430581],
    ]
    drawn = SpatiallyVaryingDegradation(KERNELS, count=3).draw_kernels(KEYS)
    assert torch.equal(drawn[1, 2], usrnet_mixture(torch.tensor([-2896551134918430581]), 13)[0, 0])


def test_values_with_a_repeated_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are those of a second implementation; with circular borders the network's tests have them."""
    degradation = SpatiallyVaryingDegradation(KERNELS, 1, boundary="replicate", count=3, margin=0)
    monkeypatch.setattr(degradation, "draw_kernels", lambda keys: three_kernels())
    monkeypatch.setattr(degradation, "draw_weights", lambda keys, size: three_maps(*size))
    lr = degradation(batch_of(images(29, 31))).lr
    assert lr is not None
    assert rows(lr) == near(
        [
            (0.4989555763, 0.2607777866, 0.5768010342, 0.2562419619, 0.3576507671),
            (0.4987007944, 0.2578398937, 0.7980517030, 0.2266411656, 0.8835963515),
        ]
    )


@pytest.mark.parametrize("options", [{}, {"storage": "trunc8"}, {"reduction": "bicubic", "storage": "eight_bit"}])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_one_kernel_is_the_classical_degradation(options: dict[str, Any], scale: int) -> None:
    hr = waves(24, 30, 2).float()
    classical = ClassicalDegradation(always, scale, noise="usrnet", **options)(batch_of(hr))
    varying = degrade(hr, always, scale=scale, noise="usrnet", count=1, margin=0, **options)
    for name in ("lr", "noise_level"):
        assert torch.equal(getattr(varying, name), getattr(classical, name))
    assert varying.kernel is None
    assert torch.equal(varying.kernels, always(batch_of(hr).key))
    assert torch.equal(varying.weights, torch.ones(2, 1, 24, 30))


@pytest.mark.parametrize(("scale", "margin"), [(1, 0), (1, 7), (2, 6), (3, 6)])
def test_fields_of_the_batch(scale: int, margin: int) -> None:
    h, w = 36 + 2 * margin, 42 + 2 * margin
    for channels in (1, 3):
        flat = degrade(torch.full((2, channels, h, w), 0.3), scale=scale, margin=margin)
        assert flat.hr.shape == (2, channels, 36, 42)
        assert flat.lr.shape == (2, channels, 36 // scale, 42 // scale)
        assert flat.kernels.shape == (2, 4, 13, 13)
        assert flat.weights.shape == (2, 4, 36, 42)
        assert flat.weights.min() > 0
        torch.testing.assert_close(flat.weights.sum(1), torch.ones(2, 36, 42))
        torch.testing.assert_close(flat.lr, torch.full_like(flat.lr, 0.3))
    assert (flat.scale, flat.kernel) == (scale, None)


@pytest.mark.parametrize("reduction", ["decimate", "bicubic"])
def test_each_kernel_blurs_where_it_weighs(reduction: Any) -> None:
    """By the definition: whole images blurred, weighted, summed, reduced, and cut."""
    hr = waves(60, 48, 2).float()
    found = degrade(hr, scale=2, reduction=reduction, margin=6, boundary="reflect", cell=16)
    degradation = SpatiallyVaryingDegradation(KERNELS, 2, cell=16)
    key = batch_of(hr).key
    kernels, weights = degradation.draw_kernels(key), degradation.draw_weights(key, (60, 48))
    parts = [weights[:, p : p + 1] * convolve(hr, kernels[:, p : p + 1], "reflect") for p in range(4)]
    whole = torch.stack(parts).sum(0)
    reduced = whole[..., ::2, ::2] if reduction == "decimate" else bicubic_resize(whole, 2, down=True)
    torch.testing.assert_close(found.lr, reduced[..., 3:-3, 3:-3], rtol=0, atol=2e-6)
    torch.testing.assert_close(found.weights, weights[..., 6:-6, 6:-6])


def test_the_mean_kernel_is_what_the_weights_make_of_the_kernels() -> None:
    """Where all weigh the same everywhere, it is all the blur there is; what the margin cuts off does not count."""
    hr = torch.rand(2, 3, 40, 52)
    even = degrade(hr, scale=2, margin=0, sharpness=1e-9, mean_kernel=True)
    torch.testing.assert_close(even.kernel, even.kernels.mean(1, keepdim=True), rtol=0, atol=1e-7)
    torch.testing.assert_close(even.lr, convolve(hr, even.kernel, "circular")[..., ::2, ::2], rtol=0, atol=1e-6)
    cut = degrade(hr, scale=2, margin=6, sharpness=8, mean_kernel=True)
    by_pixel = torch.einsum("bphw,bpij->bijhw", cut.weights.double(), cut.kernels.double())
    torch.testing.assert_close(cut.kernel[:, 0].double(), by_pixel.mean((3, 4)), rtol=0, atol=1e-7)
    alone = degrade(hr[1:], first=1, scale=2, margin=6, sharpness=8, mean_kernel=True)
    assert torch.equal(alone.kernel, cut.kernel[1:])
    plain = SpatiallyVaryingDegradation(KERNELS)
    assert plain(batch_of(torch.rand(1, 3, 60, 60))).kernel is None
    assert "kernel" not in plain.provides
    assert "kernel" in SpatiallyVaryingDegradation(KERNELS, mean_kernel=True).provides


def test_what_stands_still_is_sharp_and_cut_alike() -> None:
    hr = torch.rand(2, 3, 40, 44)
    sharp = degrade(hr, scale=2, count=1, still=1.0, margin=4)
    assert torch.equal(sharp.hr, hr[..., 4:-4, 4:-4])
    torch.testing.assert_close(sharp.lr, sharp.hr[..., ::2, ::2], rtol=0, atol=1e-6)
    moving = degrade(hr, scale=2, count=2, still=1.0, margin=4)
    assert moving.kernels[:, 0].amax((1, 2)).tolist() == [1, 1]
    assert (moving.kernels[:, 1].amax((1, 2)) < 1).all()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    hr = torch.rand(3, 3, 64, 72)
    options: dict[str, Any] = {"scale": 2, "noise": "usrnet", "margin": 12, "still": 0.5}
    whole = degrade(hr, **options)
    for i in range(3):
        alone = degrade(hr[i : i + 1], first=i, **options)
        for name in ("hr", "lr", "kernels", "weights", "noise_level"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[i]), name


def test_sharpness_is_drawn_from_its_range() -> None:
    keys = torch.tensor([make_key("image", i) for i in range(40)])
    largest = {}
    for sharpness in (2, 32, [2, 32]):
        degradation = SpatiallyVaryingDegradation(KERNELS, sharpness=sharpness)
        largest[str(sharpness)] = degradation.draw_weights(keys, (128, 128)).amax(1).mean((1, 2))
    assert largest["2"].mean() == pytest.approx(0.51, abs=0.03)
    assert largest["32"].mean() == pytest.approx(0.95, abs=0.03)
    assert (largest["[2, 32]"] > largest["2"]).all()
    assert (largest["[2, 32]"] < largest["32"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharpness": [4, 2]}, r"sharpness is \[4, 2\]"),
        ({"sharpness": 0}, "sharpness is 0"),
        ({"count": 0}, "count is 0"),
        ({"margin": 6}, "margin is 6, expected a multiple of 4"),
        ({"margin": -4}, "margin is -4"),
        ({"still": 1.5}, r"still is 1\.5"),
        ({"noise": -1}, "noise is -1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatiallyVaryingDegradation(KERNELS, **options)


def test_images_that_are_all_margin_are_refused() -> None:
    with pytest.raises(ValueError, match="images are 64x48, margin 24 cuts all of them off"):
        degrade(torch.rand(1, 3, 48, 64))
