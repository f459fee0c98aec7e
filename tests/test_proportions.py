"""Intervals of proportions are those of Wilson."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from distillery.proportions import wilson_interval


@pytest.mark.parametrize("images", [1, 7, 451, 10_000])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_it_is_the_interval_that_scipy_has(images: int, part: float, level: float) -> None:
    hits = round(part * images)
    known = binomtest(hits, images).proportion_ci(level, method="wilson")
    assert wilson_interval(hits / images, images, level) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_interval_of_none_or_all_is_not_empty_and_holds_the_share(share: float) -> None:
    low, high = wilson_interval(share, 20)
    assert low <= share <= high and 0.1 < high - low < 0.2


def test_without_a_share_or_an_image_there_is_no_interval() -> None:
    for share, images in ((math.nan, 5), (0.5, 0)):
        assert all(map(math.isnan, wilson_interval(share, images)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1.2, 5)
