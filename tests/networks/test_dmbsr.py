from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from datamodules.degradations.blur import blur_decimate
from datamodules.degradations.kernel_samplers import usrnet_mixture
from datamodules.degradations.pipelines import ClassicalDegradation
from datamodules.degradations.varying import SpatiallyVaryingDegradation
from experiments.config.training import input_mistake
from lightning_modules.restoration import RestorationModule
from networks.cascade import taken
from networks.dmbsr import DMBSR, SpatialBlur, SpectralBlur, data_step, import_official, kept_pixels
from networks.usrnet import USRNet, official_name
from tests.helpers.filled import fill, off_centre_kernel, waves
from tests.helpers.varying import images, near, rows, three_kernels, three_maps

TINY: dict[str, Any] = {"widths": (16, 32, 64, 64), "hyper_width": 32}
SMALL: dict[str, Any] = {"n_iter": 2, "widths": (4, 5, 6, 7), "n_blocks": 1, "hyper_width": 4}


def level(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


# All values are those of the authors' code with the same weights and inputs.
BLURRED = [
    (0.5030872123, 0.2586718496, 0.7384237591, 0.2562419619, 0.5872251875),
    (0.5031265546, 0.2561807570, 0.6682360441, 0.2266411656, 0.7661503023),
]
TRANSPOSED = [
    (0.5036261248, 0.2594933346, 0.6772452874, 0.2367042595, 0.5364695839),
    (0.5036261248, 0.2570532213, 0.6479401765, 0.2756610664, 0.7276505700),
]
UNIFORM = (0.5036261248, 0.2293461734, 0.7204673230, 0.2385457687, 0.6755611508)
# By scale and size: the degraded images.
DEGRADED = {
    (1, 29, 31): [
        (0.4982302070, 0.2533586772, 0.6985202182, 0.2562419619, 0.4240703859),
        (0.4982269030, 0.2509043538, 0.6212486664, 0.2266411656, 0.7490732137),
    ],
    (2, 26, 34): [
        (0.5028469525, 0.2584663494, 0.7384237591, 0.6619985188, 0.6284799320),
        (0.5028356620, 0.2561797050, 0.6682360441, 0.6879054190, 0.7669125771),
    ],
    (3, 39, 51): [
        (0.4969291581, 0.2488409164, 0.4058690910, 0.4278491903, 0.3786903929),
        (0.4967275197, 0.2458180092, 0.6300434309, 0.3930597373, 0.8300702825),
    ],
    (4, 52, 68): [
        (0.5006963919, 0.2497350465, 0.6368488643, 0.4830196073, 0.2180519454),
        (0.5007189901, 0.2488235220, 0.5374554475, 0.5192994292, 0.8093264510),
    ],
}
# By network and scale, of two images: alpha_1, beta_1, gamma_1, beta_9, gamma_9, then the five values of the output.
PUBLISHED = {
    "tiny": {
        1: """
            0.7121056167 0.7231152618 0.6624476745 0.6745542740 0.7397803181
            0.0205303135 0.0223970574 0.0600858275 0.0261068413 0.0064373734
            0.7121925145 0.7234422461 0.6621057628 0.6743338256 0.7403883134
            0.0135249598 0.0766184125 0.2591987015 -0.0213968578 -0.0473351680
        """,
        2: """
            0.7276326205 0.7537139959 0.6365289990 0.6505650662 0.7832461852
            0.0223342046 0.0223314994 0.0280371831 0.0264642826 -0.0054344995
            0.7277208078 0.7540502673 0.6361966444 0.6503501754 0.7838777801
            0.0196447930 0.0286168448 0.0681849130 0.0245430259 -0.0075909007
        """,
        3: """
            0.7433882253 0.7851684185 0.6113438831 0.6271877037 0.8283622197
            0.0241458897 0.0235736187 0.0255144298 0.0270243486 -0.0016085277
            0.7434777007 0.7855139450 0.6110210554 0.6269783586 0.8290172485
            0.0229562030 0.0255283457 0.0469047559 0.0378888008 -0.0038097288
        """,
        4: """
            0.7593721446 0.8174748604 0.5868894771 0.6044204972 0.8751141828
            0.0261078947 0.0248192278 0.0252889211 0.0321007380 -0.0069650424
            0.7594629062 0.8178295943 0.5865761322 0.6042166790 0.8757924047
            0.0254326696 0.0255674122 0.0402366466 0.0296885869 -0.0056775443
        """,
    },
    "full": {
        1: """
            0.7142524529 0.7033585235 0.6874967904 0.6868152162 0.6800649913
            0.0601235872 0.0450170845 0.0210256753 0.0192384723 0.1194754594
            0.7139483434 0.7029100510 0.6879774483 0.6865542093 0.6808263906
            0.1773942387 0.1901998902 -0.0089865284 -0.0363295471 0.6052872022
        """,
        2: """
            0.7293847577 0.7152143682 0.6819699268 0.6783711963 0.6628817603
            0.0369115966 0.0271116931 0.0167529299 0.0090345922 0.0531899208
            0.7290762671 0.7147607153 0.6824478911 0.6781124312 0.6636296161
            0.0720029136 0.0578307343 0.0023211562 0.0176387286 0.1626834271
        """,
        3: """
            0.7447333633 0.7272063160 0.6764741285 0.6699999998 0.6460068873
            0.0330415966 0.0256289077 0.0191632508 0.0105250286 0.0341114857
            0.7444204963 0.7267474852 0.6769493995 0.6697434760 0.6467412140
            0.0497522047 0.0364869678 0.0158595011 0.0383924714 0.0766326646
        """,
        4: """
            0.7602979966 0.7393342790 0.6710093905 0.6617016028 0.6294399446
            0.0315673934 0.0246569094 0.0194894240 0.0038164909 0.0367012516
            0.7599807595 0.7388702743 0.6714819688 0.6614473194 0.6301607650
            0.0412967897 0.0297615475 0.0181857134 0.0015346251 0.0675567965
        """,
    },
}
WITH_ONE_KERNEL = {
    "tiny": (0.0223519860, 0.0222813670, 0.0269262662, 0.0264862611, -0.0049091196),
    "full": (0.0369398496, 0.0270031594, 0.0183656997, 0.0079813930, 0.0530142197),
}


def test_kernels_and_maps_of_the_fixtures() -> None:
    b, w = three_kernels(), three_maps(26, 34)
    found = [b[0, 0, 3, 3], b[0, 1, 3, 3], b[1, 2, 2, 4], w[0, 0, 0, 0], w[0, 2, 5, 7], w[1, 1, 25, 33]]
    expected = [0.1349828139, 0.0990989527, 0.0198450195, 0.2308853696, 0.0323628886, 0.2150285319]
    assert [value.item() for value in found] == pytest.approx(expected, rel=0, abs=6e-11)


@pytest.mark.parametrize("form", [SpectralBlur, SpatialBlur])
def test_values_of_the_published_operators(form: Callable[..., Any]) -> None:
    x, kernels = images(26, 34), three_kernels()
    blur = form(kernels, three_maps(26, 34), (26, 34))
    assert rows(blur(x)) == near(BLURRED)
    assert rows(blur.transposed(x)) == near(TRANSPOSED)
    uniform = form(off_centre_kernel(), torch.ones(1, 1, 1, 1).double(), (26, 34))
    assert rows(uniform(x[:1])) == near([UNIFORM])
    for (scale, h, w), expected in DEGRADED.items():
        whole = form(kernels, three_maps(h, w), (h, w))(images(h, w))
        assert rows(whole[..., ::scale, ::scale]) == near(expected)


@pytest.mark.parametrize("form", [SpectralBlur, SpatialBlur])
@pytest.mark.parametrize(("size", "kernel"), [((9, 14), (5, 4)), ((7, 5), (25, 12)), ((1, 3), (2, 7))])
def test_operators_of_any_size(form: Callable[..., Any], size: tuple[int, int], kernel: tuple[int, int]) -> None:
    """A is the weighted sum of blurs of the degradation, and A^T its transpose: <A x, v> = <x, A^T v>."""
    torch.manual_seed(0)
    for channels in (1, 3):
        x, v = torch.rand(2, 2, channels, *size, dtype=torch.float64)
        kernels = torch.rand(2, 4, *kernel, dtype=torch.float64)
        weights = torch.rand(2, 4, *size, dtype=torch.float64)
        blur = form(kernels, weights, size)
        parts = [weights[:, p : p + 1] * blur_decimate(x, kernels[:, p : p + 1], 1) for p in range(4)]
        torch.testing.assert_close(blur(x), sum(parts, torch.zeros(())), rtol=1e-13, atol=1e-12)
        product = (blur(x) * v).sum()
        assert abs(product - (x * blur.transposed(v)).sum()) < 1e-12 * abs(product)


def test_values_of_the_published_data_step() -> None:
    t, y = images(36, 30), images(18, 15).flip(0)
    enlarged = y.repeat_interleave(2, -2).repeat_interleave(2, -1)
    z = data_step(t, enlarged, kept_pixels((36, 30), 2, t), level(0.3, 0))  # alpha is 0 where there is no noise
    found = [[v.item() for v in (x.mean(), x.std(correction=0), x[0, 0, 0])] for x in z]
    found = [[*row, x[1, 4, 6].item(), x[1, 5, 7].item(), x[2, -1, -1].item()] for row, x in zip(found, z, strict=True)]
    assert found == near(
        [
            (0.4941869625, 0.2699508190, 0.7797838236, 0.7251797148, 0.2248935363, 0.2910765641),
            (0.4925958877, 0.2827090820, 0.5000000000, 0.8233985615, 0.2248935363, 0.2767790915),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "full"])
def test_values_of_the_published_networks(model: str) -> None:
    with torch.device("meta"):
        net = DMBSR(**(TINY if model == "tiny" else {})).double()
    net = fill(net.to_empty(device="cpu"), 0.5)
    noise = level(0.02, 0)
    for scale, table in PUBLISHED[model].items():
        lr = images(29, 31) if scale == 1 else images(13, 17)
        h, w = (scale * n for n in lr.shape[-2:])
        with torch.no_grad():
            parameters = net.hyper(noise, scale)[:, [0, 9, 18, 17, 26]].flatten(1).tolist()
            sr = net(lr, three_kernels(), three_maps(h, w), scale, noise).sr
        numbers = [float(value) for value in table.split()]
        assert [a + b for a, b in zip(parameters, rows(sr), strict=True)] == near([numbers[:10], numbers[10:]])
    with torch.no_grad():
        one = net(images(13, 17)[:1], off_centre_kernel(), torch.ones(1, 1, 1, 1).double(), 2, level(0.02)).sr
    assert rows(one) == near([WITH_ONE_KERNEL[model]])


# Of the first iteration at x2, to find a wrong step: v, x, h, z, u of two images.
FIRST = {
    "tiny": {
        "v": [
            (0.4275241782, 0.2877232656, 0.5040691077, 0.8242534387, 0.7301815871),
            (0.4268118729, 0.2887203998, 0.8614084584, 0.8365756679, 0.7181987573),
        ],
        "x": [
            (0.0169009844, 0.0201551546, 0.0612773745, 0.0127781624, 0.0027052741),
            (0.0165536334, 0.0232674671, 0.0608055366, 0.0228219477, 0.0070892373),
        ],
        "h": [
            (0.0169334889, 0.0183494972, 0.0361563258, 0.0258392611, -0.0038480978),
            (0.0165435952, 0.0209031334, 0.0359951972, 0.0223483331, -0.0066055169),
        ],
        "z": [
            (0.0761658040, 0.1301772943, 0.3046414590, 0.0258392611, -0.0038480978),
            (0.1189923746, 0.2246010321, 0.8637189707, 0.0223483331, -0.0066055169),
        ],
        "u": [
            (-0.0592323151, 0.1301211146, -0.2684851332, 0, 0),
            (-0.1024487794, 0.2256775895, -0.8277237736, 0, 0),
        ],
    },
    "full": {
        "v": [(0.4274586267, 0.2869464593, 0.5038612582, 0.8242097716, 0.7303749393), None],
        "x": [(0.0567266228, 0.0412747608, 0.0137018979, 0.0110491183, 0.1469507278), None],
        "z": [(0.1101022333, 0.1268496658, 0.3102571861, 0.0119600884, 0.0762128776), None],
        "u": [None, (-0.0920393690, 0.2070218222, -0.8186324456, 0, 0)],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "full"])
def test_values_of_the_first_iteration(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        net = DMBSR(**(TINY if model == "tiny" else {})).double()
    net = fill(net.to_empty(device="cpu"), 0.5)
    found: dict[str, Tensor] = {}

    def step(t: Tensor, *others: Tensor) -> Tensor:
        z = data_step(t, *others)
        found.update({name: value for name, value in (("h", t), ("z", z), ("u", t - z)) if name not in found})
        return z

    def of_prior(_: Any, given: tuple[Tensor, ...], x: Tensor) -> None:
        found.setdefault("v", given[0])
        found.setdefault("x", x)

    monkeypatch.setattr("networks.dmbsr.data_step", step)  # u is 0 before, so t is h
    net.prior.register_forward_hook(of_prior)
    with torch.no_grad():
        net(images(13, 17), three_kernels(), three_maps(26, 34), 2, level(0.02, 0))
    for name, expected in FIRST[model].items():
        values = [row for row, known in zip(rows(found[name]), expected, strict=True) if known]
        assert values == near([row for row in expected if row]), name


def test_parameters() -> None:
    with torch.device("meta"):
        full, tiny = DMBSR(), DMBSR(**TINY)
    assert sum(p.numel() for p in full.parameters()) == 17_016_731
    assert len(full.state_dict()) == 42
    assert sum(p.numel() for p in tiny.parameters()) == 590_827


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_images_do_not_depend_on_their_batch_and_any_size_does(scale: int) -> None:
    torch.manual_seed(0)
    net = DMBSR(**SMALL).double().eval()
    lr, kernels = torch.rand(2, 3, 5, 7).double(), torch.rand(2, 3, 6, 6).double().softmax(1) / 36
    weights = torch.rand(2, 3, 5 * scale, 7 * scale).double().softmax(1)
    noise = level(0.03, 0)
    both = net(lr, kernels, weights, scale, noise).sr
    assert both.shape == (2, 3, 5 * scale, 7 * scale)
    for i in range(2):
        of = slice(i, i + 1)
        torch.testing.assert_close(net(lr[of], kernels[of], weights[of], scale, noise[of]).sr, both[of])
    uniform = net(lr, kernels[:, :1], torch.ones(2, 1, 1, 1).double(), scale, noise).sr
    torch.testing.assert_close(
        net(lr, kernels[:, :1].expand(-1, 2, -1, -1), weights[:, :2].softmax(1), scale, noise).sr, uniform
    )
    single = net.float()(lr.float(), kernels.float(), weights.float(), scale, noise.float()).sr
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), both, rtol=0, atol=1e-5)


def test_twenty_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    net = DMBSR(**SMALL)
    hr = waves(16, 24, 2).float()
    kernels = torch.rand(2, 3, 5, 5).flatten(2).softmax(2).view(2, 3, 5, 5)
    weights = torch.rand(2, 3, 16, 24).softmax(1)
    lr = SpectralBlur(kernels, weights, (16, 24))(hr)[..., ::2, ::2]
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = (net(lr, kernels, weights, 2, torch.zeros(2, 1, 1, 1)).sr - hr).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in net.parameters())
    assert losses[-1] < 0.6 * losses[0]


def test_a_kernel_for_the_whole_image_is_one_of_several() -> None:
    """So it trains and is measured wherever USRNet is."""
    torch.manual_seed(0)
    net = DMBSR(**SMALL)
    batch = Batch(torch.rand(2, 3, 8, 12), ["a", "b"], torch.arange(2), torch.arange(2))
    degradation = ClassicalDegradation(partial(usrnet_mixture, size=5), 2, noise=0.01)
    assert input_mistake("DMBSR", net.inputs, degradation, "usrnet_test") is None
    fields = taken(net, vars(degradation(batch)))
    assert fields["kernels"].shape == (2, 1, 5, 5)
    assert torch.equal(fields["weights"], torch.ones(2, 1, 1, 1))
    assert net(**fields).sr.shape == (2, 3, 8, 12)
    varying = SpatiallyVaryingDegradation(partial(usrnet_mixture, size=5), 2, margin=0)
    assert taken(net, vars(varying(batch)))["weights"].shape == (2, 4, 8, 12)
    assert RestorationModule(net, [])(varying(batch)).sr.shape == (2, 3, 8, 12)


def test_maps_of_another_size_are_refused() -> None:
    net = DMBSR(**SMALL)
    lr, kernels, noise = torch.rand(1, 3, 4, 4), torch.full((1, 2, 3, 3), 1 / 9), torch.zeros(1, 1, 1, 1)
    for shape in ((1, 2, 4, 4), (1, 3, 8, 8), (1, 2, 1, 8)):
        with pytest.raises(ValueError, match=r"weights have shape .*, expected \[1, 2, 8, 8\]"):
            net(lr, kernels, torch.ones(shape), 2, noise)
    with pytest.raises(ValueError, match="scale"):
        net(lr, kernels, torch.ones(1, 2, 1, 1), 5, noise)


def test_published_weights() -> None:
    torch.manual_seed(0)
    options = SMALL | {"n_blocks": 2}
    net = DMBSR(**options)
    published = {official_name(name): value for name, value in net.state_dict().items()}
    assert {"p.m_down1.0.res.0.weight", "h.mlp.4.bias"} <= published.keys()
    found = import_official(dict(reversed(published.items())))
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(value, found[name]) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match=r"16 hyper-parameters, .*model=usrnet"):
        import_official(
            {official_name(name): value for name, value in USRNet(**options | {"n_iter": 8}).state_dict().items()}
        )
    with pytest.raises(ValueError, match=r"missing p\.m_tail\.weight"):
        import_official({name: value for name, value in published.items() if name != "p.m_tail.weight"})
