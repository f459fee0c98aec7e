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
from distillery.guidance.calibration import Setting, confirm, rank, validity_threshold, walk
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
from distillery.students.training import accuracy_of_table, train_network


@dataclass
class Pilot:
    """Samples the same noise at every setting.

    Attributes:
        judge: the network whose accuracy on the images is their validity.
        loop: the guidances of the run.
        labels: classes of the pilot.
        slots: images per class.
        key: (label, slot, candidate) -> key of the image's stream.
        teach: accuracy, as a fraction, of a student of seed and these images; None where the aim does not ask for it.
    """

    renderer: Renderer
    student: Classifier
    reference: Classifier
    judge: Classifier
    loop: LoopGuidance
    labels: Sequence[int]
    conditions: dict[int, int]
    slots: int
    key: Callable[[int, int, int], Key]
    teach: Callable[[Candidates], float] | None = None

    def measure(self, relative_strength: float, weight: float) -> Setting:
        """Measure a strength (in units of the square root of d) and a weight: one candidate, learnability alone."""
        strength = relative_strength * self.renderer.latent_numbers**0.5
        drawn = self._draw(strength, weight, candidates=1, alone=True)
        by_judge, by_reference = (self._score(network, weight, drawn) for network in (self.judge, self.reference))
        return Setting(
            relative_strength,
            strength,
            weight,
            validity=by_judge.reference_correct.double().mean().item(),
            reference_probability=by_judge.reference_probability.double().mean().item(),
            student_accuracy=by_judge.student_correct.double().mean().item(),
            learnability=by_reference.learnability.double().mean().item(),
            pilot_accuracy=self.teach(drawn) if self.teach else None,
        )

    def validity_in_loop(self, setting: Setting, candidates: int, min_reference_probability: float) -> float:
        """The judge's accuracy on the images that the loop would keep, with its candidates and all its guidances."""
        drawn = self._draw(
            setting.strength,
            setting.reference_weight,
            candidates,
            alone=False,
            min_reference_probability=min_reference_probability,
        )
        return self._score(self.judge, setting.reference_weight, drawn).reference_correct.double().mean().item()

    def _score(self, network: Classifier, weight: float, drawn: Candidates) -> Any:
        scorer = Scorer(self.student, network, weight)
        return scorer.score_stored(drawn.pixels[drawn.chosen], drawn.labels[drawn.chosen])

    def _draw(self, strength: float, weight: float, candidates: int, alone: bool, **options: Any) -> Candidates:
        scorer = Scorer(self.student, self.reference, weight)
        return generate_candidates(
            self.renderer,
            labels=self.labels,
            conditions=self.conditions,
            slots=range(self.slots),
            candidates=candidates,
            key=self.key,
            scorer=scorer,
            guidances=self.loop.start(scorer, strength, alone=alone),
            what=f"pilot: lambda {strength:.3g}, omega {weight:g}",
            **options,
        )


@dataclass
class Calibrated:
    """The chosen setting, all measured settings (plain sampling first), the least validity, and the confirmed ones."""

    chosen: Setting
    measured: list[Setting]
    threshold: float
    confirmed: list[float]


def calibrate(
    pilot: Pilot,
    *,
    relative_strengths: Sequence[float],
    reference_weights: Sequence[float],
    calibration: Calibration,
    candidates: int,
    min_reference_probability: float,
    resume: Resume,
) -> Calibrated:
    """Walk the grid, take the most effective valid setting, and confirm it as the loop will use it.

    Where no setting is valid, plain sampling is chosen, and a warning is printed.
    """
    state = resume.restore()
    known: dict[str, Any] = state[1]["measured"] if state else {}

    def measure(relative_strength: float, weight: float) -> Setting:
        name = f"{relative_strength!r} {weight!r}"
        if name not in known:
            known[name] = asdict(pilot.measure(relative_strength, weight))
            resume.checkpoint(lambda: ({}, {"measured": known}))
        return Setting(**known[name])

    plain = measure(0.0, reference_weights[0])
    threshold = validity_threshold(calibration.validity, calibration.margin, plain.validity)
    measured = walk(measure, relative_strengths, reference_weights, threshold)
    chosen, confirmed = confirm(
        rank(measured, threshold, calibration.aim),
        lambda setting: pilot.validity_in_loop(setting, candidates, min_reference_probability),
        threshold,
    )
    if chosen is None:
        print(
            f"WARNING: no strength keeps the validity at {threshold:.3f} (plain sampling has {plain.validity:.3f}); "
            "the increments will be sampled without guidance. Train the generator longer, or give a strength by hand",
            file=sys.stderr,
        )
    return Calibrated(chosen or plain, [plain, *measured], threshold, confirmed)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the labels 0 to count-1, evenly spread."""
    return (
        sorted({round(position * (count - 1) / max(most - 1, 1)) for position in range(most)})
        if count > most
        else [*range(count)]
    )


def curve_table(calibrated: Calibrated, judge: str, calibration: Calibration, images: int) -> pa.Table:
    """All measurements, one row per setting; the metadata hold the criteria of the choice and the grid.

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
        **{"confirmed": calibrated.confirmed, "relative_strengths": sorted(calibration.relative_strengths)},
    }
    return pa.Table.from_pylist(rows, schema).replace_schema_metadata({"distillery_calibration": json.dumps(about)})


def teacher(
    network: str, seed_images: ImageSet, real: ImageTable, recipe: Recipe, key: Key, device: torch.device
) -> Callable[[Candidates], float]:
    """For `Pilot.teach`: the accuracy on real training images of a student of the seed and the pilot."""
    seed_pixels, seed_labels = torch.from_numpy(seed_images.pixels()), torch.from_numpy(seed_images.labels)

    def teach(drawn: Candidates) -> float:
        pixels = torch.cat([seed_pixels, drawn.pixels[drawn.chosen]])
        labels = torch.cat([seed_labels, drawn.labels[drawn.chosen]])
        student = Classifier(network, seed_images.classes, Domain.of(pixels, recipe), key)
        train_network(student, pixels, labels, recipe, key=key, device=device, what="pilot student")
        return accuracy_of_table(student, real) / 100

    return teach
