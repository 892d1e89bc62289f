"""The authors' USRNet-tiny on Set5. Needs files that are not ours to ship: DEBLUR_SR_OFFICIAL names a folder with
usrnet_tiny.pth and kernels_12.mat (both from the authors' repository) and Set5/ (five images)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.degradations.kernel_files import usrnet12

FOLDER = os.environ.get("DEBLUR_SR_OFFICIAL")
pytestmark = pytest.mark.skipif(not FOLDER, reason="DEBLUR_SR_OFFICIAL names no folder with the official files")


# RGB PSNR of 8-bit images without a border, measured with the authors' network code; sharp images cut to multiples of
# eight times the scale, inputs rounded to 8 bit.
@pytest.mark.parametrize(("scale", "number", "expected"), [(2, 0, 34.67), (2, 8, 34.37), (4, 0, 28.05), (4, 8, 28.37)])
def test_set5(cli: Any, tmp_path: Path, scale: int, number: int, expected: float) -> None:
    folder = Path(FOLDER or "")
    outcome = cli(
        *("task=evaluate", "model=usrnet_tiny", f"weights={folder / 'usrnet_tiny.pth'}", "name=official"),
        *("data=set5", f"data.root={folder / 'Set5'}", "degradation=usrnet_test", f"degradation.scale={scale}"),
        *("degradation.storage=eight_bit", f"degradation.multiple={8 * scale}"),
        *(f"degradation.kernels.number={number}", "protocol=[rgb_shave0]", "logger=none", "trainer.accelerator=cpu"),
    )
    assert outcome.status == 0, outcome.err
    found = json.loads((tmp_path / "runs" / "official" / "results.json").read_text())["records"]
    psnr = {record["model"]: record["psnr"] for record in found}
    assert psnr["usrnet_tiny"] == pytest.approx(expected, abs=0.01)


def test_the_shipped_kernels_are_those_of_the_official_file() -> None:
    assert torch.equal(usrnet12(Path(FOLDER or "") / "kernels_12.mat").kernels, usrnet12().kernels)
