"""Claims about intervals, p values and scores, against simulated truth or numbers reckoned by hand."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest

from distillery.analysis import statistics
from distillery.analysis.statistics import (
    LEAST_P,
    Paired,
    augmentation_robust_score,
    hard_label_recovery,
    holm,
    improvement_over_random,
    label_robust_score,
    paired_difference,
    root_sum_of_squares,
    std_components,
)


def answers(generator: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    """Correctness, drawn with these chances."""
    return generator.random(chances.shape) < chances


def from_sums(*sums: int) -> tuple[np.ndarray, np.ndarray]:
    """Two methods whose difference, summed over networks, is this on each image."""
    networks = np.arange(max(1, *np.abs(sums)))[:, None]
    return networks < np.array(sums), networks < -np.array(sums)


def widths(paired: Paired) -> float:
    return paired.high - paired.low


def test_the_difference_is_the_mean_over_networks_and_images_in_points() -> None:
    ours = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
    theirs = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    paired = paired_difference(ours, theirs)
    assert (paired.difference, paired.networks, paired.images) == (37.5, 2, 4)
    swapped = paired_difference(theirs, ours)
    assert (swapped.difference, swapped.p) == (-37.5, paired.p)
    assert (swapped.low, swapped.high) == pytest.approx((-paired.high, -paired.low))


def coverage(networks: int, *, shared: bool, network_spread: float = 0.0, simulations: int = 400) -> float:
    """Share of intervals that hold the true difference of 10 points on 250 images.

    Args:
        shared: networks of one method are right on the same images.
        network_spread: standard deviation, as a fraction, of what a pair of networks adds to the difference.
    """
    generator = np.random.default_rng(7)
    held = 0
    for simulation in range(simulations):
        chance = generator.uniform(0.1, 0.6, 250)
        better = chance + 0.1 + network_spread * generator.standard_normal((networks, 1))
        rows = 1 if shared else networks
        ours, theirs = (
            np.broadcast_to(answers(generator, np.broadcast_to(chances, (rows, 250))), (networks, 250))
            for chances in (better[:rows], chance)
        )
        paired = paired_difference(ours, theirs, resamples=400, seed=simulation)
        held += paired.low <= 10 <= paired.high
    return held / simulations


THREE_ERRORS = 3 * math.sqrt(0.95 * 0.05 / 400)


def test_where_images_decide_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    assert coverage(1, shared=True) == pytest.approx(0.95, abs=THREE_ERRORS)
    assert coverage(4, shared=True) == pytest.approx(0.95, abs=THREE_ERRORS)


def test_where_networks_scatter_the_interval_holds_the_truth_at_least_as_often_as_it_says() -> None:
    assert coverage(4, shared=False) > 0.95 - THREE_ERRORS
    assert coverage(8, shared=False, network_spread=0.03) > 0.95 - THREE_ERRORS


def test_three_networks_that_differ_widely_make_the_interval_too_narrow() -> None:
    assert coverage(3, shared=False, network_spread=0.1) == pytest.approx(0.86, abs=0.04)


def test_the_bootstrap_has_the_variance_of_independent_rows_and_columns() -> None:
    generator = np.random.default_rng(1)
    differences = generator.integers(-1, 2, (5, 40)) + (generator.random((5, 1)) < 0.5)
    draws = np.random.default_rng(0)
    weights = statistics.weights_of_networks(np.zeros(5), 20_000, draws)
    drawn = statistics.resampled_totals(differences, weights, draws)
    # The variance of w_networks' D w_images for multinomial weights, whose covariances centre rows and columns.
    centred = differences - differences.mean(axis=0)
    both = centred - centred.mean(axis=1, keepdims=True)
    of_networks = ((differences.sum(axis=1) - differences.sum() / 5) ** 2).sum()
    of_images = ((differences.sum(axis=0) - differences.sum() / 40) ** 2).sum()
    assert drawn.mean() == pytest.approx(differences.sum(), abs=4 * drawn.std() / math.sqrt(20_000))
    assert drawn.var() == pytest.approx(of_networks + of_images + (both**2).sum(), rel=0.05)


def test_sets_are_drawn_and_then_as_many_networks_of_each_as_it_has() -> None:
    sets = np.array([3, 0, 0, 3, 3, 7])
    weights = statistics.weights_of_networks(sets, 3000, np.random.default_rng(0))
    times = np.stack([weights[:, sets == name].sum(1) / (sets == name).sum() for name in (0, 3, 7)])
    assert np.array_equal(times, times.astype(int)) and (times.sum(0) == 3).all()
    assert times.mean(1) == pytest.approx([1, 1, 1], abs=0.06)
    assert weights.mean(0) == pytest.approx(np.ones(6), abs=0.1)
    assert (weights[:, 0] != weights[:, 3]).any()


def test_what_is_peculiar_to_a_set_is_in_the_interval() -> None:
    generator, held = np.random.default_rng(3), {True: 0, False: 0}
    for simulation in range(300):
        better = 0.4 + np.repeat(0.06 * generator.standard_normal(3), 6)[:, None]
        ours, theirs = (answers(generator, np.broadcast_to(chance, (18, 250))) for chance in (better, np.array(0.4)))
        for grouped in held:
            sets = np.repeat([0, 1, 2], 6).tolist() if grouped else None
            paired = paired_difference(ours, theirs, sets=sets, resamples=300, seed=simulation)
            held[grouped] += paired.low <= 0 <= paired.high
    assert held[True] / 300 == pytest.approx(0.85, abs=0.03) and held[False] / 300 == pytest.approx(0.69, abs=0.03)


def test_one_set_is_as_none() -> None:
    generator = np.random.default_rng(5)
    ours, theirs = answers(generator, np.full((3, 60), 0.6)), answers(generator, np.full((3, 60), 0.5))
    assert paired_difference(ours, theirs, sets=[4, 4, 4]) == paired_difference(ours, theirs)
    with pytest.raises(ValueError, match="sets: 2 for 3 networks"):
        paired_difference(ours, theirs, sets=[0, 0])


def test_networks_that_disagree_widen_the_interval() -> None:
    images = np.arange(400)
    theirs = np.zeros((4, 400), dtype=bool)
    alike = np.broadcast_to(images < 40, (4, 400))
    unlike = images < np.array([0, 0, 80, 80])[:, None]
    paired, wider = paired_difference(alike, theirs), paired_difference(unlike, theirs)
    assert paired.difference == wider.difference == 10
    assert widths(wider) > 2 * widths(paired)


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(2)
    easy = answers(generator, np.full((1, 500), 0.7))
    ours, theirs = (easy ^ answers(generator, np.full((3, 500), 0.05)) for _ in range(2))
    shuffled = theirs[:, generator.permutation(500)]
    paired, unpaired = paired_difference(ours, theirs), paired_difference(ours, shuffled)
    assert paired.difference == pytest.approx(unpaired.difference)
    assert 2 * widths(paired) < widths(unpaired)
    errors = (100 * np.sqrt(x.mean() * (1 - x.mean()) / 500) for x in (ours, theirs))
    independent = 2 * 1.96 * root_sum_of_squares(*errors)
    assert 2 * widths(paired) < independent


def test_equal_seeds_give_equal_intervals_however_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    ours, theirs = (answers(generator, np.full((3, 101), chance)) for chance in (0.6, 0.5))
    paired = paired_difference(ours, theirs, seed=5)
    assert paired_difference(ours, theirs, seed=5) == paired
    assert paired_difference(ours, theirs, seed=6) != paired
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 700)
    assert paired_difference(ours, theirs, seed=5) == paired


def test_a_wider_level_holds_the_narrower_one() -> None:
    ours, theirs = from_sums(*[2] * 30, *[-1] * 20, *[0] * 50)
    narrow, wide = (paired_difference(ours, theirs, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.difference < narrow.high < wide.high


@pytest.mark.parametrize("sums", [(1,), (0, 0), (1, 1, 1), (2, -1, 1), (3, 3, -2, 1), (2, 2, -2, 1, 1, 0, -3, 3)])
def test_p_is_the_share_of_all_sign_patterns(sums: tuple[int, ...]) -> None:
    totals = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=len(sums))]
    wanted = sum(total >= abs(sum(sums)) for total in totals) / len(totals)
    assert paired_difference(*from_sums(*sums), resamples=10).p == pytest.approx(wanted, rel=1e-9)


def test_with_one_pair_of_networks_p_is_that_of_mcnemar() -> None:
    better, worse = 40, 18
    tail = sum(math.comb(better + worse, k) for k in range(better, better + worse + 1)) / 2 ** (better + worse)
    ours, theirs = from_sums(*[1] * better, *[-1] * worse, *[0] * 100)
    assert paired_difference(ours, theirs, resamples=10).p == pytest.approx(2 * tail, rel=1e-6)


def test_p_is_never_0() -> None:
    ours = np.ones((3, 5000), dtype=bool)
    assert paired_difference(ours, ~ours, resamples=10).p == LEAST_P
    assert paired_difference(ours, ours, resamples=10) == Paired(0, 0, 0, 1, 3, 5000)


def test_p_is_uniform_where_the_methods_are_the_same() -> None:
    generator = np.random.default_rng(4)
    chance = generator.uniform(0, 1, (500, 1, 600))
    drawn = [[answers(generator, np.broadcast_to(c, (3, 600))) for _ in range(2)] for c in chance]
    p = np.array([paired_difference(*pair, resamples=1).p for pair in drawn])
    for level in (0.05, 0.2, 0.5, 0.8):
        # Totals are discrete, so that p falls a little short of uniform, by the chance of one total: 0.03 at most.
        assert level - 0.03 < (p <= level).mean() + 3 * math.sqrt(level * (1 - level) / len(p))
        assert (p <= level).mean() < level + 3 * math.sqrt(level * (1 - level) / len(p))


def test_p_finds_a_difference_that_is_there() -> None:
    generator = np.random.default_rng(5)
    chance = generator.uniform(0.1, 0.6, 500)
    ours, theirs = (answers(generator, np.broadcast_to(c, (3, 500))) for c in (chance + 0.1, chance))
    assert paired_difference(ours, theirs, resamples=10).p < 1e-3


def test_fifty_thousand_images_take_little_memory_and_half_the_time_of_a_plain_loop() -> None:
    generator = np.random.default_rng(6)
    ours, theirs = (answers(generator, np.full((5, 50_000), chance)) for chance in (0.60, 0.59))
    started = time.process_time()
    for _ in range(100):
        drawn = generator.integers(50_000, size=50_000)
        (ours[:, drawn].mean(1) - theirs[:, drawn].mean(1)).mean()
    plain, started = 20 * (time.process_time() - started), time.process_time()
    tracemalloc.start()
    paired = paired_difference(ours, theirs, resamples=2000)
    seconds = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert paired.low < 1 < paired.high
    assert peak < 200e6
    print(f"{plain:.2f} s as a plain loop, {seconds:.2f} s")
    assert seconds < plain / 2


def test_what_is_not_paired_correctness_is_refused() -> None:
    rows = np.ones((2, 3), dtype=bool)
    with pytest.raises(ValueError, match="has to be bool, not int64 and bool"):
        paired_difference(rows.astype(np.int64), rows)
    for other in (rows[:1], rows[:, :2]):
        with pytest.raises(ValueError, match="of one shape"):
            paired_difference(rows, other)
    for empty in (rows[:0], rows[:, :0], rows[0]):
        with pytest.raises(ValueError, match="of one shape"):
            paired_difference(empty, empty)
    with pytest.raises(ValueError, match="resamples: 0"):
        paired_difference(rows, rows, resamples=0)
    with pytest.raises(ValueError, match="level: 95"):
        paired_difference(rows, rows, level=95)


def test_components_of_spread_by_hand() -> None:
    # Means 50 and 60, variance of means 50; within 2, of which half stands in each mean.
    between, within = std_components([[49, 51], [59, 61]])
    assert (between, within) == pytest.approx((7, math.sqrt(2)))
    # Lengths differ: (2 + 2) / (1 + 2) within, mean of 1/2 and 1/3 of it in the means, whose variance is 8.
    components = std_components([[9, 11], [13, 14, 15]])
    assert components.within == pytest.approx(math.sqrt(4 / 3))
    assert components.between == pytest.approx(math.sqrt(8 - 4 / 3 * 5 / 12))


def test_sets_that_differ_less_than_their_networks_add_nothing() -> None:
    assert std_components([[40, 60], [41, 59]]).between == 0


def test_components_recover_what_was_simulated() -> None:
    generator = np.random.default_rng(8)
    sets = 50 + 2 * generator.standard_normal((4000, 1)) + 3 * generator.standard_normal((4000, 3))
    assert std_components(sets.tolist()) == pytest.approx((2, 3), rel=0.06)


def test_components_that_cannot_be_told_apart_are_not_numbers() -> None:
    assert all(math.isnan(x) for x in std_components([[50], [52]]))
    assert all(math.isnan(x) for x in std_components([]))
    between, within = std_components([[50, 52]])
    assert math.isnan(between)
    assert within == pytest.approx(math.sqrt(2))
    with pytest.raises(ValueError, match="a set without a network"):
        std_components([[50, 52], []])


def test_dd_ranking_by_hand() -> None:
    hlr, ior = hard_label_recovery(89.3, 57.1), improvement_over_random(57.1, 47.9)
    assert (hlr, ior) == pytest.approx((32.2, 9.2))
    # alpha = (0.092 - 0.322) / 2 = -0.115; (0.891366 - 0.367879) / 2.350402.
    assert label_robust_score(hlr, ior) == pytest.approx(22.2722, abs=1e-3)
    assert label_robust_score(hlr, ior, weight=1) == pytest.approx(100 * (1.096365 - 0.367879) / 2.350402, abs=1e-3)


def test_the_label_robust_score_runs_from_0_to_100() -> None:
    assert label_robust_score(100, -100) == pytest.approx(0)
    assert label_robust_score(-100, 100) == pytest.approx(100)
    assert label_robust_score(0, 0) == pytest.approx(26.894, abs=1e-3)
    assert label_robust_score(100, -40, weight=1) == label_robust_score(-100, -40, weight=1)
    with pytest.raises(ValueError, match="weight: 50"):
        label_robust_score(0, 0, weight=50)


def test_the_augmentation_robust_score_by_hand() -> None:
    # beta = (0.08 + 0.02) / 2 = 0.05; (1.051271 - 0.367879) / 2.350402.
    assert augmentation_robust_score(8, 2) == pytest.approx(29.0755, abs=1e-3)
    assert augmentation_robust_score(8, 2, weight=1) == augmentation_robust_score(8, -50, weight=1)
    assert augmentation_robust_score(0, 0) == pytest.approx(26.894, abs=1e-3)
    assert augmentation_robust_score(-100, -100) == pytest.approx(0)
    with pytest.raises(ValueError, match="weight: 2"):
        augmentation_robust_score(0, 0, weight=2)


def test_errors_of_a_difference_add_as_squares() -> None:
    assert root_sum_of_squares(3, 4) == 5
    assert root_sum_of_squares(1, 2, 2) == 3
    assert math.isnan(root_sum_of_squares(1, math.nan))


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm([0.5, bad])


def test_holm_keeps_the_family_at_its_level() -> None:
    p = np.random.default_rng(9).random((2000, 10))
    wrong = np.mean([min(holm(family)) <= 0.05 for family in p.tolist()])
    assert wrong == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 2000))
