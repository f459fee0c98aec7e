"""Influence: images whose parameter gradient points where that of their real class does (OpenReview 0whx8MhysK)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from distillery.guidance.base import (
    PUBLISHED_LATENT_SIZE,
    GuidanceBlock,
    GuidanceContext,
    GuidanceFiles,
    Range,
    Scene,
    scaled_range,
)
from distillery.settings import Name, NonNegative, Repeats

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.autoencoder import Codec
    from distillery.diffusion.step import Step
    from distillery.guidance.influence_gradients import GradientDistance

PUBLISHED_STRENGTH = 5.0
"""k at latents of 4096 numbers."""


class Influence(GuidanceBlock):
    """Guidance towards images whose parameter gradient points where that of their real class does (IGD, eq. 7)."""

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

    def scaled_strength(self, latent_size: int) -> float:
        """k as given, or the published one scaled to the size of a latent: its relative effect goes as k / sqrt(d)."""
        if self.strength == "auto":
            return PUBLISHED_STRENGTH * (latent_size / PUBLISHED_LATENT_SIZE) ** 0.5
        return self.strength

    def guided_range(self, steps: int) -> list[int]:
        """As given, or 30 to 45 of 50."""
        return self.range or scaled_range(steps, first=30)

    def resolved(self, steps: int, beside: list[int] | None) -> Self:
        """With the range as indices."""
        return self.model_copy(update={"range": self.guided_range(steps)})

    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        """Whether there is a surrogate, a range within the steps, and a solver that can repeat a step."""
        yield from context.check_range(f"{key}.range", self.range)
        if self.repeats > 1 and context.sampling.solver == "dpm":
            yield (
                f"{key}.repeats: {self.repeats}, but generators.{context.generator}.sampling.solver: dpm remembers its "
                "steps and cannot take one again; allowed: 1, or another solver"
            )
        if self.surrogate not in context.surrogates:
            names = ", ".join(context.surrogates) or "none"
            yield f"{key}.surrogate: no surrogate {self.surrogate!r}; surrogates: {names}"

    def files(self, files: GuidanceFiles) -> list[str]:
        """The gradients of the surrogate."""
        return [files.gradients(self.surrogate)]

    def open(self, files: Sequence[Path], scene: Scene) -> InfluenceGuidance:
        """
        Raises:
            BadInput: the surrogate was trained on other classes.
        """
        from distillery.guidance.influence_gradients import GradientDistance

        assert self.range is not None, "ranges are resolved when the settings of a stage are made"
        renderer = scene.renderer
        return InfluenceGuidance(
            GradientDistance.load(files[0], scene.classes, renderer.device, self.per_image),
            renderer.guidance_codec or renderer.codec,
            strength=self.scaled_strength(renderer.latent_numbers),
            first=self.range[0],
            last=self.range[1],
            repeats=self.repeats,
        )


class InfluenceGuidance:
    """Moves each image down G by a step whose length does not depend on the size of the gradient.

    The shift of the posterior mean is - k sqrt(1 - abar) rms(eps) h/|h|, with h the gradient of G of the decoded clean
    latent with respect to the noisy one, through the denoiser.

    Attributes:
        skipped: images times steps whose gradient was too small or not finite, and that were not moved.
        repeats: how often a guided step is taken, with noise back to its beginning in between.
    """

    rank: ClassVar[int] = 1

    def __init__(
        self, distance: GradientDistance, codec: Codec, *, strength: float, first: int, last: int, repeats: int = 1
    ) -> None:
        self._distance, self._codec, self._strength = distance, codec, strength
        self._first, self._last = first, last
        self.skipped, self.repeats = 0, repeats

    def active(self, index: int) -> bool:
        """Within the guided range, both ends included, unless the strength is zero."""
        return self._strength != 0 and self._first <= index <= self._last

    def needs_graph(self) -> bool:
        """Always: the gradient goes through the denoiser."""
        return True

    def shift(self, step: Step) -> Tensor:
        """The shift of the posterior mean, (N, C, H, W)."""
        import torch

        from distillery.guidance.unit_step import unit_step

        with torch.enable_grad(), torch.autocast(step.clean.device.type, enabled=False):
            total = self._distance(self._codec.decode(step.clean.float()), step.labels).sum()
            gradient = torch.autograd.grad(total, step.noisy, retain_graph=True)[0].float()
        shift, skipped = unit_step(gradient, step, -self._strength * step.schedule.noise_scale(step.index))
        self.skipped += skipped
        return shift
