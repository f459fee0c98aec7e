"""What representation guidance promises: towards the least similar real latents, away from those drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from steering import encoded, latents
from tiny import CLASSES, LATENT, NUMBERS, World
from torch import Tensor
from torch.nn import functional as F

from distillery.diffusion.latents import LatentCache
from distillery.diffusion.step import Step
from distillery.errors import BadInput
from distillery.guidance.base import Remembers, Scene
from distillery.guidance.class_memory import ClassMemory
from distillery.guidance.registry import Guidances
from distillery.guidance.representation import Representation, RepresentationGuidance
from distillery.methods.sampling import Plain
from distillery.settings import canonical
from distillery.storage.tensors import write_tensors

LABELS = torch.tensor([0, 1, 2, 0])
REAL, DRAWN = latents(12, "real"), latents(9, "drawn")
OF_REAL, OF_DRAWN = torch.arange(3).repeat(4), torch.arange(3).repeat(3)

Opened = Callable[..., RepresentationGuidance]


def guide(away: float = 3.0, towards: float = 0.5, *, real: bool = True, drawn: bool = True) -> RepresentationGuidance:
    memories = ClassMemory(), ClassMemory()
    if real:
        memories[0].add(REAL, OF_REAL)
    if drawn:
        memories[1].add(DRAWN, OF_DRAWN)
    return RepresentationGuidance(*memories, strength=away, real_strength=towards, first=10, last=45)


def extremes(clean: Tensor) -> tuple[Tensor, Tensor]:
    """Of each latent the least cosine with real ones of its class, and the largest with drawn ones: (N,) each."""
    least, largest = [], []
    for row, label in zip(clean.flatten(1), LABELS.tolist(), strict=True):
        least.append(F.cosine_similarity(row[None], REAL[label == OF_REAL].flatten(1).to(row)).min())
        largest.append(F.cosine_similarity(row[None], DRAWN[label == OF_DRAWN].flatten(1).to(row)).max())
    return torch.stack(least), torch.stack(largest)


# ---- the gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [45, 10])
def test_the_shift_is_the_gradient_of_both_terms(index: int, world: World) -> None:
    state = world.step(index, LABELS, False)
    clean = state.clean.double().requires_grad_(True)
    least, largest = extremes(clean)
    (0.5 * least - 3.0 * largest).sum().backward()
    assert clean.grad is not None
    torch.testing.assert_close(guide().shift(state), clean.grad.float(), rtol=1e-4, atol=1e-7)


def test_a_step_raises_the_least_cosine_with_real_latents(world: World) -> None:
    state = world.step(30, LABELS, False)
    moved = state.clean + guide(away=0.0, towards=0.1).shift(state)
    assert (extremes(moved)[0] > extremes(state.clean)[0]).all()


def test_a_step_lowers_the_largest_cosine_with_drawn_latents(world: World) -> None:
    state = world.step(30, LABELS, False)
    moved = state.clean + guide(away=0.1, towards=0.0).shift(state)
    assert (extremes(moved)[1] < extremes(state.clean)[1]).all()


def test_a_term_without_latents_is_left_out(world: World) -> None:
    state = world.step(30, LABELS, False)
    apart = guide(drawn=False).shift(state) + guide(real=False).shift(state)
    torch.testing.assert_close(apart, guide().shift(state))
    assert not guide(real=False, drawn=False).shift(state).any()


def test_it_acts_in_its_range_and_needs_no_graph(world: World) -> None:
    guidance = guide()
    assert [guidance.active(index) for index in (9, 10, 45, 46)] == [False, True, True, False]
    assert not guidance.needs_graph()
    assert not guidance.shift(world.step(30, LABELS, True)).requires_grad


# ---- settings --------------------------------------------------------------------------------------------------------


def test_automatic_strengths_follow_the_latent_and_keep_their_ratio() -> None:
    assert Representation().strengths(4096) == (50.0, 12.5)
    assert Representation().strengths(NUMBERS) == (3.125, 3.125 / 4)
    assert Representation(strength=8.0).strengths(NUMBERS) == (8.0, 2.0)
    assert Representation(strength=8.0, real_strength=0.0).strengths(NUMBERS) == (8.0, 0.0)
    assert Representation(real_strength=1.0).strengths(4096) == (50.0, 1.0)


def test_settings_without_it_are_as_they_were() -> None:
    plain = Plain(kind="plain", generator="dit", guidance=Guidances())
    assert json.loads(canonical(plain))["guidance"] == {}
    steered = Plain.model_validate({"kind": "plain", "generator": "dit", "guidance": {"representation": {}}})
    assert list(json.loads(canonical(steered))["guidance"]) == ["representation"]


# ---- how it is opened ------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(world: World, tmp_path: Path) -> Opened:
    path = encoded(tmp_path, [0, 1, 2, 3])

    def of(file: Path = path, **options: object) -> RepresentationGuidance:
        settings = Representation.model_validate(options).resolved(50, None)
        guidance = settings.open([file], Scene(world.renderer(), CLASSES))
        assert guidance is not None
        return guidance

    return of


def compared(guidance: RepresentationGuidance, world: World, path: Path) -> list[set[int]]:
    """Of each class the rows of the real latents that it compares: where x0 = -latent, nothing is left to gain."""
    cache = LatentCache([path])
    means = cache.take(torch.arange(len(cache)))[0]
    base = world.step(30, torch.tensor([0]), False)
    rows: list[set[int]] = []
    for label, name in enumerate(CLASSES):
        own = (cache.labels == cache.classes.index(name)).nonzero()[:, 0].tolist()
        known = set()
        for row in own:
            # at x0 = -latent the least cosine is -1, where the gradient of the cosine is zero
            labels = torch.tensor([label])
            state = Step(30, base.noisy, base.noise, -means[row : row + 1], labels, base.schedule, base.sigma)
            if guidance.shift(state).norm() < 1e-4:
                known.add(row)
        rows.append(known)
    return rows


def test_the_memory_bounds_the_real_latents_of_each_class(opened: Opened, world: World, tmp_path: Path) -> None:
    path = encoded(tmp_path, [0, 1, 2, 3])
    sizes = {size: compared(opened(memory_size=size), world, path) for size in (1, 4, 100)}
    assert {size: [len(rows) for rows in each] for size, each in sizes.items()} == {
        1: [1] * 4,
        4: [4] * 4,
        100: [6] * 4,
    }
    assert all(few <= many for few, many in zip(sizes[1], sizes[4], strict=True))


def test_the_seed_chooses_real_latents_and_the_other_classes_do_not(
    opened: Opened, world: World, tmp_path: Path
) -> None:
    path = encoded(tmp_path, [0, 1, 2, 3])
    chosen = compared(opened(memory_size=3), world, path)
    assert compared(opened(memory_size=3), world, path) == chosen
    assert any(compared(opened(memory_size=3, seed=seed), world, path) != chosen for seed in (1, 2))
    renamed = tmp_path / "renamed.safetensors"
    cache = LatentCache([path])
    means = cache.take(torch.arange(len(cache)))[0]
    means[cache.labels != 0] += 1  # other images of the other classes
    write_tensors(
        renamed,
        {"mean": means, "std": torch.zeros_like(means), "labels": cache.labels},
        {"stage": "test"},
        classes=cache.classes,
    )
    assert compared(opened(renamed, memory_size=3), world, renamed)[0] == chosen[0]


def test_latents_that_list_the_classes_in_another_order_are_those_of_the_same_names(
    opened: Opened, world: World, tmp_path: Path
) -> None:
    state = world.step(30, LABELS, False)
    shifts = [opened(encoded(tmp_path, order)).shift(state) for order in ([0, 1, 2, 3], [2, 0, 3, 1])]
    assert torch.equal(*shifts)


@pytest.mark.parametrize(("options", "on"), [({"strength": 0}, False), ({"strength": 0, "real_strength": 1}, True)])
def test_strength_zero_opens_nothing(options: dict[str, float], on: bool, world: World, tmp_path: Path) -> None:
    settings = Representation.model_validate(options, strict=False).resolved(50, None)
    guidance = settings.open([encoded(tmp_path, [0, 1, 2, 3])], Scene(world.renderer(), CLASSES))
    assert (guidance is not None) == on


def test_latents_of_other_classes_or_of_another_shape_are_refused(opened: Opened, tmp_path: Path) -> None:
    for channels, classes, words in (
        (LATENT[0], ["zero", "one", "two", "nine"], "latents of classes .*'nine'"),
        (2, CLASSES, r"latents of shape \(2, 8, 8\), but those that are sampled have \(4, 8, 8\)"),
    ):
        mean = torch.zeros(4, channels, *LATENT[1:])
        write_tensors(
            tmp_path / "other.safetensors",
            {"mean": mean, "std": mean + 1, "labels": torch.arange(4)},
            {"stage": "test"},
            classes=classes,
        )
        with pytest.raises(BadInput, match=words):
            opened(tmp_path / "other.safetensors")


def test_images_that_are_chosen_are_remembered(opened: Opened, world: World) -> None:
    """So the sampler takes slots one by one: a slot is drawn away from the slots before."""
    guidance, state = opened(), world.step(30, LABELS, False)
    assert isinstance(guidance, Remembers)
    before = guidance.shift(state)
    guidance.remember(DRAWN[:1], torch.tensor([1]))
    moved = (guidance.shift(state) != before).flatten(1).any(1)
    assert moved.tolist() == [False, True, False, False]
