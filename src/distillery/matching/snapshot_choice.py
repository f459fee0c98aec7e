"""The accuracy of networks trained on a snapshot, on validation images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distillery.errors import BadInput
from distillery.matching.real_images import RealImages
from distillery.storage.resume import Resume
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe, Speed
from distillery.students.training import in_ensembles, networks_at_once, train_networks


def accuracies(
    pixels: Tensor,
    labels: Tensor,
    validation: RealImages,
    network: str,
    recipe: Recipe,
    *,
    students: int,
    seed: int,
    device: torch.device,
    resume: Callable[[str], Resume],
    what: str,
) -> list[float]:
    """Accuracy in percent on the validation images of each network trained on a snapshot, at the end of its schedule.

    Network i starts from the same weights and draws the same numbers on every snapshot.

    Args:
        pixels: (N, channels, H, W) uint8.
        labels: (N,) int64.
        resume: from the name of a part of the work to its resume file, which is left in place with the finished state.

    Raises:
        BadInput: the recipe asks for a teacher.
    """
    if recipe.labels == "soft":
        raise BadInput(
            "matching.protocol: a snapshot is chosen with hard labels, and this one has soft ones; give another"
        )
    keys = [(seed, "choose_snapshot", network, student) for student in range(students)]

    def classifier(student: int) -> Classifier:
        return Classifier(network, validation.classes, Domain.of(pixels, recipe), keys[student])

    speed = Speed()
    trained = in_ensembles(
        range(students),
        networks_at_once(speed, students, device, classifier(0)),
        lambda ensemble: train_networks(
            [classifier(student) for student in ensemble],
            pixels,
            labels,
            recipe,
            keys=[keys[student] for student in ensemble],
            device=device,
            test=(validation.pixels.cpu(), validation.labels),
            speed=speed,
            resume=resume(f"student-{ensemble[0]}-{ensemble[-1]}"),
            what=what,
        ),
    )
    return [network.evaluations[-1][1] for network in trained]
