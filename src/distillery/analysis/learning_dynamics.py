"""How images are learned: mean and standard deviation of the probability of their label over a training.

Dataset cartography (arXiv 2009.10795), as fig. 5 of arXiv 2604.00519 uses it. The thresholds are the project's own, and
the same for every set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillery.analysis.settings import Thresholds
from distillery.data.pixels import room_for
from distillery.storage.resume import Resume
from distillery.streams import Key, stream
from distillery.students.networks import Classifier
from distillery.students.settings import Recipe
from distillery.students.training import SoftLabels, Watched, train_network

Images = tuple[Tensor, Tensor]
"""Pixels (N, C, H, W) uint8 and labels (N,) int64."""

BINS = 20
RANGE = ((0.0, 1.0), (0.0, 0.5))
"""Of mean and standard deviation; a probability that alternates between 0 and 1 has a deviation of one half."""

FLOOR = 1e-6
"""Added to every bin, so that no logarithm is of zero."""

KINDS = ("easy", "informative", "hard", "unassigned")
"""Every image is of one kind."""


@dataclass(frozen=True)
class Dynamics:
    """Mean and standard deviation (of the population, not of a sample) over the epochs: (N,) each."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, log_probability: Sequence[Tensor]) -> Dynamics:
        """From the logarithm of the label's probability after each epoch, (N,) each."""
        probability = torch.stack(list(log_probability)).double().exp()
        return cls(probability.mean(0).numpy(), probability.std(0, correction=0).numpy())

    def take(self, rows: np.ndarray | slice) -> Dynamics:
        """Those of these images."""
        return Dynamics(self.mean[rows], self.std[rows])


def recorded_dynamics(
    classifier: Classifier,
    trained: Images,
    watched: Sequence[Images],
    recipe: Recipe,
    *,
    key: Key,
    device: torch.device,
    soft_labels: SoftLabels | None = None,
    resume: Resume | None = None,
    what: str = "learning dynamics",
) -> list[Dynamics]:
    """The dynamics of each of these sets over one training, recorded after each epoch without augmentation.

    Args:
        classifier: trained in place.
        trained: the images that it is trained on.
        watched: the sets that are recorded, of one side and colour.
        soft_labels: the teacher, where the recipe has soft labels.
        resume: as `train_network` takes it.
    """
    sizes = [len(labels) for _, labels in watched]
    together = room_for((sum(sizes), *trained[0].shape[1:]))
    torch.cat([pixels for pixels, _ in watched], out=together)
    labels = torch.cat([labels for _, labels in watched])
    answers = Watched(together, labels, frozenset(range(1, recipe.epochs + 1)))
    train_network(
        classifier,
        *trained,
        recipe,
        key=key,
        device=device,
        soft_labels=soft_labels,
        resume=resume,
        what=what,
        watched=answers,
    )
    whole = Dynamics.of([answered[0] for answered in answers.log_probability])
    edges = np.cumsum([0, *sizes])
    return [whole.take(slice(*edges[place : place + 2])) for place in range(len(sizes))]


def kinds_of(dynamics: Dynamics, thresholds: Thresholds) -> np.ndarray:
    """The kind of each image, (N,) positions in `KINDS`."""
    settled = dynamics.std < thresholds.informative
    easy, hard = settled & (dynamics.mean >= thresholds.easy), settled & (dynamics.mean <= thresholds.hard)
    return np.select([easy, ~settled, hard], [0, 1, 2], default=3)


def density(dynamics: Dynamics) -> np.ndarray:
    """Share of the images in each bin of mean and standard deviation, (BINS, BINS)."""
    counts, _, _ = np.histogram2d(dynamics.mean, dynamics.std, bins=BINS, range=RANGE)
    return counts / counts.sum()


def js_divergence(ours: Dynamics, theirs: Dynamics) -> float:
    """Jensen-Shannon divergence of two densities in bits, 0 to 1."""
    floored = [density(dynamics) + FLOOR for dynamics in (ours, theirs)]
    first, second = (shares / shares.sum() for shares in floored)
    middle = (first + second) / 2
    parts = [(shares * np.log2(shares / middle)).sum() for shares in (first, second)]
    return max(0.0, float(sum(parts)) / 2)


def js_of_subsets(dynamics: Dynamics, labels: np.ndarray, sizes: np.ndarray, draws: int, key: Key) -> float:
    """Mean divergence between a set and random subsets of itself, which is above 0 where subsets are small.

    Args:
        dynamics: of the whole set.
        labels: (N,) int64.
        sizes: (classes,) images of each class in a subset; at most as many as there are.
        draws: number of subsets.
        key: of the stream that they are drawn from.
    """
    draw, divergences = stream(*key), []
    for _ in range(draws):
        rows = [
            np.flatnonzero(labels == label)[torch.randperm(int((labels == label).sum()), generator=draw).numpy()[:size]]
            for label, size in enumerate(sizes)
        ]
        divergences.append(js_divergence(dynamics.take(np.concatenate(rows)), dynamics))
    return float(np.mean(divergences))
