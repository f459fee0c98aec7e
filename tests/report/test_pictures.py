"""Contact sheets of a set, accuracy with bands and published numbers, coverage: what the figures show and say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from about import ABOUT
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillery.report.contact_sheet import MOST_OF_A_SET, images_by_class
from distillery.report.coverage import coverage_figure
from distillery.report.figures import accuracy_figure
from distillery.report.tables import coverage_table
from distillery.storage.images import ImageSet, encode_png

ORDER: dict[str, Any] = {"methods": ["dit", "lgd"], "networks": ["convnet"], "about": ABOUT}


def below(figure: Figure) -> str:
    """The line below a figure."""
    return figure.texts[-1].get_text().replace("\n", " ")


def shades(slots: list[int], labels: list[int]) -> ImageSet:
    """Images of one shade each, ten times their slot and hundred times their label."""
    images = [
        encode_png(np.full((1, 8, 8), 10 * slot + 100 * label, np.uint8))
        for slot, label in zip(slots, labels, strict=True)
    ]
    return ImageSet(
        images, np.array(labels), ["cat", "dog"], [str(row) for row in range(len(slots))], {"slot": np.array(slots)}
    )


def test_a_row_of_a_contact_sheet_is_a_class_in_the_order_of_slots() -> None:
    figure = images_by_class(shades([2, 0, 1, 1, 0, 2], [0, 0, 0, 1, 1, 1]), "igd, 3 images per class", ABOUT)
    (axes,) = figure.axes
    pixels = np.asarray(axes.images[0].get_array())
    assert [[int(pixels[row * 67 + 30, column * 67 + 30, 0]) for column in range(3)] for row in range(2)] == [
        [0, 10, 20],
        [100, 110, 120],
    ]
    assert [text.get_text() for text in axes.texts] == ["cat", "dog"]
    assert "n = 6 images" in below(figure)


def test_a_contact_sheet_says_how_many_images_it_leaves_out() -> None:
    slots = list(range(MOST_OF_A_SET + 5))
    figure = images_by_class(shades(slots, [0] * len(slots)), "dit", ABOUT)
    words = [text.get_text() for text in figure.texts]
    assert f"first {MOST_OF_A_SET} of up to {MOST_OF_A_SET + 5} images per class" in words


def accuracies(sizes: list[int], std: float = 1.0) -> pd.DataFrame:
    """A table of accuracies of two methods."""
    rows = [
        {"method": method, "ipc": ipc, "network": "convnet", "protocol": "p", "n": 3, "trained": 3}
        | {"accuracy_mean": 50.0 + ipc, "accuracy_std": std, "best_mean": 60.0, "best_std": std}
        for method in ("dit", "lgd")
        for ipc in sizes
    ]
    return pd.DataFrame(rows)


def published(**changes: Any) -> pd.DataFrame:
    row = {"method": "lgd", "network": "convnet", "protocol": "p", "ipc": "10", "published": 71.5}
    return pd.DataFrame([{**row, "published_std_sample": 0.5, "difference": -1.0, **changes}])


def hollow(axes: Axes) -> list[tuple[float, float]]:
    """The places of hollow markers."""
    lines = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def test_several_sizes_have_bands_and_one_size_has_bars() -> None:
    several = accuracy_figure(accuracies([1, 10]), **ORDER)
    (axes,) = several.axes
    low, high = (function(axes.collections[0].get_paths()[0].vertices[:, 1]) for function in (np.min, np.max))
    assert len(axes.collections) == 2 and (low, high) == (50, 61)
    assert "bands: one sample standard deviation over n" in below(several)
    one = accuracy_figure(accuracies([10]), **ORDER)
    assert "bars: one sample standard deviation over n" in below(one) and "bands" not in below(one)


def test_one_network_has_neither_bands_nor_bars() -> None:
    words = below(accuracy_figure(accuracies([1, 10], float("nan")), **ORDER))
    assert "bands:" not in words and "bars: one" not in words


def test_published_numbers_are_hollow_where_they_compare() -> None:
    figure = accuracy_figure(accuracies([1, 10]), **ORDER, published=published())
    assert hollow(figure.axes[0]) == [(10, 71.5)]
    assert "hollow: published, best epoch on the test set" in below(figure)
    assert "published (hollow)" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    "changes", [{"difference": float("nan")}, {"network": "resnet"}, {"protocol": "q"}, {"method": "mgd3"}]
)
def test_published_numbers_of_another_protocol_network_or_data_are_left_out(changes: dict[str, Any]) -> None:
    assert hollow(accuracy_figure(accuracies([1, 10]), **ORDER, published=published(**changes)).axes[0]) == []


def test_a_figure_says_that_no_published_number_compares() -> None:
    figure = accuracy_figure(accuracies([1]), **ORDER, published=published(difference=float("nan")))
    assert "no published number compares" in below(figure)


def coverages(seeds: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"method": "dit", "seed": seed, "ipc": ipc, "coverage": 0.1 * ipc + 0.02 * seed, "recall": recall}
        | {"precision": 0.9, "density": 1.1, "real": 100, "distilled": 20}
        for seed in range(seeds)
        for ipc, recall in ((1, float("nan")), (5, 0.2))
    )


def test_coverage_has_a_panel_per_measure_and_says_what_is_missing() -> None:
    figure = coverage_figure(coverage_table(coverages(2), ["dit"]), 5, "real", ABOUT)
    assert [axes.get_title() for axes in figure.axes] == ["coverage (%)", "recall (%)", "precision (%)", "density"]
    words = below(figure)
    assert "n = 2 seeds" in words and "bars: one sample standard deviation" in words
    assert "no recall of dit: a set of at most k images has none" in words and "features of real, k = 5" in words


def test_coverage_of_one_seed_has_bars_of_its_images() -> None:
    words = below(coverage_figure(coverage_table(coverages(1), ["dit"]), 5, "real", ABOUT))
    assert "n = 1 seed" in words and "bars: 95 % Wilson intervals over the images of one set" in words
