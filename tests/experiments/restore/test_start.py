"""What task=restore imports: nothing that a refused config, or a small photograph, does not need."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import photograph

RUN = Path(__file__).parents[3] / "run.py"
SCRIPT = f"""
import runpy, sys
sys.argv[0] = "run.py"
sys.path.insert(0, {str(RUN.parent)!r})
try:
    runpy.run_path({str(RUN)!r}, run_name="__main__")
except SystemExit as leaving:
    print(leaving.code or 0, *sys.modules)
"""
OF_TRAINING = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "wandb", "kornia", "albumentations", "skimage"}
OF_TRAINING |= {"torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "lightning_modules.restoration"}
OF_OTHERS = {"scipy", "matplotlib", "gradio", "plotly", "onnx", "onnxruntime", "requests", "huggingface_hub", "av"}
OF_PIXELS = {"torch", "numpy", "cv2", "PIL", "tifffile"}


def started(folder: Path, *arguments: str) -> tuple[int, set[str], str]:
    """Exit status of a command line in a process of its own, the modules that it has imported, and what it says."""
    command = [sys.executable, "-c", SCRIPT, "task=restore", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    status, *modules = done.stdout.splitlines()[-1].split()
    return int(status), set(modules), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.accelerator=cpu"], "task=restore: needs input="),
        (["input=a.png", "output=out", "model=bicubic", "scale=2", "tile=wide"], "tile: found 'wide'"),
        (["input=a.png", "output=out", "run=a", "weights=b"], "run= and weights=: each says which network is meant"),
    ],
)
def test_refused_config_imports_no_torch(tmp_path: Path, arguments: list[str], message: str) -> None:
    status, modules, err = started(tmp_path, *arguments)
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith(message)
    assert not modules & (OF_TRAINING | OF_OTHERS | OF_PIXELS)


@pytest.mark.parametrize("network", [["model=bicubic", "scale=2"], ["weights=ed_dsrn_small"]])
def test_photograph_is_restored_without_what_trains(tmp_path: Path, network: list[str]) -> None:
    Image.fromarray(photograph(12, 14, 0)).save(tmp_path / "a.png")
    computing = ["trainer.accelerator=cpu", "precision=bf16"]
    status, modules, err = started(tmp_path, "input=a.png", "output=out", *network, *computing)
    assert status == 0, err
    assert (tmp_path / "out" / "a.png").is_file()
    assert "torch" in modules
    assert not modules & (OF_TRAINING | OF_OTHERS)
