"""Learnability: high where the current student fails and the reference does not.

S(x, y) = CE(student(x), y) - omega CE(reference(x), y), eq. 7 of arXiv 2604.00519. Here the student may be several
networks: the term is then the mean of their cross-entropies, so that an image counts which all of them fail on, and not
the noise of one network that has seen few images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable, batches_of
from distillery.progress import Progress, count_images
from distillery.storage.resume import Resume
from distillery.students.networks import Classifier, load_networks


@dataclass(frozen=True)
class Score:
    """Per image, (N,): S, both cross-entropies, the reference's probability of the label, correctness of both.

    Of several students the cross-entropy is the mean of theirs, and they are correct where the class of largest mean
    probability is the label.
    """

    learnability: Tensor
    student_loss: Tensor
    reference_loss: Tensor
    reference_probability: Tensor
    student_correct: Tensor
    reference_correct: Tensor


@dataclass(frozen=True)
class Scorer:
    """The networks of S, in eval mode, and the weight omega of the reference.

    Attributes:
        students: one or more, on the device of the reference.
    """

    students: Sequence[Classifier]
    reference: Classifier
    reference_weight: float

    def score(self, images: Tensor, labels: Tensor) -> Score:
        """Score images (N, C, H, W) in [-1, 1]; differentiable, in fp32, without augmentation."""
        with torch.autocast(images.device.type, enabled=False):
            answers = [student(images.float()).float() for student in self.students]
            reference = self.reference(images.float()).float()
        each = [F.cross_entropy(logits, labels, reduction="none") for logits in answers]
        student_loss, reference_loss = torch.stack(each).mean(0), F.cross_entropy(reference, labels, reduction="none")
        return Score(
            student_loss - self.reference_weight * reference_loss,
            student_loss,
            reference_loss,
            torch.exp(-reference_loss),
            _answer(answers) == labels,
            reference.argmax(1) == labels,
        )

    @torch.no_grad()
    def score_stored(
        self, images: Tensor | ImageTable, labels: Tensor, batch_size: int = 256, resume: Resume | None = None
    ) -> Score:
        """Score stored images, (N, C, H, W) uint8 or a table; the result is on the CPU.

        Args:
            resume: left in place at the end with the finished state; its owner calls `finish` when the outputs stand.
        """
        device, names = next(self.reference.parameters()).device, [*Score.__annotations__]
        parts, first = list[dict[str, Tensor]](), 0
        if resume is not None and (state := resume.restore()):
            parts, first = [state[0]], int(state[1]["images"])
        count_images(len(images) - first)
        left = zip(batches_of(images, batch_size, first), labels[first:].split(batch_size), strict=True)
        with Progress("score", len(images), "image", first, quiet=resume is None) as progress:
            for some, its in left:
                score = self.score(to_unit(some.to(device)), its.to(device))
                parts.append({name: getattr(score, name).cpu() for name in names})
                first += len(its)
                progress.advance(len(its))
                if resume is not None:
                    resume.checkpoint(lambda done=first: (_joined(parts), {"images": done}))  # type: ignore[misc]
        return Score(**_joined(parts))


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The scores of all batches, by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _answer(answers: Sequence[Tensor]) -> Tensor:
    """(N,) the class of largest mean probability, of logits (N, classes) for each network."""
    if len(answers) == 1:  # softmax may round two logits to one probability
        return answers[0].argmax(1)
    return torch.stack([logits.softmax(1) for logits in answers]).mean(0).argmax(1)


def load_students(student: Path, others: Path | None, device: torch.device) -> list[Classifier]:
    """The students of one increment, from the files of `train_student`: the first network, and the others if any.

    Raises:
        DamagedArtifact: a file has no such networks.
    """
    first = Classifier.load(student, "train_student")
    rest = [] if others is None else load_networks(others, "train_student")
    return [network.to(device) for network in (first, *rest)]
