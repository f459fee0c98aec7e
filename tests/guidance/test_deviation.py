"""What deviation guidance promises: away from the nearest latent that the class already has, and from no other."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from tiny import CPU, LATENT, NUMBERS, World, keys
from torch import Tensor
from torch.nn import functional as F

from distillery.diffusion.sampler import sample
from distillery.guidance.class_memory import ClassMemory, cosine_gradient, cosines
from distillery.guidance.deviation import Deviation, DeviationGuidance
from distillery.streams import stream

LABELS = torch.tensor([0, 1, 2, 0])


def latents(count: int, *name: int | str) -> Tensor:
    return torch.randn(count, *LATENT, generator=stream("latents", *name))


def memory_of(stored: Tensor, labels: list[int], capacity: int | None = None) -> ClassMemory:
    memory = ClassMemory(capacity)
    memory.add(stored, torch.tensor(labels))
    return memory


def guide(memory: ClassMemory, strength: float = 1.0, on: Literal["x0", "xt", "x0_chain"] = "x0") -> DeviationGuidance:
    return DeviationGuidance(memory, strength=strength, first=10, last=45, on=on)


# ---- the gradient ----------------------------------------------------------------------------------------------------


def test_the_closed_form_is_the_gradient_of_the_cosine() -> None:
    point, other = latents(5, "x").double().requires_grad_(True), latents(5, "m").double()
    F.cosine_similarity(point.flatten(1), other.flatten(1)).sum().backward()
    assert point.grad is not None
    torch.testing.assert_close(cosine_gradient(point.detach(), other), point.grad, rtol=1e-12, atol=1e-15)


def test_the_gradient_is_orthogonal_to_the_latent_and_bounded_by_its_length() -> None:
    point, other = latents(5, "x"), latents(5, "m")
    gradient = cosine_gradient(point, other)
    along = (gradient * point).flatten(1).sum(1)
    torch.testing.assert_close(along, torch.zeros(5), rtol=0, atol=1e-6)
    assert (gradient.flatten(1).norm(dim=1) <= 1 / point.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("factor", [2.0, 0.0])
def test_a_latent_on_its_neighbour_and_a_zero_latent_give_finite_numbers(factor: float) -> None:
    other = latents(1)
    assert cosine_gradient(factor * other, other).isfinite().all()
    assert cosine_gradient(other, torch.zeros_like(other)).isfinite().all()


@pytest.mark.parametrize("on", ["x0", "xt", "x0_chain"])
@pytest.mark.parametrize("index", [45, 10])
def test_a_step_lowers_the_cosine_with_the_nearest_latent(
    index: int, on: Literal["x0", "xt", "x0_chain"], world: World
) -> None:
    state = world.step(index, LABELS, False)
    point = state.noisy if on == "xt" else state.clean
    memory = memory_of(latents(9), [0, 1, 2] * 3)
    nearest, _ = memory.nearest(point, LABELS)
    moved = point + guide(memory, 0.5, on).shift(state)
    before, after = (F.cosine_similarity(one.flatten(1), nearest.flatten(1)) for one in (point, moved))
    assert (after < before).all()


def test_the_variants_differ_in_the_point_and_by_the_jacobian(world: World) -> None:
    state, memory = world.step(30, LABELS, False), memory_of(latents(9), [0, 1, 2] * 3)
    shift = {on: guide(memory, 2.0, on).shift(state) for on in ("x0", "xt", "x0_chain")}
    for on, point in (("x0", state.clean), ("xt", state.noisy)):
        nearest, _ = memory.nearest(point, LABELS)
        torch.testing.assert_close(shift[on], -2.0 * cosine_gradient(point, nearest))
    abar = float(state.schedule.alphas_cumprod[30])
    torch.testing.assert_close(shift["x0_chain"], shift["x0"] / abar**0.5)


@pytest.mark.parametrize(("index", "weaker"), [(45, 2.71), (40, 2.90), (30, 3.87), (20, 5.33), (10, 7.16)])
def test_a_term_on_the_noise_moves_the_mean_as_much_less_as_the_published_schedule_says(
    index: int, weaker: float, world: World
) -> None:
    """The ratio is sqrt(1 - abar) / (beta / sqrt(alpha)), with the values of the table of 50 steps."""
    state, memory = world.step(index, LABELS, False), memory_of(latents(9), [0, 1, 2] * 3)
    on_mean = DeviationGuidance(memory, strength=2.0, first=10, last=45)
    on_noise = DeviationGuidance(memory, strength=2.0, first=10, last=45, place="noise")
    torch.testing.assert_close(on_mean.shift(state), weaker * on_noise.shift(state), rtol=5e-3, atol=0)


@pytest.mark.parametrize("index", [45, 25, 10])
def test_a_term_on_the_noise_is_a_step_with_the_changed_noise_prediction(index: int, world: World) -> None:
    state, memory = world.step(index, LABELS, False), memory_of(latents(9), [0, 1, 2] * 3)
    nearest, _ = memory.nearest(state.clean, LABELS)
    changed = state.noise + 3.0 * cosine_gradient(state.clean, nearest)
    schedule = state.schedule
    means = [
        schedule.posterior_mean(schedule.clean(state.noisy.double(), noise.double(), index), state.noisy, index)
        for noise in (state.noise, changed)
    ]
    guidance = DeviationGuidance(memory, strength=3.0, first=10, last=45, place="noise")
    torch.testing.assert_close(guidance.shift(state).double(), means[1] - means[0], rtol=1e-3, atol=1e-6)


def test_settings_without_the_place_are_those_of_before_it_existed() -> None:
    assert "place" not in Deviation().model_dump(mode="json")
    assert Deviation(place="noise").model_dump(mode="json")["place"] == "noise"


def test_the_shift_grows_with_the_strength(world: World) -> None:
    state, memory = world.step(30, LABELS, False), memory_of(latents(9), [0, 1, 2] * 3)
    torch.testing.assert_close(guide(memory, 5.0).shift(state), 5 * guide(memory, 1.0).shift(state))


def test_no_variant_needs_a_graph(world: World) -> None:
    state, memory = world.step(30, LABELS, True), memory_of(latents(9), [0, 1, 2] * 3)
    for on in ("x0", "xt", "x0_chain"):
        assert not guide(memory, 1.0, on).needs_graph()
        assert not guide(memory, 1.0, on).shift(state).requires_grad


# ---- the memory ------------------------------------------------------------------------------------------------------


def test_the_nearest_latent_is_that_of_largest_cosine_whatever_its_length() -> None:
    point = latents(1, "x")
    stored = torch.cat([0.01 * point, 100 * latents(1, "long"), point + 0.5 * latents(1, "near"), -point])
    nearest, has = memory_of(stored, [0, 0, 0, 0]).nearest(point, torch.tensor([0]))
    assert torch.equal(nearest, stored[:1])
    assert has.tolist() == [True]


def test_a_class_sees_its_own_memory_even_if_another_class_has_the_very_image() -> None:
    points, stored = latents(2, "x"), latents(2, "m")
    memory = memory_of(torch.cat([points[:1], stored]), [1, 0, 1])
    nearest, _ = memory.nearest(points, torch.tensor([0, 1]))
    assert torch.equal(nearest[0], stored[0])
    similarity = cosines(points[1:].flatten(1), torch.cat([points[:1], stored[1:]]).flatten(1))[0]
    assert torch.equal(nearest[1], torch.cat([points[:1], stored[1:]])[similarity.argmax()])


def test_mixed_batches_get_what_each_class_gets_alone() -> None:
    points, memory = latents(6, "x"), memory_of(latents(9), [0, 1, 2] * 3)
    labels = torch.tensor([2, 0, 1, 0, 3, 2])
    nearest, has = memory.nearest(points, labels)
    for row in range(6):
        alone, any_alone = memory.nearest(points[row : row + 1], labels[row : row + 1])
        assert torch.equal(alone[0], nearest[row])
        assert any_alone[0] == has[row]


def test_a_class_without_latents_is_not_moved(world: World) -> None:
    state = world.step(30, LABELS, False)
    shift = guide(memory_of(latents(2), [0, 2])).shift(state)
    assert torch.equal(shift[1], torch.zeros(LATENT))
    assert (shift[[0, 2, 3]].flatten(1).norm(dim=1) > 0).all()


def test_an_empty_memory_is_plain_sampling_bit_for_bit(world: World) -> None:
    found = [sampled(world, guidances) for guidances in ([], [guide(ClassMemory(), 50.0)])]
    assert torch.equal(*found)


def test_the_oldest_latents_of_a_class_leave_first() -> None:
    stored = latents(6)
    memory = ClassMemory(2)
    memory.add(stored[:4], torch.tensor([0, 0, 1, 0]))
    memory.add(stored[4:], torch.tensor([1, 0]))
    assert [memory.count(label) for label in (0, 1, 2)] == [2, 2, 0]
    for row, (label, kept) in enumerate([(0, False), (0, False), (1, True), (0, True), (1, True), (0, True)]):
        nearest, _ = memory.nearest(stored[row : row + 1], torch.tensor([label]))
        assert torch.equal(nearest[0], stored[row]) is kept


def test_without_a_capacity_everything_is_kept() -> None:
    memory = memory_of(latents(100), [0] * 100)
    assert memory.count(0) == 100


# ---- in the sampler --------------------------------------------------------------------------------------------------


def sampled(world: World, guidances: list[DeviationGuidance]) -> Tensor:
    labels = torch.arange(4).repeat(3)
    return sample(
        world.denoiser(),
        world.schedule(20),
        LATENT[1],
        keys(12, "deviation"),
        labels,
        world.condition(labels),
        guidances,
        device=CPU,
    )


def test_images_come_to_lie_further_from_what_the_class_has(world: World) -> None:
    memory = memory_of(sampled(world, []), [0, 1, 2, 3] * 3)  # unguided, every image would repeat one that is there
    labels, alike = torch.arange(4).repeat(3), []
    for strength in (0.0, 3.0, 20.0, 100.0):
        images = sampled(world, [DeviationGuidance(memory, strength=strength, first=4, last=18)])
        nearest, _ = memory.nearest(images, labels)
        alike.append(float(F.cosine_similarity(images.flatten(1), nearest.flatten(1)).mean()))
    assert alike[0] == pytest.approx(1)
    assert alike == sorted(alike, reverse=True)
    assert alike[-1] < 0.95


def test_the_published_strength_is_scaled_to_the_latent() -> None:
    assert Deviation().scaled_strength(4096) == 50
    assert Deviation().scaled_strength(NUMBERS) == 3.125
    assert Deviation(published_strength=120.0).scaled_strength(NUMBERS) == 7.5
    assert Deviation(strength=7.0).scaled_strength(NUMBERS) == 7.0
    assert Deviation(strength=0.0).scaled_strength(4096) == 0
