"""What the objectives promise: the diffusion loss of the formulas, and memory terms that count once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from list_memory import Lists, held
from tiny import CPU, LATENT, NUMBERS, StoppedAt, no_resume
from torch import Tensor
from torch.nn import functional as F

import distillery.storage.resume
from distillery.diffusion.losses import DiffusionLoss, TrainingStep, VarianceSchedule
from distillery.diffusion.memory import LatentMemory
from distillery.diffusion.objectives import MemoryObjective, memory_objective, reduce_extremes
from distillery.diffusion.schedule import training_scheduler
from distillery.diffusion.training import InMemory, new_transformer, train_generator
from distillery.streams import stream

CLASSES, BATCH = 4, 6
SCHEDULER = training_scheduler()
SHAPE = {"classes": CLASSES, "channels": 4, "size": 8, "layers": 1, "heads": 2, "head_dim": 8, "patch_size": 2}


def step_of(
    number: int = 0,
    timesteps: Tensor | None = None,
    labels: Tensor | None = None,
    variance: bool = False,
    knows: bool = False,
) -> TrainingStep:
    """A step of a model that guesses, or that knows the noise and the least variance."""
    draws = stream("objective", number)
    clean, noise, guess, logits = (torch.randn(BATCH, *LATENT, generator=draws) for _ in range(4))
    drawn = torch.randint(1000, (BATCH,), generator=draws)
    timesteps = drawn if timesteps is None else timesteps
    labels = torch.randint(CLASSES, (BATCH,), generator=draws) if labels is None else labels
    level = SCHEDULER.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    if knows:
        guess, logits = noise, torch.full_like(noise, -1.0)
    return TrainingStep(
        clean=clean,
        mean=clean - 0.1,
        noise=noise,
        noisy=noisy,
        timesteps=timesteps,
        alpha_cumprod=level,
        labels=labels,
        conditions=labels,
        output=(torch.cat([guess, logits], 1) if variance else guess).clone().requires_grad_(),
        prediction="epsilon",
        number=number,
    )


def objective(**options: Any) -> MemoryObjective:
    defaults: dict[str, Any] = {
        "policy_real": "max",
        "policy_generated": "max",
        "memory_size": 5,
        "max_age": None,
        "lambda_real": 0.002,
        "lambda_generated": 0.008,
    }
    return memory_objective(
        DiffusionLoss(SCHEDULER, CPU),
        classes=CLASSES,
        batch=BATCH,
        numbers=NUMBERS,
        device=CPU,
        **{**defaults, **options},
    )


# ---- the diffusion loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timestep", "tolerance"), [(0, 1e-5), (500, 1e-4), (999, 2e-2)])
def test_the_clean_latent_is_that_of_the_noise(timestep: int, tolerance: float) -> None:
    step = step_of(timesteps=torch.full((BATCH,), timestep), knows=True)
    torch.testing.assert_close(step.predicted_clean.detach(), step.clean, rtol=0, atol=tolerance)


def test_without_a_learned_variance_the_loss_is_the_mean_squared_error_bit_for_bit() -> None:
    step = step_of()
    assert torch.equal(DiffusionLoss(SCHEDULER, CPU).loss(step), F.mse_loss(step.output, step.noise))


def test_the_bound_counts_in_full() -> None:
    step = step_of(variance=True)
    bound = VarianceSchedule(SCHEDULER, CPU).bound(step).mean()
    assert float(bound.detach()) > 0.01
    wanted = F.mse_loss(step.predicted, step.noise) + bound
    torch.testing.assert_close(DiffusionLoss(SCHEDULER, CPU).loss(step), wanted)


def test_the_bound_has_no_gradient_in_the_noise_channels() -> None:
    step = step_of(variance=True)
    error = F.mse_loss(step.predicted, step.noise)
    (bound,) = torch.autograd.grad(DiffusionLoss(SCHEDULER, CPU).loss(step) - error, step.output)
    assert torch.equal(bound[:, :4], torch.zeros_like(bound[:, :4]))
    assert (bound[:, 4:] != 0).all()


def test_the_bound_is_zero_for_the_true_noise_and_the_true_variance() -> None:
    step = step_of(timesteps=torch.tensor([1, 10, 200, 500, 900, 999]), variance=True, knows=True)
    bound = VarianceSchedule(SCHEDULER, CPU).bound(step).detach()
    torch.testing.assert_close(bound, torch.zeros(BATCH), rtol=0, atol=2e-5)


def test_the_bound_is_the_divergence_of_two_normal_densities() -> None:
    timesteps = torch.tensor([1, 10, 200, 500, 900, 999])
    step = step_of(timesteps=timesteps, variance=True)
    assert step.variance_logits is not None
    bound = VarianceSchedule(SCHEDULER, CPU).bound(step).detach()
    betas = SCHEDULER.betas.double()
    abar = (1 - betas).cumprod(0)
    for row, t in enumerate(timesteps.tolist()):
        beta, now, before = betas[t], abar[t], abar[t - 1]
        least = beta * (1 - before) / (1 - now)
        share = (step.variance_logits[row].double() + 1) / 2
        deviation = torch.exp(0.5 * (share * beta.log() + (1 - share) * least.log()))
        noisy = step.noisy[row].double()
        implied = (noisy - (1 - now).sqrt() * step.predicted[row].double()) / now.sqrt()

        def mean(clean: Tensor, at: tuple[Tensor, ...] = (beta, now, before), state: Tensor = noisy) -> Tensor:
            beta, now, before = at
            of_noisy = (1 - beta).sqrt() * (1 - before) / (1 - now)
            return before.sqrt() * beta / (1 - now) * clean + of_noisy * state

        true = torch.distributions.Normal(mean(step.clean[row].double()), least.sqrt())
        model = torch.distributions.Normal(mean(implied), deviation)
        bits = torch.distributions.kl_divergence(true, model).mean() / torch.log(torch.tensor(2.0))
        assert float(bound[row].detach()) == pytest.approx(float(bits), rel=1e-3)


def test_at_the_last_step_the_bound_is_the_likelihood_of_a_pixel() -> None:
    step = step_of(timesteps=torch.zeros(BATCH, dtype=torch.long), variance=True)
    assert step.variance_logits is not None
    abar, values = SCHEDULER.alphas_cumprod.double(), step.clean.double()
    betas = 1 - abar[:2] / torch.cat([torch.ones(1).double(), abar[:1]])
    least = betas[1] * (1 - abar[0]) / (1 - abar[1])
    share = (step.variance_logits.double() + 1) / 2
    deviation = torch.exp(0.5 * (share * betas[0].log() + (1 - share) * least.log()))
    normal = torch.distributions.Normal(step.predicted_clean.double(), deviation)
    above, below = normal.cdf(values + 1 / 255), normal.cdf(values - 1 / 255)
    inside = torch.where(values < -0.999, above, torch.where(values > 0.999, 1 - below, above - below))
    bits = -inside.clamp_min(1e-12).log().flatten(1).mean(1) / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(VarianceSchedule(SCHEDULER, CPU).bound(step).double(), bits, rtol=5e-2, atol=0)


# ---- the terms -------------------------------------------------------------------------------------------------------


def test_a_class_seen_for_the_first_time_adds_nothing_and_no_nan() -> None:
    step = step_of(labels=torch.tensor([0, 0, 1, 1, 2, 3]))
    plain, full = DiffusionLoss(SCHEDULER, CPU).loss(step), objective().loss(step)
    assert torch.equal(plain, full)
    (gradient,) = torch.autograd.grad(full, step.output)
    assert gradient.isfinite().all()


def test_the_terms_are_those_of_two_lists_each_with_its_own_policy_and_weight() -> None:
    made = objective(policy_real="max", policy_generated="min", lambda_real=0.3, lambda_generated=0.7)
    real, generated = Lists("max", 5, CLASSES), Lists("min", 5, CLASSES)
    for number in range(60):
        step = step_of(number)
        predicted, clean = step.predicted_clean.flatten(1).double(), step.clean.flatten(1).double()
        terms = 0.3 * real.loss(predicted, step.labels, "min") + 0.7 * generated.loss(predicted, step.labels, "max")
        wanted = DiffusionLoss(SCHEDULER, CPU).loss(step) + terms
        found = made.loss(step)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
        ours, theirs = (torch.autograd.grad(one, step.output, retain_graph=True)[0] for one in (found, wanted))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
        real.add(clean, step.labels), generated.add(predicted, step.labels)
        for memory, lists in (made.real, real), (made.generated, generated):
            for label, members in lists.kept.items():
                kept = F.normalize(torch.stack(members), dim=1) if members else torch.zeros(0, NUMBERS).double()
                torch.testing.assert_close(held(memory, label).double(), kept, rtol=0, atol=1e-5)


def test_no_sample_meets_itself() -> None:
    made = objective(lambda_real=1.0, lambda_generated=0.0)
    step = step_of(labels=torch.arange(BATCH) % CLASSES)
    made.loss(step)
    again = made.loss(step) - DiffusionLoss(SCHEDULER, CPU).loss(step)  # now they do, and all others of their class
    cosines = F.cosine_similarity(
        step.predicted_clean.flatten(1)[:, None],
        step.clean.flatten(1)[None],
        dim=2,
    )
    own = step.labels[:, None] == step.labels
    smallest = torch.stack([cosines[own & (step.labels == label)[:, None]].min() for label in range(CLASSES)])
    torch.testing.assert_close(again, (1 - smallest).mean(), rtol=0, atol=1e-5)


def uniform(labels: Tensor, **options: Any) -> float:
    """The term of a memory in which every cosine is 0.25."""
    found, has = torch.full((len(labels),), 0.25), torch.ones(len(labels), dtype=torch.bool)
    return float(reduce_extremes(found, has, labels, CLASSES, **options))


def test_the_weights_of_classes_sum_to_one() -> None:
    for labels in ([0, 1, 2, 3], [0, 0, 0, 3], [2, 2, 2, 2]):
        assert uniform(torch.tensor(labels), extreme="max") == pytest.approx(0.25)
        assert uniform(torch.tensor(labels), extreme="min") == pytest.approx(0.75)


def test_cumulative_counts_the_first_of_n_classes_n_times_and_the_last_once() -> None:
    labels = torch.tensor([3, 0, 2])
    cosines, has = torch.tensor([0.1, 0.2, 0.4]), torch.ones(3, dtype=torch.bool)  # of classes 3, 0 and 2
    term = reduce_extremes(cosines, has, labels, CLASSES, extreme="max", multiplicity="cumulative")
    assert float(term) == pytest.approx((3 * 0.2 + 2 * 0.4 + 1 * 0.1) / 3)


def test_with_one_sample_per_class_both_reductions_agree() -> None:
    labels = torch.tensor([2, 0, 3])
    cosines, has = torch.rand(3, generator=stream("reduction")), torch.tensor([True, False, True])
    for extreme in ("min", "max"):
        one, other = (
            reduce_extremes(cosines, has, labels, CLASSES, extreme=extreme, reduction=reduction)  # type: ignore[arg-type]
            for reduction in ("class_extreme", "sample_mean")
        )
        torch.testing.assert_close(one, other)


def test_one_pair_of_a_class_carries_the_gradient() -> None:
    cosines = torch.rand(4, generator=stream("pairs")).requires_grad_()
    labels, has = torch.tensor([1, 1, 1, 2]), torch.ones(4, dtype=torch.bool)
    reduce_extremes(cosines, has, labels, CLASSES, extreme="max").backward()
    assert cosines.grad is not None
    assert (cosines.grad[:3] != 0).sum() == 1 and (cosines.grad[3:] != 0).sum() == 1


def test_far_timesteps_neither_add_to_the_terms_nor_enter_the_memory_of_predictions() -> None:
    labels = torch.zeros(BATCH, dtype=torch.long)
    made = objective(max_timestep=400, lambda_real=1.0, lambda_generated=1.0)
    made.loss(step_of(0, torch.tensor([100, 400, 401, 999, 0, 700]), labels))
    assert int(made.generated.valid.sum()) == 3 and int(made.real.valid.sum()) == 5
    far = step_of(1, torch.full((BATCH,), 999), labels)
    assert torch.equal(made.loss(far), DiffusionLoss(SCHEDULER, CPU).loss(far))


@pytest.mark.parametrize(("kept", "name"), [("sample", "clean"), ("mean", "mean")])
def test_the_real_memory_keeps_the_sample_or_its_mean(kept: str, name: str) -> None:
    made = objective(real_latent=kept, memory_size=BATCH)
    step = step_of(labels=torch.zeros(BATCH, dtype=torch.long))
    made.loss(step)
    cosines, has = made.real.extremes(getattr(step, name), step.labels, "max")
    assert has.all()
    torch.testing.assert_close(cosines, torch.ones(BATCH), rtol=0, atol=1e-6)


def test_cumulative_with_sample_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="cumulative"):
        objective(reduction="sample_mean", multiplicity="cumulative")


# ---- in training -----------------------------------------------------------------------------------------------------


def trained(folder: Path, made: MemoryObjective | None, steps: int = 8, resume: Any = None) -> Any:
    mean = torch.randn(32, *LATENT, generator=stream("latents"))
    return train_generator(
        new_transformer(0, **SHAPE),
        SCHEDULER,
        InMemory(mean, torch.full_like(mean, 0.1)),
        torch.arange(CLASSES).repeat(8),
        torch.arange(CLASSES),
        steps=steps,
        batch_size=BATCH,
        learning_rate=2e-3,
        warmup_steps=2,
        ema_decay=0.9,
        label_dropout=0.25,
        seed=0,
        device=CPU,
        resume=resume or no_resume(folder),
        objective=made,
    )


def same(one: Any, other: Any) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_terms_of_weight_zero_are_plain_training_bit_for_bit(tmp_path: Path) -> None:
    plain = trained(tmp_path, None)
    assert same(plain, trained(tmp_path, objective(lambda_real=0.0, lambda_generated=0.0)))
    assert not same(plain, trained(tmp_path, objective(lambda_real=0.5)))


@pytest.mark.parametrize("stop", [1, 5])
def test_a_stopped_training_goes_on_with_its_memories(stop: int, tmp_path: Path, no_request: None) -> None:
    whole, options = objective(lambda_generated=0.5), {"lambda_generated": 0.5}
    expected = trained(tmp_path, whole)
    with pytest.raises(SystemExit):
        trained(tmp_path, objective(**options), resume=StoppedAt(tmp_path / "weights", "digest", stop))
    distillery.storage.resume.clear_stop()
    resumed = objective(**options)
    assert same(expected, trained(tmp_path, resumed, resume=StoppedAt(tmp_path / "weights", "digest", -1)))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_diversity_term_spreads_the_predictions(tmp_path: Path) -> None:
    alike = {}
    for weight in (0.0, 3.0):
        made = objective(lambda_real=0.0, lambda_generated=weight, policy_generated="fifo", max_timestep=600)
        trained(tmp_path, made, steps=40)
        memory: LatentMemory = made.generated
        alike[weight] = float(memory.statistics()["cosine"])
    assert alike[3.0] < alike[0.0]
