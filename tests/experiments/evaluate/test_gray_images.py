"""Test images of which some are gray files, against the arithmetic of published tables: MATLAB takes gray for luma."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from tests.conftest import Outcome
from tests.helpers.references import imresize, rgb_to_ycbcr
from tests.helpers.results import read_records

COLOUR = {"astronaut": (200, 100), "chelsea": (20, 150), "coffee": (300, 60)}
GRAY = {"coins": (120, 200), "gravel": (120, 200)}


def crop(name: str) -> np.ndarray:
    top, left = {**COLOUR, **GRAY}[name]
    return np.asarray(getattr(skimage.data, name)()[top : top + 53, left : left + 61])  # no multiple of any scale


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images, as data=set5 expects: three of colour, a gray BMP and a gray PNG with alpha."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in COLOUR:
        Image.fromarray(crop(name)).save(folder / f"{name}.png")
    Image.fromarray(crop("coins")).save(folder / "coins.bmp")
    Image.fromarray(np.dstack([crop("gravel"), np.full_like(crop("gravel"), 255)])).save(folder / "gravel.png")
    return folder


def of_tables(image: np.ndarray, scale: int, gray_as_rgb: bool = False) -> float:
    """PSNR of bicubic enlargement as SRCNN's and VDSR's MATLAB code: luma, imresize to and fro, 8 bit, border s."""
    if gray_as_rgb:
        image = np.dstack([image] * 3)
    if image.ndim == 3:
        image = np.floor(255 * rgb_to_ycbcr(image / 255) + 0.5)
    image = image[..., 0] if image.ndim == 3 else image.astype(np.float64)
    height, width = (side - side % scale for side in image.shape)
    truth = image[:height, :width]
    enlarged = np.floor(255 * imresize(imresize(truth / 255, 1 / scale), scale).clip(0, 1) + 0.5)
    error = (enlarged - truth)[scale:-scale, scale:-scale]
    return 20 * math.log10(255 / math.sqrt(np.mean(error**2)))


def test_bicubic_rows_are_those_of_the_tables(cli: Callable[..., Outcome], images: Path, tmp_path: Path) -> None:
    command = [
        *("task=evaluate", "model=bicubic", "suite=usrnet_bicubic", "data=set5", f"data.root={images}", "name=rows"),
        *("protocol=[y_shave_s,y_shave_s_gray_as_rgb]", "pictures=none", "data.num_workers=0"),
        *("trainer.accelerator=cpu", "logger=none"),
    ]
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    path = tmp_path / "runs" / "rows" / "results.json"
    records = read_records(path)
    assert len(records) == 6
    for record in records:
        squeezed = record["protocol"]["name"] == "y_shave_s_gray_as_rgb"
        expected = {
            name: of_tables(crop(name), record["scale"], squeezed and name in GRAY) for name in record["images"]
        }
        assert set(expected) == {*COLOUR, *GRAY}
        # Ours is the luma of enlarged RGB in 8 bit, that of the tables the enlarged luma: gray ones are equal.
        for name, image in record["images"].items():
            exact = name in GRAY and not squeezed
            assert image["psnr"] == pytest.approx(expected[name], abs=0.0005 if exact else 0.02)
        assert record["psnr"] == pytest.approx(sum(expected.values()) / 5, abs=0.01)
    plain, squeezed = records[0]["images"], records[1]["images"]
    assert all(plain[name] == squeezed[name] for name in COLOUR)
    # 20 log10(255 / 219) for the range, and a little for rounding.
    assert all(1.2 < squeezed[name]["psnr"] - plain[name]["psnr"] < 1.4 for name in GRAY)

    # What an earlier version has measured of gray images, which did not write that down, is measured again.
    content = json.loads(path.read_text())
    for record in content["records"]:
        assert record["files"].pop("gray") == "luma"
        record["psnr"] = 1.0
    path.write_text(json.dumps(content))
    assert cli(*command, "suite.grid.degradation.scale=[2]").status == 0
    found = {(r["scale"], r["protocol"]["name"]): r["psnr"] for r in read_records(path)}
    assert found[2, "y_shave_s"] == records[0]["psnr"]
    assert found[3, "y_shave_s"] == 1.0
