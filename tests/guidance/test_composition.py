"""What guidances promise together: shifts that add up in any order, and nothing at strength zero."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from steering import STEPS, drawn, influence_of, latents
from tiny import CPU, LATENT, WatchedDenoiser, World, keys

from distillery.diffusion.sampler import Guidance, sample
from distillery.guidance.class_memory import ClassMemory
from distillery.guidance.deviation import DeviationGuidance
from distillery.guidance.influence import InfluenceGuidance
from distillery.guidance.learnability import LearnabilityGuidance
from distillery.guidance.mode import ModeGuidance


def every_guidance(world: World, surrogate: Path, strength: float = 1.0) -> list[Guidance]:
    memory = ClassMemory()
    memory.add(latents(8, "memory"), torch.arange(4).repeat(2))
    return [
        LearnabilityGuidance(world.scorer(), world.codec, strength=strength, first=2, last=8),
        InfluenceGuidance(influence_of(surrogate), world.codec, strength=strength, first=5, last=8),
        ModeGuidance(latents(8, "modes").view(4, 2, *LATENT), strength=0.1 * strength, stop=4),
        DeviationGuidance(memory, strength=strength, first=2, last=8),
    ]


def test_the_order_of_guidances_does_not_matter_to_the_last_bit(world: World, surrogate: Path) -> None:
    orders = list(itertools.permutations(every_guidance(world, surrogate)))
    first = drawn(world, list(orders[0]), steps=6)
    for order in (orders[-1], orders[9], orders[14]):
        assert torch.equal(drawn(world, list(order), steps=6), first)
    assert not torch.equal(first, drawn(world, [], steps=6))


def test_every_guidance_of_strength_zero_is_plain_sampling_bit_for_bit_without_a_graph(
    world: World, surrogate: Path
) -> None:
    denoiser = WatchedDenoiser(world.denoiser())
    assert torch.equal(drawn(world, every_guidance(world, surrogate, 0.0), denoiser=denoiser), drawn(world, []))
    assert [graph for _, graph in denoiser.calls] == [False] * STEPS


def test_the_slot_of_an_image_decides_nothing_without_modes(world: World) -> None:
    labels = torch.arange(4)
    some = [
        sample(
            world.denoiser(),
            world.schedule(4),
            LATENT[1],
            keys(4),
            labels,
            world.condition(labels),
            device=CPU,
            slots=at,
        )
        for at in (None, labels)
    ]
    assert torch.equal(*some)
