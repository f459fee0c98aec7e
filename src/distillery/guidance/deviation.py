"""Deviation: away from the latents of the class so far (eq. 9 of arXiv 2604.00519, eq. 8 of IGD)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from distillery.guidance.base import PUBLISHED_LATENT_SIZE, Range, RangedBlock, RangedGuidance, Scene
from distillery.settings import Count, NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.step import Step
    from distillery.guidance.class_memory import ClassMemory


class Deviation(RangedBlock):
    """Guidance away from the latents that the class already has (eq. 9 of arXiv 2604.00519)."""

    needs_images: ClassVar[bool] = True
    follows: ClassVar[bool] = True

    strength: NonNegative | Literal["auto"] = Field(
        "auto", description="Gamma; `auto`: published_strength d / 4096, d = latent size."
    )
    published_strength: NonNegative = Field(50.0, description="Gamma at latents of 4096 numbers, where it is `auto`.")
    range: Range | None = Field(
        None, description="None: that of the guidance beside it; alone, 10 to 45 of 50, scaled to the steps."
    )
    on: Literal["x0", "xt", "x0_chain"] = "x0"
    place: Literal["mean", "noise"] = Field(
        "mean",
        exclude_if=lambda place: place == "mean",
        description="`mean`: the term shifts the posterior mean; `noise`: it changes the noise prediction, which moves "
        "the mean 2.7 times (index 45 of 50) to 7.1 times (index 10) less.",
    )
    memory: Literal["all", "increment"] = "all"
    capacity: Count | None = Field(None, description="Newest latents kept per class; none: all.")

    def scaled_strength(self, latent_size: int) -> float:
        """Gamma as given, or the published one scaled to a latent of size d: its relative effect goes as gamma / d."""
        if self.strength == "auto":
            return self.published_strength * latent_size / PUBLISHED_LATENT_SIZE
        return self.strength

    def open(self, files: Sequence[Path], scene: Scene) -> DeviationGuidance | None:
        from distillery.guidance.class_memory import ClassMemory

        strength = self.scaled_strength(scene.renderer.latent_numbers)
        if strength == 0:
            return None
        memory = ClassMemory(self.capacity)
        for latents, labels in scene.latents() if self.memory == "all" else ():
            memory.add(latents, labels)
        return DeviationGuidance(memory, strength=strength, **self.indices, on=self.on, place=self.place)


@dataclass
class DeviationGuidance(RangedGuidance):
    """Lowers the cosine between an image and the nearest latent that its class already has.

    By default both the choice of that latent and the gradient are taken at the predicted clean latent: at high noise
    the noisy one ranks noise. `xt` takes both at the noisy latent; `x0_chain` multiplies by the Jacobian of the clean
    latent with the noise prediction held fixed, 1/sqrt(abar), which is up to 71 in the guided range.
    """

    rank: ClassVar[int] = 3
    memory: ClassMemory
    on: Literal["x0", "xt", "x0_chain"] = "x0"
    place: Literal["mean", "noise"] = "mean"

    def needs_graph(self) -> bool:
        return False

    def remember(self, latents: Tensor, labels: Tensor) -> None:
        self.memory.add(latents, labels)

    def shift(self, step: Step) -> Tensor:
        """The shift of the posterior mean, (N, C, H, W); zero where the class has no latents yet."""
        import torch

        from distillery.guidance.class_memory import cosine_gradient

        point = (step.noisy if self.on == "xt" else step.clean).detach()
        nearest, has = self.memory.nearest(point, step.labels)
        scale = self.strength
        if self.on == "x0_chain":
            scale /= float(step.schedule.alphas_cumprod[step.index].sqrt())
        if self.place == "noise":
            scale *= step.schedule.mean_per_noise(step.index)
        return torch.where(has[:, None, None, None], -scale * cosine_gradient(point, nearest), 0.0)
