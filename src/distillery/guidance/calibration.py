"""How strong the guidance may be before images leave their class: a pilot, judged by a reference network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Setting:
    """One point of the grid and the measurements of the pilot.

    Attributes:
        relative_strength: lambda over the square root of the latent's size, comparable across generators.
        strength: lambda.
        reference_weight: omega.
        validity: share of the pilot images that the judge recognises.
        reference_probability: mean probability that the judge gives to the label.
        student_accuracy: share that the student recognises.
        learnability: mean S.
        pilot_accuracy: accuracy on training images of a student of seed and pilot; None unless the aim asks for it.
    """

    relative_strength: float
    strength: float
    reference_weight: float
    validity: float
    reference_probability: float
    student_accuracy: float
    learnability: float
    pilot_accuracy: float | None = None


def validity_threshold(target: float, margin: float, plain: float) -> float:
    """The least validity of a setting: the target, or less where plain sampling itself is less valid."""
    return min(target, plain - margin)


def walk(
    measure: Callable[[float, float], Setting],
    relative_strengths: Sequence[float],
    reference_weights: Sequence[float],
    threshold: float,
) -> list[Setting]:
    """Measure the grid: for each weight the strengths in ascending order, up to the first that is not valid."""
    settings = []
    for weight in reference_weights:
        for strength in sorted(relative_strengths):
            setting = measure(strength, weight)
            settings.append(setting)
            if setting.validity < threshold:
                break
    return settings


def rank(settings: Sequence[Setting], threshold: float, aim: Literal["overlap", "accuracy"]) -> list[Setting]:
    """The valid settings, the most effective first.

    `overlap`: lowest student accuracy first; ties to the smaller strength, then to the smaller weight.
    `accuracy`: highest accuracy of a student of the pilot first; the same ties.
    """

    def order(setting: Setting) -> tuple[float, float, float]:
        effect = setting.student_accuracy if aim == "overlap" else -(setting.pilot_accuracy or 0.0)
        return effect, setting.strength, setting.reference_weight

    return sorted((setting for setting in settings if setting.validity >= threshold), key=order)


def confirm(
    ranked: Sequence[Setting], validity_in_loop: Callable[[Setting], float], threshold: float
) -> tuple[Setting | None, list[float]]:
    """The best setting whose validity holds with the candidates and all guidances of the run.

    One that fails is followed by the next smaller strength of the same weight, one step down the grid at a time.

    Returns:
        The setting, or None if none is valid, and the validity of each try.
    """
    validities: list[float] = []
    current: Setting | None = ranked[0] if ranked else None
    while current is not None:
        validities.append(validity_in_loop(current))
        if validities[-1] >= threshold:
            return current, validities
        weight, strength = current.reference_weight, current.strength
        below = [s for s in ranked if s.reference_weight == weight and s.strength < strength]
        current = max(below, key=lambda setting: setting.strength, default=None)
    return None, validities
