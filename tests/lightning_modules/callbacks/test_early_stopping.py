"""Early stopping: when, with stages, and in runs that are continued."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.callbacks.checkpointing import LastAndBest
from lightning_modules.callbacks.early_stopping import StopEarly
from tests.lightning_modules.callbacks.test_callbacks import MONITOR, Module, Staged, fit, make_trainer, step_of


def train(folder: Path, module: Module, epochs: int, resume: bool = False, **options: Any) -> int:
    """Train with patience 2; returns the step of last.ckpt, of three an epoch."""
    module.monitor = MONITOR
    # As in a run: the user's callbacks come after the one that writes checkpoints.
    callbacks = [LastAndBest(str(folder), MONITOR), StopEarly(**{"patience": 2, **options})]
    fit(make_trainer(folder, callbacks, epochs), module, folder / "last.ckpt" if resume else None)
    return step_of(folder / "last.ckpt") // 3


@pytest.mark.parametrize(
    ("scores", "options", "epochs"),
    [
        ([1, 2, 3, 4, 5, 6], {}, 6),
        ([1, 3, 2, 3, 4, 5], {}, 4),  # the third and fourth were not better
        ([1, 3, 2, 4, 3, 4], {}, 6),
        ([1, 1.05, 1.08, 2, 3, 4], {"min_delta": 0.1}, 3),
        ([1, float("nan"), 2, 1, float("inf"), 3], {}, 6),
        ([5, 4, 3, 2, 1, 0], {"patience": 4}, 5),
    ],
)
def test_it_stops_when_the_score_no_longer_improves(
    tmp_path: Path, scores: list[float], options: dict[str, Any], epochs: int
) -> None:
    assert train(tmp_path, Module(scores), 6, **options) == epochs


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_continued_run_stops_where_the_whole_one_does(tmp_path: Path, stopped: int) -> None:
    scores = [1.0, 3.0, 2.0, 3.0, 9.0, 9.0]
    assert train(tmp_path, Module(scores), stopped) == stopped
    assert train(tmp_path, Module(scores), 6, resume=True) == 4
    # One that had stopped takes no further step.
    before = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert train(tmp_path, Module(scores), 6, resume=True) == 4
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"] == before
    assert step_of(tmp_path / "best.ckpt") == 6
    # More patience lets it go on.
    assert train(tmp_path, Module(scores), 6, resume=True, patience=9) == 6


def test_of_stages_only_the_last_one_counts(tmp_path: Path) -> None:
    module = Staged([9, 8, 7, 6, 5, 4, 3, 2], "aaaabbbb")
    assert train(tmp_path, module, 8) == 7


@pytest.mark.parametrize(
    ("options", "line"),
    [({"patience": 0}, "patience is 0, expected at least 1"), ({"min_delta": -1.0}, "min_delta is -1.0, expected dB")],
)
def test_bad_options(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        StopEarly(**options)
