"""Engines: the same result as torch, taken where they are there and agree, and what is said where they do not."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from experiments.engines import network as choosing
from experiments.engines import runtimes
from experiments.engines.network import accelerated
from experiments.export import graph as graphs
from experiments.export.exportable import Exportable
from experiments.models import Model
from experiments.restore import Restoration, Restorer
from networks.base import RestorationNetwork
from networks.cascade import Cascade
from tests.conftest import photograph
from tests.helpers.marks import quick
from tests.helpers.networks import MODELS, tiny

pytest.importorskip("onnxscript")  # the extra `export`: it makes the graph that every engine reads

ENGINES = ("openvino", "onnxruntime")
SIZES = ((37, 53), (64, 48), (45, 29))
FOURIER = {"dan_usrnet_tiny", "dpir_small", "usrnet_tiny", "dan_usrnet", "dpir", "usrnet", "usrgan", "usrgan_tiny"}
NOT_BY = {("dmbsr", "openvino"), ("dmbsr_tiny", "openvino")}  # its convolutions have computed weights of any size
LEARNED = [option for option in MODELS if any(True for _ in tiny(option).parameters())]
KERNEL = np.outer([1, 2, 1], [1, 3, 1])


@pytest.fixture(scope="module", autouse=True)
def graphs_of_this_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEBLUR_SR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def trained(option: str) -> RestorationNetwork:
    """Small, and with no layer that is still zero."""
    network = tiny(option)
    for weights in network.parameters():
        weights.data.add_(0.03 * torch.randn_like(weights))
    return network


def restorer(network: RestorationNetwork, engine: str, **options: Any) -> Restorer:
    return Restorer(Model("tiny", lambda _: network, network.scales), "cpu", engine=engine, **options)  # type: ignore[arg-type]


def image(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(photograph(height, width, 1)).permute(2, 0, 1) / 255


def difference(one: Restoration, other: Restoration, name: str = "sr") -> float:
    """The largest one."""
    first, second = (torch.as_tensor(getattr(each, name)) for each in (one, other))
    return (first - second).abs().max().item()


def needed(network: Restorer) -> dict[str, Any]:
    return {
        **({"kernel": KERNEL} if network.needs_kernel else {}),
        **({"noise_level": 0.02} if "noise_level" in network.inputs else {}),
        "scale": network.scales[-1],
    }


@pytest.mark.parametrize("option", quick(LEARNED, "srresnet"))
def test_engines_agree_with_torch_or_say_why_not(option: str) -> None:
    network = trained(option)
    by_torch = restorer(network, "torch")
    fields = needed(by_torch)
    for engine in ENGINES:
        if option in FOURIER:
            with pytest.raises(InputError, match=f"engine: found {engine}: .* computes Fourier transforms"):
                restorer(network, engine).restore(image(20, 20), **fields)
            continue
        by_engine = restorer(network, engine)
        if (option, engine) in NOT_BY:
            with pytest.raises(InputError, match="Unsupported operation of type: Convolution"):
                by_engine.restore(image(20, 20), **fields)
            continue
        for size in SIZES:
            expected, found = by_torch.restore(image(*size), **fields), by_engine.restore(image(*size), **fields)
            assert found.engine == engine
            assert difference(found, expected) < 1e-4
            assert (found.deblurred is None) == (expected.deblurred is None)
            if expected.deblurred is not None:
                assert difference(found, expected, "deblurred") < 1e-4


def test_auto_takes_openvino_and_records_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    network = trained("srresnet")
    first = restorer(network, "auto")
    first.prepare(4)
    result = first.restore(image(37, 53))
    assert result.engine == "openvino"
    (note,) = result.notes
    assert note.startswith("Computed by openvino in float32, at most ")
    assert 0 < float(note.split()[7]) < 1e-4
    monkeypatch.setattr(graphs, "write_onnx", None)  # cannot be called
    again = restorer(trained("srresnet"), "auto").restore(image(20, 24))  # equal weights, another object
    assert again.engine == "openvino"


def test_auto_records_for_tiles_and_not_for_one_small_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[bool]()
    monkeypatch.setattr(choosing, "graph", lambda _, make: made.append(make))
    auto = restorer(trained("srresnet"), "auto")
    result = auto.restore(image(60, 60))
    assert (result.engine, result.notes) == ("torch", [])
    auto.restore(image(60, 60), tile=56, overlap=16)
    auto.prepare(4)
    assert made == [False, True, True]


def test_tiles_equal_the_whole() -> None:
    pytest.importorskip("openvino")
    by_engine = restorer(trained("srresnet"), "openvino")
    field = by_engine.field(4)
    assert field is not None
    picture = image(3 * field + 50, 2 * field + 61)
    whole = by_engine.restore(picture, tile=1000)
    for batch in (1, 3):
        tiled = by_engine.restore(picture, tile=2 * field + 24, batch=batch)
        assert tiled.engine == "openvino"
        assert difference(tiled, whole) < 1e-5


def off_by(difference: float) -> Callable[..., Any]:
    """An engine that is wrong."""

    def open_wrong(path: Path, precision: str) -> Any:
        right = runtimes.open_onnxruntime(path, "float32")

        def run(fields: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
            return [values + np.float32(difference) for values in right(fields)]

        return run

    return open_wrong


def test_engines_that_differ_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained("srresnet")
    monkeypatch.setattr(choosing, "installed", lambda _: True)
    monkeypatch.setitem(choosing.OPEN, "openvino", off_by(1e-3))
    auto = restorer(network, "auto")
    auto.prepare(4)
    assert auto.restore(image(20, 24)).engine == "onnxruntime"
    monkeypatch.setitem(choosing.OPEN, "onnxruntime", off_by(float("nan")))
    neither = restorer(network, "auto")
    neither.prepare(4)
    result = neither.restore(image(20, 24))
    (note,) = result.notes
    reasons = (
        r"openvino differs from torch by \d\.\de-04, allowed 1e-04; onnxruntime differs from torch by inf, allowed"
    )
    assert re.match(f"Computed by torch: {reasons} 1e-04.$", note)
    assert torch.equal(
        torch.as_tensor(result.sr), torch.as_tensor(restorer(network, "torch").restore(image(20, 24)).sr)
    )
    with pytest.raises(InputError, match="engine: found onnxruntime: onnxruntime differs from torch by inf"):
        restorer(network, "onnxruntime").restore(image(20, 24))


def test_without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runtimes, choosing):
        monkeypatch.setattr(module, "installed", lambda _: False)
    with pytest.raises(InputError, match=r"^engine: openvino is not installed: pip install .*\[fast\]"):
        restorer(trained("srresnet"), "openvino")
    auto = restorer(trained("srresnet"), "auto")
    auto.prepare(4)
    (note,) = auto.restore(image(20, 24)).notes
    assert note.startswith("Computed by torch: none of openvino, onnxruntime is installed: pip install ")


def test_fourier_networks_stay_with_torch_and_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exportable, "program", None)
    auto = restorer(trained("usrnet"), "auto")
    auto.prepare(2)
    result = auto.restore(image(20, 24), 2, KERNEL, 0.02)
    reason = "USRNet computes Fourier transforms, which go into a program but not into an ONNX file"
    assert result.notes == [f"Computed by torch: {reason}."]


def test_gray_photographs_of_networks_for_single_channels() -> None:
    network = tiny("bicubic")
    by_engine, by_torch = restorer(network, "onnxruntime"), restorer(network, "torch")
    colour = image(20, 24)
    for picture, engine, said in (
        (colour, "onnxruntime", "Computed by onnxruntime"),
        (colour[:1], "torch", "Computed by torch: the graph is for colour images, enlarged by 3."),
        (colour, "onnxruntime", "Computed by onnxruntime"),
    ):
        found = by_engine.restore(picture)
        assert found.engine == engine
        assert found.notes[0].startswith(said)
        assert difference(found, by_torch.restore(picture)) <= (0 if engine == "torch" else 1e-5)


@pytest.mark.slow
def test_both_networks_of_a_cascade() -> None:
    cascade = Cascade(trained("deblurcnn"), trained("srresnet"), rounding=False).eval()
    computed = accelerated(cascade, 4, "onnxruntime", "float32")
    assert computed is not None
    lr = image(20, 24)[None]
    with torch.inference_mode():
        assert (computed(lr=lr).sr - cascade(lr=lr).sr).abs().max() < 1e-4
    assert choosing.computed_by(computed)[0] == "onnxruntime"


def test_bfloat16() -> None:
    pytest.importorskip("openvino")
    network = trained("srresnet")
    auto = restorer(network, "auto", precision="bf16")
    auto.prepare(4)
    result = auto.restore(image(37, 53))
    assert result.engine in ("openvino", "torch")  # not every processor can
    (note,) = result.notes
    assert "bf16" in note
    difference = (
        torch.as_tensor(result.sr) - torch.as_tensor(restorer(network, "torch").restore(image(37, 53)).sr)
    ).abs()
    assert 0 < difference.max() < 0.1


def test_graphs_are_told_apart_by_all_they_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = graphs.key(Exportable(trained("srresnet"), 4))
    assert key == graphs.key(Exportable(trained("srresnet").to(memory_format=torch.channels_last), 4))  # type: ignore[call-overload]
    other = trained("srresnet")
    next(other.parameters()).data.view(-1)[0] += 1e-3
    option = trained("srresnet")
    option.size_multiple = 8
    keys = {key, *(graphs.key(Exportable(network, 4)) for network in (other, option))}
    monkeypatch.setattr(graphs, "OPSET", 19)
    assert len({*keys, graphs.key(Exportable(trained("srresnet"), 4))}) == 4


def test_graphs_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBLUR_SR_CACHE", str(tmp_path))
    monkeypatch.setattr(graphs, "KEPT", 2)
    monkeypatch.setattr(graphs, "write_onnx", lambda _, path, about: path.write_text("graph"))
    options = ("srresnet", "edsr", "ed_dsrn")
    first, second, _ = [graphs.graph(Exportable(trained(option), 4)) for option in options]
    assert first is not None
    assert second is not None
    assert not first.exists()
    assert [file.suffix for file in tmp_path.rglob("*") if file.is_file()] == [".onnx", ".onnx"]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEBLUR_SR_CACHE", str(tmp_path / "file"))
    assert (
        "file/graphs: Not a directory: set DEBLUR_SR_CACHE"
        in choosing.ComputedNetwork(trained("srresnet"), 4, "auto", "float32", True).note
    )
