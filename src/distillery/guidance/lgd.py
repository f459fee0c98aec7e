"""The loop of LGD: its guidances, and the images of an increment as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from distillery.data.pixels import to_unit
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.sampler import Guidance
from distillery.guidance.base import GuidanceBlock, Scene
from distillery.guidance.increment import Candidates
from distillery.guidance.learnability import Learnability
from distillery.guidance.mode import Mode
from distillery.guidance.registry import Guidances
from distillery.guidance.score import Scorer, load_students
from distillery.storage.atomic import read_json
from distillery.storage.images import ImageSet, encode_png
from distillery.students.networks import Classifier


def image_set(drawn: Candidates, classes: Sequence[str], increment: int | None = None) -> ImageSet:
    """Candidates as an image set with their latents, places and losses."""
    columns = {
        "slot": drawn.slots.numpy(),
        "candidate": drawn.numbers.numpy(),
        "latent": drawn.latents.flatten(1).numpy(),
    }
    if increment is not None:
        columns["increment"] = np.full(len(drawn.slots), increment)
        columns["chosen"] = drawn.chosen.numpy()
    if drawn.score is not None:
        columns.update({name: values.numpy() for name, values in vars(drawn.score).items()})
    names = [
        f"{classes[label]}/{slot:05d}-{number}.png"
        for label, slot, number in zip(drawn.labels.tolist(), drawn.slots.tolist(), drawn.numbers.tolist(), strict=True)
    ]
    return ImageSet(
        [encode_png(image) for image in drawn.pixels.numpy()], drawn.labels.numpy(), list(classes), names, columns
    )


def encode_seed(
    seed: ImageSet,
    labels: Sequence[int],
    count: int,
    codec: Codec,
    device: torch.device,
    sampled: Sequence[ImageSet] = (),
) -> ImageSet:
    """The first `count` images of each class of another method's set as increment 1, with their latents.

    Args:
        sampled: the images of the set as they were sampled, whose latents are kept; without all of them, images are
            encoded (mean) from their 8 bits.
    """
    rows = [row for row, label in enumerate(seed.labels) if label in labels and seed.columns["slot"][row] < count]
    taken = seed.take(sorted(rows, key=lambda row: (seed.columns["slot"][row], seed.labels[row])))
    kept = {
        path: latent
        for images in sampled
        if "latent" in images.columns
        for path, latent in zip(images.paths, images.columns["latent"], strict=True)
    }
    if all(path in kept for path in taken.paths):
        latents = np.stack([kept[path] for path in taken.paths])
    else:
        with torch.no_grad():
            batches = torch.from_numpy(taken.pixels()).split(64)
            encoded = torch.cat([codec.encode(to_unit(batch).to(device))[0].cpu() for batch in batches])
        latents = encoded.flatten(1).numpy()
    columns = {
        "slot": taken.columns["slot"],
        "candidate": np.zeros(len(taken), dtype=np.int64),
        "latent": latents,
        "increment": np.ones(len(taken), dtype=np.int64),
        "chosen": np.ones(len(taken), dtype=bool),
    }
    return ImageSet(taken.images, taken.labels, taken.classes, taken.paths, columns)


@dataclass(frozen=True)
class LoopGuidance:
    """The guidances of one LGD method, ready to start an increment.

    Attributes:
        guidance: their settings, resolved.
        files: of each guidance, by name.
        scene: the renderer and the images so far; the scorer comes with each start.
    """

    guidance: Guidances
    files: Mapping[str, Sequence[Path]]
    scene: Scene

    @property
    def learnability(self) -> Learnability:
        """The settings of the guidance that candidates are scored with too."""
        learnability = self.guidance.get(Learnability)
        assert learnability is not None, "`plan.checks` refuses an LGD method without it"
        return learnability

    def start(
        self, scorer: Scorer, strength: float, mode_strength: float | None = None, mode_stop: int | None = None
    ) -> list[Guidance]:
        """The guidances at a strength of learnability, and at another strength and stop of mode guidance if given."""
        blocks: dict[str, GuidanceBlock] = {
            "learnability": self.learnability.model_copy(
                update={"strength": strength, "reference_weight": scorer.reference_weight}
            )
        }
        changed = {"strength": mode_strength, "stop": mode_stop}
        changed = {name: value for name, value in changed.items() if value is not None}
        if changed and (mode := self.guidance.get(Mode)):
            blocks["mode"] = mode.model_copy(update=changed)
        return self.guidance.replaced(**blocks).open(self.files, replace(self.scene, scorer=scorer))


def open_loop(
    loop: LoopGuidance,
    student: Path,
    other_students: Path | None,
    reference: Path,
    calibrated: Path | None,
    device: torch.device,
) -> tuple[Scorer, list[Guidance]]:
    """The scorer and the guidances of an increment that has a student.

    Args:
        other_students: networks beside the one of `student`; None: it is the only one.
        calibrated: the choice of `calibrate_guidance`; None: the settings hold every strength.
    """
    chosen = loop.learnability.model_dump(include={"strength", "reference_weight"})
    if calibrated is not None:
        chosen = read_json(calibrated, "calibrate_guidance", "strength", "reference_weight")
    scorer = Scorer(
        load_students(student, other_students, device),
        Classifier.load(reference, "train_reference").to(device),
        float(chosen["reference_weight"]),
    )
    return scorer, loop.start(scorer, float(chosen["strength"]), chosen.get("mode_strength"), chosen.get("mode_stop"))
