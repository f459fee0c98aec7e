"""Redundancy between the increments of a distilled set (fig. 2 of arXiv 2604.00519)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distillery.storage.resume import Resume
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import SoftLabels, accuracy, train_network


def redundancy_matrix(
    pixels: Tensor,
    labels: Tensor,
    increments: Tensor,
    *,
    classes: Sequence[str],
    network: str,
    recipe: Recipe,
    students: int,
    seed: int,
    device: torch.device,
    soft_labels: SoftLabels | None = None,
    resume: Callable[[str], Resume] | None = None,
) -> list[dict[str, Any]]:
    """R[r, s] = accuracy on the images of increment s, as stored, of a network trained on increment r alone.

    Args:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64, or (N, classes) probabilities; answers are compared with the class of the largest.
        increments: (N,) int64; they count from 0, and images of a negative one are left out.
        soft_labels: the teacher, where the recipe has soft labels.
        resume: part of the work -> its resume file.

    Returns:
        One row per student, r and s: `student`, `trained_on` and `tested_on` (from 1), `accuracy` in percent.
    """
    hard = labels.argmax(1) if labels.ndim == 2 else labels
    numbers = sorted(set(increments[increments >= 0].tolist()))
    rows = []
    for student in range(students):
        for trained in numbers:
            key = (seed, "redundancy", network, student)
            classifier = Classifier(network, classes, Domain.of(pixels, recipe), key)
            inside = increments == trained
            train_network(
                classifier,
                pixels[inside],
                labels[inside],
                recipe,
                key=key,
                device=device,
                soft_labels=soft_labels,
                resume=resume(f"student-{student}-{trained}") if resume else None,
                what=f"redundancy {student + 1}/{students}, increment {trained + 1}/{len(numbers)}",
            )
            for tested in numbers:
                inside = increments == tested
                percent = accuracy(classifier, pixels[inside], hard[inside])
                rows.append(
                    {"student": student, "trained_on": trained + 1, "tested_on": tested + 1, "accuracy": percent}
                )
    return rows
