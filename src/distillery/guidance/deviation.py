"""Deviation: away from what the class already has (eq. 9 of arXiv 2604.00519, eq. 8 of IGD)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from distillery.guidance.base import (
    PUBLISHED_LATENT_SIZE,
    GuidanceBlock,
    GuidanceContext,
    Range,
    Scene,
    scaled_range,
)
from distillery.settings import Count, NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.step import Step
    from distillery.guidance.class_memory import ClassMemory


class Deviation(GuidanceBlock):
    """Guidance away from the latents that the class already has (eq. 9 of arXiv 2604.00519)."""

    needs_images: ClassVar[bool] = True

    strength: NonNegative | Literal["auto"] = Field(
        "auto", description="Gamma; `auto`: published_strength d / 4096, d = latent size."
    )
    published_strength: NonNegative = Field(50.0, description="Gamma at latents of 4096 numbers, where it is `auto`.")
    range: Range | None = Field(
        None, description="None: that of the guidance beside it; alone, 10 to 45 of 50, scaled to the steps."
    )
    on: Literal["x0", "xt", "x0_chain"] = "x0"
    memory: Literal["all", "increment"] = "all"
    capacity: Count | None = Field(None, description="Newest latents kept per class; none: all.")

    def scaled_strength(self, latent_size: int) -> float:
        """Gamma as given, or the published one scaled to a latent of size d: its relative effect goes as gamma / d."""
        if self.strength == "auto":
            return self.published_strength * latent_size / PUBLISHED_LATENT_SIZE
        return self.strength

    def guided_range(self, steps: int) -> list[int]:
        return self.range or scaled_range(steps)

    def resolved(self, steps: int, beside: list[int] | None) -> Self:
        return self.model_copy(update={"range": self.range or beside or scaled_range(steps)})

    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        yield from context.check_range(f"{key}.range", self.range)

    def open(self, files: Sequence[Path], scene: Scene) -> DeviationGuidance | None:
        from distillery.guidance.class_memory import ClassMemory

        strength = self.scaled_strength(scene.renderer.latent_numbers)
        if strength == 0:
            return None
        assert self.range is not None, "ranges are resolved when the settings of a stage are made"
        memory = ClassMemory(self.capacity)
        for latents, labels in scene.latents() if self.memory == "all" else ():
            memory.add(latents, labels)
        return DeviationGuidance(memory, strength=strength, first=self.range[0], last=self.range[1], on=self.on)


class DeviationGuidance:
    """Lowers the cosine between an image and the nearest latent that its class already has.

    By default both the choice of that latent and the gradient are taken at the predicted clean latent: at high noise
    the noisy one ranks noise. `xt` takes both at the noisy latent; `x0_chain` multiplies by the Jacobian of the clean
    latent with the noise prediction held fixed, 1/sqrt(abar), which is up to 71 in the guided range.
    """

    rank: ClassVar[int] = 3

    def __init__(
        self,
        memory: ClassMemory,
        *,
        strength: float,
        first: int,
        last: int,
        on: Literal["x0", "xt", "x0_chain"] = "x0",
    ) -> None:
        self._memory, self._strength, self._first, self._last, self._on = memory, strength, first, last, on

    def active(self, index: int) -> bool:
        return self._strength != 0 and self._first <= index <= self._last

    def needs_graph(self) -> bool:
        return False

    def remember(self, latents: Tensor, labels: Tensor) -> None:
        self._memory.add(latents, labels)

    def shift(self, step: Step) -> Tensor:
        """The shift of the posterior mean, (N, C, H, W); zero where the class has no latents yet."""
        import torch

        from distillery.guidance.class_memory import cosine_gradient

        point = (step.noisy if self._on == "xt" else step.clean).detach()
        nearest, has = self._memory.nearest(point, step.labels)
        scale = self._strength
        if self._on == "x0_chain":
            scale /= float(step.schedule.alphas_cumprod[step.index].sqrt())
        return torch.where(has[:, None, None, None], -scale * cosine_gradient(point, nearest), 0.0)
