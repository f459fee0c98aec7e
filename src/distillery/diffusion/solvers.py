"""From one sampling index to the next: ancestral sampling (DDPM), DDIM, and a fast solver of diffusers.

Guidances speak of shifts of the DDPM mean. A solver without a mean takes them as the change of the noise prediction
that would have shifted the DDPM mean as far: e more of noise moves that mean by -`Schedule.mean_per_noise` e.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

from distillery.diffusion.schedule import Schedule
from distillery.diffusion.step import Step
from distillery.lean_imports import from_diffusers

SolverName = Literal["ddpm", "ddim", "dpm"]


class Solver(Protocol):
    """One run over the sampling indices, from the highest to 0; a multistep solver remembers what it saw."""

    def following(self, step: Step, shifts: Sequence[Tensor], fresh: Callable[[], Tensor]) -> Tensor:
        """The state at the next lower index; shifts of the DDPM mean and `fresh` noise are (N, C, H, W) too."""
        ...


class Ancestral:
    """DDPM (arXiv 2006.11239): the posterior mean, the shifts, and fresh noise at all indices but 0."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def following(self, step: Step, shifts: Sequence[Tensor], fresh: Callable[[], Tensor]) -> Tensor:
        mean = self._schedule.posterior_mean(step.clean, step.noisy, step.index)
        for shift in shifts:
            mean = mean + shift
        return mean + step.sigma * fresh() if step.index > 0 else mean


class DDIM:
    """DDIM without noise (eq. 12 of arXiv 2010.02502, sigma = 0)."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def following(self, step: Step, shifts: Sequence[Tensor], fresh: Callable[[], Tensor]) -> Tensor:
        noise = _shifted(self._schedule, step, shifts)
        before = float(self._schedule.alphas_cumprod_previous[step.index])
        return before**0.5 * self._schedule.clean(step.noisy, noise, step.index) + (1 - before) ** 0.5 * noise


class DPMSolver:
    """DPM-Solver++ of second order (arXiv 2211.01095), as diffusers has it, on the sampling indices of the schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._scheduler: Any = from_diffusers("DPMSolverMultistepScheduler").from_config(
            schedule.config,
            algorithm_type="dpmsolver++",
            solver_order=2,
            variance_type=None,
            prediction_type="epsilon",  # a step holds the noise, whatever the network predicts
        )
        self._scheduler.set_timesteps(timesteps=schedule.timesteps.flip(0).tolist())

    def following(self, step: Step, shifts: Sequence[Tensor], fresh: Callable[[], Tensor]) -> Tensor:
        noise = _shifted(self._schedule, step, shifts)
        return self._scheduler.step(noise, self._schedule.timesteps[step.index], step.noisy).prev_sample


def _shifted(schedule: Schedule, step: Step, shifts: Sequence[Tensor]) -> Tensor:
    noise = step.noise
    for shift in shifts:
        noise = noise - shift / schedule.mean_per_noise(step.index)
    return noise


_SOLVERS: dict[SolverName, Callable[[Schedule], Solver]] = {"ddpm": Ancestral, "ddim": DDIM, "dpm": DPMSolver}


def solver_of(name: SolverName, schedule: Schedule) -> Solver:
    """A solver at its start."""
    return _SOLVERS[name](schedule)
