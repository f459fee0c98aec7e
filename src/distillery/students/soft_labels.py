"""Soft labels: what a teacher answers to the augmented images that a network sees, online or stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from distillery.divergence import refuse_diverged
from distillery.errors import BadInput
from distillery.progress import Progress, count_images
from distillery.streams import Key
from distillery.students.batches import augmented, placed
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import SoftLabels


class Teacher:
    """A network that labels what another one sees."""

    def __init__(self, classifier: Classifier, classes: Sequence[str], domain: Domain, device: torch.device) -> None:
        """The answers are put in the order of `classes`; `domain` is that of the networks that learn.

        Raises:
            BadInput: the teacher does not know a class, or the images that it is to answer are whitened.
        """
        if domain.whitening is not None:
            raise BadInput("dataset.zca: a teacher cannot answer to whitened images; take a protocol of hard labels")
        for name in classes:
            if name not in classifier.classes:
                raise BadInput(
                    f"teacher {classifier.name}: knows no class {name!r}; it knows {', '.join(classifier.classes[:10])}"
                )
        self.classifier = classifier.to(device).eval()
        self.columns = torch.tensor([classifier.classes.index(name) for name in classes], device=device)
        self.mean, self.std = domain.statistics(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Standardised images (N, C, H, W) to logits (N, classes), fp32."""
        unit = 2 * (images * self.std + self.mean) - 1
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.classifier(unit)
        return logits.float()[:, self.columns]

    def online(self) -> SoftLabels:
        """Labels as `train_networks` asks for them, computed when they are needed."""
        return lambda epoch, places, images: self(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def online_answers(
    path: Path | None, classes: Sequence[str], domain: Domain, device: torch.device
) -> SoftLabels | None:
    """The answers of the reference in a file; None where there is no file, for labels that are hard.

    Args:
        classes: in the order of the answers.
        domain: of the networks that learn.

    Raises:
        BadInput: the teacher does not know a class.
    """
    if path is None:
        return None
    return Teacher(Classifier.load(path, "train_reference"), classes, domain, device).online()


def store(teacher: Teacher, pixels: Tensor, recipe: Recipe, key: Key, what: str, first: int = 0) -> Iterator[Tensor]:
    """The teacher's logits for every image, from an epoch on: (N, classes) fp16 each, by place in the epoch.

    Their augmentation follows from the key: whoever trains with this key and recipe sees the same images.

    Raises:
        Diverged: a logit is not finite, or too large for fp16.
    """
    pixels = placed(pixels, teacher.device)
    with Progress(what, recipe.epochs, "epoch", first) as progress:
        for epoch in range(first, recipe.epochs):
            batches = augmented(pixels, recipe, key, epoch, teacher.mean, teacher.std)
            logits = torch.cat([teacher(images) for images in batches]).half().cpu()
            way_out = "train the teacher at a lower learning_rate, or set soft_labels: online"
            refuse_diverged([logits], f"the logits of teacher {teacher.classifier.name} as float16", way_out)
            yield logits
            progress.advance()
            count_images(len(pixels))


class Rows(Protocol):
    """Logits (epochs, N, classes) of which rows are asked for: a tensor, or a slice of a safetensors file."""

    def __getitem__(self, place: tuple[int, slice], /) -> Tensor: ...


def stored(logits: Rows, device: torch.device) -> SoftLabels:
    """What `store` gave, as `train_networks` asks for it; all networks see the same images."""

    def labels(epoch: int, places: slice, images: Tensor) -> Tensor:
        answers = logits[epoch, places].to(device, torch.float32)
        return answers.expand(images.shape[0], *answers.shape)

    return labels
