"""What a restorer can be made of, and what is said where it cannot; the snippets of docs/api.md."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from datamodules.errors import ConfigError, InputError
from experiments.config import CONF
from experiments.config.compose import compose_model
from experiments.restore import Restorer
from lightning_modules.checkpoints.checkpoint import load_network
from networks.cascade import Cascade
from networks.classical import Wiener
from tests.conftest import photograph
from tests.experiments.conftest import Trained

DOCS = CONF.parent / "docs" / "api.md"


def restored(restorer: Restorer, **fields: Any) -> np.ndarray:
    found = restorer.restore(photograph(20, 24, 0), **fields).sr
    assert isinstance(found, np.ndarray)
    return found


def test_a_run_its_checkpoint_and_its_weights_are_the_same(trained: Trained) -> None:
    best = trained.run / "checkpoints" / "best.ckpt"
    by_run, by_file = Restorer.load(trained.run), Restorer.load(str(best))
    assert (by_run.name, by_file.name) == ("tiny", "ed_dsrn")
    assert (by_run.scales, by_run.inputs, by_run.needs_kernel, by_run.estimates_kernel) == ((4,), ("lr",), False, False)
    overrides = ["model.widths=[4,4,4,4]", "model.n_units=1"]
    by_model = Restorer.load(best, model="ed_dsrn", overrides=overrides)
    by_config = Restorer.load(best, model=compose_model("ed_dsrn", overrides))
    with torch.inference_mode():
        expected = load_network(best)[0](torch.from_numpy(photograph(20, 24, 0)).permute(2, 0, 1)[None] / 255).sr[0]
    levels = (expected.clamp(0, 1) * 255).permute(1, 2, 0)
    for restorer in (by_run, by_file, by_model, by_config):
        np.testing.assert_allclose(restored(restorer), levels, atol=0.501)


@pytest.mark.slow
def test_a_cascade_of_two(trained: Trained) -> None:
    restorer = Restorer.load([trained.run, "bicubic"])
    assert (restorer.name, restorer.scales) == ("tiny+bicubic", (1, 2, 3, 4))
    found = restorer.restore(photograph(20, 24, 0), scale=2)
    network = load_network(trained.run / "checkpoints" / "best.ckpt")[0]
    image = torch.from_numpy(photograph(20, 24, 0)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = (network(image).deblurred[0].clamp(0, 1) * 255).permute(1, 2, 0)
    np.testing.assert_allclose(found.deblurred, expected, atol=0.501)
    assert found.sr.shape == (40, 48, 3)
    blind = Restorer.load(["dark_channel", trained.run]).restore(photograph(40, 60, 0), tile=48)
    assert blind.sr.shape == (160, 240, 3)
    assert blind.notes[0] == "Every tile estimates a kernel of its own."


def test_what_cannot_be_loaded_is_said_in_one_line(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    torch.save({"some": torch.zeros(1)}, tmp_path / "other.pth")
    for source, fields, message in (
        (None, {}, "nothing to load"),
        (tmp_path / "absent.ckpt", {}, "no such checkpoint"),
        (tmp_path / "empty", {}, "no run folder"),
        (tmp_path / "other.pth", {}, "for published weights say of which model: model=NAME"),
        (tmp_path / "other.pth", {"model": "usrnet_tiny"}, "not published weights of USRNet"),
        (tmp_path / "absent.pth", {"model": "usrnet_tiny"}, "no such file of weights"),
        (None, {"model": "ed_dsrn_base"}, "model=ed_dsrn_base has weights to load"),
        (["wiener", trained.run], {}, "put a network first that does not"),
        ([trained.run, trained.run / "absent.ckpt"], {}, "not there, expected a run folder"),
    ):
        with pytest.raises(InputError, match=message) as error:
            Restorer.load(source, **fields)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"^cascade: found \['.*/tiny'\], expected two"):
        Restorer.load([trained.run])
    with pytest.raises(ConfigError, match=r"model=ed_dsrm: no such option .*did you mean ed_dsrn"):
        Restorer.load(None, "ed_dsrm")
    with pytest.raises(ConfigError, match=r"model\.iterations: .*"):
        Restorer.load(None, "wiener", overrides=["model.iterations=3"])


def test_composing_says_nothing_and_takes_overrides() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compose_model("edsr_baseline", ["model.scale=2"])["scale"] == 2
    assert compose_model("edsr_baseline")["width"] == 64


def test_the_snippets_of_the_docs(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.run, tmp_path / "runs" / "quickstart")
    Image.fromarray(photograph(300, 40, 0)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(snippets) == 3
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, str(DOCS), "exec"), names)
    restored = np.asarray(Image.open("restored.png"))
    assert restored.shape == (1200, 160, 3)
    assert capsys.readouterr().out.splitlines() == ["torch.Size([3, 600, 80]) []", "1 of 2 tiles", "2 of 2 tiles"]
    assert np.abs(np.load("restored.npy").astype(int) - restored).max() <= 1


def test_classical_methods_keep_their_boundary_where_it_is_set() -> None:
    restorer = Restorer.load(None, "wiener", overrides=["model.boundary=wrap"])
    assert isinstance(restorer._network(2), Wiener)
    assert not isinstance(restorer._network(2), Cascade)


def test_what_hydra_was_set_up_for_is_given_back() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        Restorer.load(None, "bicubic")
        assert compose("config").task._target_ == "experiments.train.run"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        *(({"source": source}, "source: found ") for source in (3, b"x", [1, 2], {"a": 1})),
        ({"model": 3}, "model: found 3, expected the name of an option"),
        *(
            ({"model": node}, "model._target_: ")
            for node in ({}, {"scale": 2}, {"_target_": 3}, {"_target_": "os.getcwd"})
        ),
        ({"model": {"_target_": "networks.bicubic.Bicubic", "scale": "x"}}, "model.scale: found 'x', expected a valid"),
        ({"model": {"_target_": "networks.bicubic.Bicubic", "scal": 2}}, "model.scal: unknown key"),
        ({"overrides": "model.scale=2"}, "overrides: found 'model.scale=2', expected a list such as"),
        *(({"overrides": found}, f"overrides: found {found!r}") for found in (None, [3])),
        ({"overrides": ["model.scale=two"]}, "model.scale: found 'two', expected a valid integer"),
        *(({"device": found}, f"device: found {found!r}") for found in (None, 3.5, "gpus")),
        *(({"precision": found}, f"precision: found {found!r}, expected 'float32', 'bf16'") for found in (32, None)),
        ({"engine": "onnx"}, "engine: found 'onnx', expected 'auto', 'torch', 'openvino', 'onnxruntime'"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "precision: found bf16, which onnxruntime does not compute"),
        ({"self_ensemble": "yes"}, "self_ensemble: found 'yes', expected True or False"),
        ({"source": "x", "use": "worst"}, "use: found 'worst', expected 'best', 'last' or None"),
    ],
)
def test_arguments_of_the_wrong_type(values: dict[str, Any], line: str) -> None:
    with pytest.raises((InputError, ConfigError)) as caught:
        Restorer.load(**{"model": "bicubic", **values})
    assert str(caught.value).startswith(line)
