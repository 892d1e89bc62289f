"""task=export formats=[int8]: calibrated on photographs, refused where it loses too much, restored with afterwards."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.config import CONF
from tests.conftest import Outcome, photograph

Cli = Callable[..., Outcome]
WEIGHTS = CONF.parent / "experiments" / "zoo" / "drunet_small.safetensors"
EXPORT = ["task=export", f"weights={WEIGHTS}", "formats=[int8]", "output=out", "data.patch=64"]
RESTORE = ["task=restore", f"weights={WEIGHTS}", "input=a.png", "noise_level=0.05", "trainer.accelerator=cpu"]


@pytest.mark.slow
def test_int8_is_made_checked_and_restored_with(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr("experiments.export.int8.CROPS", 8)
    Image.fromarray(photograph(40, 52, 0)).save("a.png")
    outcome = cli(*RESTORE, "output=b.png", "precision=int8")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "precision: found int8: DRUNet has no graph of 8-bit integers in " in outcome.err
    assert "make one by task=export formats=[int8]" in outcome.err

    outcome = cli(*EXPORT, "degradation=none")
    assert outcome.status == 2
    assert outcome.err.startswith("degradation: none starts from degraded images, data=sample has sharp ones only: ")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.export.int8.LARGEST_LOSS", -1)
        outcome = cli(*EXPORT, "degradation=denoising")
        assert outcome.status == 1
        assert "not written: int8: drunet_small loses 0." in outcome.err
        assert " dB in 8-bit integers on 2 images of sample, allowed -1\n" in outcome.err
        assert not list(Path("out").iterdir())

    outcome = cli(*EXPORT, "degradation=denoising")
    assert outcome.status == 0, outcome.err
    written = sorted(path.name for path in Path("out").iterdir())
    assert written == [f"drunet_small_int8.{ending}" for ending in ("bin", "json", "xml")]
    card = json.loads(Path("out/drunet_small_int8.json").read_text())
    assert card["images"] == ["astronaut", "coffee"]
    assert card["loss_db"] == pytest.approx(card["psnr_float32"] - card["psnr_int8"])
    assert 0 < card["loss_db"] < 0.1
    assert card["psnr_int8"] > 25
    assert outcome.out.endswith(f"MB, {card['loss_db']:.2f} dB below float32 on 2 images of sample\n")

    pixels = {}
    for precision in ("float32", "int8"):
        outcome = cli(*RESTORE, f"output={precision}.png", f"precision={precision}")
        assert outcome.status == 0, outcome.err
        pixels[precision] = np.asarray(Image.open(f"{precision}.png")).astype(int)
    assert "a.png: Computed by openvino in int8, " in outcome.err
    difference = np.abs(pixels["int8"] - pixels["float32"])
    assert 0 < difference.mean() < 4
