"""Sampling step by step, with any number of guidances.

A guidance sees the state of a step and returns a shift of the posterior mean for each image. Shifts add up: the result
does not depend, to the last bit, on the order in which guidances are given. Without an active guidance no graph is
built, and the step is plain sampling bit for bit.

A guidance may ask for a step more than once (`repeats`): between two of them noise takes the state back to where the
step began (FreeDoM, arXiv 2303.09833).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.schedule import Schedule
from distillery.diffusion.solvers import SolverName, solver_of
from distillery.diffusion.step import Step
from distillery.divergence import refuse_diverged
from distillery.streams import Key, image_noise

WAY_OUT = (
    "lower its sampling.guidance_scale or the strength of the guidances of the method, or train it and the autoencoder "
    "at a lower learning_rate"
)
"""What to change where samples are no images."""


class Guidance(Protocol):
    """What may steer a sampler."""

    @property
    def rank(self) -> int:
        """Shifts are added by ascending rank: a sum of floating-point numbers depends on its order."""
        ...

    def active(self, index: int) -> bool:
        """Whether it acts at this sampling index; never at strength 0."""
        ...

    def needs_graph(self) -> bool:
        """Whether it differentiates through the denoiser."""
        ...

    def shift(self, step: Step) -> Tensor:
        """(N, C, H, W), added to the posterior mean."""
        ...


def sample(
    denoiser: Denoiser,
    schedule: Schedule,
    size: int,
    keys: Sequence[Key],
    labels: Tensor,
    conditions: Tensor,
    guidances: Sequence[Guidance] = (),
    *,
    device: torch.device,
    slots: Tensor | None = None,
    solver: SolverName = "ddpm",
) -> Tensor:
    """Draw one latent per key.

    Args:
        size: side of a latent.
        keys: of each image's random stream; an image depends on its key, its class and nothing else.
        labels: (N,) class labels, which guidances read.
        conditions: (N,) class indices of the generator.
        slots: (N,) place of each image in its class, for guidances that tell images of a class apart.

    Returns:
        (N, C, size, size), fp32, scaled to unit variance, on the device.

    Raises:
        Diverged: they are not finite.
    """
    shape = (denoiser.channels, size, size)
    labels, conditions = labels.to(device), conditions.to(device)
    slots = None if slots is None else slots.to(device)
    ordered = sorted(guidances, key=lambda guidance: guidance.rank)
    noisy = image_noise(keys, "start", shape).to(device)
    stepper = solver_of(solver, schedule)
    for index in range(len(schedule) - 1, -1, -1):
        active = [guidance for guidance in ordered if guidance.active(index)]
        for number in range(repeats_of(active)):
            if number:
                fresh = image_noise(keys, f"{index} back {number}", shape).to(device)
                noisy = schedule.back(noisy, fresh, index)
            purpose = f"{index} again {number}" if number else index
            step = _seen(denoiser, schedule, noisy, index, labels, conditions, slots, active)
            shifts = [guidance.shift(step).detach() for guidance in active]
            with torch.no_grad():
                noisy = stepper.following(
                    step,
                    shifts,
                    lambda drawn=purpose: image_noise(keys, drawn, shape).to(device),  # type: ignore[misc]
                )
            refuse_diverged(
                [noisy],
                f"sampling: the latents after step {len(schedule) - index} of {len(schedule)}",
                WAY_OUT,
            )
            del step  # its graph ends before that of the next one begins
    return noisy.detach()


def repeats_of(active: Sequence[Guidance]) -> int:
    """How often a step is taken: as often as the guidance wants that wants it most; once unless one says more."""
    return max((getattr(guidance, "repeats", 1) for guidance in active), default=1)


def _seen(
    denoiser: Denoiser,
    schedule: Schedule,
    noisy: Tensor,
    index: int,
    labels: Tensor,
    conditions: Tensor,
    slots: Tensor | None,
    active: Sequence[Guidance],
) -> Step:
    """What a step starts from; with a graph to its noisy state if an active guidance needs one."""
    graph = any(guidance.needs_graph() for guidance in active)
    noisy = noisy.detach().requires_grad_(graph)
    with torch.set_grad_enabled(graph):
        noise, variance = denoiser(noisy, int(schedule.timesteps[index]), conditions)
        clean = schedule.clean(noisy, noise, index)
    with torch.no_grad():
        sigma = schedule.sigma(variance, index)
    return Step(index, noisy, noise, clean, labels, schedule, sigma, slots)
