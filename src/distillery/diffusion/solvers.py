"""From one sampling index to the next: ancestral sampling (DDPM), DDIM, and a fast solver of diffusers.

Guidances speak of shifts of the DDPM mean. A solver without a mean takes them as the change of the noise prediction
that would have shifted the DDPM mean as far: e more of noise moves that mean by -`Schedule.mean_per_noise` e.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from distillery.diffusion.schedule import Schedule

SolverName = Literal["ddpm", "ddim", "dpm"]


class Solver(Protocol):
    """One run over the sampling indices, from the highest to 0; a multistep solver remembers what it saw."""

    def step(
        self,
        index: int,
        noisy: Tensor,
        noise: Tensor,
        clean: Tensor,
        deviation: Tensor | float,
        shifts: Sequence[Tensor],
        fresh: Callable[[], Tensor],
    ) -> Tensor:
        """The state at the next lower index.

        Args:
            noisy, noise, clean: (N, C, H, W), the state, the noise prediction and the clean latent that it implies.
            deviation: standard deviation of the DDPM step.
            shifts: of the DDPM mean, each (N, C, H, W).
            fresh: draws the step's noise, (N, C, H, W).
        """
        ...


class Ancestral:
    """DDPM (arXiv 2006.11239): the posterior mean, the shifts, and fresh noise at all indices but 0."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def step(
        self,
        index: int,
        noisy: Tensor,
        noise: Tensor,
        clean: Tensor,
        deviation: Tensor | float,
        shifts: Sequence[Tensor],
        fresh: Callable[[], Tensor],
    ) -> Tensor:
        """The state at the next lower index."""
        mean = self._schedule.posterior_mean(clean, noisy, index)
        for shift in shifts:
            mean = mean + shift
        return mean + deviation * fresh() if index > 0 else mean


class DDIM:
    """DDIM without noise (eq. 12 of arXiv 2010.02502, sigma = 0)."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def step(
        self,
        index: int,
        noisy: Tensor,
        noise: Tensor,
        clean: Tensor,
        deviation: Tensor | float,
        shifts: Sequence[Tensor],
        fresh: Callable[[], Tensor],
    ) -> Tensor:
        """The state at the next lower index; nothing is drawn."""
        noise = _shifted(self._schedule, index, noise, shifts)
        before = float(self._schedule.alphas_cumprod_previous[index])
        return before**0.5 * self._schedule.clean(noisy, noise, index) + (1 - before) ** 0.5 * noise


class DPMSolver:
    """DPM-Solver++ of second order (arXiv 2211.01095), as diffusers has it, on the sampling indices of the schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._scheduler: Any = DPMSolverMultistepScheduler.from_config(
            schedule.config, algorithm_type="dpmsolver++", solver_order=2, variance_type=None
        )
        self._scheduler.set_timesteps(timesteps=schedule.timesteps.flip(0).tolist())

    def step(
        self,
        index: int,
        noisy: Tensor,
        noise: Tensor,
        clean: Tensor,
        deviation: Tensor | float,
        shifts: Sequence[Tensor],
        fresh: Callable[[], Tensor],
    ) -> Tensor:
        """The state at the next lower index; nothing is drawn."""
        noise = _shifted(self._schedule, index, noise, shifts)
        return self._scheduler.step(noise, self._schedule.timesteps[index], noisy).prev_sample


def _shifted(schedule: Schedule, index: int, noise: Tensor, shifts: Sequence[Tensor]) -> Tensor:
    for shift in shifts:
        noise = noise - shift / schedule.mean_per_noise(index)
    return noise


_SOLVERS: dict[SolverName, Callable[[Schedule], Solver]] = {"ddpm": Ancestral, "ddim": DDIM, "dpm": DPMSolver}


def solver_of(name: SolverName, schedule: Schedule) -> Solver:
    """A solver at its start."""
    return _SOLVERS[name](schedule)
