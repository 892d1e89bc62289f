"""Pairs of images from two folders to a batch, and to a trained network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batch import Batch, as_float
from datamodules.datasets import TrainingCrops
from datamodules.degradations.base import Degradation
from datamodules.degradations.pipelines import AsStored, EDDSRNDegradation
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from datamodules.paired_datamodule import PairedDataModule
from datamodules.sources.folder import Folder
from datamodules.sources.paired_folder import PairedFolder
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


def coordinates(height: int, width: int, scale: int, number: int) -> np.ndarray:
    """Each pixel says where it is on a grid `scale` times finer: row, column, number of the image."""
    y, x = np.mgrid[:height, :width] * scale
    return np.stack((y, x, np.full_like(x, number)), -1).astype(np.uint8)


def write_pairs(root: Path, count: int = 6, height: int = 80, width: int = 96, scale: int = 1) -> Path:
    """Degraded images are marked by 100 added to the number."""
    for side, factor, mark in (("sharp", 1, 0), ("degraded", scale, 100)):
        (root / side / "street").mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = coordinates(height // factor, width // factor, factor, i + mark)
            Image.fromarray(pixels).save(root / side / "street" / f"{i}.png")
    return root


def source(root: Path, **options: Any) -> PairedFolder:
    return PairedFolder(str(root / "sharp"), str(root / "degraded"), **options)


def module(root: Path, scale: int = 1, **options: Any) -> PairedDataModule:
    defaults = {"patch": 32, "batch_size": 4, "samples_per_epoch": 12, "num_workers": 0, "seed": 3}
    made = PairedDataModule(
        source(root, scale=scale), AsStored(scale), cache_dir=str(root / "cache"), **{**defaults, **options}
    )
    made.prepare_data()
    made.setup("fit")
    made.setup("test")
    return made


def epoch(made: PairedDataModule, number: int) -> list[Batch]:
    loader = made.train_dataloader()
    loader.order.set_epoch(number)
    return list(loader)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_both_sides_show_the_same_place_in_all_symmetries(tmp_path: Path, scale: int) -> None:
    made = module(write_pairs(tmp_path, scale=scale), scale)
    crops = TrainingCrops(made.caches["train"], [0, 1], 32, 200, 0, inputs=made.inputs["train"])
    corners, orders = set(), set()
    for index in range(200):
        item = crops[(0, index, 0)]
        assert item.degraded is not None
        hr, lr = item.image.numpy().astype(int), item.degraded.numpy().astype(int)
        assert lr.shape == (3, 32 // scale, 32 // scale)
        # Every low-resolution pixel names the first row and column of the block that it stands for.
        blocks = hr.reshape(3, 32 // scale, scale, 32 // scale, scale)
        assert np.array_equal(lr[:2], blocks[:2].min((2, 4)))
        assert (lr[2] == hr[2] + 100 if scale == 1 else lr[2] == blocks[2, :, 0, :, 0] + 100).all()
        corners.add((hr[0].min(), hr[1].min()))
        orders.add((*np.sign(hr[:2, 1, 0] - hr[:2, 0, 0]), *np.sign(hr[:2, 0, 1] - hr[:2, 0, 0])))
    assert len(orders) == 8
    assert {y for y, _ in corners} <= set(range(0, 49, scale))
    assert max(y for y, _ in corners) == 48  # the last row is reached
    assert max(x for _, x in corners) == 64


def test_whole_images_are_cut_alike(tmp_path: Path) -> None:
    made = module(write_pairs(tmp_path, height=52, width=60, scale=4), 4)
    batch = next(iter(made.test_dataloader()))
    assert batch.hr.shape == (1, 3, 52, 60)
    assert torch.equal(batch.lr[:, :2], batch.hr[:, :2, ::4, ::4])
    done = made.on_after_batch_transfer(batch, 0)
    assert done.scale == 4
    assert done.lr.dtype == done.hr.dtype == torch.float32
    assert torch.equal(done.lr, as_float(batch.lr))
    assert batch.name == [made.caches["test"].names[0]]


class Reduce(Degradation):
    """Every second pixel of the degraded image of the files: a degradation that starts from `lr`."""

    inputs = ("hr", "lr")
    provides = ("hr", "lr", "scale")

    def __init__(self) -> None:
        super().__init__(2)

    def __call__(self, batch: Batch) -> Batch:
        assert batch.lr is not None
        assert batch.lr.shape == batch.hr.shape
        batch.lr, batch.scale = as_float(batch.lr)[..., ::2, ::2], 2
        return batch


def test_a_degradation_may_start_from_the_degraded_images(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, height=51, width=60)
    made = PairedDataModule(source(root), Reduce(), seed=0, patch=32, cache_dir=str(root / "c"), num_workers=0)
    made.setup("test")
    batch = made.on_after_batch_transfer(next(iter(made.test_dataloader())), 0)
    assert batch.hr.shape == (1, 3, 50, 60)
    assert batch.lr is not None
    assert torch.equal(batch.lr[:, :2], batch.hr[:, :2, ::2, ::2])
    assert batch.lr[0, 2, 0, 0] * 255 >= 100  # from the degraded side


def test_degradations_that_would_ignore_the_files_are_refused(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    ignoring = PairedDataModule(source(root), EDDSRNDegradation(), seed=0, cache_dir=str(root / "c"))
    with pytest.raises(InputError, match=r"EDDSRNDegradation makes its inputs from sharp images, .* degradation=none"):
        ignoring.setup("fit")
    small = PairedDataModule(source(root, scale=4), Reduce(), seed=0, cache_dir=str(root / "c"))
    with pytest.raises(InputError, match=r"data\.source\.scale=4: a degradation to 1/2"):
        small.setup("fit")


def test_stored_inputs_need_paired_data(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    made = ImageDataModule(Folder(str(make_photographs())), AsStored(), seed=0, patch=32, cache_dir=str(tmp_path / "c"))
    made.setup("test")
    with pytest.raises(InputError, match="the data hold sharp images only"):
        made.on_after_batch_transfer(next(iter(made.test_dataloader())), 0)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (2, 3)])
def test_a_pair_is_a_function_of_seed_epoch_index(tmp_path: Path, workers: int, batch_size: int) -> None:
    root = write_pairs(tmp_path)

    def by_index(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        return {i: (b.hr[n], b.lr[n]) for b in batches for n, i in enumerate(b.index.tolist()) if b.lr is not None}

    expected = by_index(epoch(module(root), 5))
    got = by_index(epoch(module(root, num_workers=workers, batch_size=batch_size), 5))
    assert set(got) == set(expected) == set(range(12))
    assert all(torch.equal(a, b) for i in expected for a, b in zip(got[i], expected[i], strict=True))
    other = by_index(epoch(module(root), 6))
    assert sum(torch.equal(other[i][0], expected[i][0]) for i in expected) <= 1


def test_resumed_loader_continues_with_the_next_pairs(tmp_path: Path) -> None:
    made = module(write_pairs(tmp_path))
    whole = epoch(made, 1)
    loader = made.train_dataloader()
    loader.order.set_epoch(1)
    loader.load_state_dict({"delivered": 2})
    (rest,) = list(loader)
    assert torch.equal(rest.hr, whole[2].hr)
    assert torch.equal(rest.lr, whole[2].lr)


def test_sharp_crops_are_those_of_the_sharp_images_alone(tmp_path: Path) -> None:
    """The same draws: a baseline trained on synthetic blur sees the same windows."""
    made = module(write_pairs(tmp_path))
    alone = TrainingCrops(made.caches["train"], made.numbers["train"], 32, 12, 3)
    both = TrainingCrops(made.caches["train"], made.numbers["train"], 32, 12, 3, inputs=made.inputs["train"])
    assert all(torch.equal(alone[(1, i, 0)].image, both[(1, i, 0)].image) for i in range(12))


def test_unpaired_files_are_named_on_each_side(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    for i in (1, 2):
        (root / "degraded" / "street" / f"{i}.png").unlink()
    (root / "sharp" / "street" / "4.png").unlink()
    with pytest.raises(InputError) as error:
        source(root).prepare()
    text = str(error.value)
    assert f"{root / 'degraded'} lacks partners of 2 of 5 files (street/1, street/2)" in text
    assert f"{root / 'sharp'} lacks partners of 1 of 4 files (street/4)" in text
    assert "\n" not in text


def test_suffixes_and_systematic_differences_do_not_count(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    for i in range(6):
        path = root / "degraded" / "street" / f"{i}.png"
        path.rename(path.with_name(f"{i}x4.bmp"))
    with pytest.raises(InputError, match="lacks partners of 6 of 6 files"):
        source(root).prepare()
    pairs = source(root, ignore="x4$", holdout=False)
    pairs.prepare()
    assert [p.stem + "x4" for p in pairs.files("test")] == [p.stem for p in pairs.degraded_files("test")]
    with pytest.raises(InputError, match=r"data\.source\.ignore: '\(' is no regular expression"):
        source(root, ignore="(").prepare()
    with pytest.raises(InputError, match="expected one file of a name"):
        source(root, ignore="[0-9]").prepare()


def test_splits_share_no_pair(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, count=30, height=4, width=4)
    made = source(root)
    parts = {split: made.files(split) for split in ("train", "val", "test")}
    assert sorted(p for part in parts.values() for p in part) == sorted((root / "sharp").rglob("*.png"))
    assert all(parts.values())
    own = write_pairs(tmp_path / "own", count=3)
    given = source(root, test_sharp=str(own / "sharp"), test_degraded=str(own / "degraded"))
    given.prepare()
    assert len(given.files("test")) == 3
    assert len(given.files("train")) + len(given.files("val")) == 30
    with pytest.raises(InputError, match=r"test_sharp and data\.source\.test_degraded: one is given"):
        source(root, test_sharp=str(own)).prepare()
    with pytest.raises(InputError, match="the test split lies in"):
        source(root, test_sharp=str(root / "sharp" / "street"), test_degraded=str(own / "degraded")).prepare()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({3: (79, 96)}, r"sharp/street/3.png is 96x80, .*degraded/street/3.png is 96x79, .*\(1 of .*crop or replace"),
        (dict.fromkeys(range(6), (40, 48)), "all pairs differ by 2: set data.source.scale=2"),
        (dict.fromkeys(range(6), (40, 96)), "crop or replace"),
        (dict.fromkeys(range(6), (26, 32)), r"set data\.source\.scale=3 and crop .* multiples of 3, this one to 96x78"),
    ],
)
def test_pairs_of_different_sizes(tmp_path: Path, sizes: dict[int, tuple[int, int]], expected: str) -> None:
    root = write_pairs(tmp_path)
    for i, (height, width) in sizes.items():
        Image.fromarray(coordinates(height, width, 1, 0)).save(root / "degraded" / "street" / f"{i}.png")
    made = PairedDataModule(source(root, holdout=False), AsStored(), seed=0, cache_dir=str(root / "c"))
    with pytest.raises(InputError, match=expected):
        made.setup("test")


def test_sharp_images_that_were_not_cut_before_the_reduction(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, height=98, width=97, scale=4)
    made = PairedDataModule(source(root, scale=4, holdout=False), AsStored(4), seed=0, cache_dir=str(root / "c"))
    with pytest.raises(InputError, match=r": crop the sharp images to multiples of 4, this one to 96x96$"):
        made.setup("test")


def test_folders_of_other_names_are_named_with_the_keys(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs")
    (root / "sharp").rename(root / "target")
    (root / "degraded").rename(root / "input")
    with pytest.raises(InputError) as error:
        source(root).prepare()
    assert str(error.value) == (
        f"data.source.sharp={root}/sharp: does not exist; {root} has the folders input, target: set data.source.sharp "
        "and data.source.degraded to the folders of sharp and of degraded images"
    )
    PairedFolder(str(root / "target"), str(root / "input")).prepare()
    lacking = PairedFolder(str(root / "target"), str(root / "input"), test_sharp=str(root / "t"), test_degraded="u")
    with pytest.raises(
        InputError, match=r"^data\.source\.test_sharp=.*/t: does not exist.*data\.source\.test_degraded to"
    ):
        lacking.prepare()


def test_unreadable_file_takes_its_partner_with_it(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    (root / "degraded" / "street" / "2.png").write_bytes(b"no image")
    (root / "sharp" / "street" / "4.png").write_bytes(b"no image")
    made = PairedDataModule(
        source(root, holdout=False), AsStored(), seed=0, cache_dir=str(root / "c"), on_corrupt="skip"
    )
    made.setup("test")
    pairs = zip(made.caches["test"], made.inputs["test"].cache, strict=False)
    numbers = [(int(a[0, 0, 2]), int(b[0, 0, 2])) for a, b in pairs]
    assert numbers == [(i, i + 100) for i in (0, 1, 3, 5)]


def test_gray_among_colour_has_three_equal_channels(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    for side in ("sharp", "degraded"):
        Image.fromarray(coordinates(80, 96, 1, 0)[..., 1]).save(root / side / "street" / "0.png")
    made = PairedDataModule(source(root, holdout=False), AsStored(), seed=0, cache_dir=str(root / "c"), num_workers=0)
    made.setup("test")
    batch = next(iter(made.test_dataloader()))
    assert batch.lr is not None
    assert torch.equal(batch.lr[0, 0], batch.lr[0, 2])
    assert torch.equal(batch.lr, batch.hr)


def overrides(tiny: list[str], root: Path) -> list[str]:
    rest = [item for item in tiny if not item.startswith(("data=", "data.root="))]
    return [*rest, "data=paired_folder", f"data.root={root}", "data.source.scale=4", "model=ed_srn"]


def test_trains_and_tests_on_pairs(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", scale=4)
    outcome = cli(*overrides(tiny, root), "degradation=none")
    assert outcome.status == 0, outcome.err
    assert "pairs, test split, 1 image, x4, AsStored" in outcome.out


@pytest.mark.slow
def test_config_says_what_does_not_fit(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    paired = overrides(tiny, write_pairs(tmp_path / "pairs", scale=4))
    cases = {
        "ed_dsrn makes its inputs from the sharp images and would ignore": paired,
        "needs 'lr_sharp', which degradation=none": [*paired, "degradation=none", "model=ed_dsrn"],
        "none starts from degraded images, data=folder has sharp ones only": [*tiny, "degradation=none"],
        "enlarges x4, degradation.scale is 1": [*paired, "degradation=none", "data.source.scale=1"],
    }
    for expected, command in cases.items():
        outcome = cli(*command)
        assert outcome.status == 2
        assert expected in outcome.err
        assert outcome.err.count("\n") == 1
