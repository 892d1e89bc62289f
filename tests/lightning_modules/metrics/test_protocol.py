"""What a protocol may be, and what it becomes at a scale."""

import dataclasses
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml

from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, smallest_side, ssim

CONF = Path(__file__).parents[3] / "conf" / "protocol"


@pytest.mark.parametrize(
    ("shave", "pixels"),
    [(4, [4, 4, 4, 4]), ("s", [1, 2, 3, 4]), ("s^2", [1, 4, 9, 16]), ("1.5s", [None, 3, None, 6])],
)
def test_the_border_at_every_scale(shave: Any, pixels: list[int | None]) -> None:
    protocol = Protocol("mine", "y", shave)
    for scale, wanted in zip((1, 2, 3, 4), pixels, strict=True):
        if wanted is None:
            with pytest.raises(ValueError, match=rf"mine shaves 1.5s pixels, {1.5 * scale:g} for s = {scale}"):
                protocol.at(scale)
        else:
            found = protocol.at(scale)
            assert type(found.shave) is int
            assert found == dataclasses.replace(protocol, shave=wanted)
            assert found.border == wanted
            assert found.at(None) == found
            assert smallest_side(found) == 2 * wanted + 11
            assert smallest_side(dataclasses.replace(found, ssim="volume")) == 2 * wanted + 1


def test_nothing_is_measured_before_the_scale_is_known() -> None:
    protocol = Protocol("mine", "y", "s")
    with pytest.raises(ValueError, match="mine shaves s pixels, and there is no scale"):
        protocol.at(None)
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"mine shaves s pixels: take protocol.at\(scale\)"):
            metric(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 40), protocol)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": " "}, "needs a name"),
        ({"colour": "ycbcr"}, 'must be "y", "rgb" or "y_of_rgb", got .ycbcr'),
        ({"shave": -1}, "shave .* >= 0, .* got -1"),
        ({"shave": 1.5}, "shave"),
        ({"shave": True}, "shave"),
        ({"shave": "2s"}, "shave .* got '2s'"),
        ({"rounding": "floor"}, "rounding .* got 'floor'"),
        ({"ssim": "3d"}, "ssim .* got '3d'"),
    ],
)
def test_a_protocol_is_checked(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"name": "p", "colour": "y", "shave": 4} | change
    with pytest.raises(ValueError, match=message):
        Protocol(**values)


def test_a_protocol_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Protocol("p", "y", 4).shave = 5  # type: ignore[misc]


# Colour, border at x4, rounding and SSIM as the papers and their code say.
NAMED = {
    "y_shave4": ("y", 4, "round", "channels"),
    "rgb_shave4": ("rgb", 4, "round", "channels"),
    "y_shave0": ("y", 0, "round", "channels"),
    "rgb_shave0": ("rgb", 0, "round", "channels"),
    "rgb_shave_s": ("rgb", 4, "round", "channels"),
    "srn": ("rgb", 0, "truncate", "volume"),
    "rgb_shave_s2": ("rgb", 16, "round", "channels"),
    "y_shave_s": ("y", 4, "round", "channels"),
    "y_shave_s_gray_as_rgb": ("y_of_rgb", 4, "round", "channels"),
    "gfn": ("rgb", 6, "truncate", "volume"),
    "nafnet": ("rgb", 0, "round", "volume"),
}


def test_named_protocols() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == set(NAMED)
    for name, wanted in NAMED.items():
        options = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        assert list(options) == [name]
        found = hydra.utils.instantiate(options[name])
        assert found.at(4) == Protocol(name, *wanted)  # type: ignore[arg-type]  # words of the table
