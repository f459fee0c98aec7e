"""Names of classes and other text from data are shown as they are: no mathematics, no markup, no formula, no path."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from about import ABOUT, SETTING
from clone import PROJECT
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tiny import MADE_BY

from distillery.__main__ import main
from distillery.report import gradients, style
from distillery.report.contact_sheet import contact_sheet
from distillery.report.pictures import write_pictures
from distillery.report.tables import csv_bytes, markdown_table
from distillery.report.text import figure_text, markdown_text
from distillery.spreadsheets import csv_text
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.students.order import accuracy_by_class

HOSTILE = [
    *("$^$", "$", "$$", "a$b", "$\\frac{1}{", "a_b", "_a_", "x^2", "\\alpha", "50 %", "#1", "{}", "{0}", "%s", "~"),
    *(
        "狗",
        "犬 dog",
        "🐟",
        "كلب",
        "שלום",
        "Ångström",
        "naïve",
        "",
        " ",
        "a\nb",
        "a\tb",
        "a\0b",
        "a\x1b[31mb",
        "\u202eabc",
    ),
    *(
        "a|b",
        "`code`",
        "<b>bold</b>",
        "<script>alert(1)</script>",
        "&amp;",
        "[link](http://a)",
        "**bold**",
        "-->",
        "]]>",
    ),
    *("=cmd()", "+1", "-1", "@SUM(A1)", "\t=1", '"quoted"', "it's", "a,b", "../up", "a/b", ".hidden", "x" * 300),
    *("]]>", "\u202eabc"),
]


def sheet_of(names: list[str]) -> Figure:
    """A contact sheet of one image of each class."""
    pixel = encode_png(np.zeros((1, 4, 4), np.uint8))
    labels = np.arange(len(names))
    return contact_sheet([ImageSet([pixel] * len(names), labels, names, [""] * len(names))], "lgd", ABOUT)


def shown(figure: Figure) -> list[str]:
    """The names of classes at the side of a sheet."""
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_class_of_any_name_has_a_row_on_the_contact_sheet(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that the font lacks is a warning
        figure = sheet_of([name, "other"])
        style.save(figure, tmp_path / "f.png", tmp_path / "f.svg")
    drawn = shown(figure)
    assert drawn[0] in (name, "class 0", f"{name[:23]}…") and drawn[1] == "other"
    Image.open(tmp_path / "f.png").verify()
    ElementTree.parse(tmp_path / "f.svg")


def test_a_name_is_drawn_as_it_is_written_and_one_that_cannot_be_drawn_as_its_number() -> None:
    kept = ["a_b", "$^$", "x^2", "\\alpha", "Ångström", "naïve", "<b>", "=cmd()"]
    assert shown(sheet_of(kept)) == kept
    lost = ["狗", "犬 dog", "🐟", "كلب", "שלום", "", "a\nb", "\u202eabc"]
    assert shown(sheet_of(lost)) == [f"class {index}" for index in range(len(lost))]


def test_the_stage_that_draws_increments_ends_well_with_such_names(tmp_path: Path) -> None:
    pixels = np.zeros((len(HOSTILE), 1, 4, 4), np.uint8)
    images = ImageSet(
        [encode_png(one) for one in pixels],
        np.arange(len(HOSTILE)),
        HOSTILE,
        [f"{row}.png" for row in range(len(HOSTILE))],
        {"slot": np.zeros(len(HOSTILE), np.int64), "increment": np.ones(len(HOSTILE), np.int64)},
    )
    write_images(tmp_path / "images.parquet", images, MADE_BY)
    arguments = ["plot_increments", "--settings", json.dumps({"method": "lgd", **SETTING})]
    arguments += ["--increments", str(tmp_path / "images.parquet")]
    assert main([*arguments, "--png", str(tmp_path / "f.png"), "--svg", str(tmp_path / "f.svg")]) == 0


def test_no_figure_reads_mathematics(tmp_path: Path) -> None:
    """Whatever a figure draws goes through the style, also where a user's settings say otherwise."""
    table = pd.DataFrame(
        {"steps": [1, 2, 5], "residual": "x0", "latent_mean": [1e-1, 1e-3, 1e-5], "latent_std": 0.0, "n": 3}
    )
    with rc_context({"text.parse_math": True}):
        drawn = [gradients.gradient_figure(table, ABOUT), sheet_of(["$a$", "b"])]
    for figure in drawn:
        style.save(figure, tmp_path / "f.png", tmp_path / "f.svg")
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert texts
        assert not any(text.get_parse_math() for text in texts)
        assert not any("mathdefault" in text.get_text() for text in texts)
    sources = [path.read_text("utf-8") for path in (PROJECT / "src/distillery/report").glob("*.py")]
    built = [source for source in sources if re.search(r"= Figure\(|figure\.savefig", source)]
    assert built and all("styled" in source for source in built)


# ---- Markdown, CSV, folders ------------------------------------------------------------------------------------------


def test_the_accuracy_of_classes_holds_no_formula() -> None:
    table = accuracy_by_class(np.eye(2, dtype=np.int64)[None], ["=cmd()", "b"]).decode()
    assert table.splitlines()[1] == "'=cmd(),1,100.0,20.7,100.0,'=cmd(),100.0"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_cell_of_markdown_stays_one_cell_of_text(text: str) -> None:
    table = markdown_table(["method", "n"], [[text, "1"]])
    lines = table.rstrip("\n").split("\n")
    assert len(lines) == 3
    row = lines[2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3  # two cells
    assert not re.search(r"(?<!\\)[`*\[]|(?<!\\)<[A-Za-z/!?]|[\0-\x1f\x7f]", row)


def test_what_is_no_markup_is_not_escaped() -> None:
    for text in (
        "lgd",
        "small+epochs=10@1_2@full",
        "resnet_ap10_w8",
        "97.3 ± 0.4",
        "< 0.001",
        "λ",
        "a & b",
        "1-2",
    ):
        assert markdown_text(text) == text


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_cell_of_csv_is_no_formula_and_reads_back(text: str) -> None:
    for content in (csv_bytes, gradients.csv_bytes):
        rows = list(
            csv.reader(io.StringIO(content(pd.DataFrame({"name": [text], "value": [-1.5]})).decode(), newline=""))
        )
        assert rows[1][0] in (text, f"'{text}")
        assert not rows[1][0].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert float(rows[1][1]) == -1.5  # a negative number is one


def test_the_helpers_agree_on_plain_words() -> None:
    for helper in (markdown_text, csv_text, lambda text: figure_text(text, "class 0")):
        assert helper("tench") == "tench"


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_class_of_any_name_has_a_folder_of_pictures_inside_the_folder(name: str, tmp_path: Path) -> None:
    pixel = encode_png(np.zeros((1, 4, 4), np.uint8))
    images: Any = ImageSet([pixel, pixel], np.array([0, 1]), [name, "other"], ["", ""])
    written = write_pictures(images, tmp_path / "pictures")
    assert len({path.parent for path in written}) == 2
    for path in written:
        assert path.resolve().is_relative_to(tmp_path / "pictures") and path.is_file()
