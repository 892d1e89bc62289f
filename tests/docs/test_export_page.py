"""The snippets of docs/export.md restore a photograph where nothing of this suite can be imported."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.export.exportable import Exportable
from experiments.export.task import write
from networks.baselines.srresnet import SRResNet
from tests.conftest import photograph

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
SNIPPETS = {
    opens: text
    for text in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for opens in ("onnxruntime", "openvino", "torch.export")
    if f"{opens}." in text
}
FILES = {"onnxruntime": "ed_dsrn.onnx", "openvino": "ed_dsrn.onnx", "torch.export": "ed_dsrn.pt2"}
AS_INT8 = """
import openvino
openvino.save_model(openvino.Core().read_model("ed_dsrn.onnx"), "ed_dsrn_int8.xml", compress_to_fp16=False)
"""
# A finder in front of all others: the editable install must not help.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"networks", "datamodules", "lightning_modules", "experiments", "run"%s}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page names: a photograph and an exported run, of another and quicker network."""
    folder = tmp_path_factory.mktemp("elsewhere")
    pytest.importorskip("onnxscript")
    Image.fromarray(photograph(21, 34, 0)).save(folder / "PHOTO.jpg", quality=95)
    torch.manual_seed(0)
    network = SRResNet(width=2, n_blocks=1, global_residual="bicubic", head_gain=0.1).eval()
    exportable, about = Exportable(network, 4), {"label": "ed_dsrn", "scales": [4], "scale": 4}
    for name in ("onnx", "program"):
        write(exportable, about, name, folder / "runs" / "quickstart" / "export")  # type: ignore[arg-type]  # a Literal
    if find_spec("openvino"):  # a file of the kind that int8 makes, without its rounding
        subprocess.run([sys.executable, "-c", AS_INT8], cwd=folder / "runs" / "quickstart" / "export", check=True)
    torch.save(network.state_dict(), folder / "weights.pth")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opens", "file", "without"),
    [
        ("onnxruntime", "ed_dsrn.onnx", ', "torch"'),
        ("openvino", "ed_dsrn.onnx", ', "torch"'),
        ("openvino", "ed_dsrn_int8.xml", ', "torch"'),  # the page: "in its place"
        ("torch.export", "ed_dsrn.pt2", ""),
    ],
)
def test_snippet_runs_without_the_suite(folder: Path, opens: str, file: str, without: str) -> None:
    if find_spec(opens) is None:
        pytest.skip(f"{opens} is not installed")
    assert SNIPPETS[opens].count(FILES[opens]) == 1
    code = SNIPPETS[opens].replace(FILES[opens], file)
    assert len([line for line in code.splitlines() if line]) <= 10
    (folder / "restored.png").unlink(missing_ok=True)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE % without + code], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    restored = np.asarray(Image.open(folder / "restored.png")).astype(int)
    network = SRResNet(width=2, n_blocks=1, global_residual="bicubic", head_gain=0.1).eval()
    network.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    image = torch.from_numpy(np.asarray(Image.open(folder / "PHOTO.jpg"), np.float32) / 255).permute(2, 0, 1)
    with torch.no_grad():
        expected = (network(image[None]).sr[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert restored.shape == (84, 136, 3)
    assert np.abs(restored - expected).max() <= 1


def test_the_suite_is_out_of_reach() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE % "" + "import networks"], capture_output=True, text=True)
    assert "ModuleNotFoundError: networks" in done.stderr
