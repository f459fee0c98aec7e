"""The pilot of the calibration: images at one strength and weight, and the answers of student and judge."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import torch

from distillery.data.reading import ImageTable
from distillery.diffusion.renderer import Renderer
from distillery.guidance.calibration import (
    Line,
    Setting,
    confirm,
    falls,
    largest_measured,
    rank,
    validity_threshold,
    walk,
)
from distillery.guidance.increment import Candidates, generate_candidates
from distillery.guidance.lgd import LoopGuidance
from distillery.guidance.score import Scorer
from distillery.guidance.settings import Calibration
from distillery.proportions import wilson_interval
from distillery.storage.images import ImageSet
from distillery.storage.resume import Resume
from distillery.streams import Key
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import SoftLabels, accuracy_of_table, train_network

Taught = tuple[float, float]
"""Accuracy on validation images, a fraction, and its standard error."""


@dataclass
class Pilot:
    """Samples the same noise at every setting.

    Attributes:
        students: of the first increment.
        judge: the network whose accuracy on the images is their validity.
        loop: the guidances of the run.
        labels: classes of the pilot.
        slots: of each class, those that follow the first increment.
        key: (label, slot, candidate) -> key of the image's stream.
        teach: what students of seed and these images reach; None where the aim does not ask for it.
    """

    renderer: Renderer
    students: Sequence[Classifier]
    reference: Classifier
    judge: Classifier
    loop: LoopGuidance
    labels: Sequence[int]
    conditions: dict[int, int]
    slots: range
    key: Callable[[int, int, int], Key]
    teach: Callable[[Candidates], Taught] | None = None

    @property
    def images(self) -> int:
        """Images of one setting."""
        return len(self.slots) * len(self.labels)

    def measure(self, relative_strength: float, line: Line) -> Setting:
        """Measure a strength (in units of the square root of d): one candidate, with the other guidances of the run."""
        strength = relative_strength * self.renderer.latent_numbers**0.5
        weight = line.reference_weight
        drawn = self._draw(strength, line, self.labels, self.slots, candidates=1)
        by_judge, by_reference = (self._score(network, weight, drawn) for network in (self.judge, self.reference))
        accuracy, error = self.teach(drawn) if self.teach else (None, None)
        return Setting(
            relative_strength,
            strength,
            weight,
            validity=by_judge.reference_correct.double().mean().item(),
            reference_probability=by_judge.reference_probability.double().mean().item(),
            student_accuracy=by_judge.student_correct.double().mean().item(),
            learnability=by_reference.learnability.double().mean().item(),
            pilot_accuracy=accuracy,
            pilot_error=error,
            mode_strength=line.mode_strength,
            mode_stop=line.mode_stop,
        )

    def validity_in_loop(self, setting: Setting, candidates: int, min_reference_probability: float) -> float:
        """The judge's accuracy on the images that the loop would keep among its candidates.

        It draws at most as many images as one setting of the grid, and so fills fewer slots, or slots of fewer classes.
        """
        filled = max(1, self.images // candidates)
        labels = [self.labels[place] for place in spread(len(self.labels), filled)]
        drawn = self._draw(
            setting.strength,
            setting.line,
            labels,
            self.slots[: filled // len(labels)],
            candidates,
            min_reference_probability=min_reference_probability,
        )
        return self._score(self.judge, setting.reference_weight, drawn).reference_correct.double().mean().item()

    def _score(self, network: Classifier, weight: float, drawn: Candidates) -> Any:
        scorer = Scorer(self.students, network, weight)
        return scorer.score_stored(drawn.pixels[drawn.chosen], drawn.labels[drawn.chosen])

    def _draw(
        self, strength: float, line: Line, labels: Sequence[int], slots: range, candidates: int, **options: Any
    ) -> Candidates:
        scorer = Scorer(self.students, self.reference, line.reference_weight)
        return generate_candidates(
            self.renderer,
            labels=labels,
            conditions=self.conditions,
            slots=slots,
            candidates=candidates,
            key=self.key,
            scorer=scorer,
            guidances=self.loop.start(scorer, strength, line.mode_strength, line.mode_stop),
            what=f"pilot: lambda {strength:.3g}, omega {line.reference_weight:g}",
            **options,
        )


@dataclass
class Calibrated:
    """What a calibration measured and chose.

    Attributes:
        measured: all settings, those without learnability first.
        threshold: the least validity of a setting.
        confirmed: the validities of the choice with the candidates of the run, one for each try.
        largest: whether the choice is the largest strength of its line that was measured, where strengths are compared.
        drawn: images of the pilot in all.
    """

    chosen: Setting
    measured: list[Setting]
    threshold: float
    confirmed: list[float]
    largest: bool
    drawn: int


def calibrate(
    pilot: Pilot,
    *,
    relative_strengths: Sequence[float],
    lines: Sequence[Line],
    extend: bool,
    calibration: Calibration,
    candidates: int,
    min_reference_probability: float,
    resume: Resume,
) -> Calibrated:
    """Walk the grid, take the best valid setting, and confirm it as the loop will use it.

    Where no setting is valid, learnability is switched off, and a warning is printed; another one is printed where the
    choice is the largest strength that was measured, or was not confirmed.

    Args:
        relative_strengths: none where learnability is off, and only modes are compared.
        extend: whether strengths above the grid are measured while the last one is valid.
    """
    state = resume.restore()
    known: dict[str, Any] = state[1]["measured"] if state else {}

    def measure(relative_strength: float, line: Line) -> Setting:
        name = f"{relative_strength!r} {line}"
        if name not in known:
            known[name] = asdict(pilot.measure(relative_strength, line))
            resume.checkpoint(lambda: ({}, {"measured": known}))
        return Setting(**known[name])

    without = {(line.mode_strength, line.mode_stop): line for line in reversed(lines)}  # omega has no effect there
    unguided = [measure(0.0, line) for line in reversed(without.values())]
    plain = max(unguided, key=lambda setting: setting.validity)
    threshold = validity_threshold(calibration.validity, calibration.margin, plain.validity)

    def ends(setting: Setting, before: Sequence[Setting]) -> bool:
        return setting.validity < threshold or (calibration.aim == "accuracy" and falls(setting, before))

    most = calibration.most_settings - len(unguided)
    walked = walk(measure, relative_strengths, lines, ends, most - 1, extend)  # one is left for a confirmation
    compared = walked if walked and calibration.aim == "overlap" else [*unguided, *walked]
    chosen, confirmed = confirm(
        rank(compared, threshold, calibration.aim),
        lambda setting: pilot.validity_in_loop(setting, candidates, min_reference_probability),
        threshold,
        tries=most - len(walked),
    )
    if chosen is None or (confirmed and not chosen.strength):
        print(
            f"WARNING: no strength keeps the validity at {threshold:.3f} (without learnability it is "
            f"{plain.validity:.3f}); the increments will be sampled without it. Train the generator longer, or give a "
            "strength by hand",
            file=sys.stderr,
        )
    chosen = chosen or plain
    if chosen.strength and confirmed[-1] < threshold:
        print(
            f"WARNING: the pilot ended before the images of a strength were valid with {candidates} candidates; "
            f"lambda = {chosen.strength:.3g} is taken without this test; raise calibration.most_settings",
            file=sys.stderr,
        )
    largest = (extend or len(relative_strengths) > 1) and largest_measured(chosen, walked)
    if largest:
        way_out = (
            "raise calibration.most_settings" if extend else "set calibration.extend, or lengthen relative_strengths"
        )
        print(
            f"WARNING: the chosen strength, lambda = {chosen.strength:.3g}, is the largest that was measured, and a "
            f"larger one may be better; {way_out}",
            file=sys.stderr,
        )
    drawn = (len(unguided) + len(walked) + len(confirmed)) * pilot.images
    print(f"pilot: {len(walked)} strengths, {drawn} images", file=sys.stderr)
    return Calibrated(chosen, [*unguided, *walked], threshold, confirmed, largest, drawn)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the labels 0 to count-1, evenly spread."""
    return (
        sorted({round(position * (count - 1) / max(most - 1, 1)) for position in range(most)})
        if count > most
        else [*range(count)]
    )


def curve_table(calibrated: Calibrated, judge: str, calibration: Calibration, images: int) -> pa.Table:
    """All measurements, one row per setting; the metadata hold the criteria of the choice.

    `validity_low` to `validity_high` is the Wilson interval, 95 %, of a validity over the images of a pilot.

    Args:
        images: of the pilot of one setting.
    """
    rows = []
    for row in calibrated.measured:
        low, high = wilson_interval(row.validity, images)
        chosen = {"valid": row.validity >= calibrated.threshold, "chosen": row == calibrated.chosen}
        rows.append({**asdict(row), "validity_low": low, "validity_high": high, "images": images, **chosen})
    measured = [(name, pa.float64()) for name in (*Setting.__annotations__, "validity_low", "validity_high")]
    schema = pa.schema([*measured, ("images", pa.int64()), ("valid", pa.bool_()), ("chosen", pa.bool_())])
    about = {
        **{"threshold": calibrated.threshold, "judge": judge, "aim": calibration.aim, "images": images},
        **{"confirmed": calibrated.confirmed, "largest": calibrated.largest, "drawn": calibrated.drawn},
    }
    return pa.Table.from_pylist(rows, schema).replace_schema_metadata({"distillery_calibration": json.dumps(about)})


def student_accuracy(
    network: str,
    seed_images: ImageSet,
    validation: ImageTable,
    recipe: Recipe,
    students: int,
    key: Key,
    device: torch.device,
    soft_labels: SoftLabels | None = None,
) -> Callable[[Candidates], Taught]:
    """For `Pilot.teach`: the mean accuracy on validation images of students of the seed and the pilot.

    Args:
        soft_labels: where the recipe has soft labels, the answers to what a student sees.
    """
    seed_pixels, seed_labels = torch.from_numpy(seed_images.pixels()), torch.from_numpy(seed_images.labels)

    def teach(drawn: Candidates) -> Taught:
        pixels = torch.cat([seed_pixels, drawn.pixels[drawn.chosen]])
        labels = torch.cat([seed_labels, drawn.labels[drawn.chosen]])
        accuracies = []
        for number in range(students):
            own = (*key, number)
            student = Classifier(network, seed_images.classes, Domain.of(pixels, recipe), own)
            train_network(
                student,
                pixels,
                labels,
                recipe,
                key=own,
                device=device,
                soft_labels=soft_labels,
                what="pilot student",
            )
            accuracies.append(accuracy_of_table(student, validation) / 100)
        mean = sum(accuracies) / students
        return mean, (mean * (1 - mean) / len(validation)) ** 0.5

    return teach
