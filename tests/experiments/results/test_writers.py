"""One table in every format: the same cells, each with its marks and its own escapes."""

import csv
import io

from experiments.results.table import ResultTable, TableCell, TableColumn, heads, number
from experiments.results.writers import csv_text, html, latex, markdown, text

TABLE = ResultTable(
    "scores & more",
    [*heads(["method"]), TableColumn("PSNR dB ↑", "set_5"), TableColumn("loss ↓", "set_5", lower_is_better=True)],
    [
        [[TableCell("a<b"), TableCell("26.33", 26.33, "best", " (-1.20)", tip="seeds"), TableCell()]],
        [
            [
                TableCell("Net (published)", mark="published"),
                TableCell("∞", float("inf"), "published", footnote="Paper, Table 1"),
                TableCell("-0.5", -0.5, "worse"),
            ]
        ],
    ],
    ["a note"],
)


def test_text() -> None:
    assert text(TABLE).splitlines() == [
        "scores & more",
        "                                 set_5",
        "method               PSNR dB ↑  loss ↓",
        "--------------------------------------",
        "a<b              26.33 (-1.20)       -",
        "Net (published)              ∞    -0.5",
        "a note",
    ]


def test_markdown() -> None:
    assert markdown(TABLE).splitlines() == [
        "| method | set_5: PSNR dB ↑ | set_5: loss ↓ |",
        "| --- | --- | --- |",
        "| a&lt;b | **26.33** (-1.20) | - |",
        "| *Net (published)* | *∞* | -0.5 |",
    ]


def test_latex() -> None:
    lines = latex(TABLE, ["Seeds: 1"], [TableCell("best", mark="best", suffix=" of all.")]).splitlines()
    assert r"\begin{tabular}{lrr}" in lines
    assert r"{}a\textless{}b & \textbf{26.33} (-1.20) & - \\" in lines
    assert r"{}\emph{Net (published)} & \emph{$\infty$} & -0.5 \\" in lines
    assert r"\caption{scores \& more. Seeds: 1. a note. \textbf{best} of all.}" in lines


def test_html() -> None:
    page = html(TABLE)
    assert '<th class="group" scope="colgroup" colspan="2">set_5</th>' in page
    assert 'data-column="2" data-first="ascending"><button type="button">loss ↓</button>' in page
    assert '<th scope="row" data-text="a&lt;b">a&lt;b</th>' in page
    assert 'data-sort="26.33" title="seeds"><span class="best">26.33</span> (−1.20)</td>' in page
    assert 'data-sort=""><span class="">–</span></td>' in page
    assert "∞</span><sup>1</sup>" in page
    assert "<li>Paper, Table 1</li>" in page
    assert "<li>a note</li>" in page


def test_csv() -> None:
    assert csv_text([{"a": 1 / 3, "b": None}, {"a": "x,y"}]) == 'a,b\n0.3333333333333333,\n"x,y",\n'


def test_numbers_have_the_digits_of_their_metric() -> None:
    assert [number("psnr", -0.126, True), number("ssim", 0.70431), number("psnr", float("inf"))] == [
        "-0.13",
        "0.7043",
        "∞",
    ]


def test_no_text_of_a_csv_is_a_formula() -> None:
    """Names are those of others: a spreadsheet would run them. Figures stay figures."""
    names = ["=cmd|'/c calc'!A1", "+1+2", "-2+3", "@SUM(A1)", "\tx", "a=b", "'x", ""]
    lines = [{"method": name, "gain": -1.5, "rank": -2, "=key": None} for name in names]
    header, *rows = csv.reader(io.StringIO(csv_text(lines), newline=""))
    assert header == ["method", "gain", "rank", "'=key"]
    assert [row[0] for row in rows] == [*(f"'{name}" for name in names[:5]), "a=b", "'x", ""]
    assert {tuple(row[1:]) for row in rows} == {("-1.5", "-2", "")}
