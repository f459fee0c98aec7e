"""The accuracy of networks trained on a set, on validation images, by which one of several sets is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distillery.data.whitening import Whitening
from distillery.errors import BadInput
from distillery.storage.resume import Resume
from distillery.streams import Key
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe, Speed
from distillery.students.training import in_ensembles, networks_at_once, train_networks


def set_accuracies(
    pixels: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    network: str,
    recipe: Recipe,
    *,
    validation: tuple[Tensor, Tensor],
    students: int,
    key: Key,
    device: torch.device,
    resume: Callable[[str], Resume],
    what: str,
    whitening: Whitening | None = None,
) -> list[float]:
    """Accuracy in percent on the validation images of each network trained on a set, at the end of its schedule.

    Network i starts from the same weights and draws the same numbers on every set.

    Args:
        pixels: (N, channels, H, W) uint8.
        labels: (N,) int64, positions in `classes`.
        validation: pixels and labels of the validation images, as those of the set.
        key: of the stage's random numbers.
        whitening: of what networks see; none: they see images as they are.
        resume: from the name of a part of the work to its resume file, which is left in place with the finished state.

    Raises:
        BadInput: the recipe asks for a teacher.
    """
    if recipe.labels == "soft":
        raise BadInput("protocol: a set is chosen with hard labels, and this protocol has soft ones; give another")
    keys = [(*key, network, student) for student in range(students)]

    def classifier(student: int) -> Classifier:
        return Classifier(network, classes, Domain.of(pixels, recipe, whitening), keys[student])

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
            test=validation,
            speed=speed,
            resume=resume(f"student-{ensemble[0]}-{ensemble[-1]}"),
            what=what,
        ),
    )
    return [network.evaluations[-1][1] for network in trained]
