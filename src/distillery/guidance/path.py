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


@dataclass
class Weighed:
    """A guidance that keeps every shift that it gives, and is otherwise the one that it wraps.

    Attributes:
        shifts: index -> (N, C, h, w) on the CPU.
        sigmas: index -> root mean square of the standard deviation of the step.
    """

    guidance: Guidance
    shifts: dict[int, Tensor] = field(default_factory=dict)
    sigmas: dict[int, float] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return self.guidance.rank

    @property
    def name(self) -> str:
        """The name of the guidance in an experiment file."""
        return type(self.guidance).__name__.removesuffix("Guidance").lower()

    def active(self, index: int) -> bool:
        return self.guidance.active(index)

    def needs_graph(self) -> bool:
        return self.guidance.needs_graph()

    def shift(self, step: Step) -> Tensor:
        shift = self.guidance.shift(step)
        self.shifts[step.index] = shift.detach().float().cpu()
        self.sigmas[step.index] = torch.as_tensor(step.sigma).detach().float().square().mean().sqrt().item()
        return shift


@dataclass(frozen=True)
class Shift:
    """How far a guidance moved an image at one sampling index, and whether another one moved it the same way.

    Attributes:
        length: root mean square of the shift of the posterior mean.
        sigma: root mean square of the standard deviation of the step, which the noise is drawn with.
        other: the other guidance; None in the row of the length.
        cosine: of the two shifts; None in the row of the length, and where one of them is zero.
    """

    index: int
    guidance: str
    length: float
    sigma: float
    other: str | None
    cosine: float | None


def shifts_of(weighed: Sequence[Weighed]) -> list[Shift]:
    """The shifts of one image, by index from noise to image: a row of each guidance, and one of each pair."""
    rows = []
    for index in sorted({index for each in weighed for index in each.shifts}, reverse=True):
        acting = [each for each in weighed if index in each.shifts]
        for place, each in enumerate(acting):
            shift = each.shifts[index].flatten()
            own = (index, each.name, shift.square().mean().sqrt().item(), each.sigmas[index])
            rows.append(Shift(*own, None, None))
            for other in acting[place + 1 :]:
                lengths = shift.norm() * other.shifts[index].norm()
                cosine = (shift @ other.shifts[index].flatten() / lengths).item() if lengths > 0 else None
                rows.append(Shift(*own, other.name, cosine))
    return rows


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
