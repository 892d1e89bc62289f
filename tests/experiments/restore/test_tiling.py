"""Tiles: the same result as the whole image, no seams, and nothing lost at the borders."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.errors import InputError
from experiments.models import Model
from experiments.restore import Restorer
from experiments.restore.receptive_field import alignment
from experiments.restore.tiling import RESULT_SIDE, Joined, Tiling, choose_tiling, spans
from networks.gfn import GFN
from networks.srn import SRN
from tests.conftest import photograph
from tests.helpers.networks import MODELS, tiny
from tests.helpers.tiled_and_whole import compare, scaled


def picture(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(photograph(height, width, 1)).permute(2, 0, 1) / 255


CONVOLUTIONAL = [option for option in MODELS if not any(part.whole_image for part in tiny(option).parts())]


def odd_case(network: nn.Module) -> tuple[torch.Tensor, int, int]:
    """An image of odd sides, its scale, and the side of tiles of which it takes at least two times two."""
    scale = network.scales[-1]
    field, align = Restorer(Model("network", lambda _: network, (scale,))).field(scale), alignment(network, scale)
    assert field is not None
    tile = 2 * field + 8 + 5 * max(align, 8)
    return picture(2 * tile - 2 * field - 17, tile + 19), scale, tile


@pytest.mark.many
@pytest.mark.parametrize("option", CONVOLUTIONAL)
def test_tiled_equals_whole(option: str) -> None:
    network = tiny(option)
    image, scale, tile = odd_case(network)
    found = compare(scaled(network, scale, image), image, scale, tile)
    assert found["tiles"] >= 4
    assert found["clamped"] < 0.01
    assert max(found["at_joints"], found["elsewhere"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("option", ["deblurcnn", "ed_dsrn", "gfn", "lapsrn", "vdsr"])
def test_tiled_equals_whole_by_openvino(option: str) -> None:
    pytest.importorskip("openvino")
    network = tiny(option)
    image, scale, tile = odd_case(network)
    found = compare(scaled(network, scale, image), image, scale, tile, engine="openvino")
    assert found["tiles"] >= 4
    assert max(found["at_joints"], found["elsewhere"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"n_scales": 3, "recurrence": "lstm"},
        {"n_scales": 2, "recurrence": "lstm", "channels": 1, "resize": "tf1"},
        {"n_scales": 2, "recurrence": "lstm", "feedback": False},
        {"n_scales": 2, "resize": "tf1", "global_residual": True},
    ],
)
def test_srn_is_cut_at_every_scale(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the field of all scales together, and what goes from scale to scale lies in a file."""
    torch.manual_seed(0)
    network = SRN(widths=(4, 4, 4), n_blocks=1, **options).eval()
    restorer = Restorer(Model("srn", lambda _: network, (1,)))
    field = restorer.field(1)
    assert field is not None
    tile = 2 * field + 8 + 2 * network.size_multiple
    image = picture(2 ** (network.n_scales - 1) * (tile + 9) - 13, 2 ** (network.n_scales - 1) * (tile + 3) + 5)
    network = scaled(network, 1, image)
    monkeypatch.setattr("experiments.restore.image_buffer.MAPPED", 1000)
    found = compare(network, image, 1, tile)
    assert found["clamped"] < 0.01
    assert max(found["at_joints"], found["elsewhere"]) < 1e-5


def test_progress_and_tiles_of_srn_in_batches() -> None:
    torch.manual_seed(0)
    network = SRN(widths=(4, 4, 4), n_blocks=1).eval()
    restorer = Restorer(Model("srn", lambda _: network, (1,)))
    field = restorer.field(1)
    assert field is not None
    gray = picture(3 * field, 5 * field)[:1]
    told: list[tuple[int, int]] = []
    together = restorer.restore(gray, tile=3 * field, batch=3, progress=lambda *at: told.append(at))
    assert together.notes == []
    assert together.sr.shape == gray.shape
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {count for _, count in told} == {told[-1][0]}
    assert len(told) < told[-1][0]  # some went together
    torch.testing.assert_close(together.sr, restorer.restore(gray, tile=5 * field).sr, atol=1e-5, rtol=0)


def test_the_comparison_sees_tiles_that_overlap_too_little() -> None:
    network = tiny("ed_dsrn")
    image, scale, tile = odd_case(network)
    found = compare(scaled(network, scale, image), image, scale, tile, 8)
    assert found["at_joints"] > 1e-3


@pytest.mark.parametrize(
    ("length", "margin", "overlap"), [(1, 8, 24), (63, 8, 24), (64, 8, 24), (65, 0, 8), (999, 16, 40)]
)
def test_weights_sum_to_one_everywhere(length: int, margin: int, overlap: int) -> None:
    tiling = Tiling(64, overlap, margin, exact=True)
    total = np.zeros(3 * length, np.float32)
    for span in spans(length, tiling):
        assert span.start % 8 == 0
        assert span.stop - span.start <= 64
        assert span.first == 0 or span.first - span.start == margin
        assert span.last == length or span.stop - span.last == margin
        total[3 * span.first : 3 * span.last] += span.times(3).weights()
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_little_is_kept_of_a_wide_row() -> None:
    """What waits for its neighbours: the strips at their joints, not the row."""
    tiling, width = Tiling(64, 24, 8, exact=True), 1000
    row, columns = spans(200, tiling)[1], spans(width, tiling)
    target = np.zeros((4 * 200, 4 * width, 3), np.uint8)
    joined = Joined(target, 4, width, 3)
    joined.below = np.zeros((3, 4 * row.before, 4 * width), np.float32)
    joined.start_row(row)
    for column in columns:
        joined.add(torch.ones(3, 4 * 64, 4 * (column.stop - column.start)), row, column)
        kept = joined.above.nbytes + joined.below.nbytes + joined.left.nbytes
        assert kept < 4 * 3 * 4 * width * 4 * (row.before + row.after + 1)
    middle = slice(4 * (row.first + row.before), 4 * (row.last - row.after))
    assert (target[middle] == 255).all()
    assert (target[: 4 * row.first] == 0).all()


def test_the_tiles_that_are_chosen() -> None:
    def unasked() -> int:
        raise AssertionError("the field is not needed")

    side = RESULT_SIDE // 4
    assert choose_tiling((side, side), 4, 8, unasked) is None
    assert choose_tiling((70, 100), 4, 8, unasked, tile=100) is None
    assert choose_tiling((side, side + 1), 4, 8, lambda: 56) == Tiling(side, 120, 56, True)
    assert choose_tiling((9, 1000), 4, 8, lambda: 136, tile=301) == Tiling(304, 280, 136, True)
    # Overlaps that suffice are exact, and mixed over all that they have to spare; others keep three eighths of it.
    assert choose_tiling((9, 1000), 4, 8, lambda: 56, tile=301, overlap=122) == Tiling(304, 128, 56, True)
    assert choose_tiling((9, 1000), 4, 8, lambda: 56, tile=301, overlap=64) == Tiling(304, 64, 24, False)
    assert choose_tiling((9, 1000), 4, 8, lambda: 56, tile=301, overlap=0) == Tiling(304, 0, 0, False)
    # What looks at everything.
    assert choose_tiling((900, 5000), 4, 2, lambda: None, kernel_side=25) == Tiling(512, 122, 54, False)
    with pytest.raises(
        InputError, match="tile: found 280, but tiles that overlap by 280 pixels have a side of at least 288"
    ):
        choose_tiling((9, 1000), 4, 8, lambda: 136, tile=280)
    with pytest.raises(InputError, match="tile: found 0"):
        choose_tiling((9, 1000), 4, 8, lambda: 136, tile=0)
    with pytest.raises(InputError, match="overlap: found -1"):
        choose_tiling((9, 1000), 4, 8, lambda: 136, overlap=-1)


def test_a_network_that_stretches_images_says_that_tiles_approximate_it() -> None:
    """As the authors' GFN does with sides that 4 does not divide."""
    network = GFN(width=4, n_blocks=(1, 1), pad="official").eval()
    restorer = Restorer(Model("gfn", lambda _: network, (4,)))
    notes = restorer.restore(picture(150, 170), tile=128, overlap=64).notes
    assert len(notes) == 1
    assert "gfn looks further than 256 pixels, or at the whole image: tiles of 128" in notes[0]
