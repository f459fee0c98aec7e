"""What learnability guidance promises: up S, by a step of known length, and never by a gradient that is none."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tiny import CLASSES, CPU, LATENT, NETWORK, NUMBERS, SIDE, World, digits, keys
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from distillery.data.pixels import to_bytes, to_unit
from distillery.diffusion.sampler import sample
from distillery.diffusion.step import Step
from distillery.guidance.learnability import LearnabilityGuidance
from distillery.guidance.score import Score, Scorer
from distillery.streams import stream
from distillery.students.networks import Classifier, Domain
from distillery.students.training import logits_of

LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
GUIDED = [45, 25, 10]
STRENGTH = NUMBERS**0.5 / 16


def guide(
    world: World, scorer: Scorer | None = None, strength: float = STRENGTH, **options: Any
) -> LearnabilityGuidance:
    return LearnabilityGuidance(scorer or world.scorer(), world.codec, strength=strength, first=10, last=45, **options)


@dataclass(frozen=True)
class Weighted(Scorer):
    """S of each image times a weight of its own."""

    weights: Tensor | float = 1.0

    def score(self, images: Tensor, labels: Tensor) -> Score:
        found = super().score(images, labels)
        return replace(found, learnability=found.learnability * self.weights)


def weighted(world: World, weights: Tensor | float) -> Weighted:
    return Weighted([world.student], world.reference, 1.0, weights)


def length(shift: Tensor) -> Tensor:
    return shift.flatten(1).norm(dim=1)


def rms(noise: Tensor) -> Tensor:
    return noise.detach().flatten(1).square().mean(1).sqrt()


# ---- what it is for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through_denoiser", [True, False])
def test_guidance_raises_s_and_the_other_direction_lowers_it(through_denoiser: bool, world: World) -> None:
    labels, scorer = torch.arange(4).repeat(6), world.scorer()
    found = {}
    for name, strength, direction in (("plain", 0.0, "ascend"), ("up", 1.0, "ascend"), ("down", 1.0, "descend")):
        guidance = guide(world, strength=strength, direction=direction, through_denoiser=through_denoiser)
        _, images = world.renderer().render(keys(24, "up"), labels, world.condition(labels), [guidance])
        found[name] = scorer.score_stored(images, labels).learnability
    assert found["up"].mean() > found["plain"].mean() + 0.5
    assert (found["up"] > found["plain"]).double().mean() > 0.8
    assert found["down"].mean() < found["plain"].mean() - 0.5
    assert (found["down"] < found["plain"]).double().mean() > 0.8


def test_what_the_student_fails_on_grows_with_the_strength_of_the_guidance(world: World) -> None:
    labels = torch.arange(4).repeat(4)
    means = []
    for strength in (0.0, 0.25, 1.0, 4.0):
        guidances = [guide(world, strength=strength)]
        _, images = world.renderer().render(keys(16, "grows"), labels, world.condition(labels), guidances)
        means.append(float(world.scorer().score_stored(images, labels).learnability.mean()))
    assert means == sorted(means)


# ---- the shift -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", GUIDED)
def test_the_shift_has_the_length_of_the_formula_whatever_the_size_of_the_gradient(index: int, world: World) -> None:
    state = world.step(index, LABELS, True)
    beta = float(state.schedule.betas[index])
    expected = STRENGTH * beta / (1 - beta) ** 0.5 * rms(state.noise)
    shifts = [guide(world, weighted(world, size)).shift(state) for size in (1.0, 1e3, 1e-3)]
    for shift in shifts:
        torch.testing.assert_close(length(shift), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(shift, shifts[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("index", GUIDED)
def test_a_shift_of_the_mean_is_the_published_change_of_the_noise_prediction(index: int, world: World) -> None:
    state = world.step(index, LABELS, True)
    shift = guide(world).shift(state).double()
    unit = shift / length(shift)[:, None, None, None]
    schedule, noisy, noise = state.schedule, state.noisy.detach().double(), state.noise.detach().double()
    changed = noise - STRENGTH * schedule.noise_scale(index) * rms(noise)[:, None, None, None] * unit
    means = [schedule.posterior_mean(schedule.clean(noisy, eps, index), noisy, index) for eps in (noise, changed)]
    torch.testing.assert_close(means[0] + shift, means[1], rtol=0, atol=1e-5)


def test_the_strength_scales_the_shift_and_the_direction_turns_it(world: World) -> None:
    state = world.step(25, LABELS, True)
    one = guide(world, strength=1.0).shift(state)
    torch.testing.assert_close(guide(world, strength=3.0).shift(state), 3 * one)
    assert torch.equal(guide(world, strength=1.0, direction="descend").shift(state), -one)


def test_the_l2_norm_of_the_noise_is_that_many_times_its_root_mean_square(world: World) -> None:
    state = world.step(25, LABELS, True)
    one, other = (guide(world, norm=norm).shift(state) for norm in ("rms_l2", "l2_l2"))
    torch.testing.assert_close(other, one * NUMBERS**0.5)


def test_every_image_has_its_own_gradient(world: World) -> None:
    together = guide(world).shift(world.step(25, LABELS, True))
    labels = LABELS.clone()
    labels[1:] = 3 - labels[1:]
    state = world.step(25, LABELS, True)
    alone = guide(world).shift(replace(state, labels=labels))
    torch.testing.assert_close(alone[0], together[0])
    assert not torch.allclose(alone[1], together[1])


def test_with_the_noise_prediction_held_fixed_the_direction_is_that_of_the_image(world: World) -> None:
    state = world.step(25, LABELS, False)
    shift = guide(world, through_denoiser=False).shift(state)
    clean = state.clean.clone().requires_grad_(True)
    world.scorer().score(world.codec.decode(clean), LABELS).learnability.sum().backward()
    assert clean.grad is not None
    torch.testing.assert_close(length(shift), length(guide(world).shift(world.step(25, LABELS, True))))
    alike = F.cosine_similarity(shift.flatten(1), clean.grad.flatten(1))
    torch.testing.assert_close(alike, torch.ones(len(LABELS)), rtol=0, atol=1e-5)


def several(world: World) -> list[Classifier]:
    """The student, one of another architecture and one of another side, both untrained."""
    resnet = Classifier("resnet_ap10_w4", CLASSES, Domain(SIDE, 1), ("resnet",)).eval()
    return [world.student, resnet, Classifier(NETWORK, CLASSES, Domain(12, 1), ("small",)).eval()]


def test_several_students_pull_along_the_mean_of_their_gradients(world: World) -> None:
    """The gradient of the noisy latent, network by network; a shift has its direction."""
    shift = guide(world, Scorer(several(world), world.reference, 0.5)).shift(world.step(25, LABELS, True))
    gradients = []
    for network in (*several(world), world.reference):
        state = world.step(25, LABELS, True)
        loss = F.cross_entropy(network(world.codec.decode(state.clean)), LABELS, reduction="sum")
        gradients.append(torch.autograd.grad(loss, state.noisy)[0].double())
    total = sum(gradients[:3]) / 3 - 0.5 * gradients[3]
    assert isinstance(total, Tensor)
    unit = (total / length(total)[:, None, None, None]).float()
    torch.testing.assert_close(shift / length(shift)[:, None, None, None], unit, rtol=1e-3, atol=1e-4)
    alone = guide(world, Scorer([world.student], world.reference, 0.5)).shift(world.step(25, LABELS, True))
    assert not torch.allclose(shift, alone, rtol=1e-2)


def test_the_gradient_agrees_with_finite_differences(world: World) -> None:
    """In fp64, along the shift and along directions that have little to do with it."""
    state, index = world.step(25, LABELS, True), 25
    unit = guide(world).shift(state).double()
    unit = unit / length(unit)[:, None, None, None]
    denoiser, decoder = copy.deepcopy(world.denoiser()).double(), copy.deepcopy(world.codec.autoencoder).double()
    networks = [copy.deepcopy(one).double() for one in (world.student, world.reference)]

    @torch.no_grad()
    def learnability(noisy: Tensor) -> Tensor:
        noise, _ = denoiser(noisy, int(state.schedule.timesteps[index]), world.condition(LABELS))
        clean = state.schedule.clean(noisy, noise, index)
        image = decoder.decode(clean / world.codec.scale).sample
        losses = [F.cross_entropy(network(image), LABELS, reduction="none") for network in networks]
        return losses[0] - losses[1]

    def slope(direction: Tensor, by: float = 1e-5) -> Tensor:
        noisy = state.noisy.detach().double()
        return (learnability(noisy + by * direction) - learnability(noisy - by * direction)) / (2 * by)

    steepest = slope(unit)
    assert (steepest > 0).all()
    for number in range(4):
        other = torch.randn(unit.shape, generator=stream("direction", number), dtype=torch.float64)
        other = other / length(other)[:, None, None, None] + 0.2 * number * unit
        expected = steepest * (unit * other).flatten(1).sum(1)
        torch.testing.assert_close(slope(other), expected, rtol=0, atol=1e-3 * float(steepest.max()))


# ---- gradients that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")], ids=["zero", "nan", "inf"])
@pytest.mark.parametrize("through_denoiser", [True, False])
def test_an_image_without_a_usable_gradient_is_not_moved_and_is_counted(
    through_denoiser: bool, bad: float, world: World
) -> None:
    state = world.step(25, LABELS, through_denoiser)
    whole = guide(world, through_denoiser=through_denoiser).shift(state)
    weights = torch.tensor([1.0, bad, 1.0, 1.0, bad, 1.0])
    guidance = guide(world, weighted(world, weights), through_denoiser=through_denoiser)
    shift = guidance.shift(state)
    assert torch.equal(shift[[1, 4]], torch.zeros(2, *LATENT))
    torch.testing.assert_close(shift[[0, 2, 3, 5]], whole[[0, 2, 3, 5]])
    assert guidance.skipped == 2


def test_without_any_gradient_the_result_is_plain_sampling_and_every_step_is_counted(world: World) -> None:
    guidance = guide(world, Scorer([world.reference], world.reference, 1.0))  # S = 0 whatever the image
    found = [
        sample(
            world.denoiser(),
            world.schedule(),
            LATENT[1],
            keys(2),
            LABELS[:2],
            world.condition(LABELS[:2]),
            some,
            device=CPU,
        )
        for some in ([], [guidance])
    ]
    assert torch.equal(*found)
    assert guidance.skipped == 2 * 36


def test_a_usable_run_counts_nothing(world: World) -> None:
    guidance = guide(world)
    guidance.shift(world.step(25, LABELS, True))
    assert guidance.skipped == 0


# ---- the score -------------------------------------------------------------------------------------------------------


def test_s_is_the_loss_of_the_student_less_omega_times_that_of_the_reference(world: World) -> None:
    pixels, labels = (values[::60] for values in digits())
    logits = [logits_of(network, pixels) for network in (world.student, world.reference)]
    losses = [F.cross_entropy(one, labels, reduction="none") for one in logits]
    score = world.scorer(weight=0.7).score_stored(pixels, labels)
    torch.testing.assert_close(score.learnability, losses[0] - 0.7 * losses[1])
    torch.testing.assert_close(score.student_loss, losses[0])
    torch.testing.assert_close(score.reference_loss, losses[1])
    torch.testing.assert_close(score.reference_probability, logits[1].softmax(1).gather(1, labels[:, None])[:, 0])
    assert score.student_correct.tolist() == (logits[0].argmax(1) == labels).tolist()
    assert score.reference_correct.tolist() == (logits[1].argmax(1) == labels).tolist()


def test_s_of_several_students_has_the_mean_of_their_losses(world: World) -> None:
    pixels, labels = (values[::60] for values in digits())
    logits = [logits_of(network, pixels) for network in several(world)]
    losses = torch.stack([F.cross_entropy(one, labels, reduction="none") for one in logits])
    known = F.cross_entropy(logits_of(world.reference, pixels), labels, reduction="none")
    score = Scorer(several(world), world.reference, 0.7).score_stored(pixels, labels)
    torch.testing.assert_close(score.student_loss, losses.sum(0) / 3)
    torch.testing.assert_close(score.learnability, losses.sum(0) / 3 - 0.7 * known)
    assert (losses.std(0) > 0.01).all()  # so that the mean is no one's own loss


class Sure(torch.nn.Module):
    """Gives every image the same logits."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_students_are_correct_where_their_mean_probability_is() -> None:
    """One is sure of class 0, two lean to class 1: p(0) = (0.99 + 0.4 + 0.4) / 3, though most votes are for 1."""
    students: Any = [Sure([math.log(probability), math.log(1 - probability)]) for probability in (0.99, 0.4, 0.4)]
    images, labels = torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])
    score = Scorer(students, students[0], 1.0).score(images, labels)
    assert score.student_correct.tolist() == [True, False]
    expected = [-sum(map(math.log, row)) / 3 for row in ([0.99, 0.4, 0.4], [0.01, 0.6, 0.6])]
    assert score.student_loss.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_student_that_equals_the_reference_leaves_nothing_to_learn(world: World) -> None:
    pixels, labels = (values[:50] for values in digits())
    score = Scorer([world.reference], world.reference, 1.0).score_stored(pixels, labels)
    assert torch.equal(score.learnability, torch.zeros(50))


def test_the_score_of_an_image_does_not_depend_on_its_batch(world: World) -> None:
    pixels, labels = (values[:50] for values in digits())
    whole, parts = (world.scorer().score_stored(pixels, labels, size) for size in (256, 7))
    torch.testing.assert_close(parts.learnability, whole.learnability, rtol=1e-5, atol=1e-5)


def test_the_score_of_a_decoded_image_is_that_of_the_stored_one_to_its_rounding(world: World) -> None:
    pixels, labels = (values[:50] for values in digits())
    with torch.no_grad():
        decoded = world.codec.decode(world.codec.encode(to_unit(pixels))[0]).clamp(-1, 1)
        score = world.scorer().score(decoded, labels)
    stored = world.scorer().score_stored(to_bytes(decoded), labels)
    torch.testing.assert_close(stored.learnability, score.learnability, rtol=0.02, atol=0.02)


# ---- what a network sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "mean", "std"), [(SIDE, 0.5, 0.5), (12, 0.485, 0.229), (24, 0.1307, 0.3081)])
def test_the_domain_of_a_network_is_the_usual_evaluation_transform(size: int, mean: float, std: float) -> None:
    pixels = digits()[0][:20]
    usual = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((size, size), antialias=True),
            v2.Normalize([mean], [std]),
        ]
    )
    torch.testing.assert_close(
        Domain(size, 1, mean, std).from_unit(to_unit(pixels)), usual(pixels), rtol=1e-5, atol=1e-5
    )


def test_networks_of_different_domains_score_one_image(world: World) -> None:
    pixels, labels = (values[:8] for values in digits())
    small = Classifier(NETWORK, CLASSES, Domain(12, 1, 0.2, 0.4), ("small",)).eval()
    score = Scorer([world.student], small, 1.0).score_stored(pixels, labels)
    torch.testing.assert_close(
        score.reference_loss, F.cross_entropy(logits_of(small, pixels), labels, reduction="none")
    )


def test_values_beyond_the_range_reach_a_network_unclamped() -> None:
    assert Domain(2, 1).from_unit(torch.full((1, 1, 2, 2), 1.5)).tolist() == [[[[1.5, 1.5], [1.5, 1.5]]]]


def test_bytes_survive_the_range_of_the_networks() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_a_step_state_is_what_the_sampler_gives(world: World) -> None:
    """The states of this file are those of sampling: a leaf with a graph to the clean latent."""
    state = world.step(25, LABELS, True)
    assert isinstance(state, Step)
    assert state.noisy.is_leaf and state.clean.requires_grad
