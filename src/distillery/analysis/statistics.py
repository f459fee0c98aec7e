"""How sure a difference of accuracies is: paired intervals, components of spread, DD-Ranking, Holm.

Accuracies, scores and their errors are percent, or points of it, wherever they enter or leave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DRAWS_AT_ONCE = 2**22
"""Images drawn in one block of the bootstrap: three arrays of 32 MiB each."""

LEAST_P = 1e-10
"""Below this the transform behind the sign-flip test shows its rounding, and a p value says no more than "less"."""


@dataclass(frozen=True)
class Paired:
    """The difference between two methods on networks and images that both share.

    Attributes:
        difference: ours minus theirs, in points.
        low, high: ends of the interval, in points.
        p: two-sided.
        networks: pairs of networks.
        images: of the test set.
    """

    difference: float
    low: float
    high: float
    p: float
    networks: int
    images: int


def paired_difference(
    ours: np.ndarray,
    theirs: np.ndarray,
    *,
    sets: Sequence[int] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Difference of two accuracies, paired by student seed and by test image.

    The interval is the percentile bootstrap that draws networks and images with replacement, independently of each
    other (Owen 2007, The pigeonhole bootstrap, doi:10.1214/07-AOAS122). Networks that were trained on one set share
    its peculiarities, so with several sets the sets are drawn, and then networks of each drawn set.
    With three sets of six networks each that scattered by six points, 95 % intervals held the truth in 85 % of
    simulations, and in 69 % with networks drawn alone. What belongs to an image enters its variance once. What is
    peculiar to one network on one image enters 3 - 2 / networks times: the interval errs on the wide side where
    networks of one method are right on different images. What belongs to one of n networks enters 1 - 1 / n times:
    where three pairs of networks scattered by ten points on 250 images, 95 % intervals held the truth in 86 % of
    simulations. One pair of networks gives an interval over images alone.

    p is that of the exact sign-flip test over images. If the methods were interchangeable on each image, its
    difference, summed over networks, could as well have the other sign; p is the share of all sign patterns whose
    total is at least as far from 0. It is enumerated, not sampled: sampling 2,000 patterns could not tell p below
    0.0005, which Holm's correction over many cells asks for. It was preferred to McNemar's test on majority votes,
    which throws away by how many networks a vote was won; with one pair of networks the two are the same. It holds for
    these sets and networks: the spread over generation and student seeds is in the interval, not in p.

    Args:
        ours, theirs: (networks, images) bool, whether this network classifies this image correctly; row i of both
            has the same student seed, column j is the same image.
        sets: (networks,) which set each was trained on; none: all on one.
        resamples: of the bootstrap.
        level: of the interval.
        seed: of the bootstrap; nothing else is random.

    Raises:
        ValueError: not two bool arrays of one shape, or nothing to resample.
    """
    if ours.dtype != np.bool_ or theirs.dtype != np.bool_:
        raise ValueError(f"correctness has to be bool, not {ours.dtype} and {theirs.dtype}")
    if ours.ndim != 2 or ours.shape != theirs.shape or not ours.size:
        raise ValueError(f"correctness has to be (networks, images) of one shape, not {ours.shape} and {theirs.shape}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples: {resamples} has to be at least 1, and level: {level} between 0 and 1")
    if sets is not None and len(sets) != len(ours):
        raise ValueError(f"sets: {len(sets)} for {len(ours)} networks")
    differences = ours.astype(np.int8) - theirs.astype(np.int8)
    networks, images = differences.shape
    tail = (1 - level) / 2
    generator = np.random.default_rng(seed)
    weights = weights_of_networks(np.zeros(networks) if sets is None else np.asarray(sets), resamples, generator)
    means = resampled_totals(differences, weights, generator) / (weights.sum(axis=1) * images)
    low, high = 100 * np.quantile(means, (tail, 1 - tail))
    return Paired(
        difference=100 * int(differences.sum(dtype=np.int64)) / differences.size,
        low=float(low),
        high=float(high),
        p=_sign_flip_p(differences.sum(axis=0, dtype=np.int64)),
        networks=networks,
        images=images,
    )


def weights_of_networks(sets: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """(resamples, networks): how often each is drawn, sets first and then as many networks of each as it has."""
    names, numbers = np.unique(sets, return_inverse=True)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = np.zeros((resamples, len(sets)), dtype=np.int64)
    for number, times in enumerate(drawn.T):
        rows = np.flatnonzero(numbers == number)
        weights[:, rows] = generator.multinomial(times * len(rows), np.full(len(rows), 1 / len(rows)))
    return weights


def resampled_totals(
    differences: np.ndarray, network_weights: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """(resamples,): the sum over `differences` with rows and columns drawn anew, as w_networks' D w_images."""
    (resamples, _), images = network_weights.shape, differences.shape[1]
    # Whole numbers in float64: sums are exact, and do not depend on the order or the threads of the product.
    columns = differences.T.astype(np.float64)
    block = max(1, DRAWS_AT_ONCE // images)
    totals = np.empty(resamples)
    for start in range(0, resamples, block):
        weights = network_weights[start : start + block]
        drawn = generator.integers(images, size=(len(weights), images))
        drawn += images * np.arange(len(weights))[:, None]
        image_weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        totals[start : start + block] = (weights * (image_weights @ columns)).sum(axis=1)
    return totals


def _sign_flip_p(sums: np.ndarray) -> float:
    """Share of the 2^N sign patterns with |total| at least that of `sums`, (N,) whole numbers.

    The total of random signs has the characteristic function prod_i cos(theta sums_i); one Fourier transform over the
    values that it can take gives its distribution.
    """
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    farthest = int(sizes @ counts)
    # Totals are -farthest, -farthest + 2, ...: halved, and shifted by a half if odd, they are consecutive integers.
    odd = farthest % 2
    values = farthest + 1
    theta = np.arange(values // 2 + 1) * (np.pi / values)
    characteristic = np.exp(-1j * odd * theta)
    for size, count in zip(sizes, counts, strict=True):
        characteristic *= np.cos(size * theta) ** count
    probabilities = np.fft.irfft(characteristic, n=values)
    totals = np.arange(-farthest, farthest + 1, 2)
    far = np.abs(totals) >= abs(int(sums.sum()))
    # A negative index counts from the end, which is where the transform puts negative values.
    return float(np.clip(probabilities[(totals[far] + odd) // 2].sum(), LEAST_P, 1))


class Components(NamedTuple):
    """Two components of spread, as standard deviations in points."""

    between: float
    within: float


def std_components(accuracies: Sequence[Sequence[float]]) -> Components:
    """The contributions of the generation seed and of the student seed to the spread of an accuracy.

    `within` is the pooled sample standard deviation of networks that share a set. `between` is what sets add to it:
    means of sets also differ because each averages few networks, and that part is taken out,
    between^2 = var(means) - within^2 mean(1 / n). A negative estimate is given as 0; with three sets that is common,
    and does not show that sets are equal. One network of one new set has the variance between^2 + within^2.

    Args:
        accuracies: one sequence per distilled set, one accuracy per student; percent. Lengths may differ.

    Returns:
        Points. `within` is not a number unless a set has two networks; `between` neither, nor with a single set.

    Raises:
        ValueError: a set without a network.
    """
    sets = [np.asarray(accuracies_of_set, dtype=np.float64) for accuracies_of_set in accuracies]
    if any(not len(of_set) for of_set in sets):
        raise ValueError("a set without a network has no accuracy; leave it out")
    freedom = sum(len(of_set) - 1 for of_set in sets)
    if not freedom:
        return Components(math.nan, math.nan)
    within_variance = sum(float(((of_set - of_set.mean()) ** 2).sum()) for of_set in sets) / freedom
    if len(sets) < 2:
        return Components(math.nan, math.sqrt(within_variance))
    of_means = float(np.var([of_set.mean() for of_set in sets], ddof=1))
    of_few_networks = within_variance * float(np.mean([1 / len(of_set) for of_set in sets]))
    return Components(math.sqrt(max(0.0, of_means - of_few_networks)), math.sqrt(within_variance))


def hard_label_recovery(full: float, synthetic: float) -> float:
    """HLR of DD-Ranking (arXiv 2505.13300): accuracy on full real data minus that on the distilled set, in points.

    Both in percent, of networks trained with hard labels. Below 0 the distilled set beats the real one.
    """
    return full - synthetic


def improvement_over_random(synthetic: float, random: float) -> float:
    """IOR of DD-Ranking (arXiv 2505.13300): accuracy on the distilled set minus that on a random subset, in points.

    Args:
        synthetic: percent, with the recipe of the method itself, soft labels included.
        random: percent, of real images of the same IPC, with the same recipe.
    """
    return synthetic - random


def label_robust_score(hlr: float, ior: float, weight: float = 0.5) -> float:
    """LRS of DD-Ranking (arXiv 2505.13300): 100 (e^alpha - e^-1) / (e - e^-1), alpha = w IOR - (1 - w) HLR.

    HLR and IOR enter alpha as fractions, as in the public code; in percent the exponential would overflow.

    Args:
        hlr: what `hard_label_recovery` returned, -100 to 100.
        ior: what `improvement_over_random` returned, -100 to 100.
        weight: w, 0 to 1.

    Returns:
        Percent: 0 at alpha = -1, 26.9 at alpha = 0, 100 at alpha = 1.
    """
    return _score(weight, ior, -hlr)


def augmentation_robust_score(augmented: float, plain: float, weight: float = 0.5) -> float:
    """ARS of DD-Ranking (arXiv 2505.13300): 100 (e^beta - e^-1) / (e - e^-1), beta = g A + (1 - g) B.

    A and B are the improvements over random real images with augmentation and without it, as fractions. A set whose
    advantage needs the augmentation that it was made for has a large A and a small B.

    Args:
        augmented: what `improvement_over_random` returned for networks trained with augmentation, -100 to 100.
        plain: the same without augmentation, under the same recipe otherwise.
        weight: g, 0 to 1.

    Returns:
        Percent: 0 at beta = -1, 26.9 at beta = 0, 100 at beta = 1.
    """
    return _score(weight, augmented, plain)


def _score(weight: float, first: float, second: float) -> float:
    """DD-Ranking's map of a weighted mean of two values, -100 to 100 each, to percent."""
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: {weight} lies outside 0 to 1")
    mean = (weight * first + (1 - weight) * second) / 100
    return 100 * (math.exp(mean) - math.exp(-1)) / (math.e - math.exp(-1))


def root_sum_of_squares(*errors: float) -> float:
    """Standard deviation of a sum or difference of independent values from theirs: of HLR and IOR from two accuracies.

    HLR and IOR share the accuracy of the distilled set where both use hard labels. Their errors are then not
    independent, and the error of LRS does not follow from them. An error that is not a number makes the result so.
    """
    return math.nan if any(math.isnan(error) for error in errors) else math.hypot(*errors)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number, in the order given: reject where one is at most the family's level.

    Holm 1979: the i-th smallest of m is multiplied by m - i + 1; none is smaller than the one before, none exceeds 1.

    Raises:
        ValueError: one is no probability.
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p values lie between 0 and 1, unlike {bad[0]}")
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


class OverSeeds(NamedTuple):
    """A mean difference over seeds with its 95 % interval, and the number of seeds."""

    difference: float
    low: float
    high: float
    n: int


def difference_over_seeds(ours: Mapping[int, float], theirs: Mapping[int, float], level: float = 0.95) -> OverSeeds:
    """Ours minus theirs, seed by seed, with the interval of Student's t.

    Args:
        ours, theirs: a value of each seed; seeds that one of them lacks are left out.
        level: of the interval.

    Returns:
        Nothing is a number without a common seed, and the interval is none with a single one.
    """
    differences = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    n = len(differences)
    if n < 2:
        return OverSeeds(float(differences.mean()) if n else math.nan, math.nan, math.nan, n)
    mean = float(differences.mean())
    from scipy.stats import t

    reach = float(t.ppf((1 + level) / 2, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return OverSeeds(mean, mean - reach, mean + reach, n)
