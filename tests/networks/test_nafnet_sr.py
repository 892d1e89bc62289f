import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from networks.nafnet import NAFNet
from networks.nafnet_sr import NAFNetSR
from networks.ops.resize import bicubic_resize
from tests.helpers.filled import fill, statistics, waves

TINY: dict[str, Any] = {"width": 8, "enc": (1, 1, 1), "mid": 1, "dec": (1, 1, 1)}
SMALL: dict[str, Any] = {"width": 16, "enc": (1, 1, 2), "mid": 2, "dec": (1, 1, 1)}


def filled(**options: Any) -> NAFNetSR:
    network = NAFNetSR(**options).double().eval()
    with torch.no_grad():
        fill(network, 1.0)
    return network


# The deblurred image of the two sizes, whatever the scale.
OF_TINY = "0.5017021655 0.5662591023 0.3465035176 -0.4589558128 1.9285207731 0.3167036879 0.7838149368"
OF_SMALL = "0.5780093587 0.3291660911 0.3176347805 0.3645359735 0.5530669481 0.1800616655 0.3296064733"


@pytest.mark.parametrize(
    ("options", "sr", "deblurred"),
    [
        (
            {**TINY, "scale": 2},
            "0.4671479929 0.4707779854 0.7559357037 1.0588409921 0.0125318105 0.3095191701 0.7654595285",
            OF_TINY,
        ),
        (
            {**TINY, "scale": 4},
            "0.4550805479 0.5174266319 0.2258506260 1.1019107958 0.7627767419 0.1189441468 0.8849244379",
            OF_TINY,
        ),
        (
            {**TINY, "scale": 2, "sr_blocks": 0},
            "0.4596679684 0.5632502508 0.5399255473 0.1889316831 0.8336418166 0.2704184793 0.8399615736",
            OF_TINY,
        ),
        (
            {**SMALL, "scale": 2},
            "0.4589908609 0.4102595868 0.6246240910 0.8584529478 1.2034496754 -0.2865647784 0.6135984288",
            OF_SMALL,
        ),
        (
            {**SMALL, "scale": 4},
            "0.4564462261 0.4586590477 0.5105859137 0.5862108765 0.7518448620 0.3797557417 0.6477791246",
            OF_SMALL,
        ),
    ],
)
@torch.no_grad()
def test_reference_values(options: dict[str, Any], sr: str, deblurred: str) -> None:
    found = filled(**options)(waves(13, 17, 2))
    assert found.deblurred is not None
    assert statistics(found.sr) == pytest.approx([*map(float, sr.split())], abs=1e-9)
    assert statistics(found.deblurred) == pytest.approx([*map(float, deblurred.split())], abs=1e-9)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (TINY, (75_355, 78_622, 81_542, 80_958, 80_246)),
        ({**TINY, "width": 16}, (288_691, 300_726, 312_326, 310_006, 307_686)),
        (SMALL, (438_387, 450_422, 462_022, 459_702, 457_382)),
        ({**SMALL, "width": 24}, (972_075, 998_382, 1_024_422, 1_019_214, 1_014_390)),
        ({**TINY, "width": 32}, (1_129_315, 1_175_398, 1_221_638, 1_212_390, 1_204_166)),
        ({}, (17_111_907, 17_157_990, 17_204_230, 17_194_982, 17_186_758)),
        ({"width": 64}, (67_888_835, 68_069_062, 68_253_702, 68_216_774, 68_185_990)),
    ],
)
def test_parameters(options: dict[str, Any], counts: tuple[int, ...]) -> None:
    with torch.device("meta"):
        networks = [NAFNet(**options), *(NAFNetSR(**options, scale=scale) for scale in (2, 3, 4))]
        networks.append(NAFNetSR(**options, scale=4, sr_blocks=0))
        without = NAFNetSR(**options, scale=4, deblur_branch=False)
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == list(counts)
    assert sum(p.numel() for p in without.parameters()) == counts[3] - 27 * options.get("width", 32) - 3
    assert not any("ending" in name for name in without.state_dict())


@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_deblurs_as_nafnet_does_and_enlarges_any_size(scale: int) -> None:
    network, alone = filled(**TINY, scale=scale), NAFNet(**TINY).double().eval()
    own = [name for name in network.state_dict() if name.startswith("sr_")]
    assert list(network.state_dict()) == [*alone.state_dict(), *own]
    alone.load_state_dict({name: network.state_dict()[name] for name in alone.state_dict()})
    for size in ((1, 1), (7, 30), (16, 8)):
        images = waves(*size, 2)
        found = network(images)
        assert torch.equal(found.deblurred, alone(images).sr)
        assert found.sr.shape == (2, 3, scale * size[0], scale * size[1])


@torch.no_grad()
def test_what_lies_beyond_an_image() -> None:
    """Zeros, as of NAFNet, or the border repeated; of sides that 8 does not divide."""
    images = waves(13, 18, 2)
    whole = torch.cat([images, images[..., -1:].expand(-1, -1, -1, 6)], 3)
    whole = torch.cat([whole, whole[..., -1:, :].expand(-1, -1, 3, -1)], 2)
    repeated = filled(**TINY, padding="replicate")
    expected = repeated(whole)
    found = repeated(images)
    torch.testing.assert_close(found.deblurred, expected.deblurred[..., :13, :18])
    zeros = filled(**TINY)(F.pad(images, (0, 6, 0, 3)))
    torch.testing.assert_close(filled(**TINY)(images).deblurred, zeros.deblurred[..., :13, :18])
    assert (found.deblurred - zeros.deblurred[..., :13, :18]).abs().max() > 1e-3


@torch.no_grad()
def test_a_batch_is_its_images() -> None:
    network, images = filled(**TINY, scale=3, local_pooling=(8, 16)), waves(13, 30, 3)
    alone = torch.cat([network(image[None]).sr for image in images])
    torch.testing.assert_close(network(images).sr, alone, atol=1e-12, rtol=0)
    assert not torch.allclose(filled(**TINY, scale=3)(images).sr, alone)


@torch.no_grad()
def test_what_is_added_and_where_it_begins() -> None:
    images = waves(13, 17, 2)
    plain, added = filled(**TINY, scale=2, global_residual="none"), filled(**TINY, scale=2)
    difference = added(images).sr - plain(images).sr
    torch.testing.assert_close(difference, bicubic_resize(images, 2), atol=1e-12, rtol=0)
    without = filled(**TINY, scale=2, deblur_branch=False)
    assert without.outputs == ("sr",)
    assert without(images).deblurred is None
    heads = {}
    for gain in (1.0, 0.1):
        torch.manual_seed(0)
        heads[gain] = NAFNetSR(**TINY, head_gain=gain).double()
    for name in ("sr_out", "ending"):
        first, second = (heads[gain].get_parameter(f"{name}.weight") for gain in (1.0, 0.1))
        torch.testing.assert_close(second, 0.1 * first)
    found = heads[0.1](images)
    assert (found.sr - bicubic_resize(images, 4)).std() < 0.1
    assert (found.deblurred - images).std() < 0.1


@torch.no_grad()
def test_every_weight_counts() -> None:
    network, images = filled(**TINY, scale=4), waves(6, 8)
    before, changed = network(images), copy.deepcopy(network)
    for name, tensor in changed.state_dict().items():
        kept = tensor.clone()
        tensor.mul_(1.01)
        found = changed(images)
        largest = max((getattr(found, out) - getattr(before, out)).abs().max() for out in ("sr", "deblurred"))
        assert largest > 1e-9, name
        tensor.copy_(kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 1}, "scale is 1, expected 2, 3 or 4"),
        ({"sr_blocks": -1}, "sr_blocks is -1, expected 0 or more"),
        ({"global_residual": "nearest"}, "global_residual is 'nearest', expected bicubic or none"),
        ({"padding": "reflect"}, "padding"),
        ({"dec": (1,)}, "as many in enc as in dec"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NAFNetSR(**{**TINY, **options})
