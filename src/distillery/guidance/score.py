"""Learnability: high where the current student fails and the reference does not.

S(x, y) = CE(student(x), y) - omega CE(reference(x), y), eq. 7 of arXiv 2604.00519.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable, batches_of
from distillery.progress import count_images
from distillery.students.networks import Classifier


@dataclass(frozen=True)
class Score:
    """Per image, (N,): S, both cross-entropies, the reference's probability of the label, correctness of both."""

    learnability: Tensor
    student_loss: Tensor
    reference_loss: Tensor
    reference_probability: Tensor
    student_correct: Tensor
    reference_correct: Tensor


@dataclass(frozen=True)
class Scorer:
    """The two networks of S, in eval mode, and the weight omega of the reference."""

    student: Classifier
    reference: Classifier
    reference_weight: float

    def score(self, images: Tensor, labels: Tensor) -> Score:
        """Score images (N, C, H, W) in [-1, 1]; differentiable, in fp32, without augmentation."""
        with torch.autocast(images.device.type, enabled=False):
            student, reference = self.student(images.float()), self.reference(images.float())
        losses = [F.cross_entropy(logits.float(), labels, reduction="none") for logits in (student, reference)]
        return Score(
            losses[0] - self.reference_weight * losses[1],
            losses[0],
            losses[1],
            torch.exp(-losses[1]),
            student.argmax(1) == labels,
            reference.argmax(1) == labels,
        )

    @torch.no_grad()
    def score_stored(self, images: Tensor | ImageTable, labels: Tensor, batch_size: int = 256) -> Score:
        """Score stored images, (N, C, H, W) uint8 or a table; the result is on the CPU."""
        device = next(self.student.parameters()).device
        count_images(len(images))
        parts = [
            self.score(to_unit(some.to(device)), its.to(device))
            for some, its in zip(batches_of(images, batch_size), labels.split(batch_size), strict=True)
        ]
        return Score(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in Score.__annotations__))
