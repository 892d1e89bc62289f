import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from networks.bicubic import Bicubic
from networks.ed_dsrn import EDDSRN
from networks.ops.resize import bicubic_resize
from tests.helpers.references import imresize


def millions(**options: object) -> float:
    with torch.device("meta"):
        return round(sum(p.numel() for p in EDDSRN(**options).parameters()) / 1e6, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("widths", "up_kernel", "expected"),
    [
        ((64, 128, 256, 512), 4, (10.352, 18.023, 25.693)),
        ((64, 128, 256, 512), 3, (9.148, 16.818, 24.489)),
        ((64, 128, 256, 256), 4, (6.812, 10.943, 15.074)),
        ((64, 64, 128, 256), 4, (3.063, 4.982, 6.900)),
        ((64, 64, 64, 64), 4, (1.207, 1.576, 1.945)),
    ],
)
def test_parameter_counts(widths: tuple[int, ...], up_kernel: int, expected: tuple[float, ...]) -> None:
    assert tuple(millions(widths=widths, up_kernel=up_kernel, n_units=n) for n in (1, 2, 3)) == expected


def test_parameter_counts_of_ed_srn() -> None:
    assert millions(n_units=1, deblur_branch=False) == 10.277
    assert millions(n_units=3, deblur_branch=False) == 25.617


def table_forward(net: EDDSRN, x: Tensor) -> tuple[Tensor, Tensor]:
    """The published sequence of blocks once more, as function calls on the weights, for sides divisible by 8."""
    weights = dict(net.named_parameters())

    def conv(name: str, x: Tensor, pad: int = 1) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=pad)

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def block(name: str, x: Tensor) -> Tensor:
        for unit in range(2):
            body = conv(f"{name}.{unit}.body.2", act(conv(f"{name}.{unit}.body.0", x)))
            narrow = f"{name}.{unit}.shortcut"
            x = body + (conv(narrow, x, 0) if f"{narrow}.weight" in weights else x)
        return x

    def up(name: str, x: Tensor) -> Tensor:
        return act(F.conv_transpose2d(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], stride=2, padding=1))

    def shuffle(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)

    f0 = act(conv("stem.0", x, 3))
    f1 = block("encoder1.1", F.max_pool2d(f0, 2))
    f2 = block("encoder2.1", F.max_pool2d(f1, 2))
    f3 = block("encoder3.1", F.max_pool2d(f2, 2))
    d1 = block("decoder1", up("up1", f3) + conv("skip1", f2))
    d2 = block("decoder2", up("up2", d1) + conv("skip2", f1))
    shared = up("up3", d2) + conv("skip3", f0)
    y = shared
    for layer in (0, 2, 4):
        y = act(conv(f"sr_head.{layer}", y))
    for layer in (6, 9):
        y = act(shuffle(conv(f"sr_head.{layer}", y)))
    y = conv("sr_head.14", act(conv("sr_head.12", y)))
    z = conv("deblur_head.4", act(conv("deblur_head.2", act(conv("deblur_head.0", shared)))))
    up_x = torch.stack([torch.from_numpy(imresize(i.permute(1, 2, 0).numpy(), 4)).permute(2, 0, 1) for i in x])
    return y + up_x, z + x


def test_layers_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    net = EDDSRN((6, 8, 10, 12), n_units=2).double()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.15)  # biases too
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        restored = net(lr=x)
        sr, deblurred = table_forward(net, x)
    assert torch.allclose(restored.sr, sr, atol=1e-11)
    assert torch.allclose(restored.deblurred, deblurred, atol=1e-11)


@pytest.mark.parametrize("size", [(37, 31), (8, 8), (5, 50), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    """Sizes that 8 does not divide are continued by repetition, and the result is cut to the input's frame."""
    net = EDDSRN((4, 5, 6, 7), n_units=1).eval()
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        restored = net(lr=x)
        padded = F.pad(x, (0, -size[1] % 8, 0, -size[0] % 8), mode="replicate")
        whole = net(lr=padded)
    h, w = size
    assert restored.sr.shape == (2, 3, 4 * h, 4 * w)
    assert restored.deblurred.shape == x.shape
    assert torch.allclose(restored.deblurred, whole.deblurred[..., :h, :w], atol=1e-5)
    inside = restored.sr - bicubic_resize(x, 4)
    outside = (whole.sr - bicubic_resize(padded, 4))[..., : 4 * h, : 4 * w]
    assert torch.allclose(inside, outside, atol=1e-4)


def test_options() -> None:
    x = torch.rand(1, 3, 8, 16)
    small = {"widths": (4, 4, 4, 4), "n_units": 1}
    assert EDDSRN(**small, deblur_branch=False)(lr=x).deblurred is None  # type: ignore[arg-type]
    for options in ({"pooling": "avg"}, {"pooling": "conv"}, {"up_kernel": 3}, {"global_residual": "none"}):
        assert EDDSRN(**small, **options)(lr=x).sr.shape == (1, 3, 32, 64)  # type: ignore[arg-type]
    torch.manual_seed(0)
    bicubic = EDDSRN(**small)  # type: ignore[arg-type]
    nearest = EDDSRN(**small, global_residual="nearest")  # type: ignore[arg-type]
    nearest.load_state_dict(bicubic.state_dict())
    difference = nearest(lr=x).sr - bicubic(lr=x).sr
    expected = x.repeat_interleave(4, 2).repeat_interleave(4, 3) - bicubic_resize(x, 4)
    assert torch.allclose(difference, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": (1, 2, 3)}, "4 positive"),
        ({"n_units": 0}, "at least 1"),
        ({"global_residual": "bilinear"}, "bicubic, nearest or none"),
        ({"pooling": "min"}, "max, avg or conv"),
        ({"up_kernel": 5}, "3 or 4"),
    ],
)
def test_wrong_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EDDSRN(**options)  # type: ignore[arg-type]


def test_two_images_do_not_mix() -> None:
    net = EDDSRN((4, 5, 6, 7), n_units=1).double().eval()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    assert torch.allclose(net(lr=x).sr[1:], net(lr=x[1:]).sr, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bicubic_network(scale: int) -> None:
    x = torch.rand(2, 1, 7, 5, dtype=torch.float64)
    sr = Bicubic(scale)(lr=x).sr
    expected = imresize(x[1, 0].numpy(), scale) if scale > 1 else x[1, 0].numpy()
    assert torch.allclose(sr[1, 0], torch.from_numpy(expected), atol=1e-12)
