"""One check for numbers that are none any more: weights, losses, latents, images and answers of networks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.errors import Diverged

if TYPE_CHECKING:
    from torch import Tensor

LOOK_STEPS = 100
"""Steps of a training between two looks at its losses: each look waits for the device."""


def all_finite(values: Iterable[Tensor]) -> bool:
    """Whether all numbers of these tensors are finite."""
    return all(bool(value.isfinite().all()) for value in values)


def refuse_diverged(values: Iterable[Tensor], what: str, way_out: str) -> None:
    """Refuse numbers that are infinite or not a number.

    Args:
        what: these numbers in the plural: `the latents`.

    Raises:
        Diverged: there are some.
    """
    if not all_finite(values):
        raise Diverged(f"{what} are not finite numbers; {way_out}")


class TrainingWatch:
    """Whether a training has diverged, and in which step."""

    def __init__(self, steps: int, way_out: str, last_good: Path) -> None:
        """
        Args:
            last_good: resume file of the training, which is written of finite weights alone.
        """
        self._steps, self._way_out, self._last_good = steps, way_out, last_good
        self._first: Tensor | None = None

    def note(self, step: int, loss: Tensor) -> None:
        """Keep the first step, counted from 1, whose loss is not finite; nothing waits for the device but every
        `LOOK_STEPS`.

        Raises:
            Diverged: the loss has not been finite since the last look.
        """
        loss = loss.detach().float()
        this = loss.new_full((), math.inf).where(loss.isfinite(), loss.new_full((), step))
        self._first = this if self._first is None else self._first.minimum(this)
        if step % LOOK_STEPS == 0:
            self.check(())

    def check(self, weights: Iterable[Tensor]) -> None:
        """
        Raises:
            Diverged: a loss has not been finite, or a weight is not.
        """
        first = math.inf if self._first is None else self._first.item()
        if math.isinf(first) and all_finite(weights):
            return
        what = "a weight" if math.isinf(first) else f"in step {first:.0f} of {self._steps} the loss"
        kept = f". The last good state is kept in {self._last_good}" if self._last_good.exists() else ""
        raise Diverged(f"the training diverges: {what} is not finite; {self._way_out}{kept}")
