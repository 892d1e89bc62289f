"""The way of an image from the cache to a degraded batch."""

import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batch import Batch
from datamodules.datasets import Inputs, TrainingCrops, WholeImages
from datamodules.degradations.pipelines import EDDSRNDegradation
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from datamodules.loaders import EpochOrder, ResumableLoader
from datamodules.sources import ALL_SPLITS, Split
from datamodules.sources.folder import Folder
from tests.conftest import photograph


def module(root: Path, cache: Path, **options: Any) -> ImageDataModule:
    defaults = {"patch": 32, "batch_size": 4, "samples_per_epoch": 12, "num_workers": 0, "seed": 3}
    made = ImageDataModule(Folder(str(root)), EDDSRNDegradation(), cache_dir=str(cache), **{**defaults, **options})
    made.prepare_data()
    made.setup("fit")
    made.setup("test")
    return made


def epoch(loader: ResumableLoader, number: int) -> list[Batch]:
    loader.order.set_epoch(number)
    return list(loader)


def by_index(batches: list[Batch], degradation: EDDSRNDegradation) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for batch in batches:
        done = degradation(batch)
        assert done.lr is not None
        for i, index in enumerate(batch.index.tolist()):
            found[index] = (batch.hr[i], done.lr[i])
    return found


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_is_a_function_of_seed_epoch_index(
    make_photographs: Callable[..., Path], tmp_path: Path, batch_size: int, workers: int
) -> None:
    root = make_photographs()
    reference = module(root, tmp_path / "c")
    expected = by_index(epoch(reference.train_dataloader(), 5), EDDSRNDegradation())
    other = module(root, tmp_path / "c", batch_size=batch_size, num_workers=workers)
    loader = other.train_dataloader()
    epoch(loader, 4)  # history must not matter
    got = by_index(epoch(loader, 5), EDDSRNDegradation())
    assert set(got) == set(expected) == set(range(12))
    for index in expected:
        assert torch.equal(got[index][0], expected[index][0])
        assert torch.equal(got[index][1], expected[index][1])


def test_seed_and_epoch_change_the_crops(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    root = make_photographs()
    first = by_index(epoch(module(root, tmp_path / "c").train_dataloader(), 0), EDDSRNDegradation())
    for other in (
        epoch(module(root, tmp_path / "c").train_dataloader(), 1),
        epoch(module(root, tmp_path / "c", seed=4).train_dataloader(), 0),
    ):
        changed = by_index(other, EDDSRNDegradation())
        assert sum(torch.equal(first[i][0], changed[i][0]) for i in first) <= 1


def test_ranks_share_the_batches_of_one_process(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    made = module(make_photographs(), tmp_path / "c")
    crops = TrainingCrops(made.caches["train"], made.numbers["train"], 32, 24, 3)
    alone = ResumableLoader(crops, EpochOrder(24, 8, 3), num_workers=0)
    ranks = [ResumableLoader(crops, EpochOrder(24, 4, 3, rank, 2), num_workers=0) for rank in range(2)]
    for whole, *parts in zip(epoch(alone, 2), *(epoch(r, 2) for r in ranks), strict=True):
        assert sorted(whole.index.tolist()) == sorted(i for part in parts for i in part.index.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_continues_at_the_next_batch(
    make_photographs: Callable[..., Path], tmp_path: Path, workers: int
) -> None:
    made = module(make_photographs(), tmp_path / "c", num_workers=workers, batch_size=2)
    loader = made.train_dataloader()
    expected = [b.index.tolist() for b in epoch(loader, 1)]
    loader.order.set_epoch(1)
    iterator = iter(loader)
    head = [next(iterator).index.tolist() for _ in range(4)]
    state = loader.state_dict()
    assert state == {"delivered": 4, "batch": 2}
    again = made.train_dataloader()
    again.load_state_dict(state)
    assert head + [b.index.tolist() for b in epoch(again, 1)] == expected
    assert [b.index.tolist() for b in epoch(again, 1)] == expected  # the pass after it is whole again
    assert again.state_dict() == {"delivered": 0, "batch": 2}


def test_middle_of_an_epoch_needs_batches_of_the_same_size(
    make_photographs: Callable[..., Path], tmp_path: Path
) -> None:
    made = module(make_photographs(), tmp_path / "c")
    crops = TrainingCrops(made.caches["train"], made.numbers["train"], 32, 24, 3)
    ranks = ResumableLoader(crops, EpochOrder(24, 4, 3, 0, 2), num_workers=0)
    ranks.load_state_dict({"delivered": 1, "batch": 8})
    ranks.load_state_dict({"delivered": 0, "batch": 4})  # between epochs there is nothing to continue
    with pytest.raises(InputError, match="with batches of 4 over all processes, found 8 now"):
        ranks.load_state_dict({"delivered": 1, "batch": 4})


def test_images_are_used_evenly_over_epochs(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    made = module(make_photographs(count=7), tmp_path / "c", samples_per_epoch=4, batch_size=4)
    loader = made.train_dataloader()
    names = [name for e in range(5) for batch in epoch(loader, e) for name in batch.name]
    counts = {name: names.count(name) for name in made.caches["train"].names}
    assert len(counts) == 5  # seven images, one held out for each of validation and test
    assert set(counts.values()) == {4}


def test_a_short_epoch_is_no_block_of_neighbouring_files(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    """Files are sorted, and frames of one scene follow each other: each pass has an order of its own, keyed by it."""
    made = module(make_photographs(count=14), tmp_path / "c")
    cache, numbers = made.caches["train"], made.numbers["train"][:8]
    in_order = [cache.names[number] for number in numbers]
    crops, other = (TrainingCrops(cache, numbers, 32, 4, seed) for seed in (3, 4))
    passes = [[crops[epoch_, i, 0].name for epoch_ in (first, first + 1) for i in range(4)] for first in (0, 2)]
    assert [sorted(names) for names in passes] == [sorted(in_order)] * 2
    assert passes[0] != in_order != passes[1] != passes[0]
    assert passes[0] != [other[epoch_, i, 0].name for epoch_ in (0, 1) for i in range(4)]
    whole = TrainingCrops(cache, numbers, 32, 8, 3)  # it sees all images in any case
    assert [whole[0, i, 0].name for i in range(8)] == in_order


def test_crops_are_true_regions_in_all_eight_symmetries(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    made = module(make_photographs(count=3, height=40, width=36), tmp_path / "c")
    cache = made.caches["train"]
    crops = TrainingCrops(cache, [0], 32, 400, 0)
    image = cache[0]
    windows = {image[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(5)}
    seen_symmetries, seen_windows = set(), set()
    for index in range(400):
        crop = crops[(0, index, 0)].image.permute(1, 2, 0).numpy()
        for turns in range(4):
            for mirrored in (False, True):
                undone = np.rot90(crop, turns)
                undone = np.ascontiguousarray(undone[:, ::-1] if mirrored else undone)
                if undone.tobytes() in windows:
                    seen_symmetries.add((turns, mirrored))
                    seen_windows.add(windows[undone.tobytes()])
    assert len(seen_symmetries) == 8
    assert len(seen_windows) == 45  # every position, the last row and column included


@pytest.mark.parametrize(("flip", "rotate", "expected"), [(False, False, 1), (True, False, 2), (False, True, 4)])
def test_augmentation_switches(
    make_photographs: Callable[..., Path], tmp_path: Path, flip: bool, rotate: bool, expected: int
) -> None:
    made = module(make_photographs(count=3, height=32, width=32), tmp_path / "c")
    crops = TrainingCrops(made.caches["train"], [0], 32, 100, 0, flip, rotate)
    assert len({crops[(0, i, 0)].image.numpy().tobytes() for i in range(100)}) == expected


def test_permuted_channels_are_the_same_crops_in_all_six_orders(
    make_photographs: Callable[..., Path], tmp_path: Path
) -> None:
    made = module(make_photographs(count=3, height=40, width=36), tmp_path / "c", permute_channels=True)
    cache = made.caches["train"]
    inputs = Inputs(cache)
    plain = TrainingCrops(cache, [0], 32, 60, 0, inputs=inputs)
    permuted = TrainingCrops(cache, [0], 32, 60, 0, inputs=inputs, permute_channels=True)
    seen = set()
    for index in range(60):
        a, b = plain[(0, index, 0)], permuted[(0, index, 0)]
        orders = [order for order in permutations(range(3)) if torch.equal(a.image[list(order)], b.image)]
        assert len(orders) == 1
        seen.add(orders[0])
        assert b.degraded is not None
        assert torch.equal(b.degraded, b.image)  # both sides alike
    assert len(seen) == 6
    assert made.train_dataloader().dataset.permute_channels  # type: ignore[attr-defined]  # TrainingCrops


def test_evaluation_depends_on_suite_seed_and_name_only(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    root = make_photographs(height=45, width=50)
    one = module(root, tmp_path / "c", seed=1, batch_size=2)
    two = module(root, tmp_path / "c", seed=2, patch=16)
    three = module(root, tmp_path / "c", suite_seed=1)
    batches = [next(iter(m.test_dataloader())) for m in (one, two, three)]
    lr = [m.on_after_batch_transfer(b, 0).lr for m, b in zip((one, two, three), batches, strict=True)]
    assert batches[0].hr.shape == (1, 3, 44, 48)  # cut to multiples of the scale
    assert torch.equal(lr[0], lr[1])
    assert not torch.equal(lr[0], lr[2])


def test_whole_images_keep_the_upper_left_part(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    made = module(make_photographs(height=45, width=50), tmp_path / "c")
    cache = made.caches["test"]
    item = WholeImages(cache, [0], 4, 0)[0]
    assert np.array_equal(item.image.permute(1, 2, 0).numpy(), cache[0][:44, :48])


def test_batches_say_whether_their_image_is_gray(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    root = make_photographs(count=12)
    for file in sorted(root.iterdir())[::2]:
        Image.open(file).convert("L").save(file)
    made = module(root, tmp_path / "c")
    gray = {name: sorted(root.glob(f"{name}.*")) for name in made.caches["test"].names + made.caches["val"].names}
    for loader in (made.test_dataloader(), made.val_dataloader()):
        for batch in loader:
            done = made.on_after_batch_transfer(batch, 0)
            (file,) = gray[batch.name[0].partition("@")[0]]
            assert done.gray == (Image.open(file).mode == "L")
            assert done.hr.shape[1] == 3


def test_image_smaller_than_the_patch(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    root = make_photographs(count=12)
    make_photographs(count=8, height=30, width=100)  # replaces the first eight
    with pytest.raises(InputError, match=r"\d\.png: image is 100x30 .*=32: set data\.patch=28, or data\.on_small=sk"):
        module(root, tmp_path / "c")
    made = module(root, tmp_path / "c", on_small="skip")
    assert all(min(made.caches["train"].shapes[i]) >= 32 for i in made.numbers["train"])
    assert len(made.numbers["train"]) < len(made.caches["train"])


def test_images_that_are_too_small_to_be_measured(tmp_path: Path) -> None:
    """19 pixels are wanted of what is left of an image that is cut to multiples of 4, where training takes less."""
    for folder in ("train", "other"):
        (tmp_path / folder).mkdir()
        for i, side in enumerate((32, 19, 32, 20)):
            Image.fromarray(photograph(side, side, i)).save(tmp_path / folder / f"{i}.png")

    def made(on_small: str) -> ImageDataModule:
        source = Folder(str(tmp_path / "train"), str(tmp_path / "other"), holdout=False)
        options: dict[str, Any] = {"patch": 16, "num_workers": 0, "seed": 3, "cache_dir": str(tmp_path / "c")}
        data = ImageDataModule(source, EDDSRNDegradation(), on_small=on_small, **options)  # type: ignore[arg-type]
        data.least = 19
        data.setup("test")
        return data

    with pytest.raises(
        InputError, match=r"1\.png: image is 19x19, smaller than the 20 pixels that protocol= needs: set "
    ):
        made("error")
    assert made("skip").numbers["test"] == [0, 2, 3]


@pytest.mark.parametrize(
    ("sides", "multiple", "hint"),
    [
        ([96, 96, 1, 96], 4, "set data.on_small=skip"),
        ([96, 30, 96, 96], 16, "set data.patch=16, or data.on_small=skip"),
        ([30, 30, 30, 30], 4, "set data.patch=28"),
        ([24, 1, 30, 30], 4, "set data.patch=28 data.on_small=skip"),
        ([3, 3, 3, 1], 4, "give larger images"),
    ],
)
def test_advice_about_small_images_can_be_followed(tmp_path: Path, sides: list[int], multiple: int, hint: str) -> None:
    root = tmp_path / "train"
    for folder, lengths in ((root, sides), (tmp_path / "other", [96, 97])):
        folder.mkdir()
        for i, side in enumerate(lengths):
            Image.fromarray(photograph(side, side, i)).save(folder / f"{i}.png")
    source = Folder(str(root), str(tmp_path / "other"), holdout=False)

    def made(**options: Any) -> ImageDataModule:
        options = {"patch": 32, "num_workers": 0, "seed": 3, "cache_dir": str(tmp_path / "c"), **options}
        data = ImageDataModule(source, EDDSRNDegradation(), **options)
        data.patch_multiple = multiple
        data.setup("fit")
        return data

    with pytest.raises(InputError) as error:
        made()
    assert str(error.value).rpartition(": ")[2] == hint
    for way in hint.split(", or "):
        options: dict[str, Any] = dict(re.findall(r"data\.(\w+)=(\w+)", way))
        if "patch" in options:
            options["patch"] = int(options["patch"])
            assert options["patch"] % multiple == 0
        assert not options or made(**options).numbers["train"]


class Published:
    """A data set whose splits are given."""

    name = "published"

    def __init__(self, **files: list[Path]) -> None:
        self.of = files

    def prepare(self) -> None: ...

    def files(self, split: Split) -> list[Path]:
        return self.of[split]


@pytest.fixture
def with_copies(make_photographs: Callable[..., Path]) -> Path:
    """40 photographs in PNG, and copies of them in BMP: of each split in the others, by the hash of the names."""
    root = make_photographs(count=40, height=40, width=40)
    for path in sorted(root.glob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
    return root


def test_copies_stay_in_one_split(with_copies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Folder(str(with_copies))
    files = {split: source.files(split) for split in ALL_SPLITS}
    contents = {split: {path.stem for path in paths} for split, paths in files.items()}
    assert contents["train"] & contents["test"]
    assert contents["train"] & contents["val"]
    made = module(with_copies, tmp_path / "c")
    left = {split: {made.caches[split].files[i].stem for i in made.numbers[split]} for split in ALL_SPLITS}
    assert left["test"] == contents["test"]
    assert left["val"] == contents["val"] - contents["test"]
    assert left["train"] == contents["train"] - contents["val"] - contents["test"]
    count = sum(path.stem in left["test"] | left["val"] for path in files["train"])
    [line] = [record.getMessage() for record in caplog.records if "train split" in record.getMessage()]
    assert line.startswith(f"{count} of {len(files['train'])} images of the train split are copies: {with_copies}")
    assert line.endswith("they are left out of train")


def test_copies_are_meant_without_hold_out(with_copies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = ImageDataModule(Folder(str(with_copies), holdout=False), EDDSRNDegradation(), 0, cache_dir=str(tmp_path))
    assert [made.kept(split) for split in ALL_SPLITS] == [list(range(80))] * 3
    assert "copies" not in caplog.text


def test_published_splits_stay_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture, with_copies: Path) -> None:
    train, test = sorted(with_copies.glob("*.png"))[:4], sorted(with_copies.glob("*.bmp"))[3:6]
    made = ImageDataModule(Published(train=train, test=test), EDDSRNDegradation(), 0, cache_dir=str(tmp_path))
    assert made.kept("test") == [0, 1, 2]
    assert made.kept("train") == [0, 1, 2, 3]
    assert f"1 of 4 images of the train split are copies: {train[3]}: equals {test[0]} of test" in caplog.text


def test_a_split_of_copies_only_is_refused(tmp_path: Path, with_copies: Path) -> None:
    for name, suffix in (("a", ".png"), ("b", ".bmp")):
        (tmp_path / name).mkdir()
        for path in with_copies.glob(f"*{suffix}"):
            path.rename(tmp_path / name / path.name)
    source = Folder(str(tmp_path / "a"), test_root=str(tmp_path / "b"))
    made = ImageDataModule(source, EDDSRNDegradation(), 0, patch=32, num_workers=0, cache_dir=str(tmp_path / "c"))
    with pytest.raises(InputError, match=r"of the train split are copies: .*; and 35 more: none is left"):
        made.setup("fit")


def test_less_than_one_batch(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="less than one batch"):
        module(make_photographs(), tmp_path / "c", batch_size=13).train_dataloader()


def test_validation_covers_the_range_of_the_degradation(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    """Every image at every point, in one order for all processes; the inputs differ by the width of the blur alone."""
    made = module(make_photographs(), tmp_path / "c", val_points=[0.05, 0.95])
    names = [made.caches["val"].names[number] for number in made.numbers["val"]]
    batches = [made.on_after_batch_transfer(batch, 0) for batch in made.val_dataloader()]
    points = [0.05, 0.95] * len(names)  # from the first image to the next: the first few cover the range
    first = [f"{name}@{point}" for name, point in zip(names, points, strict=False)]
    assert [batch.name[0] for batch in batches[: len(names)]] == first
    by_name = {batch.name[0]: batch for batch in batches}
    assert {*by_name} == {f"{name}@{point}" for name in names for point in (0.05, 0.95)}
    assert made.image_names("val") == [batch.name[0] for batch in batches]
    whole, shown = made.digest("val"), made.image_names("val")
    for limit, count in ((1, 1), (0.5, len(shown) // 2), (9, len(shown))):  # of those of all processes
        made.limit_val = limit
        assert made.image_names("val") == shown[:count]
        assert len(made.val_dataloader()) == count
    assert made.digest("val") == whole
    for name in names:
        near, far = by_name[f"{name}@0.05"], by_name[f"{name}@0.95"]
        assert near.lr is not None
        assert far.lr is not None
        assert torch.equal(near.hr, far.hr)
        assert near.lr.std() > far.lr.std()
    test = next(iter(made.test_dataloader()))
    assert (test.name, test.point) == ([made.caches["test"].names[made.numbers["test"][0]]], None)


def test_without_points_validation_is_drawn_by_name(make_photographs: Callable[..., Path], tmp_path: Path) -> None:
    made = module(make_photographs(), tmp_path / "c", val_points=[])
    batches = list(made.val_dataloader())
    assert [batch.name[0] for batch in batches] == [made.caches["val"].names[i] for i in made.numbers["val"]]
    assert {batch.point for batch in batches} == {None}


@pytest.mark.parametrize("points", [[-0.1], [0.5, 1.01]])
def test_points_outside_of_the_range_are_refused(tmp_path: Path, points: list[float]) -> None:
    with pytest.raises(ValueError, match=r"val_points is \[.*\], expected fractions from 0 to 1"):
        ImageDataModule(Folder(str(tmp_path)), EDDSRNDegradation(), 0, val_points=points)
