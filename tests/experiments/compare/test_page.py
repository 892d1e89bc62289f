"""The HTML page of a comparison, read back by an HTML parser; pictures are decoded and compared with the files."""

import base64
import html as html_module
import io
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from experiments.compare import page as page_module
from experiments.compare.page import page
from experiments.compare.page.crops import Candidate, busiest_box, choose, embedded_side
from experiments.compare.tables import result_tables
from experiments.compare.types import (
    Benchmark,
    Comparison,
    Difference,
    Method,
    Published,
    Run,
    Score,
    Table,
    Timing,
)

Y = {"name": "y_shave4", "colour": "y", "shave": 4, "rounding": "round", "ssim": "channels"}
VALUES = {"bicubic": (24.0, 25.0, 26.0), "net_a": (25.0, 27.5, 26.5), "net_b": (25.5, 25.0, 26.25)}
NAMES = ("butterfly", "set/gray", "wide")
SIZES = {"butterfly": (37, 31), "set/gray": (53, 41), "wide": (761, 35)}


def pixels(width: int, height: int, seed: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(90, 110, shape, np.uint8)


def difference(first: str, second: str, mean: float, better: str | None) -> Difference:
    return Difference(first, second, mean, mean - 0.25, mean + 0.25, 2, 0, 3, better)


def scores(reference: str = "bicubic") -> dict[str, dict[str, Score]]:
    found = {}
    for label, values in VALUES.items():
        mean = sum(values) / 3
        gain = difference(label, reference, mean - 25.0, label if mean > 25.3 else None)
        rank = {"net_a": "best", "net_b": "second"}.get(label)
        images = dict(zip(NAMES, values, strict=True))
        found[label] = Score(mean, images, {"a": mean}, rank, gain if label != reference else None)  # type: ignore[arg-type]
    similar = {label: Score(0.5, dict.fromkeys(NAMES, 0.5), {}) for label in VALUES}
    return {"psnr": found, "ssim": similar}


def benchmark(folder: str = "set5", cell: dict[str, Any] | None = None, **more: Any) -> Benchmark:
    given: dict[str, Any] = {
        "scores": scores(),
        "timings": {"net_a": Timing(0.41, "cpu", 2), "net_b": Timing(0.02, "NVIDIA H200", None)},
        "best": {"psnr": difference("net_a", "net_b", 0.75, None)},
        "published": [],
    }
    return Benchmark("set5", "test", 4, cell or {}, {}, 0, NAMES, **{**given, **more}, folder=folder)


def run_folder(root: Path, name: str, seed: int, folders: Sequence[str] = ("set5",), kinds: str = "sr hr input") -> Run:
    """With pictures: those of different `seed` differ in one place, an 9 x 9 square, by much."""
    for folder in folders:
        for image, (width, height) in SIZES.items():
            for place, kind in enumerate(kinds.split()):
                drawn = pixels(width, height, 7 if kind == "hr" else 8, 1 if "gray" in image else 3)
                if kind == "sr":
                    drawn[20:29, -26:-17] = 40 * seed
                path = root / name / "images" / folder / f"{image.replace('/', '_')}_{kind}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawn).save(path)
                assert place < 3
    curves = {
        "val/psnr/y_shave4": [(0, 20.0), (100, 24.5 + seed)],
        "train/loss": [(0, 1.0), (50, float("nan")), (100, 0.1)],
    }
    return Run(
        name, root / name, seed, "checkpoints/best.ckpt", "0123456789abcdef", "2026-11-21T10:00:00", "abc123", curves
    )


def comparison(root: Path, tables: list[Table] | None = None, **more: Any) -> Comparison:
    one, two = run_folder(root, "net_a-seed=1", 1, **more), run_folder(root, "net_b-seed=2", 2, **more)
    methods = [
        Method("bicubic", "bicubic", "", (one, two), baseline=True),
        Method("net_a", "net_a", "net_a", (one,), parameters=590_000),
        Method("net_b", "net_b", "net_b", (two,), parameters=17_016_000),
    ]
    tables = tables or [Table("ed_dsrn_table1", Y, [benchmark()], notes=["only 3 images"])]
    return Comparison("trial", methods, "bicubic", tables, ["a note"], "2026-11-21T10:00:00", ("abc123",))


class Reader(HTMLParser):
    """Collects every element with its attributes, and the text outside of scripts and styles by table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.scripts: dict[str, str] = {}
        self._inside, self._identity = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        elif tag == "small" and self.rows:
            self.rows[-1][-1] += " "
        if tag in ("script", "style"):
            self._inside, self._identity = tag, dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[self._identity] = self.scripts.get(self._identity, "") + data
        else:
            self.text += data
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for name, a in self.elements if name == tag and all(a.get(k) == v for k, v in wanted.items())]

    def row(self, head: str) -> list[str]:
        return next([" ".join(cell.split()) for cell in row] for row in self.rows if row and row[0].startswith(head))


@pytest.fixture
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 MB of JavaScript are no test's business but of one."""
    monkeypatch.setattr(page_module, "_plotly", lambda: "/* plotly.js */")


@pytest.mark.usefixtures("without_plotly")
def test_the_table_has_values_marks_and_intervals(tmp_path: Path) -> None:
    html = page(comparison(tmp_path))
    read = Reader(html)
    rows = [[" ".join(cell.split()) for cell in row] for row in read.rows]
    assert ["net_a", "26.33", "0.5000"] in rows
    assert ["bicubic", "25.00", "0.5000"] in rows
    assert ["set5", "net_a", "+1.33* [+1.08, +1.58], 2/3", "–"] in rows
    assert ["set5", "net_b", "+0.58* [+0.33, +0.83], 2/3"] in [row[:3] for row in rows]
    assert ["net_a", "0.590 M", "1", "cpu, 2 threads", "0.41"] in rows
    assert ["net_b", "17.016 M", "1", "NVIDIA H200"] in [row[:4] for row in rows]
    assert '<span class="best">26.33' in html
    assert '<span class="second">25.58' in html
    assert html.count('<span class="better">+') == 2
    assert "PSNR dB: net_a against net_b +0.75 [+0.50, +1.00], ahead on 2 of 3 images: no difference" in read.text
    assert read.row("set/gray")[1:4] == ["25.00", "27.50", "25.00"]
    for text in ("luma (Y of BT.601), 4 pixels left out at each border", "only 3 images", "a note", "abc123"):
        assert text in read.text
    sortable = [a for tag, a in read.elements if tag == "td" and "data-sort" in a]
    assert all(a["data-sort"] == "" or np.isfinite(float(a["data-sort"])) for a in sortable)


@pytest.mark.usefixtures("without_plotly")
def test_published_figures_stand_apart_with_source_and_doubt(tmp_path: Path) -> None:
    paper = {"suite": "ed_dsrn_table1", "dataset": "set5", "cell": {}, "metric": "psnr", "protocol": "y_shave4"}
    own = Published("Net A", model="net_a", **paper, value=26.5, source="Paper, Table 1")
    other = Published("Other", **paper, value=99.0, source="Repository", certain=False, caveat="another kernel")
    tested = benchmark(published=[own, other])
    value = tested.scores["psnr"]["net_a"]
    tested.scores["psnr"]["net_a"] = Score(value.mean, value.images, value.seeds, value.rank, value.gain, own)
    html = page(comparison(tmp_path, [Table("ed_dsrn_table1", Y, [tested])]))
    read = Reader(html)
    assert read.row("net_a")[1] == "26.33 (−0.17)"
    assert read.row("Net A") == ["Net A (published)", "26.501", "–"]  # the last 1 is the footnote
    assert read.row("Other")[1] == "≈99.002"
    assert html.count('<tr class="published') == 2
    assert "Repository; not certain; another kernel" in read.text
    assert "99.00</span>" not in "".join(re.findall('class="best">.*?</span>', html))


@pytest.mark.usefixtures("without_plotly")
def test_a_grid_has_a_row_for_each_method_and_a_mean(tmp_path: Path) -> None:
    cells = [{"degradation.scale": s, "degradation.kernels.number": n} for s in (2, 3) for n in (0, 1)]
    tested = [benchmark(f"set5/{i}", cell) for i, cell in enumerate(cells)]
    tested[3].scores["psnr"].pop("net_b")
    best = {"psnr": difference("net_a", "net_b", 0.75, "net_a")}
    over = "degradation.kernels.number"
    mean = benchmark("", {"degradation.scale": 2}, best=best, timings={}, over=over, count=2)
    compared = comparison(tmp_path, [Table("usrnet_table1", Y, tested, [mean])])
    tables = result_tables(compared, compared.tables[0], images=True)
    assert [table.folded for table in tables] == [False, True, False, False]
    psnr, _, differences, _ = tables
    assert [column.title for column in psnr.columns] == ["scale", "method", "0", "1", "mean"]
    rows = [[cell.text for cell in row] for row in psnr.rows]
    assert rows[1] == ["2", "net_a", "26.33", "26.33", "26.33"]
    assert rows[5] == ["3", "net_b", "25.58", "-", "-"]
    place = "set5, scale=2, mean over 2 kernels.number"
    assert [cell.text for cell in differences.rows[0]] == [place, "net_a", "+1.33* [+1.08, +1.58], 2/3", "-"]
    assert any(f"{place}, PSNR dB: net_a against net_b +0.75" in note for table in tables for note in table.notes)
    assert Reader(page(compared)).row("3")[1] == "bicubic"


@pytest.mark.usefixtures("without_plotly")
def test_pictures_are_those_of_the_runs(tmp_path: Path) -> None:
    read = Reader(page(comparison(tmp_path)))
    blocks = [a for a in read.all("section") if a.get("class") == "example"]
    assert len(blocks) == 3
    assert [block["data-whole"] for block in blocks] == ["53,41", "37,31", "761,35"]  # by spread: 2.5, 0.5, 0.25 dB
    shown = [a for a in read.all("img") if a.get("alt", "").startswith("set/gray, net_a")]
    assert [a["alt"] for a in shown] == ["set/gray, net_a, 27.50 dB 0.5000".replace("dB ", "dB  ")]
    assert Image.open(io.BytesIO(base64.b64decode(shown[0]["src"].split(",")[1]))).mode == "L"
    stored = Image.open(tmp_path / "net_b-seed=2" / "images" / "set5" / "wide_sr.png")
    uri = next(a["src"] for a in read.all("img") if a.get("alt", "").startswith("wide, net_b"))
    box = [int(value) for value in blocks[2]["data-crop"].split(",")]
    assert box == [112, 0, 752, 35]  # the middle one of those with the whole square, columns 735 to 743
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))), np.asarray(stored.crop(tuple(box)))
    )
    left, top, right, bottom = (int(value) for value in blocks[2]["data-focus"].split(","))
    assert left <= 735 - 112 < 744 - 112 <= right
    assert top <= 20 < 29 <= bottom
    assert "640 x 35 pixels of 761 x 35 at full resolution" in read.text
    titles = [a.get("alt", "") for a in read.all("img") if a.get("alt", "").startswith("butterfly")]
    assert [t.split(",")[1].strip() for t in titles] == ["input (bicubic)", "net_a", "net_b", "ground truth"]


@pytest.mark.usefixtures("without_plotly")
def test_missing_pictures_are_said(tmp_path: Path) -> None:
    only = Reader(page(comparison(tmp_path / "some", kinds="sr")))
    assert "No picture was kept of: input (bicubic), ground truth." in only.text
    whole = comparison(tmp_path / "half")
    for path in (tmp_path / "half" / "net_b-seed=2").rglob("*.png"):
        path.unlink()
    assert "No picture was kept of: net_b." in Reader(page(whole)).text
    none = Reader(page(comparison(tmp_path / "none", kinds="")))
    assert "No run kept pictures" in none.text
    assert not none.all("img")


@pytest.mark.usefixtures("without_plotly")
def test_a_picture_of_another_size_is_left_out(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    path = tmp_path / "net_b-seed=2" / "images" / "set5" / "wide_sr.png"
    Image.fromarray(pixels(760, 35, 1)).save(path)
    assert "net_b: its picture is 760 x 35, the others are 761 x 35" in Reader(page(found)).text


@pytest.mark.usefixtures("without_plotly")
def test_names_are_text_never_markup(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>\'"&<img src=x onerror=alert(2)>'
    harmless = Reader(page(comparison(tmp_path)))
    found = comparison(tmp_path)
    found.name = evil
    tested = found.tables[0].benchmarks[0]
    method = found.methods[1]
    found.methods[1] = Method(
        evil, "m", "m", (Run(evil, method.runs[0].folder, 1, evil, evil, evil, evil, {evil: [(0, 1.0)]}),)
    )
    tested.scores = {
        metric: {evil if k == "net_a" else k: v for k, v in by.items()} for metric, by in tested.scores.items()
    }
    tested.timings[evil] = tested.timings.pop("net_a")
    found.notes = [evil]
    found.tables[0].notes.append(evil)
    html = page(found)
    read = Reader(html)
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert len(read.all("script")) == len(harmless.all("script"))
    assert evil in read.text
    plots = json.loads(read.scripts["chart-data"])
    assert evil in [figure["title"] for figure in plots["curves"]]
    # plotly.js reads some markup in its texts.
    names = [line["name"] for figure in plots["curves"] for line in figure["data"]] + plots["speed"][0]["data"][0][
        "text"
    ]
    assert html_module.escape(evil, quote=False) in names
    assert not any("<" in name for name in names)


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    html = page(comparison(tmp_path))
    read = Reader(html)
    for _, attributes in read.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert not attributes.get(name) or attributes[name].startswith(("data:", "#"))
        assert "url(" not in attributes.get("style", "")
    policy = read.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'")
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    assert {tag for tag, _ in read.elements}.isdisjoint({"link rel=stylesheet", "iframe", "object", "embed"})
    assert "plotly.js v" in html
    assert len(html) < 6_500_000


@pytest.mark.usefixtures("without_plotly")
def test_the_plots_have_finite_data(tmp_path: Path) -> None:
    plots = json.loads(Reader(page(comparison(tmp_path))).scripts["chart-data"], parse_constant=pytest.fail)
    assert [figure["title"] for figure in plots["curves"]] == ["val/psnr/y_shave4", "train/loss"]
    first, second = plots["curves"][0]["data"]
    assert (second["name"], second["x"], second["y"]) == ("net_b", [0, 100], [20.0, 26.5])
    assert first["line"]["color"] != second["line"]["color"]
    assert plots["curves"][1]["data"][0]["x"] == [0, 100]
    (speed,) = plots["speed"]
    (marks,) = speed["data"]
    assert (marks["text"], marks["x"]) == (["net_a", "net_b"], [0.41, 0.02])
    assert [math.isclose(size, 44) for size in marks["marker"]["size"]] == [False, True]
    assert marks["marker"]["symbol"] == ["circle", "diamond"]
    facts = [
        "0.41 s / image<br>0.590 M parameters<br>cpu, 2 threads",
        "0.02 s / image<br>17.016 M parameters<br>NVIDIA H200",
    ]
    assert marks["customdata"] == facts
    assert speed["note"].startswith("Time on cpu, 2 threads; NVIDIA H200.")
    (line,) = speed["layout"]["shapes"]
    assert (line["y0"], line["label"]["text"]) == (25.0, "bicubic 25.00 dB")


@pytest.mark.usefixtures("without_plotly")
def test_infinite_values_are_drawn_but_not_plotted(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    perfect = Score(float("inf"), dict.fromkeys(NAMES, float("inf")), {}, "best")
    found.tables[0].benchmarks[0].scores["psnr"]["net_a"] = perfect
    read = Reader(page(found))
    assert read.row("net_a")[1] == "∞"
    assert json.loads(read.scripts["chart-data"])["speed"][0]["data"][0]["text"] == ["net_b"]


@pytest.mark.usefixtures("without_plotly")
def test_the_same_comparison_gives_the_same_page(tmp_path: Path) -> None:
    assert page(comparison(tmp_path)) == page(comparison(tmp_path))


def test_different_benchmarks_and_images_come_first() -> None:
    one, two = benchmark("a"), benchmark("b")
    table = Table(None, Y, [one, two])
    given = [(one, "x", 3.0), (one, "y", 2.5), (two, "x", 2.0), (two, "y", 1.0), (two, "z", 0.5)]
    candidates = [Candidate(table, tested, image, spread) for tested, image, spread in given]
    assert [c.spread for c in choose(candidates, 1)] == [3.0]
    assert [c.spread for c in choose(candidates, 2)] == [3.0, 1.0]  # another benchmark, another image
    assert [c.spread for c in choose(candidates, 3)] == [3.0, 2.5, 1.0]
    assert [c.spread for c in choose(candidates, 9)] == [3.0, 2.5, 2.0, 1.0, 0.5]


def test_the_box_of_the_largest_difference() -> None:
    values = np.zeros((31, 57), np.float32)
    values[20:24, 40:45] = 1
    assert busiest_box(values, 10) == (37, 17, 47, 27)  # in its middle, halves to the upper left
    assert busiest_box(values, 100) == (0, 0, 57, 31)
    values[0, 0] = 1000
    assert busiest_box(values, 4)[:2] == (0, 0)
    assert busiest_box(values, 4, border=6) == (40, 20, 44, 24)


def test_the_embedded_region_shrinks_with_the_number_of_pictures() -> None:
    assert [embedded_side(n) for n in (0, 1, 22, 48, 400, 10**6)] == [640, 640, 640, 432, 144, 128]
