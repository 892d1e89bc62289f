"""What a measurement computes, and how often."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from datamodules import distributed
from datamodules.batch import Batch
from datamodules.degradations.pipelines import EDDSRNDegradation
from datamodules.image_datamodule import ImageDataModule
from datamodules.io.atomic import part_of, replacing
from datamodules.sources.folder import Folder
from experiments.evaluate.measure import Measurement, on_data, progress_bar
from experiments.results.pictures import MADE_OF
from experiments.results.records import EvaluationRecord
from experiments.results.tables import cell_folder
from lightning_modules.callbacks import sheets
from lightning_modules.metrics import scores
from lightning_modules.metrics.build import ImageMetric
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, ssim
from lightning_modules.plots import sheet
from lightning_modules.restoration import RestorationModule
from networks.base import RestorationNetwork
from networks.ops.resize import bicubic_resize
from networks.restored import Restored
from tests.helpers.results import read_records

PROTOCOLS = [Protocol("y_shave4", "y", 4), Protocol("rgb_shave_s", "rgb", "s")]
CPU = torch.device("cpu")
CFG = OmegaConf.create({"degradation": {"_target_": "x.Y"}, "metric": {}})


class Brighter(RestorationNetwork):
    """Bicubic enlargement, a little too bright; counts what it restores, and fails when it is told to."""

    inputs, outputs, size_multiple, scale = ("lr",), ("sr",), 1, 4

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.fails_at = 0, 0

    def forward(self, lr: Tensor) -> Restored:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("killed")
        return Restored(sr=bicubic_resize(lr, 4) + 0.02)


class Mean:
    higher_is_better = False

    def __call__(self, restored: Tensor, hr: Tensor) -> Tensor:
        return restored.mean((1, 2, 3))


@pytest.fixture
def data(make_photographs: Callable[..., Path], tmp_path: Path) -> ImageDataModule:
    source = Folder(str(make_photographs(count=5, height=50, width=46)), holdout=False)
    made = ImageDataModule(source, EDDSRNDegradation(), seed=1, num_workers=0, cache_dir=str(tmp_path / "cache"))
    made.setup("test")
    return made


def record(data: ImageDataModule, **changes: Any) -> EvaluationRecord:
    known = {"model": "brighter", "run": "run", "checkpoint": "c.ckpt", "checkpoint_sha256": "0", **changes}
    return on_data(EvaluationRecord(**known), data, CFG, CPU)


def call(
    module: RestorationModule,
    data: ImageDataModule,
    folder: Path,
    about: Mapping[str, Any] = {},
    metrics: Mapping[str, ImageMetric] = {},
    **options: Any,
) -> list[dict[str, Any]]:
    measurement = Measurement(module, data, folder, record(data, **about), metrics)
    found = measurement.run(CPU, **{"pictures": "none", **options})
    return [one.to_json() for one in found]


@pytest.mark.slow
def test_records_of_the_network_and_of_bicubic(data: ImageDataModule, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = call(RestorationModule(Brighter(), PROTOCOLS), data, run, {"seed": 3}, pictures="sheets")
    assert read_records(run / "results.json") == found
    assert [(r["model"], r["protocol"]["name"]) for r in found] == [
        (m, p.name) for m in ("bicubic", "brighter") for p in PROTOCOLS
    ]
    for record in found:
        ours = record["model"] == "brighter"
        known = (record["seed"], record["checkpoint"], record["checkpoint_sha256"])
        assert known == ((3, "c.ckpt", "0") if ours else (None, None, None))
        assert (record["run"], record["dataset"], record["split"], record["scale"]) == ("run", "photographs", "test", 4)
        assert (record["device"], record["threads"]) == ("cpu", torch.get_num_threads())
        assert list(record["images"]) == [f"image{i}" for i in range(5)]
        assert all(("seconds" in image) == ours for image in record["images"].values())
    assert found[1]["protocol"]["shave"] == "s"
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        assert batch.lr is not None
        for record, offset in zip(found, (0, 0, 0.02, 0.02), strict=True):
            protocol = Protocol(**record["protocol"]).at(4)
            image = bicubic_resize(batch.lr, 4) + offset
            expected = {"psnr": psnr(image, batch.hr, protocol).item(), "ssim": ssim(image, batch.hr, protocol).item()}
            shown = {k: v for k, v in record["images"][batch.name[0]].items() if k != "seconds"}
            assert shown == pytest.approx(expected, abs=1e-9)
    pictures = run / "images" / "photographs"
    assert len(list(pictures.glob("*_sr.png"))) == 5
    assert all((pictures / f"image{i}.png").exists() for i in range(5))


class Both(Brighter):
    """A deblurred branch too."""

    outputs = ("sr", "deblurred")

    def forward(self, lr: Tensor) -> Restored:
        return Restored(sr=bicubic_resize(lr, 4), deblurred=lr + 0.02)


def test_the_deblurred_branch_has_records_of_its_own(data: ImageDataModule, tmp_path: Path) -> None:
    """Where the smaller images are large enough for the protocol: they have 12 x 11 pixels."""
    protocols = [Protocol("y_shave0", "y", 0), Protocol("rgb_shave0", "rgb", 0)]
    found = call(RestorationModule(Both(), protocols), data, tmp_path / "run")
    assert [(r["branch"], r["model"], r["protocol"]["name"]) for r in found] == [
        (b, m, p.name) for b in ("sr", "deblurred") for m in ("bicubic", "brighter") for p in protocols
    ]
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        assert batch.lr is not None
        assert batch.lr_sharp is not None
        for one, offset in zip(found[4:], (0, 0, 0.02, 0.02), strict=True):
            wanted = psnr(batch.lr + offset, batch.lr_sharp, Protocol(**one["protocol"])).item()
            assert one["images"][batch.name[0]]["psnr"] == wanted
    about = record(data)
    assert len(Measurement(RestorationModule(Both(), protocols), data, tmp_path / "run", about).finished()) == 8
    assert [r["branch"] for r in call(RestorationModule(Both(), PROTOCOLS), data, tmp_path / "other")] == ["sr"] * 4


@pytest.mark.parametrize(("pictures", "count"), [("results", 5), ("none", 0)])
def test_pictures_are_a_choice(data: ImageDataModule, tmp_path: Path, pictures: str, count: int) -> None:
    run = tmp_path / "run"
    cell = {"degradation.scale": 4, "a.noise": 0.0, "b.sigma": [1.5, 2.0]}
    call(RestorationModule(Brighter(), PROTOCOLS), data, run, {"suite": "s", "cell": cell}, pictures=pictures)
    assert cell_folder(cell) == "scale=4,noise=0,sigma=[1.5,2.0]"
    found = sorted((run / "images").rglob("*.png"))
    assert [file.name for file in found if file.stem.endswith("_sr")] == [f"image{i}_sr.png" for i in range(count)]
    assert not [file.name for file in found if "_" not in file.stem]  # no sheets
    assert all(file.parent == run / "images" / "photographs" / cell_folder(cell) for file in found)


@pytest.mark.slow
def test_everything_is_measured_once(data: ImageDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(module: Any, name: str) -> Any:
        function = getattr(module, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    for module, name in ((scores, "psnr"), (scores, "ssim"), (sheets, "psnr"), (sheets, "bicubic_resize")):
        monkeypatch.setattr(module, name, counted(module, name))
    call(RestorationModule(Brighter(), PROTOCOLS), data, tmp_path / "run", pictures="sheets")
    # Each of five images and its baseline by both protocols; the sheets show what was found.
    assert calls == {"psnr": 20, "ssim": 20, "bicubic_resize": 5}


def test_without_a_baseline_only_the_network_is_recorded() -> None:
    hr = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    batch = Batch(hr, ["a"], torch.arange(1), torch.arange(1), lr=hr[..., :11, :16], scale=4)
    assert sheets.enlarged(batch) is None


def test_further_metrics_are_measured_of_both(data: ImageDataModule, tmp_path: Path) -> None:
    found = call(RestorationModule(Brighter(), PROTOCOLS), data, tmp_path / "run", metrics={"niqe": Mean()})
    bicubic, network = found[0], found[2]
    assert network["niqe"] == pytest.approx(bicubic["niqe"] + 0.02, abs=1e-6)


def test_killed_in_the_middle_goes_on_with_the_next_image(data: ImageDataModule, tmp_path: Path) -> None:
    whole = call(RestorationModule(Brighter(), PROTOCOLS), data, tmp_path / "whole")
    run, network = tmp_path / "run", Brighter()
    network.fails_at = 4
    with pytest.raises(RuntimeError, match="killed"):
        call(RestorationModule(network, PROTOCOLS), data, run)
    assert not (run / "results.json").exists()
    (partial_results,) = run.glob(".unfinished-*.jsonl")
    assert len(partial_results.read_text().splitlines()) == 3
    partial_results.write_text(partial_results.read_text()[:-9])  # a kill may tear the line that was being written

    # Other weights, or other image files, do not go on with these.
    other = Brighter()
    call(RestorationModule(other, PROTOCOLS), data, tmp_path / "run", {"checkpoint_sha256": "1"})
    assert other.calls == 5

    network = Brighter()
    progress = progress_bar(5, show=False)
    found = call(RestorationModule(network, PROTOCOLS), data, run, progress=progress)
    assert network.calls == 3
    assert strip(found) == strip(whole)
    assert not list(run.glob(".unfinished-*"))


def test_killed_while_a_picture_is_written_leaves_nothing_and_lacks_nothing(
    data: ImageDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, network = tmp_path / "run", Brighter()
    pictures, written = run / "images" / "photographs", []

    def killed(path: Path) -> Any:
        if path.name == "image2_hr.png":
            part_of(path).write_bytes(b"half a picture")
            raise RuntimeError("killed")
        written.append(path.name)
        return replacing(path)

    with monkeypatch.context() as patch:
        patch.setattr(sheet, "replacing", killed)
        with pytest.raises(RuntimeError, match="killed"):
            call(RestorationModule(network, PROTOCOLS), data, run, pictures="results")
    assert {"image1_hr.png", "image2_sr.png"} <= set(written)
    assert len([*pictures.glob(".*.part")]) == 1
    part_of(pictures / "image0.png").touch()  # of a sheet, which is not written again
    foreign = [".1_hr.png.0123abcd.tmp", ".notes.part", "notes.deblur_sr.part", ".x.deblur_sr.part"]
    for name in foreign:
        (pictures / name).write_text("mine")
    network.calls = 0
    call(RestorationModule(network, PROTOCOLS), data, run, pictures="results")
    assert network.calls == 3
    expected = [f"image{i}_{kind}.png" for i in range(5) for kind in ("sr", "hr", "input")]
    assert {path.name for path in pictures.iterdir()} == {*expected, *foreign, MADE_OF}


def strip(found: list[dict[str, Any]]) -> Any:
    text = json.dumps([{**record, "run": "", "images": {}} for record in found])
    images = [{n: {**v, "seconds": 0} for n, v in record["images"].items()} for record in found]
    return text, images


def test_changed_files_are_measured_again(data: ImageDataModule, tmp_path: Path) -> None:
    run, network = tmp_path / "run", Brighter()
    network.fails_at = 4
    with pytest.raises(RuntimeError, match="killed"):
        call(RestorationModule(network, PROTOCOLS), data, run)
    file = data.caches["test"].files[0]
    file.write_bytes(file.read_bytes() + b" ")
    network.calls, network.fails_at = 0, 0
    call(RestorationModule(network, PROTOCOLS), data, run)
    assert network.calls == 5


def test_images_are_divided_over_the_processes(
    data: ImageDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, second, alone = tmp_path / "run", Brighter(), Brighter()
    with monkeypatch.context() as patch:
        for name, value in (("world", 2), ("rank", 1), ("barrier", None)):
            patch.setattr(distributed, name, lambda value=value: value)
        patch.setattr(distributed, "broadcast", lambda value: value)
        patch.setattr(distributed, "gather", lambda value: [value])
        assert call(RestorationModule(second, PROTOCOLS), data, run) == []
    assert second.calls == 2
    (partial_results,) = run.glob(".unfinished-*.1.jsonl")
    assert [json.loads(line)["image"] for line in partial_results.read_text().splitlines()] == ["image1", "image3"]
    # What it has measured counts, though the other one never came.
    found = call(RestorationModule(alone, PROTOCOLS), data, run)
    assert alone.calls == 3
    assert list(found[0]["images"]) == [f"image{i}" for i in range(5)]


def test_finished_cells_are_known_by_weights_images_and_metrics(data: ImageDataModule, tmp_path: Path) -> None:
    run, module = tmp_path / "run", RestorationModule(Brighter(), PROTOCOLS)

    def known(what: RestorationModule = module, metrics: Mapping[str, ImageMetric] = {}, **about: Any) -> int:
        return len(Measurement(what, data, run, record(data, **about), metrics).finished())

    assert known() == 0
    call(module, data, run)
    assert known() == 4
    assert known(checkpoint_sha256="1") == 0
    assert known(checkpoint="other.ckpt") == 0
    assert known(RestorationModule(Brighter(), PROTOCOLS[:1])) == 2
    assert known(metrics={"niqe": Mean()}) == 0
    data.numbers["test"] = data.numbers["test"][1:]
    assert known() == 0


def test_pictures_belong_to_one_measurement(data: ImageDataModule, tmp_path: Path) -> None:
    """Those of a later one take their place, and are no reason to take the earlier one for finished with pictures."""
    run, module = tmp_path / "run", RestorationModule(Brighter(), PROTOCOLS)
    finished = Measurement(module, data, run, record(data)).finished
    call(module, data, run, pictures="sheets")
    assert len(finished("results")) == 4
    call(module, data, run, pictures="results")
    assert len([*run.rglob("image?.png")]) == 5  # sheets of the same one
    call(module, data, run, {"self_ensemble": True}, pictures="results")
    assert [*run.rglob("image?.png")] == []  # no sheet of the earlier one beside them
    assert (len(finished("results")), len(finished())) == (0, 4)


def test_a_kernel_file_that_was_replaced_is_noticed(data: ImageDataModule, tmp_path: Path) -> None:
    file = tmp_path / "kernels" / "a.npy"
    file.parent.mkdir()
    for path in (file, file.parent):
        cfg = OmegaConf.merge(CFG, {"degradation": {"kernels": {"suite": {"path": str(path)}}}})
        states = []
        for size in (3, 5):
            np.save(file, np.ones((size, size)))
            states.append(on_data(EvaluationRecord("x"), data, cfg, CPU).files["kernels.suite.path"])  # type: ignore[arg-type]
        assert states[0] != states[1]
