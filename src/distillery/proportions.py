"""How sure a share is that was counted on a finite number of images."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(share: float, images: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of Wilson for a proportion (1927, doi:10.1080/01621459.1927.10502953), without its correction.

    For the mean of several networks on the same images it is an upper bound of what the images contribute: what a
    mean has of variance between images is at most that of one network of the same accuracy.

    Args:
        share: 0 to 1.
        images: that it was counted on.
        level: of the interval.

    Returns:
        Its ends, 0 to 1; both are not a number where the share is none, or no image was counted.

    Raises:
        ValueError: a share or a level outside 0 to 1.
    """
    if math.isnan(share) or images < 1:
        return math.nan, math.nan
    if not 0 <= share <= 1 or not 0 < level < 1:
        raise ValueError(f"share: {share} and level: {level} have to lie between 0 and 1")
    z = NormalDist().inv_cdf((1 + level) / 2)
    spread = z * z / images
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    # Rounding must not leave the ends of a share of none or all beside it.
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)
