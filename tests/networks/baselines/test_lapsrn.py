from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from datamodules.errors import InputError
from lightning_modules.checkpoints.checkpoint import read_weights
from networks.baselines.lapsrn import LapSRN, import_official
from tests.helpers.references import imresize, rgb_to_ycbcr, ycbcr_to_rgb

Parameters = dict[str, np.ndarray]


def official_shapes(n_levels: int, width: int, n_convs: int) -> dict[str, tuple[int, ...]]:
    """Parameters of the authors' code in its order; MATLAB keeps no last dimension of 1 beyond the second."""
    shapes: dict[str, tuple[int, ...]] = {"input_conv_f": (3, 3, 1, width), "input_conv_b": (1, width)}
    for level in range(n_levels, 0, -1):
        for name in (*(f"conv{i}" for i in range(1, n_convs + 1)), "upconv"):
            shapes[f"level{level}_{name}_f"] = (3, 3, width, width)
            shapes[f"level{level}_{name}_b"] = (1, width)
        shapes[f"level{level}_residual_conv_f"] = (3, 3, width)
        shapes[f"level{level}_residual_conv_b"] = (1, 1)
    return shapes | {f"level{level}_img_up_f": (4, 4) for level in range(n_levels, 0, -1)}


def official(n_levels: int, width: int, n_convs: int) -> Parameters:
    rng = np.random.default_rng(0)
    shapes = official_shapes(n_levels, width, n_convs)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def save(path: Path, parameters: Parameters) -> None:
    """As `net = net.saveobj(); save(FILE, 'net')` of a dagnn.DagNN."""
    params = np.zeros(
        (1, len(parameters)), dtype=[(k, object) for k in ("name", "value", "learningRate", "weightDecay")]
    )
    for slot, (name, value) in zip(params[0], parameters.items(), strict=True):
        slot["name"], slot["value"], slot["learningRate"], slot["weightDecay"] = name, value, 1.0, 1.0
    layers = np.zeros((1, 1), dtype=[(k, object) for k in ("name", "type", "params")])
    layers[0, 0] = ("input_conv", "dagnn.Conv", np.array([["input_conv_f", "input_conv_b"]], dtype=object))
    scipy.io.savemat(path, {"net": {"vars": [], "params": params, "layers": layers, "meta": [], "conserveMemory": 1.0}})


def conv(x: np.ndarray, filters: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """MatConvNet's vl_nnconv with pad 1: [H, W, in], filters [3, 3, in, out]."""
    filters = filters.reshape(*filters.shape, *[1] * (4 - filters.ndim))
    h, w = x.shape[:2]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((h, w, filters.shape[3])) + bias.ravel()
    for i in range(3):
        for j in range(3):
            out += padded[i : i + h, j : j + w] @ filters[i, j]
    return out


def conv_transposed(x: np.ndarray, filters: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """MatConvNet's vl_nnconvt, upsample 2: every pixel spreads its filter [k, k, out, in]; crop both axes alike."""
    filters = filters.reshape(*filters.shape, *[1] * (4 - filters.ndim))
    h, w = x.shape[:2]
    k = len(filters)
    out = np.zeros((2 * (h - 1) + k, 2 * (w - 1) + k, filters.shape[2]))
    for y in range(h):
        for z in range(w):
            out[2 * y : 2 * y + k, 2 * z : 2 * z + k] += filters @ x[y, z]
    return out[crop[0] : len(out) - crop[1], crop[0] : out.shape[1] - crop[1]]


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def reference(p: Parameters, y: np.ndarray, n_levels: int, n_convs: int) -> list[np.ndarray]:
    """Luma [h, w] -> the outputs of all levels, coarsest first."""
    image = y[..., None].astype(float)
    x = leaky(conv(image, p["input_conv_f"], p["input_conv_b"]))
    outputs = []
    for level in range(n_levels, 0, -1):
        for i in range(1, n_convs + 1):
            x = leaky(conv(x, p[f"level{level}_conv{i}_f"], p[f"level{level}_conv{i}_b"]))
        x = leaky(conv_transposed(x, p[f"level{level}_upconv_f"], (0, 1)) + p[f"level{level}_upconv_b"].ravel())
        residual = conv(x, p[f"level{level}_residual_conv_f"], p[f"level{level}_residual_conv_b"])
        image = conv_transposed(image, p[f"level{level}_img_up_f"], (1, 1)) + residual
        outputs.append(image[..., 0])
    return outputs


def test_parameters() -> None:
    assert sum(p.numel() for p in LapSRN().parameters()) == 814_242
    assert sum(p.numel() for p in LapSRN(form="port").parameters()) == 870_112
    assert sum(np.prod(shape) for shape in official_shapes(2, 64, 10).values()) == 814_242


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_official_file_and_forward(tmp_path: Path, scale: int, channels: int) -> None:
    n_levels = scale.bit_length() - 1
    parameters = official(n_levels, 4, 3)
    save(tmp_path / "LapSRN.mat", parameters)
    net = LapSRN(scale=scale, width=4, n_convs=3).requires_grad_(False)
    read_weights(net, tmp_path / "LapSRN.mat")
    net.double()
    lr = torch.rand(2, channels, 5, 7, dtype=torch.float64)
    found = net(lr)
    assert found.pyramid is not None
    assert len(found.pyramid) == n_levels
    assert found.sr is found.pyramid[-1]
    for i in range(2):
        image = lr[i].permute(1, 2, 0).numpy()
        y = rgb_to_ycbcr(image)[..., 0] if channels == 3 else image[..., 0]
        for k, expected in enumerate(reference(parameters, y, n_levels, 3)):
            if channels == 3:
                ycbcr = imresize(rgb_to_ycbcr(image), 2 ** (k + 1))
                ycbcr[..., 0] = expected
                expected = ycbcr_to_rgb(ycbcr)
            got = found.pyramid[k][i].permute(1, 2, 0).squeeze(-1).numpy()
            assert np.abs(got - expected).max() < 1e-10 * np.abs(expected).max()


def test_port_doubles_the_size_symmetrically() -> None:
    """4x4 up-convolutions cropped by one on every side: mirrored weights and images give mirrored results."""
    net = LapSRN(form="port", width=3, n_convs=2).double().requires_grad_(False)
    assert not any("bias" in name for name in net.state_dict())
    lr = torch.rand(1, 1, 6, 5, dtype=torch.float64)
    expected = net(lr).sr.flip(-1)
    for weight in net.parameters():
        weight.data = weight.flip(-1)
    assert (net(lr.flip(-1)).sr - expected).abs().max() < 1e-12


def test_initial_weights() -> None:
    net = LapSRN()
    weights = dict(net.named_parameters())
    assert weights["first.0.weight"].std().item() == pytest.approx(1e-3, rel=0.15)
    assert weights["levels.1.body.4.weight"].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert weights["levels.0.up.weight"].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert not any(value.any() for name, value in weights.items() if name.endswith("bias"))
    line = np.array([0.25, 0.75, 0.75, 0.25])
    assert np.array_equal(weights["levels.0.image.weight"][0, 0].detach().numpy(), np.outer(line, line))


@pytest.mark.parametrize("options", [{"scale": 3}, {"form": "paper"}, {"width": 0}, {"n_convs": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*, expected"):
        LapSRN(**options)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "LapSRN.mat"
    net = LapSRN(width=4, n_convs=3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = official(2, 4, 3)
    # What the file lacks, has too much or has in another shape: the message says so.
    for changed, message in (
        (official(3, 4, 3), "published weights of another size"),
        ({k: v for k, v in parameters.items() if k != "level1_upconv_b"}, r"first: missing levels\.1\.up\.bias"),
        ({**parameters, "level1_upconv_f": parameters["level1_conv1_f"][..., :3]}, "1 of another shape"),
        ({**parameters, "level1_conv_f": parameters["level1_conv1_f"]}, "unexpected level1_conv_f"),
        ({"fc_f": np.zeros((2, 2))}, "unexpected fc_f"),
    ):
        save(file, changed)
        with pytest.raises(InputError, match=message):
            read_weights(net, file)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match="unexpected none"):
        import_official({"input_conv_b": torch.zeros(1, 4)})
