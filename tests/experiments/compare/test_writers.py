"""The printed tables: Markdown, LaTeX and CSV of comparisons whose numbers are known."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.compare.writers import csv_text, latex, markdown
from tests.helpers.comparison_runs import GAINS, PROTOCOL, compared, pair, two, write_run

TABLE1 = {"suite": "ed_dsrn_table1", "dataset": "set14"}


def markdown_rows(text: str) -> list[list[str]]:
    lines = (line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_markdown_of_two_methods(tmp_path: Path) -> None:
    text = markdown(compared(*two(tmp_path, TABLE1, TABLE1)))
    rows = markdown_rows(text)
    assert rows[0] == ["method", "PSNR dB ↑", "SSIM ↑"]
    assert ["bicubic", "22.20", "0.2220"] in rows
    assert ["ed_dsrn", "**23.40** (-1.61)", "**0.2340** (-0.4163)"] in rows
    assert ["ed_srn", "<u>22.80</u> (-2.01)", "<u>0.2280</u> (-0.4146)"] in rows
    assert ["*ED-DSRN (published)*", "*25.01*", "*0.6503*"] in rows
    assert "Protocol y_shave4: luma (Y of BT.601), 4 pixels left out at each border, rounded to 8 bit." in text
    assert "Data: set14 (test, 5 images)." in text
    assert "colour space, border, kernel size and the drawn widths are not stated" in text
    assert "PSNR dB: ed_dsrn against ed_srn +0.60 [" in text
    assert "ahead on 5 of 5 images: ed_dsrn is better" in text
    gains = next(row for row in rows if row[:2] == ["set14", "ed_srn"])
    assert re.fullmatch(r"\+0\.60\\\* \[\+0\.\d\d, \+0\.\d\d\], 5/5", gains[2])
    cost = next(row for row in rows if row[0] == "ed_dsrn" and len(row) == 5)
    assert cost == ["ed_dsrn", "-", "1", "cpu, 2 threads", "0.7"]
    assert ["*ED-DSRN (published)*", "-", "-", "*the paper's*", "*0.042*"] in rows


def test_better_is_claimed_only_where_the_interval_excludes_zero(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", pair("m", [1.0, -1.0, 2.0, -2.0, 0.5]))
    b = write_run(tmp_path, "b", pair("n", [1.0, -1.0, 2.0, -2.0, 0.4]))
    text = markdown(compared(a, b))
    assert "m against n +0.02 [+0.00, +0.06], ahead on 1 of 5 images (4 equal): no difference is shown" in text
    (row,) = (row for row in markdown_rows(text) if row[:2] == ["set5", "m"])
    assert row[2].startswith("+0.10 [-")


def test_seeds_are_named(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, f"x-seed={s}", pair("m", GAINS, seed=s)) for s in (3, 1)]
    text = markdown(compared(*folders))
    assert "Seeds: m: 1, 3." in text
    assert ["m", "-", "2", "cpu, 2 threads", "0.7"] in markdown_rows(text)


def grid(model: str, scales: tuple[int, ...], gain: float) -> list[dict[str, Any]]:
    found = []
    for scale in scales:
        for kernel in range(3):
            cell = {"degradation.scale": scale, "degradation.kernels.number": kernel}
            changes = {"suite": "s", "cell": cell, "degradation": dict(cell), "scale": scale}
            found += pair(model, [gain + kernel] * 5, **changes)
    return found


def test_grid_is_laid_out_as_in_usrnet(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", grid("m", (2, 4), 1.0))
    b = write_run(tmp_path, "b", [r for r in grid("n", (4,), 2.0) if r["cell"]["degradation.kernels.number"] < 2])
    text = markdown(compared(a, b))
    rows = markdown_rows(text)
    assert rows[:7] == [
        ["scale", "method", "0", "1", "2", "mean"],
        ["2", "bicubic", *["<u>22.20</u>"] * 4],
        ["2", "m", "**23.20**", "**24.20**", "**25.20**", "**24.20**"],
        ["4", "bicubic", "22.20", "22.20", "<u>22.20</u>", "22.20"],
        ["4", "m", "<u>23.20</u>", "<u>24.20</u>", "**25.20**", "<u>23.70</u>"],
        ["4", "n", "**24.20**", "**25.20**", "-", "**24.70**"],
        ["scale", "method", "0", "1", "2", "mean"],
    ]
    assert "columns: kernels.number" in text
    assert "some means are over fewer than 3 columns: those that all methods of the row have" in text


def test_text_of_others_is_escaped(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", pair("x|y_*z*<b>&", GAINS))
    found = compared(a)
    assert r"| x\|y\_\*z\*&lt;b>&amp; |" in markdown(found)
    assert r"x\textbar{}y\_*z*\textless{}b\textgreater{}\& &" in latex(found)


def test_latex(tmp_path: Path) -> None:
    text = latex(compared(*two(tmp_path, TABLE1, TABLE1)))
    assert r"ed\_dsrn & \textbf{23.40} (-1.61) & \textbf{0.2340} (-0.4163) \\" in text
    assert r"ed\_srn & \underline{22.80} (-2.01) & \underline{0.2280} (-0.4146) \\" in text
    assert r"\emph{ED-DSRN (published)} & \emph{25.01} & \emph{0.6503} \\" in text
    assert r"method & PSNR dB $\uparrow$ & SSIM $\uparrow$ \\" in text
    assert r"Protocol y\_shave4: luma (Y of BT.601), 4 pixels left out" in text
    for command in ("begin{table}", "begin{tabular}", "toprule", "midrule", "bottomrule", "caption"):
        assert text.count("\\" + command) == 3, command
    assert text.isascii()
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n\\toprule\n(.*?)\\bottomrule", text, re.DOTALL)
    assert len(tables) == 3
    for columns, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) > 2
        assert {line.count(" & ") for line in lines} == {len(columns) - 1}
    assert text.count("{") == text.count("}")


def test_an_infinite_mean_is_written_as_such(tmp_path: Path) -> None:
    """Of results equal to the truth: the best, and without a difference that had a mean."""
    found = compared(
        write_run(tmp_path, "p", pair("m", [math.inf, *GAINS[1:]])), write_run(tmp_path, "q", pair("n", GAINS))
    )
    assert ["m", "**∞**"] in [row[:2] for row in markdown_rows(markdown(found))]
    assert r"{}m & \textbf{$\infty$} &" in latex(found)
    lines = [line for line in csv.DictReader(io.StringIO(csv_text(found))) if line["metric"] == "psnr"]
    of = {line["method"]: (line["value"], line["rank"], line["gain"]) for line in lines}
    assert of["m"] == ("inf", "best", "")
    assert of["n"][1] == "second"


def test_csv_has_all_digits(tmp_path: Path) -> None:
    a = write_run(tmp_path, "a", pair("ed_dsrn", [1 / 3, *GAINS[1:]], **TABLE1))
    lines = list(csv.DictReader(io.StringIO(csv_text(compared(a)))))
    assert {"kind", "suite", "averaged_over", "parameters", "source", "gain_low", "gain_high"} <= set(lines[0])
    own = next(line for line in lines if line["method"] == "ed_dsrn" and line["metric"] == "psnr")
    mean = (sum((22 + 1 / 3, 25.0, 21.5, 25.5, 22.0))) / 5
    assert float(own["value"]) == pytest.approx(mean, abs=1e-12)
    assert float(own["delta"]) == pytest.approx(mean - 25.0131, abs=1e-12)
    assert (own["kind"], own["images"], own["seeds"], own["protocol"]) == ("measured", "5", "1", "y_shave4")
    assert (own["reference"], own["better"], own["wins"]) == ("bicubic", "ed_dsrn", "5")
    assert json.loads(own["cell"]) == {}
    published = [line for line in lines if line["kind"] == "published" and line["metric"] == "psnr"]
    assert len(published) == 13
    assert {line["certain"] for line in published} == {"True"}


def test_uncertain_figures_are_marked(tmp_path: Path) -> None:
    changes = {"suite": "gopro", "dataset": "gopro_blur", "protocol": {**PROTOCOL, "name": "srn"}}
    text = markdown(compared(write_run(tmp_path, "a", pair("srn_lstm", GAINS, **changes))))
    rows = markdown_rows(text)
    assert ["*SRN (published)*", "*≈30.26*", "*≈0.9342*"] in rows
    assert ["*SRN lstm, released weights (published)*", "*30.19*", "*0.9334*"] in rows
    assert ["srn_lstm", "**23.40** (-6.79)", "**0.2340** (-0.6994)"] in rows
