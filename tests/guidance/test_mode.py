"""What guidance by modes promises: modes of the own class, and images that come to lie nearer to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steering import LABELS, SLOTS, STEPS, Exact, abar_of, discovered, drawn, latents
from tiny import CLASSES, LATENT, World
from torch import Tensor

from distillery.diffusion.solvers import SolverName
from distillery.errors import BadInput
from distillery.guidance.mode import ModeGuidance
from distillery.guidance.mode_discovery import discover_modes, read_modes
from distillery.streams import stream


def test_the_modes_of_separate_groups_are_their_means() -> None:
    centres = 10 * latents(3, "centres")
    points = torch.cat([centre + 0.01 * latents(7, "near", number) for number, centre in enumerate(centres)])
    order = torch.randperm(21, generator=stream("order"))
    modes = discover_modes(points[order], 3, discovery="centroid", pool=None, seed=0)
    means = points.view(3, 7, *LATENT).mean(1)
    for mean in means:
        assert (modes - mean).flatten(1).norm(dim=1).min() < 1e-4
    nearest = discover_modes(points[order], 3, discovery="nearest", pool=None, seed=0)
    assert all((points - one).flatten(1).norm(dim=1).min() == 0 for one in nearest)
    assert ((nearest[:, None] - means).flatten(2).norm(dim=2).min(1).values < 1).all()


def test_random_modes_are_different_latents_of_the_class() -> None:
    points = latents(9, "points")
    modes = discover_modes(points, 5, discovery="random", pool=None, seed=0)
    rows = [int((points - one).flatten(1).norm(dim=1).argmin()) for one in modes]
    assert len(set(rows)) == 5 and torch.equal(points[rows], modes)


def test_pooled_clusters_have_the_mean_of_full_latents() -> None:
    layout = latents(2, "layout")
    fine = torch.stack([layout[number % 2] + 5 * checkerboard(number) for number in range(8)])
    modes = discover_modes(fine, 2, discovery="centroid", pool=2, seed=0)
    expected = torch.stack([fine[number::2].mean(0) for number in range(2)])
    assert (modes[:, None] - expected).flatten(2).norm(dim=2).min(1).values.max() < 1e-4


def checkerboard(number: int) -> Tensor:
    """A pattern that pooling does not see."""
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    return sign * (1 if number // 2 % 2 else -1)


def test_more_modes_than_images_are_refused() -> None:
    with pytest.raises(BadInput, match="5 modes of 4 images"):
        discover_modes(latents(4), 5, discovery="centroid", pool=None, seed=0)
    with pytest.raises(BadInput, match="only 1 different images"):
        discover_modes(latents(1).repeat(4, 1, 1, 1), 3, discovery="centroid", pool=None, seed=0)


def test_every_class_has_its_own_modes_whatever_the_order_of_the_classes(tmp_path: Path) -> None:
    one, other = (read_modes(discovered(tmp_path, order), CLASSES) for order in ([0, 1, 2, 3], [2, 0, 3, 1]))
    assert torch.equal(one, other)
    for label in range(4):
        assert abs(float(one[label].mean()) - label) < 0.3


def test_the_stage_names_the_class_that_has_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"class 'zero': 7 modes of 6 images"):
        discovered(tmp_path, [0, 1, 2, 3], count=7)
    with pytest.raises(BadInput, match=r"mode\.pool: 9 is more than the side of the latents, 8"):
        discovered(tmp_path, [0, 1, 2, 3], pool=9)


def test_a_class_without_modes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no modes of class 'four'; there are modes of one, three, two, zero"):
        read_modes(discovered(tmp_path, [0, 1, 2, 3]), [*CLASSES, "four"])


def test_fifty_steps_are_guided_at_49_to_26() -> None:
    guidance = ModeGuidance(latents(8).view(4, 2, *LATENT), strength=0.1, stop=25)
    assert [index for index in range(50) if guidance.active(index)] == [*range(26, 50)]


def test_modes_need_the_slots(world: World) -> None:
    step = world.step(9, LABELS, False, steps=STEPS)
    with pytest.raises(ValueError, match="slot"):
        ModeGuidance(latents(8).view(4, 2, *LATENT), strength=0.1, stop=4).shift(step)


def test_there_may_be_fewer_modes_than_slots(world: World) -> None:
    step = world.step(9, LABELS, False, steps=STEPS)
    modes = latents(4, "modes").view(4, 1, *LATENT)
    step.slots = SLOTS
    shift = ModeGuidance(modes, strength=0.1, stop=4).shift(step)
    torch.testing.assert_close(shift, 0.1 * step.sigma * (modes[LABELS, 0] - step.clean))


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm"])
def test_an_image_comes_to_lie_nearer_to_its_mode_as_the_strength_grows(solver: SolverName, world: World) -> None:
    modes = latents(8, "modes").view(4, 2, *LATENT)
    own, far = modes[LABELS, SLOTS], []
    # Without fresh noise nothing is forgotten: shifts add up, and the strongest would take an image past its mode.
    for strength in (0.0, 0.05, 0.1, 0.3) if solver == "ddpm" else (0.0, 0.02, 0.05, 0.1):
        guidance = ModeGuidance(modes, strength=strength, stop=25)
        images = drawn(world, [guidance], solver, denoiser=Exact(abar_of(world)), steps=50)
        far.append(float((images - own).flatten(1).norm(dim=1).mean()))
    assert far == sorted(far, reverse=True) and far[-1] < 0.9 * far[0]
