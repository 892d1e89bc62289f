"""task=export: every model of conf/model/ is written, read back elsewhere and the same, or refused with the reason."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.errors import InputError
from experiments.export import exportable as recording
from experiments.export.exportable import Exportable, ExportError
from experiments.export.formats import write_onnx, write_program
from experiments.export.task import describe
from experiments.models import Model
from lightning_modules.checkpoints.checkpoint import load_network
from networks.base import RestorationNetwork
from tests.conftest import Outcome, figures
from tests.experiments.config.test_configs import MODELS, compose
from tests.helpers.marks import quick

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Cli = Callable[..., Outcome]

# Options that make networks small, by class or model. Others are exported as they are: a new one belongs here.
# Recording takes 0.1 s for every operation, however narrow: of the recurrent networks one has more than one scale.
TINY: dict[str, dict[str, Any]] = {
    "EDDSRN": {"widths": [2, 2, 2, 2], "n_units": 1},
    "CooperativeNet": {"widths": [2, 2, 2, 2], "n_units": 1},
    "GFN": {"width": 2, "n_blocks": [1, 1]},
    "NAFNet": {"width": 2, "enc": [1], "mid": 0, "dec": [0], "local_pooling": [16, 24]},
    "NAFNetSR": {"width": 2, "enc": [1], "mid": 0, "dec": [0], "sr_blocks": 0, "head_gain": 1.0},
    "SRN": {"widths": [2, 2, 2], "n_blocks": 1, "n_scales": 1},
    "srn_lstm": {"n_scales": 2},
    "USRNet": {"n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1, "hyper_width": 2},
    "DANUSRNet": {
        "n_loops": 1,
        "kernel_size": 7,
        "restorer": {"n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1, "hyper_width": 2},
        "estimator": {"width": 16, "n_blocks": 1},
    },
    "SRResNet": {"width": 2, "n_blocks": 1},
    "EDSR": {"width": 2, "n_blocks": 1},
    "LapSRN": {"width": 2, "n_convs": 1},
    "VDSR": {"width": 2, "n_layers": 3},
    "DeblurCNN": {"width": 0.125},
    "SCGANStandIn": {"width": 2, "n_layers": 1},
    "DRUNet": {"widths": [2, 2, 2, 2], "n_blocks": 1},
    "DPIR": {
        "n_iter": 2,
        "denoiser": {"_target_": "networks.drunet.DRUNet", "widths": [2, 2, 2, 2], "n_blocks": 1},
    },
}
FOURIER = "computes Fourier transforms"
BY_VALUE = "takes steps that depend on the values of the image"
REFUSED = {
    "DPIR": {"onnx": FOURIER},
    "USRNet": {"onnx": FOURIER},
    "DANUSRNet": {"onnx": FOURIER},
    "Wiener": {"onnx": FOURIER},
    "RichardsonLucy": {"onnx": BY_VALUE, "program": BY_VALUE},
    "DarkChannel": {"onnx": BY_VALUE, "program": BY_VALUE},
}
ABOUT = {"label": "tiny", "scale": 2}


def tiny(model: str) -> dict[str, Any]:
    """The config of an option of conf/model/, small."""
    config: Any = OmegaConf.to_container(compose(f"model={model}", "++degradation.scale=4").model, resolve=True)
    return {**config, **TINY.get(config["_target_"].rpartition(".")[2], {}), **TINY.get(model, {})}


def build(config: dict[str, Any]) -> RestorationNetwork:
    """A network whose running statistics are not those of a new one, which hide mistakes."""
    torch.manual_seed(0)
    network: RestorationNetwork = hydra.utils.instantiate(config, _convert_="all").eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    if side := network.kernel_side if network.has_basis else 0:
        network.fit_basis(torch.rand(30, side**2).softmax(1).view(30, 1, side, side), seed=0)
    return network


@cache
def exported(config: str, folder: Path) -> tuple[Exportable, dict[str, str]]:
    """Writes tiny.onnx and tiny.pt2; what was refused, by format. Models that differ in size alone are one here."""
    exportable = Exportable(build(json.loads(config)), scale=2)
    refused: dict[str, str] = {}
    try:
        assert exportable.program
    except ExportError as error:
        return exportable, {"onnx": str(error), "program": str(error)}
    for name, writer, ending in (("onnx", write_onnx, "onnx"), ("program", write_program, "pt2")):
        # A program is the recording itself: of the networks that ONNX takes too, one stands for all.
        if (
            name == "program"
            and type(exportable.network).__name__ not in REFUSED
            and 'deblur_branch": true' not in config
        ):
            continue
        try:
            writer(exportable, folder / f"tiny.{ending}", ABOUT)
        except ExportError as error:
            refused[name] = str(error)
    return exportable, refused


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def folder(config: str) -> Path:
        return tmp_path_factory.mktemp("export")

    return folder


def assert_same(exportable: Exportable, size: tuple[int, int, int], found: dict[str, Tensor]) -> None:
    with torch.no_grad():
        expected = exportable(**exportable.fields(*size))
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0)


# Not the sizes that the exporter itself looks at: odd, multiples of all divisors, a batch with neither.
SIZES = [(1, 25, 39), (1, 32, 48), (3, 22, 18)]


@pytest.mark.parametrize("model", quick(MODELS, "bicubic", "dark_channel", "vdsr"))
def test_model_is_the_same_elsewhere_or_refused(model: str, folders: Callable[[str], Path]) -> None:
    config = json.dumps(tiny(model))
    folder = folders(config)
    exportable, refused = exported(config, folder)
    reasons = REFUSED.get(type(exportable.network).__name__, {})
    assert set(refused) == set(reasons)
    assert all(reasons[name] in refused[name] for name in reasons)
    if "onnx" not in refused:
        session = onnxruntime.InferenceSession(folder / "tiny.onnx", providers=["CPUExecutionProvider"])
        for size in SIZES:
            values = {name: value.numpy() for name, value in exportable.fields(*size).items()}
            found = dict(zip(exportable.outputs, map(torch.from_numpy, session.run(None, values)), strict=True))
            assert_same(exportable, size, found)
    if (folder / "tiny.pt2").exists():
        program = torch.export.load(folder / "tiny.pt2").module()
        for size in SIZES:
            assert_same(exportable, size, program(**exportable.fields(*size)))


@pytest.mark.slow
def test_onnx_file_says_what_it_is(folders: Callable[[str], Path]) -> None:
    config = json.dumps(tiny("ed_dsrn"))
    folder = folders(config)
    exported(config, folder)
    assert not list(folder.glob("*.data"))
    model = onnx.load(folder / "tiny.onnx")
    onnx.checker.check_model(model, full_check=True)
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes["lr"] == ["batch", 3, "height", "width"]
    assert axes["sr"][:2] == ["batch", 3]
    assert list(axes) == ["lr", "sr", "deblurred"]
    assert [found.version for found in model.opset_import if found.domain == ""] == [18]
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["name"] == "tiny"
    assert said["scale"] == "2"
    assert json.loads(said["deblur_sr"]) == ABOUT
    extra = {"deblur_sr.json": ""}
    torch.export.load(folder / "tiny.pt2", extra_files=extra)
    assert json.loads(extra["deblur_sr.json"]) == ABOUT


class Crooked(RestorationNetwork):
    """Gives another result where a graph is recorded."""

    inputs, outputs, scale = ("lr",), ("sr",), 1

    def forward(self, lr: Tensor) -> Any:
        from networks.restored import Restored

        return Restored(sr=lr + (1e-3 if torch.compiler.is_exporting() else 0))


@pytest.mark.slow
def test_file_that_differs_is_refused(tmp_path: Path) -> None:
    exportable = Exportable(Crooked(), None)
    for writer in (write_program, write_onnx):
        with pytest.raises(
            ExportError, match=r"^differs from the network by 1\.0e-03 for images of 37 x 53, allowed 1e-04"
        ):
            writer(exportable, tmp_path / "a.pt2", ABOUT)


@pytest.fixture
def run_folder(cli: Cli, tiny: list[str]) -> Path:
    data = [item for item in tiny if not item.startswith("model.")]
    small = ["model=srresnet", "model.width=4", "model.n_blocks=1", "degradation=bicubic"]
    assert cli(*data, *small, "trainer.max_epochs=1", "data.samples_per_epoch=2", "pictures=none").status == 0
    return Path("runs/tiny").resolve()


@pytest.mark.slow
def test_run_is_exported(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    """All formats beside the run; the weights are read wherever a checkpoint is, with the same figures."""
    outcome = cli("task=export", f"run={run_folder}")
    assert outcome.status == 0, outcome.err
    written = run_folder / "export"
    names = ["srresnet.json", "srresnet.onnx", "srresnet.pt2", "srresnet.safetensors"]
    assert sorted(file.name for file in written.iterdir()) == names
    for name in names[1:]:
        assert f"{written / name}, " in outcome.out
    assert outcome.out.count(" from the network\n") == 3
    network, checkpoint = load_network(written / "srresnet.safetensors")
    trained, of_run = load_network(run_folder / "checkpoints" / "best.ckpt")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in trained.state_dict().items())
    assert checkpoint["config"]["model"] == of_run["config"]["model"]
    assert (checkpoint["config"]["label"], checkpoint["config"]["seed"]) == ("srresnet", 0)
    for stem in ("../elsewhere", "/elsewhere", ".hidden", ""):
        with pytest.raises(InputError, match="its label is"):
            describe(Model("srresnet", lambda _: trained, label=stem), None, ["safetensors"])
    lr = torch.rand(1, 3, 9, 14)
    session = onnxruntime.InferenceSession(written / "srresnet.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = trained(lr=lr).sr.numpy()
    assert np.abs(session.run(["sr"], {"lr": lr.numpy()})[0] - expected).max() < 1e-5

    photographs = ["data=folder", f"data.root={tmp_path / 'photographs'}", "data.source.holdout=false"]
    measured = []
    for i, file in enumerate((written / "srresnet.safetensors", run_folder / "checkpoints" / "best.ckpt")):
        options = ["degradation=bicubic", "trainer.accelerator=cpu", "logger=none", "pictures=none", f"name=of{i}"]
        assert cli("task=evaluate", f"ckpt={file}", *photographs, *options).status == 0
        measured.append(figures(Path(f"runs/of{i}"), "checkpoint", "checkpoint_sha256"))
    assert measured[0] == measured[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (
            ["model=bicubic", "formats=[onx]"],
            2,
            "formats: found ['onx'] (conf/task/export.yaml), expected 'safetensors', 'onnx', 'program', 'hub'",
        ),
        (["model=bicubic", "formats=onx"], 2, "did you mean onnx?"),
        (["cascade=[a,b]"], 2, "cascade: unknown key in task=export: known to task=evaluate, task=restore"),
        (["model=ed_dsrn"], 1, "model=ed_dsrn has weights to load: give run=FOLDER, ckpt=FILE or weights=FILE"),
        (["run=nowhere"], 1, "run=nowhere: no run folder"),
        (["run=nowhere", "weights=a.pth"], 2, "run= and weights=: each says which network is meant: give one of them"),
        (["run=[a,b]"], 2, "run: found ['a', 'b'] (conf/task/export.yaml), expected a valid string"),
        (["model=bicubic", "scale=2", "degradation.scale=4"], 2, "scale: found 2, bicubic enlarges by 4"),
        (
            ["model=wiener"],
            2,
            "scale: wiener enlarges by 1, 2, 3, 4, and a file holds one of them: set scale=4",
        ),
        (
            ["model=wiener", "scale=2", "formats=[onnx]"],
            1,
            "not written: onnx: wiener computes Fourier transforms",
        ),
        (["model=bicubic", "output=a.txt/b", "formats=[safetensors]"], 1, "a.txt/b: cannot be written: "),
    ],
)
def test_one_line_says_what_is_wrong(cli: Cli, tmp_path: Path, overrides: list[str], status: int, message: str) -> None:
    (tmp_path / "a.txt").write_text("")
    outcome = cli("task=export", *overrides)
    assert outcome.status == status
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(tmp_path.glob("runs/**/*.*"))


def test_refusals_are_no_failure_unless_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "SIZES", recording.SIZES[:1])
    outcome = cli("task=export", "model=richardson_lucy", "scale=2", "output=out")
    assert outcome.status == 0
    assert sorted(file.name for file in Path("out").iterdir()) == [
        "richardson_lucy.json",
        "richardson_lucy.safetensors",
    ]
    assert outcome.out.count(f"not written: onnx: richardson_lucy {FOURIER}") == 1
    assert outcome.out.count(f"not written: program: richardson_lucy {BY_VALUE}") == 1


def test_missing_package_says_how_to_install_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    outcome = cli("task=export", "model=bicubic", "formats=[onnx,safetensors]", "output=out")
    assert outcome.status == 1
    assert outcome.err == (
        "not written: onnx: bicubic needs onnxscript, which is not installed: pip install -c constraints.txt -e "
        "'.[export]'\n"
    )
    assert (Path("out") / "bicubic.safetensors").exists()


@pytest.mark.slow
def test_onnxruntime_does_not_report_its_use(tmp_path: Path) -> None:
    """It would keep what it reports in the home folder."""
    code = "from experiments.export.formats import require_onnx; require_onnx()"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment | {"HOME": str(tmp_path)})
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]
