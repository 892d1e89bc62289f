"""Published figures: sums and differences that the papers state themselves show a typing mistake."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from datamodules.errors import InputError
from experiments.results.published import FOLDER, Published, published, read
from experiments.results.records import METRICS

KERNEL = "degradation.kernels.number"


def rows(suite: str, method: str, metric: str = "psnr") -> dict[tuple[object, ...], list[Published]]:
    found = defaultdict(list)
    for figure in published(suite):
        if figure.method == method and figure.metric == metric:
            rest = tuple(value for key, value in figure.cell.items() if key != KERNEL)
            found[rest].append(figure)
    return found


@pytest.mark.parametrize(
    ("method", "means"),
    [
        ("USRNet", {(2, 0): 30.02, (3, 0): 27.62, (3, 0.01): 26.77, (3, 0.03): 25.59, (4, 0): 25.96}),
        ("USRNet, trained independently", {(4, 0): 25.26}),
    ],
)
def test_means_over_twelve_kernels(method: str, means: dict[tuple[float, float], float]) -> None:
    found = rows("usrnet_table1", method)
    for place, mean in means.items():
        row = {figure.cell[KERNEL]: figure.value for figure in found[place] if KERNEL in figure.cell}
        assert sorted(row) == list(range(12))
        assert fmean(row.values()) == pytest.approx(mean, abs=0.0051)


def test_usrnet_leads_its_table_everywhere() -> None:
    best: dict[tuple[object, ...], float] = {}
    for figure in published("usrnet_table1"):
        if KERNEL in figure.cell and figure.method != "USRNet":
            place = tuple(figure.cell.values())
            best[place] = max(best.get(place, 0.0), figure.value)
    own = {tuple(f.cell.values()): f.value for f in published("usrnet_table1") if f.method == "USRNet"}
    assert len(own) == 60
    assert all(own[place] > value for place, value in best.items())


def test_gains_that_the_ed_dsrn_paper_states() -> None:
    value = {(f.method, f.dataset): f.value for f in published("ed_dsrn_table1") if f.metric == "psnr" and not f.image}
    assert len(value) == 26
    competitors = [method for method, _ in value if not method.startswith("ED-")]
    for dataset, gain in (("div2k", 1.757), ("set14", 2.042)):
        best = max(competitors, key=lambda method: value[method, dataset])
        assert best == "SRResNet, fine-tuned"
        assert value["ED-DSRN", dataset] - value[best, dataset] == pytest.approx(gain, abs=0.0006)


@pytest.mark.parametrize(
    ("suite", "method", "dataset", "cell", "metric", "value", "certain"),
    [
        ("ed_dsrn_table1", "EDSR", "div2k", {}, "seconds", 19.037, True),
        ("ed_dsrn_table1", "ED-SRN", "set14", {}, "ssim", 0.6426, True),
        ("usrnet_bicubic", "USRNet", "urban100", {"degradation.scale": 4}, "psnr", 26.44, True),
        ("usrnet_bicubic", "VDSR", "set5", {"degradation.scale": 3}, "psnr", 33.66, False),
        ("usrnet_bicubic", "EDSR", "set14", {"degradation.scale": 4}, "psnr", 28.80, False),
        ("dan_setting1", "DANv1", "manga109", {"degradation.scale": 3}, "ssim", 0.9382, True),
        ("dan_setting1", "DANv2", "urban100", {"degradation.scale": 2}, "psnr", 31.43, True),
        ("dan_setting1", "DANv2", "set14", {"degradation.scale": 3}, "ssim", 0.8309, True),
        ("dan_setting1", "IKC", "urban100", {"degradation.scale": 4}, "psnr", 25.33, True),
        ("div2krk", "DANv2", "div2krk", {"data.source.scale": 4}, "psnr", 28.74, True),
        ("div2krk", "KernelGAN+ZSSR", "div2krk", {"data.source.scale": 2}, "ssim", 0.8669, True),
        ("div2krk", "RealSR", "div2krk", {"data.source.scale": 4}, "psnr", 25.43, False),
        ("koehler", "SRN", "koehler", {}, "psnr", 26.75, False),
        ("lr_koehler", "GFN", "koehler", {}, "ssim", 0.813, False),
        ("gopro", "SRN", "gopro_blur", {}, "ssim", 0.9342, False),
        ("gopro", "SRN lstm, released weights", "gopro_blur", {}, "psnr", 30.19, True),
        ("gopro", "NAFNet, width 32", "gopro_blur", {}, "psnr", 32.8705, True),
        ("gopro", "Baseline, width 64", "gopro_blur", {}, "ssim", 0.9649, True),
        ("reds", "NAFNet, width 64", "reds_blur_jpeg_val300", {}, "psnr", 29.0903, True),
        ("reds", "MAXIM", "reds_blur_jpeg_val300", {}, "ssim", 0.865, False),
        ("reds", "HINet, challenge", "reds_test", {}, "psnr", 29.70, False),
        ("rsblur", "Restormer", "rsblur_real", {}, "psnr", 33.69, True),
        ("sidd", "NAFNet, width 64", "sidd_val", {}, "ssim", 0.9614, True),
        ("lr_gopro", "GFN, repository", "gopro_blur_gamma", {}, "psnr", 27.810232, True),
        ("lr_gopro", "ED-DSRN", "gopro_blur_gamma", {}, "parameters", 25e6, False),
        ("cooperative", "Cooperative", "gopro", {}, "psnr", 28.477, True),
        ("drunet_noise", "DRUNet", "bsd68", {"degradation.noise": 25 / 255}, "psnr", 31.69, True),
        ("drunet_noise", "IRCNN", "mcmaster", {"degradation.noise": 50 / 255}, "psnr", 28.91, True),
        ("drunet_noise", "FFDNet", "urban100", {"degradation.noise": 30 / 255}, "psnr", 30.53, True),
        ("dpir_deblur", "DPIR", "set3c", {KERNEL: 3, "degradation.noise": 0.03}, "psnr", 30.27, True),
    ],
)
def test_single_figures(
    suite: str, method: str, dataset: str, cell: dict[str, float], metric: str, value: float, certain: bool
) -> None:
    (found,) = (
        f for f in published(suite) if (f.method, f.dataset, f.cell, f.metric) == (method, dataset, cell, metric)
    )
    assert (found.value, found.certain) == (value, certain)


def test_rows_of_rsblur_say_what_was_trained_on() -> None:
    trained = {figure.method: figure.source.rpartition("trained on ")[2] for figure in published("rsblur")}
    assert {method for method, blur in trained.items() if blur == "RSBlur"} == {
        "Uformer-B",
        "Restormer",
        "MPRNet",
        "MIMO-UNet+",
        "MIMO-UNet",
        "SRN",
    }
    assert all(blur.startswith("synthetic") for method, blur in trained.items() if "synthetic" in method)


def test_every_figure_is_in_range_and_given_once() -> None:
    seen = set()
    for path in FOLDER.glob("*.yaml"):
        for figure in read(path):
            low, high = {
                "psnr": (14, 41),
                "ssim": (0.2, 1),
                "mssim": (0.2, 1),
                "seconds": (0.01, 20),
                "parameters": (1e6, 1e8),
            }[figure.metric]
            assert low <= figure.value <= high, figure
            place = (
                figure.method,
                figure.suite,
                figure.dataset,
                figure.image,
                str(figure.cell),
                figure.metric,
                figure.source,
            )
            assert place not in seen, place
            seen.add(place)
    assert len(seen) == 638
    assert {"psnr", "ssim"} <= METRICS.keys()


def test_suites_protocols_and_models_exist() -> None:
    conf = Path(__file__).parents[3] / "conf"
    figures = [figure for path in FOLDER.glob("*.yaml") for figure in read(path)]
    suites = {path.stem for path in (conf / "suite").glob("*.yaml")}
    runnable = [figure for figure in figures if not figure.not_runnable]
    protocols = {path.stem for path in (conf / "protocol").glob("*.yaml")}
    assert {figure.protocol for figure in runnable} <= protocols
    # Each suite is there, and `test_configs` runs it, or says in a line why not.
    assert {figure.suite for figure in runnable} <= suites
    others = {figure.suite: figure.not_runnable for figure in figures if figure.not_runnable}
    assert set(others) == {"koehler", "lr_koehler", "rsblur", "sidd"}
    assert not set(others) & suites
    assert all(len(reason) > 20 and "\n" not in reason for reason in others.values())
    models = {path.stem for path in (conf / "model").glob("*.yaml")}
    assert {part for f in figures if f.model for part in f.model.split("+")} <= models


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": [{"method": "m", "values": [1.0]}]}, "zip"),
        ({"sources": "typo"}, "unexpected keyword argument 'sources'"),
        ({"rows": [{"method": "m", "values": [1.0, 2.0], "modle": "x"}]}, "unexpected keyword argument 'modle'"),
        ({"columns": [{"metric": "psnr"}, {"metric": "ssim"}]}, "dataset"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    table = {
        "suite": "s",
        "source": "t",
        "protocol": "p",
        "columns": [{"dataset": "d", "metric": "psnr"}, {"dataset": "d", "metric": "ssim"}],
        "rows": [{"method": "m", "values": [1.0, 2.0]}],
    }
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump([table]))
    assert [figure.value for figure in read(path)] == [1.0, 2.0]
    path.write_text(yaml.safe_dump([table | change]))
    with pytest.raises(InputError, match=r"file\.yaml: not a file of published figures .*" + reason) as caught:
        read(path)
    assert "\n" not in str(caught.value)
