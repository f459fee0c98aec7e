"""The path of a sample: the clean latents that the denoiser predicts along the sampling steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from distillery.diffusion.renderer import Renderer
from distillery.diffusion.sampler import Guidance
from distillery.diffusion.step import Step
from distillery.streams import Key


@dataclass
class Recorder:
    """A guidance that moves nothing and keeps the predicted clean latents of some sampling indices.

    Attributes:
        indices: of the steps to record.
        clean: index -> (N, C, h, w) on the CPU.
    """

    rank: ClassVar[int] = -1
    indices: Collection[int]
    clean: dict[int, Tensor] = field(default_factory=dict)

    def active(self, index: int) -> bool:
        return index in self.indices

    def needs_graph(self) -> bool:
        return False

    def shift(self, step: Step) -> Tensor:
        self.clean[step.index] = step.clean.detach().cpu()
        return torch.zeros_like(step.noisy)


def recorded_indices(steps: int, count: int) -> list[int]:
    """At most `count` sampling indices of `steps`, evenly spaced, the largest (pure noise) first."""
    return sorted({round(index) for index in torch.linspace(steps - 1, 0, count).tolist()}, reverse=True)


def sample_path(
    renderer: Renderer,
    key: Key,
    label: int,
    condition: int,
    slot: int,
    guidances: Sequence[Guidance],
    indices: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Sample one image, and record the clean latents that are predicted on its way.

    Args:
        key: of the image's stream: the same key gives the same noise with and without guidances.
        indices: sampling indices to record.

    Returns:
        clean: (len(indices), C, h, w), in the order of `indices`.
        pixels: (1, C, H, W) uint8, the finished image.
    """
    recorder = Recorder(frozenset(indices))
    one = torch.tensor([label])
    _, pixels = renderer.render([key], one, torch.tensor([condition]), [*guidances, recorder], torch.tensor([slot]))
    return torch.cat([recorder.clean[index] for index in indices]), pixels
