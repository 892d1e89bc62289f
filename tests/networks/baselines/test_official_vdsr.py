"""A public VDSR on Set5. Needs files that are not ours to ship: DEBLUR_SR_VDSR names a state dict with the names of
`networks.baselines.vdsr.import_official`, DEBLUR_SR_SET5 the folder of the five images."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.results import read_records

WEIGHTS, SET5 = os.environ.get("DEBLUR_SR_VDSR"), os.environ.get("DEBLUR_SR_SET5")
pytestmark = pytest.mark.skipif(
    not (WEIGHTS and SET5), reason="DEBLUR_SR_VDSR and DEBLUR_SR_SET5 name no weights and no images"
)


# Y-PSNR measured with an independent script: inputs made by imresize and not rounded, result rounded to 8-bit luma. Its
# author's 37.65, 33.77 and 31.45 dB are those of the luma before rounding.
@pytest.mark.parametrize(("scale", "expected"), [(2, 37.57), (3, 33.74), (4, 31.44)])
def test_set5(cli: Any, tmp_path: Path, scale: int, expected: float) -> None:
    outcome = cli(
        *("task=evaluate", "model=vdsr", f"weights={WEIGHTS}", "name=official", "data=set5", f"data.root={SET5}"),
        *("degradation=bicubic", f"degradation.scale={scale}", "protocol=[y_shave_s]"),
        *("logger=none", "trainer.accelerator=cpu"),
    )
    assert outcome.status == 0, outcome.err
    found = read_records(tmp_path / "runs" / "official" / "results.json")
    psnr = {record["model"]: record["psnr"] for record in found}
    assert psnr["vdsr"] == pytest.approx(expected, abs=0.01)
