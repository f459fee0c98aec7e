"""What a solver promises: the step of its paper, whatever the guidance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from steering import LABELS, STEPS, abar_of, drawn, latents
from tiny import Watcher, World
from torch import Tensor

from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.schedule import Schedule, training_scheduler
from distillery.diffusion.solvers import SolverName


def test_ddim_is_the_step_of_its_paper(world: World) -> None:
    watcher = Watcher()
    last = drawn(world, [watcher], "ddim")
    before = world.schedule(STEPS).alphas_cumprod_previous
    for index in range(STEPS):
        expected = before[index].sqrt() * watcher.clean[index] + (1 - before[index]).sqrt() * watcher.noise[index]
        got = watcher.noisy[index - 1] if index else last
        torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_fast_solver_is_that_of_diffusers(prediction: str, world: World) -> None:
    """Of the noise, which a step holds whatever the network of the generator predicts."""
    watcher = Watcher()
    schedule = Schedule(training_scheduler(prediction), STEPS)  # type: ignore[arg-type]
    last = drawn(world, [watcher], "dpm", schedule=schedule)
    oracle: Any = DPMSolverMultistepScheduler.from_config(world.schedule().config)
    timesteps = world.schedule(STEPS).timesteps.flip(0)
    oracle.set_timesteps(timesteps=timesteps.tolist())
    assert oracle.timesteps.tolist() == timesteps.tolist()
    for index in range(STEPS - 1, -1, -1):
        got = watcher.noisy[index - 1] if index else last
        step = oracle.step(watcher.noise[index], timesteps[STEPS - 1 - index], watcher.noisy[index]).prev_sample
        torch.testing.assert_close(got, step, rtol=1e-5, atol=1e-5)


class Knowing(torch.nn.Module):
    """A denoiser that knows the clean latents."""

    def __init__(self, clean: Tensor, abar: Tensor) -> None:
        super().__init__()
        self.clean, self.channels, self.abar = clean, clean.shape[1], abar

    def forward(self, noisy: Tensor, timestep: int, conditions: Tensor) -> tuple[Tensor, None]:
        abar = float(self.abar[timestep])
        return (noisy - abar**0.5 * self.clean) / (1 - abar) ** 0.5, None


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm"])
def test_every_solver_finds_what_the_denoiser_knows(solver: SolverName, world: World) -> None:
    clean = latents(len(LABELS), "answer")
    denoiser = Knowing(clean, abar_of(world))
    torch.testing.assert_close(drawn(world, [], solver, denoiser=denoiser), clean, rtol=0, atol=5e-3)


def test_a_shift_of_the_mean_is_the_change_of_the_noise_that_makes_it(world: World) -> None:
    schedule, shift = world.schedule(STEPS), latents(len(LABELS), "shift")
    for index in range(STEPS):
        step = world.step(index, LABELS, False, steps=STEPS)
        noise = step.noise - shift / schedule.mean_per_noise(index)
        moved = schedule.posterior_mean(schedule.clean(step.noisy, noise, index), step.noisy, index)
        expected = schedule.posterior_mean(step.clean, step.noisy, index) + shift
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-3)


def test_a_denoiser_of_half_precision_answers_in_full_and_nearly_the_same(world: World) -> None:
    step = world.step(5, LABELS, True, steps=STEPS)
    conditions = world.condition(LABELS)
    exact, half = (
        Denoiser(world.transformer, 3.0, half=half)(step.noisy, 500, conditions)[0] for half in (False, True)
    )
    assert half.dtype == torch.float32
    assert 0 < float((half - exact).detach().norm() / exact.detach().norm()) < 0.05
    assert torch.autograd.grad(half.sum(), step.noisy)[0].dtype == torch.float32


def test_the_way_back_ends_at_the_noise_of_the_index(world: World) -> None:
    schedule, fresh = world.schedule(STEPS), torch.tensor(1.0)
    before, now = schedule.alphas_cumprod_previous, schedule.alphas_cumprod
    for index in range(STEPS):
        kept = float(schedule.back(fresh, 0 * fresh, index))
        added = float(schedule.back(0 * fresh, fresh, index))
        assert kept * float(before[index].sqrt()) == pytest.approx(float(now[index].sqrt()), abs=1e-6)
        assert kept**2 * float(1 - before[index]) + added**2 == pytest.approx(float(1 - now[index]), abs=1e-6)
