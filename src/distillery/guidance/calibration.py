"""How strong the guidance may be before images leave their class: a pilot, judged by a reference network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Aim = Literal["overlap", "accuracy"]

MOST_CLASSES = 100
"""The pilot spreads over at most this many classes."""


@dataclass(frozen=True)
class Line:
    """What stays the same while a pilot raises lambda.

    Attributes:
        reference_weight: omega.
        mode_strength: strength of mode guidance; None: that of the method.
        mode_stop: `guidance.mode.stop`; None: that of the method.
    """

    reference_weight: float
    mode_strength: float | None = None
    mode_stop: int | None = None


@dataclass(frozen=True)
class Setting:
    """One point of the grid and the measurements of the pilot.

    Attributes:
        relative_strength: lambda over the square root of the latent's size, comparable across generators.
        strength: lambda.
        reference_weight, mode_strength, mode_stop: of its line.
        validity: share of the pilot images that the judge recognises.
        reference_probability: mean probability that the judge gives to the label.
        student_accuracy: share that the student recognises.
        learnability: mean S.
        pilot_accuracy: accuracy on validation images of students of seed and pilot; None unless the aim asks for it.
        pilot_error: standard error of that accuracy over the validation images.
    """

    relative_strength: float
    strength: float
    reference_weight: float
    validity: float
    reference_probability: float
    student_accuracy: float
    learnability: float
    pilot_accuracy: float | None = None
    pilot_error: float | None = None
    mode_strength: float | None = None
    mode_stop: int | None = None

    @property
    def line(self) -> Line:
        """The settings that it shares with other strengths."""
        return Line(self.reference_weight, self.mode_strength, self.mode_stop)


FEWEST_IMAGES, MOST_IMAGES = 20, 100
"""Of a measured setting whose number of images nobody sets."""


def pilot_slots(images: int, classes: int) -> int:
    """Images of each class of a pilot of about so many images in all."""
    return max(1, images // min(classes, MOST_CLASSES))


def affordable_images(budget: float, loop_images: int, settings: int) -> int:
    """The images of a setting, so that so many settings stay within a budget: 20 at least, and 100 at most.

    Args:
        budget: images of all settings as a share of `loop_images`.
        loop_images: guided images that the increments draw, all candidates counted.
        settings: that are measured at most.
    """
    return min(max(int(budget * loop_images / settings + 1e-9), FEWEST_IMAGES), MOST_IMAGES)


def affordable_settings(budget: float, loop_images: int, images: int) -> int:
    """How many settings of so many images each a budget allows.

    Args:
        budget: images of all settings as a share of `loop_images`.
        loop_images: guided images that the increments draw, all candidates counted.
    """
    return int(budget * loop_images / images + 1e-9)


def validity_threshold(target: float, margin: float, unguided: float) -> float:
    """The least validity of a setting: the target, or less where images without learnability are less valid."""
    return min(target, unguided - margin)


def ladder(relative_strengths: Sequence[float], extend: bool) -> Iterator[float]:
    """The strengths in ascending order, and after them, without an end, the last one times the last factor."""
    ascending = sorted(set(relative_strengths))
    yield from ascending
    factor = ascending[-1] / ascending[-2] if len(ascending) > 1 else 2.0
    while extend:
        ascending.append(ascending[-1] * factor)
        yield ascending[-1]


def walk(
    measure: Callable[[float, Line], Setting],
    relative_strengths: Sequence[float],
    lines: Sequence[Line],
    ends: Callable[[Setting, Sequence[Setting]], bool],
    most: int,
    extend: bool,
) -> list[Setting]:
    """Measure the strengths of all lines in ascending order, each line up to the first setting that ends it.

    Lines take turns, so that a budget that is used up leaves none of them unmeasured.

    Args:
        ends: whether a setting ends its line, given the settings of the line before it.
        most: settings in all.
    """
    measured: dict[Line, list[Setting]] = {line: [] for line in lines}
    strengths = {line: ladder(relative_strengths, extend) for line in lines}
    remaining = list(lines)
    while remaining:
        for line in list(remaining):
            strength = next(strengths[line], None)
            if strength is None:
                remaining.remove(line)
            elif sum(map(len, measured.values())) >= most:
                remaining.clear()
                break
            else:
                setting = measure(strength, line)
                if ends(setting, measured[line]):
                    remaining.remove(line)
                measured[line].append(setting)
    return [setting for line in lines for setting in measured[line]]


def falls(setting: Setting, before: Sequence[Setting]) -> bool:
    """Whether its accuracy on validation images is below the best one before it by more than a standard error."""
    accuracies = [other.pilot_accuracy for other in before if other.pilot_accuracy is not None]
    if not accuracies or setting.pilot_accuracy is None:
        return False
    return setting.pilot_accuracy < max(accuracies) - (setting.pilot_error or 0.0)


def rank(settings: Sequence[Setting], threshold: float, aim: Aim) -> list[Setting]:
    """The valid settings, the best first.

    `overlap`: lowest student accuracy first; ties to the smaller strength, then to the smaller weight.
    `accuracy`: first those whose accuracy on validation images is within one standard error of the highest, in the
    order of `overlap`; then the others, the most accurate first.
    """
    valid = [setting for setting in settings if setting.validity >= threshold]
    best = max(valid, key=lambda setting: setting.pilot_accuracy or 0.0, default=None)
    level = 0.0 if best is None else (best.pilot_accuracy or 0.0) - (best.pilot_error or 0.0)

    def order(setting: Setting) -> tuple[bool, float, float, float]:
        accuracy = setting.pilot_accuracy or 0.0
        behind = aim == "accuracy" and accuracy < level
        return behind, -accuracy if behind else setting.student_accuracy, setting.strength, setting.reference_weight

    return sorted(valid, key=order)


def confirm(
    ranked: Sequence[Setting], validity_in_loop: Callable[[Setting], float], threshold: float, tries: int
) -> tuple[Setting | None, list[float]]:
    """The best setting whose validity holds with the candidates of the run.

    One that fails is followed by the next smaller strength of the same line, one step down the grid at a time; the
    strength that follows the last try is taken unconfirmed.

    Returns:
        The setting, or None if none is valid, and the validity of each try.
    """
    validities: list[float] = []
    current: Setting | None = ranked[0] if ranked else None
    while current is not None and current.strength and len(validities) < tries:
        validities.append(validity_in_loop(current))
        if validities[-1] >= threshold:
            return current, validities
        below = [other for other in ranked if other.line == current.line and other.strength < current.strength]
        current = max(below, key=lambda setting: setting.strength, default=None)
    return current, validities


def largest_measured(chosen: Setting, measured: Sequence[Setting]) -> bool:
    """Whether a guided setting is the largest strength of its line that was measured: a larger one may be better."""
    line = [setting.strength for setting in measured if setting.line == chosen.line]
    return chosen.strength > 0 and chosen.strength == max(line)
