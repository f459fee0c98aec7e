"""Representation: towards the least similar real latents of a class, away from those drawn (terms of arXiv 2311.15529).

Minimax diffusion fine-tunes a generator with two terms on the predicted clean latent: its least cosine with some real
latents of its class grows, and its largest cosine with earlier predictions shrinks. Here the gradients of both terms
shift the sampling steps, and the generator stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from distillery.errors import BadInput
from distillery.guidance.base import (
    PUBLISHED_LATENT_SIZE,
    GuidanceFiles,
    Range,
    RangedBlock,
    RangedGuidance,
    Scene,
)
from distillery.settings import Count, NonNegative, Seed

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.step import Step
    from distillery.guidance.class_memory import ClassMemory

PUBLISHED_STRENGTH = 50.0
"""Gamma of LGD's deviation at latents of 4096 numbers: that guidance has the same gradient."""

PUBLISHED_RATIO = 0.002 / 0.008
"""Weight of the term of real latents over that of predictions in the fine-tuning of Minimax diffusion."""


class Representation(RangedBlock):
    """Guidance by the two terms of Minimax diffusion (arXiv 2311.15529), at sampling time."""

    needs_images: ClassVar[bool] = True
    follows: ClassVar[bool] = True

    strength: NonNegative | Literal["auto"] = Field(
        "auto", description="Away from the latents drawn so far; `auto`: 50 d / 4096, d = latent size, as deviation."
    )
    real_strength: NonNegative | Literal["auto"] = Field(
        "auto", description="Towards real latents; `auto`: a quarter of `strength`, the published ratio of the terms."
    )
    range: Range | None = Field(
        None, description="None: that of the guidance beside it; alone, 10 to 45 of 50, scaled to the steps."
    )
    memory_size: Count = Field(64, description="Real latents of each class that are compared, chosen by `seed`.")
    seed: Seed = Field(0, description="Of the choice of real latents.")

    def strengths(self, latent_size: int) -> tuple[float, float]:
        """Away from drawn latents, and towards real ones, for latents of so many numbers."""
        away = PUBLISHED_STRENGTH * latent_size / PUBLISHED_LATENT_SIZE if self.strength == "auto" else self.strength
        return away, PUBLISHED_RATIO * away if self.real_strength == "auto" else self.real_strength

    def files(self, files: GuidanceFiles) -> list[str]:
        return files.latents()

    def open(self, files: Sequence[Path], scene: Scene) -> RepresentationGuidance | None:
        """The guidance with some real latents and the images that the method has made; None at strength zero.

        Raises:
            BadInput: latents of other classes or of another shape.
        """
        from distillery.diffusion.latents import LatentCache
        from distillery.guidance.class_memory import ClassMemory
        from distillery.ordering import seeded_order

        away, towards = self.strengths(scene.renderer.latent_numbers)
        if away == towards == 0:
            return None
        cache, renderer = LatentCache(files), scene.renderer
        if set(cache.classes) != set(scene.classes):
            raise BadInput(f"{files[0]}: latents of classes {cache.classes}, but the images have {list(scene.classes)}")
        if cache.shape != (shape := (renderer.codec.channels, renderer.size, renderer.size)):
            raise BadInput(f"{files[0]}: latents of shape {cache.shape}, but those that are sampled have {shape}")
        real, drawn = ClassMemory(), ClassMemory()
        for label, name in enumerate(scene.classes):
            rows = (cache.labels == cache.classes.index(name)).nonzero()[:, 0]
            order = seeded_order([str(row) for row in rows.tolist()], self.seed, "representation", name)
            means = cache.take(rows[order[: self.memory_size]])[0]
            real.add(means.to(renderer.device), cache.labels.new_full((len(means),), label))
        for latents, labels in scene.latents():  # on the CPU, as those that are remembered
            drawn.add(latents, labels)
        return RepresentationGuidance(real, drawn, strength=away, real_strength=towards, **self.indices)


@dataclass
class RepresentationGuidance(RangedGuidance):
    """Shifts the posterior mean by real_strength * grad cos(x0, r) - strength * grad cos(x0, g).

    r is the real latent of the class with the least cosine to the predicted clean latent x0, and g the latent drawn
    for the class with the largest one. Gradients are taken with respect to x0. A class without latents has no term.
    """

    rank: ClassVar[int] = 4
    real: ClassMemory
    drawn: ClassMemory
    real_strength: float

    def active(self, index: int) -> bool:
        return self.first <= index <= self.last

    def needs_graph(self) -> bool:
        return False

    def remember(self, latents: Tensor, labels: Tensor) -> None:
        self.drawn.add(latents, labels)

    def shift(self, step: Step) -> Tensor:
        import torch

        from distillery.guidance.class_memory import cosine_gradient

        clean = step.clean.detach()
        shift = torch.zeros_like(clean)
        for factor, (latents, known) in (
            # The least cosine with x0 is the largest one with -x0.
            (self.real_strength, self.real.nearest(-clean, step.labels)),
            (-self.strength, self.drawn.nearest(clean, step.labels)),
        ):
            shift += torch.where(known[:, None, None, None], factor * cosine_gradient(clean, latents), 0.0)
        return shift
