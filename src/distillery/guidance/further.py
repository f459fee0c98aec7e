"""The guidances that a file or the images before stand behind: influence, mode, deviation, ready for a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from distillery.diffusion.renderer import Renderer
from distillery.diffusion.sampler import Guidance
from distillery.errors import BadInput
from distillery.guidance.deviation import ClassMemory, DeviationGuidance
from distillery.guidance.influence import Influence, InfluenceGuidance
from distillery.guidance.mode import ModeGuidance, read_modes
from distillery.guidance.settings import PUBLISHED_DEVIATION, Deviation
from distillery.guidance.settings import Influence as InfluenceSettings
from distillery.guidance.settings import Mode as ModeSettings
from distillery.storage.images import ImageSet

PUBLISHED_LATENT_SIZE = 4 * 32 * 32
"""Size of a latent of DiT at 256 px, at which the strengths were published."""

PUBLISHED_INFLUENCE = 5.0


def deviation_strength(
    given: float | Literal["auto"], latent_size: int, published: float = PUBLISHED_DEVIATION["lgd"]
) -> float:
    """Gamma as given, or the published one scaled to the size of a latent: its relative effect goes as gamma / d."""
    return published * latent_size / PUBLISHED_LATENT_SIZE if given == "auto" else float(given)


def influence_strength(given: float | Literal["auto"], latent_size: int) -> float:
    """k as given, or the published 5 scaled to the size of a latent: its relative effect goes as k / sqrt(d)."""
    return PUBLISHED_INFLUENCE * (latent_size / PUBLISHED_LATENT_SIZE) ** 0.5 if given == "auto" else float(given)


@dataclass(frozen=True)
class Further:
    """Settings and files of influence and mode; what is None does not steer. Ranges are resolved.

    Attributes:
        gradients: what `select_checkpoints` wrote.
        modes: what `discover_modes` wrote.
    """

    influence: InfluenceSettings | None = None
    mode: ModeSettings | None = None
    gradients: Path | None = None
    modes: Path | None = None

    def guidances(self, renderer: Renderer, classes: Sequence[str]) -> list[Guidance]:
        """The guidances, with strengths for the latents of the renderer.

        Raises:
            BadInput: a surrogate of other classes, a class without modes, or modes of other latents.
        """
        found: list[Guidance] = []
        if self.influence is not None and self.gradients is not None:
            assert self.influence.range is not None, "ranges are resolved when the settings of a stage are made"
            influence = Influence.load(self.gradients, classes, renderer.device, self.influence.per_image)
            found.append(
                InfluenceGuidance(
                    influence,
                    renderer.guidance_codec or renderer.codec,
                    strength=influence_strength(self.influence.strength, renderer.latent_numbers),
                    first=self.influence.range[0],
                    last=self.influence.range[1],
                    repeats=self.influence.repeats,
                )
            )
        if self.mode is not None and self.modes is not None:
            assert self.mode.stop is not None, "it is resolved when the settings of a stage are made"
            modes = read_modes(self.modes, classes).to(renderer.device)
            latent = (renderer.codec.channels, renderer.size, renderer.size)
            if modes.shape[2:] != latent:
                raise BadInput(f"{self.modes}: modes of shape {tuple(modes.shape[2:])}, but latents have {latent}")
            found.append(ModeGuidance(modes, strength=self.mode.strength, stop=self.mode.stop))
        return found


def start_deviation(
    block: Deviation, renderer: Renderer, images: Sequence[ImageSet], published: float = PUBLISHED_DEVIATION["lgd"]
) -> tuple[DeviationGuidance, ClassMemory] | None:
    """Deviation guidance with a memory that holds the latents of these images; None at strength zero.

    Without a memory the slots of a class are independent.
    """
    strength = deviation_strength(block.strength, renderer.latent_numbers, published)
    if strength == 0:
        return None
    memory = ClassMemory(block.capacity)
    for one in images if block.memory == "all" else []:
        memory.add(stored_latents(one, renderer).to(renderer.device), torch.from_numpy(one.labels))
    assert block.range is not None, "ranges are resolved when the settings of a stage are made"
    first, last = block.range
    return DeviationGuidance(memory, strength=strength, first=first, last=last, on=block.on), memory


def stored_latents(images: ImageSet, renderer: Renderer) -> Tensor:
    """The latents that a generated image set carries: (N, C, h, w)."""
    flat = torch.from_numpy(images.columns["latent"].copy())
    return flat.view(-1, renderer.codec.channels, renderer.size, renderer.size)
