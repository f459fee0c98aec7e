"""Tables and figures of how sets are learned: known numbers, differences over seeds, and words for what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from about import ABOUT

from distillery.analysis.settings import Thresholds
from distillery.report import incremental_dynamics, learning_dynamics, validity
from distillery.report.tables import MEAN

THRESHOLDS = Thresholds()


def incremental_rows(spikes: dict[str, dict[int, float]], increments: int = 3, students: int = 2) -> pd.DataFrame:
    """Method -> seed -> the spike of every increment; the loss ends at 0.1, accuracy grows by 5 points."""
    rows = [
        {
            "method": method,
            "seed": seed,
            "network": "convnet3",
            "student": student,
            "increment": increment,
            "images": 10 * increment,
            "epoch": epoch,
            "loss": 0.1 if epoch else (0.1 + spike if increment > 1 else 2.0),
            "test_accuracy": 50.0 + 5 * increment if epoch else np.nan,
        }
        for method, of_seeds in spikes.items()
        for seed, spike in of_seeds.items()
        for student in range(students)
        for increment in range(1, increments + 1)
        for epoch in (0, 30)
    ]
    return pd.DataFrame(rows)


def test_spikes_and_gains_are_differences_between_increments() -> None:
    table = incremental_dynamics.incremental_table(incremental_rows({"dit": {0: 0.06}}), ["dit"], None)
    assert table["increment"].tolist() == ["1", "2", "3", MEAN]
    assert table["spike_mean"].tolist() == pytest.approx([np.nan, 0.06, 0.06, 0.06], nan_ok=True)
    assert table["gain_mean"].tolist() == pytest.approx([np.nan, 5, 5, 5], nan_ok=True)
    assert table["n"].tolist() == [2] * 4


def test_differences_are_paired_over_seeds_with_the_interval_of_student() -> None:
    rows = incremental_rows({"dit": {0: 0.05, 1: 0.07, 2: 0.06}, "lgd": {0: 0.15, 1: 0.19, 2: 0.17}})
    table = incremental_dynamics.incremental_table(rows, ["dit", "lgd"], "dit").set_index(["method", "increment"])
    mean = table.loc["lgd", MEAN]
    reach = 4.302653 * np.std([0.10, 0.12, 0.11], ddof=1) / np.sqrt(3)
    assert mean["spike_difference"] == pytest.approx(0.11)
    assert [mean["spike_low"], mean["spike_high"]] == pytest.approx([0.11 - reach, 0.11 + reach], rel=1e-5)
    assert np.isnan(table.loc["dit", MEAN]["spike_difference"])
    text = incremental_dynamics.incremental_markdown(table.reset_index(), "dit", 300, [])
    assert "+0.110 (0.085 to 0.135)" in text and "300 epochs each" in text


def test_one_seed_has_a_difference_and_no_interval_and_says_so() -> None:
    rows = incremental_rows({"dit": {0: 0.05}, "lgd": {0: 0.15}})
    notes = incremental_dynamics.missing(rows, ["dit", "lgd"], "dit", 2)
    assert notes == ["one seed: differences have no interval"]
    table = incremental_dynamics.incremental_table(rows, ["dit", "lgd"], "dit")
    text = incremental_dynamics.incremental_markdown(table, "dit", 300, notes)
    assert " +0.100 |" in text and notes[0] in text


def test_the_figure_marks_every_spike_and_says_what_bars_and_bands_are() -> None:
    rows = incremental_rows({"dit": {0: 0.05, 1: 0.07}, "lgd": {0: 0.15, 1: 0.19}})
    figure = incremental_dynamics.incremental_figure(rows, ["dit", "lgd"], 30, ["a note"], ABOUT)
    marks = [[text.get_text() for text in axes.texts] for axes in figure.axes[:2]]
    assert marks == [["Δ 0.060"] * 2, ["Δ 0.170"] * 2]
    below = figure.texts[-1].get_text().replace("\n", " ")
    for words in ("digits (4 classes", "protocol p", "n = 4 networks", "one sample standard deviation", "a note"):
        assert words in below


def share_rows(informative: dict[str, dict[int, float]]) -> pd.DataFrame:
    """Set -> seed -> percent of informative images; one fifth of them are hard, the rest easy."""
    rows = [
        {
            "set": name,
            "seed": seed,
            "student": 0,
            "images": 40,
            "easy": 100 - 1.2 * percent,
            "informative": percent,
            "hard": 0.2 * percent,
            "unassigned": 0.0,
            "js": np.nan if not name else percent / 100,
            "js_of_subset": np.nan if not name else 0.1,
        }
        for name, of_seeds in informative.items()
        for seed, percent in of_seeds.items()
    ]
    return pd.DataFrame(rows)


def test_shares_stand_beside_those_of_the_training_images_and_of_chance() -> None:
    shares = share_rows({"": {0: 5.0, 1: 7.0}, "dit": {0: 6.0, 1: 8.0}, "lgd": {0: 16.0, 1: 20.0}})
    table = learning_dynamics.learning_table(shares, ["dit", "lgd"], "dit").set_index("set")
    assert table["informative_mean"].to_dict() == {"training images": 6.0, "dit": 7.0, "lgd": 18.0}
    assert table.loc["lgd", "informative_difference"] == pytest.approx(11.0)
    assert np.isnan(table.loc["training images", "js_mean"]) and np.isnan(table.loc["dit", "js_difference"])
    text = learning_dynamics.learning_markdown(table.reset_index(), "dit", 50, THRESHOLDS, False, [])
    assert "μ ≥ 0.75" in text and "+11.0 (-1.7 to 23.7)" in text


def test_densities_share_a_scale_and_the_thresholds_are_drawn() -> None:
    shares = share_rows({"": {0: 5.0}, "lgd": {0: 16.0}})
    draws = np.random.default_rng(0)
    dynamics = pd.DataFrame(
        {
            "set": ["", "lgd"] * 40,
            "seed": 0,
            "student": 0,
            "image": [f"{number}.png" for number in range(80)],
            "label": 0,
            "mean": draws.uniform(0, 1, 80),
            "std": draws.uniform(0, 0.5, 80),
        }
    )
    notes = learning_dynamics.missing(shares, ["lgd"], None)
    figure = learning_dynamics.learning_figure(dynamics, shares, ["lgd"], 50, THRESHOLDS, False, notes, ABOUT)
    first, second = (axes.collections[0] for axes in figure.axes[:2])
    assert first.norm is second.norm
    assert [len(axes.lines) for axes in figure.axes[:2]] == [3, 3]
    assert "JS 0.160" in figure.axes[1].get_title() and "JS" not in figure.axes[0].get_title()


def candidate_rows(probabilities: dict[str, float], seeds: int = 2) -> pd.DataFrame:
    """Method -> probability of its chosen candidates; the other candidate of a slot has the larger loss."""
    rows: list[dict[str, Any]] = [
        {
            "method": method,
            "seed": seed,
            "increment": 2,
            "label": 0,
            "slot": slot,
            "candidate": candidate,
            "student_loss": 1.0 + candidate,
            "reference_probability": probability if candidate == 0 else 0.2,
            "judge_probability": np.nan,
            "chosen": candidate == 0,
            "chosen_by_loss": candidate == 1,
        }
        for method, probability in probabilities.items()
        for seed in range(seeds)
        for slot in range(3)
        for candidate in range(2)
    ]
    return pd.DataFrame(rows)


def test_the_chosen_are_compared_with_those_of_the_method_without_reference_term() -> None:
    rows = candidate_rows({"lgd": 0.9, "loss_only": 0.6})
    table = validity.validity_table(rows, ["lgd", "loss_only"], "loss_only").set_index(["method", "part"])
    assert table.loc[("lgd", "chosen"), "reference_probability_mean"] == pytest.approx(90)
    assert table.loc[("lgd", "chosen by loss alone"), "low_confidence_mean"] == 100
    assert table.loc[("lgd", "chosen"), "reference_probability_difference"] == pytest.approx(30)
    assert table.loc[("lgd", "candidates"), "images"] == 6
    notes = validity.missing(rows, ["lgd", "loss_only"], "loss_only", {"lgd": 3.0, "loss_only": 0.0}, None)
    assert notes == ["no judge: the reference that guidance rewards is the only one asked"]
    text = validity.validity_markdown(table.reset_index(), "loss_only", None, notes)
    assert "+30.0 (30.0 to 30.0)" in text and "p(y) by" not in text


def test_a_panel_of_candidates_names_its_weight() -> None:
    rows = candidate_rows({"lgd": 0.9, "loss_only": 0.6})
    figure = validity.validity_figure(rows, ["lgd", "loss_only"], {"lgd": "auto", "loss_only": 0.0}, [], ABOUT)
    assert [axes.get_title() for axes in figure.axes] == ["lgd, ω chosen by its pilot", "loss_only, ω = 0"]
