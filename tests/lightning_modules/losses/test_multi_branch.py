from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batch import Batch
from datamodules.errors import OptionError
from lightning_modules.losses.multi_branch import MultiBranchLoss, charbonnier, l1, mse, psnr
from networks.restored import Restored
from tests.helpers.filled import waves
from tests.helpers.references import imresize


def image(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def batch(hr: torch.Tensor, lr_sharp: torch.Tensor | None = None) -> Batch:
    n = len(hr)
    return Batch(hr=hr, name=["x"] * n, index=torch.arange(n), key=torch.arange(n), lr_sharp=lr_sharp)


def test_hand_values() -> None:
    a, b = image(0, 0, 3), image(1, -1, 5)
    assert mse(a, b).item() == 2.0
    assert l1(a, b).item() == pytest.approx(4 / 3)
    assert charbonnier(a, b).item() == pytest.approx((2 * 1.000001**0.5 + 4.000001**0.5) / 3, abs=1e-12)
    assert charbonnier(a, a).item() == pytest.approx(1e-3)


def test_literal_reductions_of_the_paper() -> None:
    """Eq. 4 has no 1/N over pixels, eq. 5 divides by N W H but not by the channels."""
    a, b = torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 0.5)
    assert mse(a, b, "literal").item() == pytest.approx(0.25 * 60)
    assert l1(a, b, "literal").item() == pytest.approx(0.5 * 60)
    assert charbonnier(a, b, "literal").item() == pytest.approx(3 * 0.250001**0.5)


def test_psnr_loss() -> None:
    """Image by image: the mean of their PSNRs, not the PSNR of their mean error."""
    images = waves(13, 17, 2)
    assert psnr(images, images.flip(1)).item() == pytest.approx(-8.2053294867, abs=1e-9)
    errors = (images - images.flip(1)).square().flatten(1).mean(1)
    assert errors.tolist() == pytest.approx([0.1493960797, 0.1529659767], abs=1e-9)
    assert psnr(images, images).item() == pytest.approx(-80)
    assert psnr(images[:1], images[:1] + 0.1).item() == pytest.approx(-20, abs=1e-5)


def test_gradient_of_the_psnr_loss() -> None:
    restored, target = waves(3, 4, 2).requires_grad_(), waves(3, 4, 2).flip(1)
    assert torch.autograd.gradcheck(lambda x: psnr(x, target), restored)


def test_nafnet_sr_loss() -> None:
    loss = MultiBranchLoss({"sr": {"fn": "psnr"}, "deblurred": {"fn": "psnr", "weight": 0.2}})
    hr, lr_sharp = waves(8, 8, 2), waves(2, 2, 2)
    parts = loss(Restored(sr=hr + 0.1, deblurred=lr_sharp + 0.01), batch(hr, lr_sharp))
    found = [parts[name].item() for name in ("sr", "deblurred", "total")]
    assert found == pytest.approx([-20, -40, -28], abs=1e-3)


@pytest.mark.parametrize("reduction", ["sum", "literal"])
def test_psnr_is_a_mean(reduction: str) -> None:
    words = f"loss.terms.sr.reduction: found '{reduction}', expected mean beside fn: psnr"
    with pytest.raises(OptionError, match=words):
        MultiBranchLoss({"sr": {"fn": "psnr", "reduction": reduction}})


def test_ed_dsrn_loss() -> None:
    loss = MultiBranchLoss({"sr": {"fn": "mse", "weight": 1.0}, "deblurred": {"fn": "charbonnier", "weight": 0.2}})
    sr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    deblurred, lr_sharp = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2)
    parts = loss(Restored(sr=sr, deblurred=deblurred), batch(hr, lr_sharp))
    first = ((sr - hr).double() ** 2).mean()
    second = (((deblurred - lr_sharp).double() ** 2 + 1e-6) ** 0.5).mean()
    assert parts["sr"].item() == pytest.approx(first.item(), rel=1e-6)
    assert parts["deblurred"].item() == pytest.approx(second.item(), rel=1e-6)
    assert parts["total"].item() == pytest.approx((first + 0.2 * second).item(), rel=1e-6)


def test_half_precision_results_are_measured_in_float32() -> None:
    loss = MultiBranchLoss({"sr": {"fn": "mse"}})
    sr = torch.full((1, 1, 2, 2), 0.5, dtype=torch.bfloat16)
    total = loss(Restored(sr=sr), batch(torch.full((1, 1, 2, 2), 0.501)))["total"]
    assert total.item() == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({}, "empty"),
        ({"srr": {"fn": "mse"}}, "loss.terms.srr: unknown branch"),
        ({"sr": {"fn": "msee"}}, "loss.terms.sr.fn: found 'msee'"),
        ({"sr": {"fn": "mse", "wieght": 1}}, "unknown key wieght"),
        ({"sr": {"fn": "mse", "reduction": "max"}}, "expected mean, literal or sum"),
        ({"sr": {"fn": "mse", "colour": "luma"}}, "loss.terms.sr.colour: found 'luma', expected rgb or y"),
        ({"deblurred": {"fn": "mse", "colour": "y"}}, "loss.terms.deblurred: unknown key colour"),
        ({"sr": {"fn": "mse", "resize": "tf1"}}, "loss.terms.sr: unknown key resize"),
        (
            {"pyramid": {"fn": "mse", "resize": "tf2"}},
            "loss.terms.pyramid.resize: found 'tf2', expected half_pixel, tf1 or",
        ),
        ({"sr": {"fn": "mse", "weight": "x"}}, "loss.terms.sr.weight: found 'x', expected a number >= 0"),
        ({"sr": {"fn": "mse", "weight": -1}}, "loss.terms.sr.weight: found -1"),
        ({"sr": "mse"}, "loss.terms.sr: found 'mse', expected fn, weight"),
    ],
)
def test_mistakes_in_the_config(terms: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MultiBranchLoss(terms)


def test_a_supervised_branch_must_exist() -> None:
    loss = MultiBranchLoss({"deblurred": {"fn": "mse"}})
    hr = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="network returned no 'deblurred'"):
        loss(Restored(sr=hr), batch(hr))
    with pytest.raises(ValueError, match="batch has no 'lr_sharp'"):
        loss(Restored(sr=hr, deblurred=hr), batch(hr))
    with pytest.raises(ValueError, match=r"loss\.terms\.code cannot be computed: the network has no encode"):
        MultiBranchLoss({"code": {"fn": "l1"}})(
            Restored(sr=hr, code=torch.zeros(1, 2)), replace(batch(hr), kernel=torch.ones(1, 1, 1, 1))
        )


def test_half_the_squared_error_of_an_image() -> None:
    """conf/loss/half_sse.yaml: Caffe's Euclidean loss is sum / (2 N)."""
    loss = MultiBranchLoss({"sr": {"fn": "mse", "weight": 0.5, "reduction": "literal"}})
    parts = loss(Restored(sr=torch.full((2, 1, 1, 3), 2.0)), batch(torch.zeros(2, 1, 1, 3)))
    assert parts["total"].item() == pytest.approx(0.5 * 12)
    assert parts["sr"].item() == pytest.approx(12)


def test_pyramid_of_an_odd_size_by_hand() -> None:
    """A side of 3 is continued to 4 by repetition; half_pixel means over 2x2, tf1 takes every second pixel."""
    hr = torch.tensor([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]])[None, None]
    zeros = Restored(sr=torch.zeros(1, 1, 3, 3), pyramid=[torch.zeros(1, 1, s, s) for s in (1, 2, 3)])
    # Squares of the whole image 204/9; of the halves (2, 3.5, 6.5, 8); of the quarter 6, the mean of the middle 2x2.
    loss = MultiBranchLoss({"pyramid": {"fn": "mse", "weight": 2.0}})
    parts = loss(zeros, batch(hr))
    assert parts["pyramid"].item() == pytest.approx(204 / 9 + (2**2 + 3.5**2 + 6.5**2 + 8**2) / 4 + 6**2)
    assert parts["total"].item() == pytest.approx(2 * parts["pyramid"].item())
    tf1 = MultiBranchLoss({"pyramid": {"fn": "mse", "weight": 1.0, "resize": "tf1"}})
    # Pixels 0, 2, 6, 8 of the image, pixel 0 of it.
    assert tf1(zeros, batch(hr))["total"].item() == pytest.approx(204 / 9 + (4 + 36 + 64) / 4 + 0)


def test_sums_over_an_image() -> None:
    a, b = torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 0.5)
    assert mse(a, b, "sum").item() == pytest.approx(0.25 * 60)
    assert l1(a, b, "sum").item() == pytest.approx(0.5 * 60)
    assert charbonnier(a, b, "sum").item() == pytest.approx(60 * 0.250001**0.5)


def test_luma_alone_is_compared() -> None:
    """Y of MATLAB's rgb2ycbcr: pure red has (16 + 65.481) / 255, black 16 / 255; Cb and Cr do not count."""
    loss = MultiBranchLoss({"sr": {"fn": "l1", "colour": "y"}})
    hr = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    red = hr.clone()
    red[:, 0] = 1.0
    assert loss(Restored(sr=red), batch(hr))["total"].item() == pytest.approx(65.481 / 255)
    same_luma = hr.clone()  # 128.553 R = 65.481 G
    same_luma[:, 0], same_luma[:, 1] = 128.553, -65.481
    assert loss(Restored(sr=same_luma), batch(hr))["total"].item() == pytest.approx(0, abs=1e-9)
    gray = torch.full((1, 1, 2, 2), 0.25)
    assert loss(Restored(sr=gray), batch(gray + 0.5))["total"].item() == pytest.approx(0.5)


def test_pyramid_of_luma_by_matlab() -> None:
    """LapSRN's loss: Charbonnier summed over the pixels of Y, against Y reduced by imresize, at every level."""
    hr = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    estimates = [torch.rand(2, 3, 4, 6, dtype=torch.float64), torch.rand(2, 3, 8, 12, dtype=torch.float64)]
    term = {"fn": "charbonnier", "reduction": "sum", "colour": "y", "resize": "bicubic"}
    parts = MultiBranchLoss({"pyramid": term})(Restored(sr=estimates[1], pyramid=estimates), batch(hr))
    expected = 0.0
    for estimate, scale in zip(estimates, (0.5, 1.0), strict=True):
        for i in range(2):
            y = [
                (np.array([65.481, 128.553, 24.966]) * image[i].permute(1, 2, 0).numpy()).sum(-1) / 255 + 16 / 255
                for image in (estimate, hr)
            ]
            target = y[1] if scale == 1 else imresize(y[1], scale)
            expected += np.sqrt((y[0] - target) ** 2 + 1e-6).sum() / 2
    assert parts["total"].item() == pytest.approx(expected, rel=1e-9)


def test_the_pyramid_goes_from_coarse_to_fine() -> None:
    loss = MultiBranchLoss({"pyramid": {"fn": "l1"}})
    hr = torch.rand(2, 3, 7, 5)
    fine_first = Restored(sr=hr, pyramid=[hr, torch.zeros(2, 3, 4, 3)])
    with pytest.raises(RuntimeError, match="size"):
        loss(fine_first, batch(hr))


def test_kernels_of_another_size_are_compared_around_the_centre() -> None:
    """The target 25x25 is cut to 21x21 and normalised: half of this one lies outside."""
    target = torch.zeros(1, 1, 25, 25)
    target[..., 12, 12], target[..., 0, 0], target[..., 12, 14] = 0.25, 0.5, 0.25
    estimate = torch.zeros(1, 1, 21, 21)
    estimate[..., 10, 10] = 1.0
    hr = torch.zeros(1, 3, 4, 4)
    loss = MultiBranchLoss({"kernel": {"fn": "mse", "reduction": "literal"}})
    parts = loss(Restored(sr=hr, kernel=estimate), replace(batch(hr), kernel=target))
    assert parts["kernel"].item() == pytest.approx(0.25 + 0.25)  # too much in the centre, too little at its right


def test_codes_are_compared_with_the_code_of_the_true_kernel() -> None:
    hr, kernel = torch.zeros(2, 3, 4, 4), torch.rand(2, 1, 3, 3)
    loss = MultiBranchLoss({"code": {"fn": "l1"}})
    parts = loss(
        Restored(sr=hr, code=torch.zeros(2, 1)), replace(batch(hr), kernel=kernel), encode=lambda k: k.sum((2, 3))
    )
    assert parts["code"].item() == pytest.approx(kernel.sum().item() / 2)


def test_estimates_of_earlier_loops_count_as_much() -> None:
    hr = torch.zeros(1, 1, 2, 2)
    loops = [Restored(sr=hr + value, code=torch.full((1, 2), value)) for value in (1.0, 2.0, 6.0)]
    loops[-1].earlier = loops[:-1]
    loss = MultiBranchLoss({"sr": {"fn": "l1", "weight": 1.0}, "code": {"fn": "mse", "weight": 0.1}})
    parts = loss(loops[-1], replace(batch(hr), kernel=hr), encode=lambda kernel: torch.zeros(1, 2))
    assert parts["sr"].item() == pytest.approx(3.0)
    assert parts["code"].item() == pytest.approx(41 / 3)
    assert parts["total"].item() == pytest.approx(3 + 4.1 / 3)
