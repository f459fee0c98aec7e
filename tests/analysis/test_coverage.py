"""What coverage promises: the formulas of the paper, against loops, and a table of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import sklearn

from distillery.analysis.coverage import coverage_of, radii
from distillery.errors import BadInput
from distillery.proportions import wilson_interval
from distillery.report import tables
from distillery.report.words import coverage_markdown


def points(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, 3))


def by_loops(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage, one pair after another."""

    def ball(among: np.ndarray, own: int) -> float:
        return sorted(math.dist(among[own], other) for row, other in enumerate(among) if row != own)[k - 1]

    around_real, around_fake = ([ball(among, own) for own in range(len(among))] for among in (real, fake))
    hits = [[math.dist(r, f) < around_real[i] for f in fake] for i, r in enumerate(real)]
    reached = [[math.dist(r, f) < around_fake[j] for j, f in enumerate(fake)] for r in real]
    return {
        "precision": float(np.mean([any(row[j] for row in hits) for j in range(len(fake))])),
        "recall": float(np.mean([any(row) for row in reached])),
        "density": sum(map(sum, hits)) / (k * len(fake)),
        "coverage": float(np.mean([any(row) for row in hits])),
    }


@pytest.mark.parametrize("k", [1, 5])
def test_the_shares_are_those_of_loops(k: int) -> None:
    real, fake = points(60, 0), points(23, 1, 0.7)
    assert vars(coverage_of(real, fake, k)) == pytest.approx(by_loops(real, fake, k))


def test_a_real_neighbour_lies_on_the_ball_that_it_ends_and_not_in_it() -> None:
    """As a set of real images has it: by rounding, half of them would lie inside."""
    real = np.random.default_rng(2).normal(0, 1, (300, 128)).astype(np.float32)
    for seed in range(3):
        some = real[np.random.default_rng(seed).permutation(300)[:30]]
        assert vars(coverage_of(real, some)) == pytest.approx(by_loops(real.astype(float), some.astype(float), 5))


def test_a_set_that_is_looked_at_in_pieces_gives_the_same() -> None:
    real, fake = points(400, 0), points(90, 1, 0.7)
    with sklearn.config_context(working_memory=0.01):  # MB: distances of a dozen images
        assert vars(coverage_of(real, fake)) == pytest.approx(by_loops(real, fake, 5))


def test_the_real_set_covers_itself_and_a_far_one_covers_nothing() -> None:
    real = points(50, 0)
    whole, far = coverage_of(real, real), coverage_of(real, points(50, 1, 100.0))
    assert (whole.precision, whole.recall, whole.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_images_that_repeat_each_other_cover_less() -> None:
    real = points(200, 0)
    spread, alike = coverage_of(real, real[:20]), coverage_of(real, np.repeat(real[:2], 10, axis=0))
    assert alike.coverage < 0.3 * spread.coverage


def test_a_ball_reaches_to_the_kth_other_point() -> None:
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert radii(line, 2).tolist() == [3, 2, 3, 6]


def test_a_set_of_no_more_than_k_images_has_no_recall() -> None:
    assert math.isnan(coverage_of(points(30, 0), points(5, 1)).recall)
    with pytest.raises(BadInput, match="5 neighbours among 5 real images; allowed: 1 to 4"):
        coverage_of(points(5, 0), points(5, 1))


def test_the_table_has_mean_and_spread_over_seeds() -> None:
    counts = {"real": 100, "distilled": 20}
    constant = {"recall": float("nan"), "precision": 1.0, "density": 1.25, **counts}
    rows = pd.DataFrame(
        [
            {"method": "b", "seed": seed, "ipc": 10, "coverage": share, **constant}
            for seed, share in enumerate((0.4, 0.6))
        ]
        + [
            {
                "method": "a",
                "seed": 0,
                "ipc": 2,
                "coverage": 0.1,
                "recall": 0.2,
                "precision": 0.3,
                "density": 0.4,
                **counts,
            }
        ]
    )
    table = tables.coverage_table(rows, ["a", "b"])
    assert table["method"].tolist() == ["a", "b"]
    assert table["coverage_mean"].tolist() == pytest.approx([10, 50])
    assert table["coverage_std"].tolist()[1] == pytest.approx(100 * np.std([0.4, 0.6], ddof=1))
    text = coverage_markdown(table, 5)
    low, high = wilson_interval(0.5, 100)  # over the images of one set, not of both
    assert table[["coverage_low", "coverage_high"]].to_numpy().tolist()[1] == pytest.approx([100 * low, 100 * high])
    assert table["precision_low"].tolist()[1] == pytest.approx(100 * wilson_interval(1, 20)[0])
    cells = [
        cell.strip()
        for cell in next(line for line in text.splitlines() if line.startswith("| b")).strip("|").split("|")
    ]
    assert cells[3:6] == ["50.0 ± 14.1", f"{100 * low:.1f} to {100 * high:.1f}", tables.ABSENT]
    assert cells[7:] == ["100.0 ± 0.0", "83.9 to 100.0", "1.25 ± 0.00"]
