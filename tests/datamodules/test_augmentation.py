"""Own transforms of training crops: the same draws for both images of a pair, whatever the workers and the batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch

from datamodules.augmentation import Transforms
from datamodules.batch import Batch
from datamodules.datasets import TrainingCrops
from datamodules.errors import InputError, OptionError
from experiments.runtime.run_folder import without_new_keys
from tests.conftest import Outcome
from tests.datamodules.test_paired import module, write_pairs

Cli = Callable[..., Outcome]


def own(*transforms: Any, side: int = 32) -> Transforms:
    return Transforms(transforms, side)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_flip_is_the_same_on_both_sides(tmp_path: Path, scale: int) -> None:
    made = module(write_pairs(tmp_path, scale=scale), scale)
    options = {"flip": False, "rotate": False, "inputs": made.inputs["train"]}
    plain = TrainingCrops(made.caches["train"], [0, 1], 32, 60, 0, **options)
    flipped = TrainingCrops(made.caches["train"], [0, 1], 32, 60, 0, transforms=own(A.HorizontalFlip()), **options)
    mirrored = 0
    for index in range(60):
        before, after = plain[0, index, 0], flipped[0, index, 0]
        assert before.degraded is not None
        assert after.degraded is not None
        turn = torch.equal(after.image, before.image.flip(2))
        mirrored += turn
        assert torch.equal(after.image, before.image.flip(2) if turn else before.image)
        assert torch.equal(after.degraded, before.degraded.flip(2) if turn else before.degraded)
    assert 15 < mirrored < 45


def test_brightness_is_the_same_on_both_sides() -> None:
    image = np.random.default_rng(0).integers(60, 190, (32, 32, 3), np.uint8)
    transform = own(A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.0, p=1))
    results = [transform(key, image, image[::2, ::2].copy()) for key in range(20)]
    shifts = set()
    for sharp, degraded in results:
        assert degraded is not None
        assert np.array_equal(degraded, sharp[::2, ::2])  # each pixel by itself
        shift = np.unique(sharp.astype(int) - image)
        assert shift.max() - shift.min() <= 1
        shifts.add(int(shift[0]))
    assert len(shifts) > 10
    again, alone = transform(7, image, image[::2, ::2].copy()), transform(7, image)
    assert np.array_equal(again[0], results[7][0])
    assert np.array_equal(alone[0], results[7][0])


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (2, 3)])
def test_transforms_are_a_function_of_seed_epoch_index(tmp_path: Path, workers: int, batch_size: int) -> None:
    root = write_pairs(tmp_path)
    chosen: list[Any] = [A.OneOf([A.RandomBrightnessContrast(p=1), A.GaussNoise(p=1)], p=0.8), A.VerticalFlip()]

    def crops(**options: Any) -> dict[int, torch.Tensor]:
        loader = module(root, **options).train_dataloader()
        loader.order.set_epoch(5)
        batches: list[Batch] = list(loader)
        assert all(batch.lr is not None for batch in batches)
        return {i: torch.cat((b.hr[n], b.lr[n])) for b in batches for n, i in enumerate(b.index.tolist())}  # type: ignore[index]

    expected = crops(transforms=chosen)
    got = crops(transforms=chosen, num_workers=workers, batch_size=batch_size)
    assert all(torch.equal(got[i], expected[i]) for i in range(12))
    assert not all(torch.equal(crop, expected[i]) for i, crop in crops().items())


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (A.RandomCrop(16, 16), r"data\.transforms\.1: RandomCrop makes \(16, 16, 3\) uint8 of a crop of \(32, 32, 3\)"),
        (A.RandomScale(p=0.01), r"data\.transforms\.1: RandomScale makes"),
        (A.ToFloat(), r"data\.transforms\.1: ToFloat makes \(32, 32, 3\) float32"),
        (A.RandomCrop(64, 64), r"data\.transforms\.1: RandomCrop Crop size .* exceeds"),
        (torch.nn.ReLU(), r"data\.transforms\.1: found ReLU, expected a transform of albumentations"),
        ("HorizontalFlip", r"data\.transforms\.1: found 'HorizontalFlip', expected a transform of albumentations"),
    ],
)
def test_what_cannot_be_applied_to_crops_is_refused(transform: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said) as error:
        own(A.HorizontalFlip(), transform)
    assert error.value.key == "data.transforms.1"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rare_change_of_size_is_found_when_it_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("datamodules.augmentation._TRIES", 0)
    made = module(write_pairs(tmp_path), transforms=[A.RandomCrop(16, 16)], num_workers=workers)
    with pytest.raises(InputError, match=r"^data\.transforms: one of RandomCrop makes \(16, 16, 3\) .* leave it out$"):
        list(made.train_dataloader())


def test_a_run_older_than_transforms_is_continued_without_them_only() -> None:
    older: dict[str, Any] = {"data": {"patch": 32}}
    assert without_new_keys({"data": {"patch": 32, "transforms": []}}, older) == older
    more = {"data": {"patch": 32, "transforms": [{"_target_": "albumentations.HorizontalFlip"}]}}
    assert without_new_keys(more, older) == more


def test_the_command_line_takes_transforms_by_their_class(cli: Cli, tiny: list[str]) -> None:
    cases = {
        "[{_target_:albumentations.HorizontalFlip,p:2}]": "data.transforms.0: albumentations.HorizontalFlip: ",
        "[{_target_:albumentations.CenterCrop,height:16,width:16}]": "data.transforms.0: CenterCrop makes (16, 16, 3)",
        "[{_target_:pathlib.Path}]": "data.transforms.0: found PosixPath, expected a transform of albumentations",
    }
    for value, said in cases.items():
        outcome = cli(*tiny, f"data.transforms={value}")
        assert outcome.status == 2
        assert said in outcome.err
        assert outcome.err.count("\n") == 1
    outcome = cli(*tiny, "data.transforms=[{_target_:albumentations.RandomBrightnessContrast,p:1}]")
    assert outcome.status == 0, outcome.err
    assert cli("task=evaluate", "run=runs/tiny", "data.num_workers=0", "trainer.accelerator=cpu").status == 0
