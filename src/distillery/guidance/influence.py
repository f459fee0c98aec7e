"""Influence: images whose parameter gradient points where that of their real class does (OpenReview 0whx8MhysK)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from distillery.guidance.base import (
    PUBLISHED_LATENT_SIZE,
    GuidanceContext,
    GuidanceFiles,
    Passes,
    Range,
    RangedBlock,
    RangedGuidance,
    Scene,
)
from distillery.settings import Name, NonNegative, Repeats

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.autoencoder import Codec
    from distillery.diffusion.step import Step
    from distillery.guidance.influence_gradients import GradientDistance

PUBLISHED_STRENGTH = 5.0
"""k at latents of 4096 numbers."""


class Influence(RangedBlock):
    """Guidance towards images whose parameter gradient points where that of their real class does (IGD, eq. 7)."""

    first: ClassVar[int] = 30
    surrogate: Name = Field(description="A name of `surrogates`: whose gradients are compared.")
    strength: NonNegative | Literal["auto"] = Field(
        "auto", description="k; `auto`: 5 sqrt(d / 4096), d = latent size. 10 was published on Minimax."
    )
    range: Range | None = Field(
        None, description="First and last guided sampling index; none: 30 to 45 of 50, scaled to the steps."
    )
    repeats: Repeats = Field(
        1, description="Times that a guided step is taken, with noise back to its beginning in between; 1 is published."
    )
    per_image: Literal["vmap", "loop"] = Field(
        "vmap", description="Gradients of all images at once, or one image after another in a little less memory."
    )

    def passes(self, kept: int) -> Passes:
        """The gradient of a gradient: forward, back, and back through both, at each checkpoint."""
        return Passes(denoiser=1.0, decoder=2.0, surrogate=6.0 * kept)

    def scaled_strength(self, latent_size: int) -> float:
        """k as given, or the published one scaled to the size of a latent: its relative effect goes as k / sqrt(d)."""
        if self.strength == "auto":
            return PUBLISHED_STRENGTH * (latent_size / PUBLISHED_LATENT_SIZE) ** 0.5
        return self.strength

    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        yield from super().check(key, context)
        if self.repeats > 1 and context.sampling.solver == "dpm":
            yield (
                f"{key}.repeats: {self.repeats}, but generators.{context.generator}.sampling.solver: dpm remembers its "
                "steps and cannot take one again; allowed: 1, or another solver"
            )
        if self.surrogate not in context.surrogates:
            names = ", ".join(context.surrogates) or "none"
            yield f"{key}.surrogate: no surrogate {self.surrogate!r}; surrogates: {names}"

    def files(self, files: GuidanceFiles) -> list[str]:
        return [files.gradients(self.surrogate)]

    def open(self, files: Sequence[Path], scene: Scene) -> InfluenceGuidance:
        """
        Raises:
            BadInput: the surrogate was trained on other classes.
        """
        from distillery.guidance.influence_gradients import GradientDistance

        renderer = scene.renderer
        return InfluenceGuidance(
            GradientDistance.load(files[0], scene.classes, renderer.device, self.per_image),
            renderer.guidance_codec or renderer.codec,
            strength=self.scaled_strength(renderer.latent_numbers),
            **self.indices,
            repeats=self.repeats,
        )


@dataclass
class InfluenceGuidance(RangedGuidance):
    """Moves each image down G by a step whose length does not depend on the size of the gradient.

    The shift of the posterior mean is - k sqrt(1 - abar) rms(eps) h/|h|, with h the gradient of G of the decoded clean
    latent with respect to the noisy one, through the denoiser.

    Attributes:
        skipped: images times steps whose gradient was too small or not finite, and that were not moved.
        repeats: how often a guided step is taken, with noise back to its beginning in between.
    """

    rank: ClassVar[int] = 1
    distance: GradientDistance
    codec: Codec
    repeats: int = 1
    skipped: int = 0

    def needs_graph(self) -> bool:
        return True

    def shift(self, step: Step) -> Tensor:
        import torch

        from distillery.diffusion.step import unit_step

        with torch.enable_grad(), torch.autocast(step.clean.device.type, enabled=False):
            total = self.distance(self.codec.decode(step.clean.float()), step.labels).sum()
            gradient = torch.autograd.grad(total, step.noisy, retain_graph=True)[0].float()
        shift, skipped = unit_step(gradient, step, -self.strength * step.schedule.noise_scale(step.index))
        self.skipped += skipped
        return shift
