"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def follow(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float, step: int, warmup: bool = True) -> None:
    """One step of the average towards the weights, in place.

    Args:
        step: of the training, from 0.
        warmup: forget faster at first, by (1 + step) / (10 + step): an average of few steps is not all beginning.
    """
    now = min(decay, (1 + step) / (10 + step)) if warmup else decay
    torch._foreach_lerp_(list(average), list(weights), 1 - now)
