"""The loss of a student that goes on from increment to increment (fig. 4 of arXiv 2604.00519)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distillery.storage.resume import Resume
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import SoftLabels, Watched, accuracy, train_network


def incremental_dynamics(
    pixels: Tensor,
    labels: Tensor,
    parts: Tensor,
    test: tuple[Tensor, Tensor],
    *,
    classes: Sequence[str],
    network: str,
    recipes: Sequence[Recipe],
    looks: int,
    students: int,
    seed: int,
    device: torch.device,
    soft_labels: SoftLabels | None = None,
    resume: Callable[[str], Resume] | None = None,
) -> list[dict[str, Any]]:
    """Train on increment 1, then on 1 and 2, and so on; each training starts from the weights of the one before.

    The loss is the mean cross-entropy of the increments so far, with their hard labels and without augmentation. Its
    value at epoch 0 minus that at the end of the increment before is the spike of an increment.

    Args:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64.
        parts: (N,) int64, the increment of each image, from 0; images of -1 are left out.
        test: pixels (M, C, H, W) uint8 and labels (M,); they are measured after each increment and choose nothing.
        recipes: of each increment.
        looks: how often the loss is measured in an increment, evenly, beside its beginning.
        soft_labels: the teacher, where the recipes have soft labels.
        resume: part of the work -> its resume file.

    Returns:
        One row per student, increment (from 1) and epoch of a look: `images`, `loss`, and `test_accuracy` (percent),
        which is not a number but for the last epoch.
    """
    rows: list[dict[str, Any]] = []
    increments = int(parts.max()) + 1 if len(parts) else 0
    for student in range(students):
        key = (seed, "incremental dynamics", network, student)
        classifier = Classifier(network, classes, Domain.of(pixels, recipes[0]), key)
        for number, recipe in enumerate(recipes[:increments]):
            inside = (parts >= 0) & (parts <= number)
            epochs = look_epochs(recipe.epochs, looks)
            watched = Watched(pixels[inside], labels[inside], frozenset(epochs))
            train_network(
                classifier,
                pixels[inside],
                labels[inside],
                recipe,
                key=(*key, number),
                device=device,
                soft_labels=soft_labels,
                resume=resume(f"student-{student}-{number}") if resume else None,
                what=f"student {student + 1}/{students}, increment {number + 1}/{increments}",
                watched=watched,
            )
            for epoch, answers in zip(epochs, watched.log_probability, strict=True):
                last = accuracy(classifier, *test) if epoch == recipe.epochs else float("nan")
                place = {"student": student, "increment": number + 1, "images": int(inside.sum()), "epoch": epoch}
                rows.append({**place, "loss": -answers.double().mean().item(), "test_accuracy": last})
    return rows


def look_epochs(epochs: int, looks: int) -> list[int]:
    """After how many epochs the loss is measured: 0, then evenly, and at the end."""
    return sorted({0, *(max(1, round(epochs * look / looks)) for look in range(1, looks + 1))})
