"""A table says what it lacks and why, and shows the rest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from about import ABOUT

from distillery.report import tables
from distillery.report.figures import accuracy_figure, redundancy_figure
from distillery.report.missing import of_statistics
from distillery.report.words import accuracy_markdown, coverage_markdown, increments_markdown, redundancy_markdown


def matrix(method: str, increments: int, students: int = 2) -> pd.DataFrame:
    """Accuracies of networks that were trained on one increment and tested on another."""
    return pd.DataFrame(
        [
            {
                "method": method,
                "seed": 0,
                "network": "c",
                "student": k,
                "trained_on": r,
                "tested_on": s,
                "accuracy": 50.0 + k,
            }
            for k in range(students)
            for r in range(1, increments + 1)
            for s in range(1, increments + 1)
        ]
    )


def words(rows: pd.DataFrame, baseline: str | None) -> str:
    """The table of redundancies for readers."""
    return redundancy_markdown(tables.redundancy_table(rows, ["lgd"], baseline), baseline)


def test_of_one_increment_no_redundancy_is_shown_and_the_other_method_is() -> None:
    rows = pd.concat([matrix("lgd", 1), matrix("dit", 2)])
    text = words(rows, "dit")
    assert "No redundancy of lgd: one increment, so there is no other to test on." in text
    assert "50.5 ± 0.7" in text
    notes = redundancy_figure(rows, ["lgd", "dit"], "dit", ABOUT).texts[-1].get_text().replace("\n", " ")
    assert "lgd: one increment, nothing off the diagonal" in notes


@pytest.mark.parametrize(
    ("baseline", "sentence"),
    [
        (None, "No reduction: the experiment names no baseline (`analysis.redundancy.baseline`)."),
        ("dit", "No reduction: the baseline has no redundancy."),
    ],
)
def test_without_a_reduction_the_table_says_why(baseline: str | None, sentence: str) -> None:
    assert sentence in words(matrix("lgd", 2), baseline)
    assert "No reduction" not in words(matrix("lgd", 2), "lgd")


def test_one_replicate_has_no_standard_deviation() -> None:
    assert "No standard deviation: n = 1." in words(matrix("lgd", 2, students=1), "lgd")
    assert "No standard deviation" not in words(matrix("lgd", 2), "lgd")


def evaluation(students: int) -> pd.DataFrame:
    """The accuracies of one method."""
    row = {"method": "lgd", "ipc": 10, "network": "c", "protocol": "p", "seed": 0, "epoch": 1}
    return pd.DataFrame([{**row, "student": student, "accuracy": 90.0 + student} for student in range(students)])


@pytest.mark.parametrize("students", [1, 2])
def test_accuracies_of_one_network_say_that_there_are_no_bars(students: int) -> None:
    table = tables.accuracy_table(evaluation(students), ["lgd"], ["c"])
    assert ("No standard deviation: n = 1." in accuracy_markdown(table, {})) == (students == 1)
    line = accuracy_figure(table, ["lgd"], ["c"], ABOUT).texts[-1].get_text().replace("\n", " ")
    assert ("no bars: n = 1" in line) == (students == 1) != ("bars: one sample" in line)


def test_a_set_of_few_images_has_no_recall_and_the_table_says_why() -> None:
    row = {"method": "a", "seed": 0, "ipc": 1, "coverage": 0.1, "recall": np.nan, "precision": 1.0, "density": 1.0}
    table = tables.coverage_table(pd.DataFrame([{**row, "real": 50, "distilled": 4}]), ["a"])
    text = coverage_markdown(table, 5)
    assert "No recall of a: a set needs more than k = 5 images." in text
    assert "No standard deviation: one experiment seed." in text and "10.0 |" in text


def test_the_first_increment_has_no_student() -> None:
    row = {"method": "lgd", "seed": 0, "images": 4, "reference_accuracy": 90.0, "reference_probability": 80.0}
    rows = [
        {**row, "increment": 1, "student_accuracy": np.nan, "learnability": np.nan},
        {**row, "increment": 2, "student_accuracy": 50.0, "learnability": 1.0},
    ]
    assert "Increment 1 was made before there was a student." in increments_markdown(pd.DataFrame(rows))
    assert "before there was" not in increments_markdown(pd.DataFrame(rows[1:]))


def test_statistics_name_each_gap() -> None:
    whole = {"sets": 2, "std_within_set": 0.5, "difference": 1.0, "hlr": 2.0, "ior": 3.0}
    assert of_statistics(pd.DataFrame([whole])) == []
    gaps = {"sets": 1, **dict.fromkeys(("std_within_set", "difference", "hlr", "ior"), np.nan)}
    for name, gap in gaps.items():
        assert len(of_statistics(pd.DataFrame([{**whole, name: gap}]))) == 1
    assert len(of_statistics(pd.DataFrame([gaps]))) == 5
