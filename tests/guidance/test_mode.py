"""What guidance by modes promises: modes of the own class, and images that come to lie nearer to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans
from steering import LABELS, SLOTS, STEPS, Exact, abar_of, discovered, drawn, latents
from tiny import CLASSES, LATENT, World
from torch import Tensor

from distillery.diffusion.solvers import SolverName
from distillery.errors import BadInput
from distillery.guidance.mode import ModeGuidance
from distillery.guidance.mode_discovery import discover_modes, nearest_latents, read_modes
from distillery.streams import stream


def modes_of(points: Tensor, count: int, **options: Any) -> Tensor:
    defaults: dict[str, Any] = {"discovery": "centroid", "smallest_cluster": 1, "pool": None, "seed": 0}
    return discover_modes(points, count, **{**defaults, **options})


def test_the_modes_of_separate_groups_are_their_means() -> None:
    centres = 10 * latents(3, "centres")
    points = torch.cat([centre + 0.01 * latents(7, "near", number) for number, centre in enumerate(centres)])
    order = torch.randperm(21, generator=stream("order"))
    modes = modes_of(points[order], 3)
    means = points.view(3, 7, *LATENT).mean(1)
    for mean in means:
        assert (modes - mean).flatten(1).norm(dim=1).min() < 1e-4
    nearest = modes_of(points[order], 3, discovery="nearest")
    assert all((points - one).flatten(1).norm(dim=1).min() == 0 for one in nearest)
    assert ((nearest[:, None] - means).flatten(2).norm(dim=2).min(1).values < 1).all()


def test_random_modes_are_different_latents_of_the_class() -> None:
    points = latents(9, "points")
    modes = modes_of(points, 5, discovery="random")
    rows = [int((points - one).flatten(1).norm(dim=1).argmin()) for one in modes]
    assert len(set(rows)) == 5 and torch.equal(points[rows], modes)


def test_pooled_clusters_have_the_mean_of_full_latents() -> None:
    layout = latents(2, "layout")
    fine = torch.stack([layout[number % 2] + 5 * checkerboard(number) for number in range(8)])
    modes = modes_of(fine, 2, pool=2)
    expected = torch.stack([fine[number::2].mean(0) for number in range(2)])
    assert (modes[:, None] - expected).flatten(2).norm(dim=2).min(1).values.max() < 1e-4


def checkerboard(number: int) -> Tensor:
    """A pattern that pooling does not see."""
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    return sign * (1 if number // 2 % 2 else -1)


# ---- their order -----------------------------------------------------------------------------------------------------


def groups(*sizes: int) -> Tensor:
    """Latents in groups of these sizes, far from each other."""
    centres = 10 * latents(len(sizes), "groups")
    near = [centre + 0.05 * latents(size, "of", int(size)) for centre, size in zip(centres, sizes, strict=True)]
    return torch.cat(near)


def group_of(modes: Tensor, sizes: Sequence[int]) -> list[int]:
    """The group whose centre is nearest to each mode."""
    return torch.cdist(modes.flatten(1), 10 * latents(len(sizes), "groups").flatten(1)).argmin(1).tolist()


def cover(points: Tensor, modes: Tensor) -> float:
    """The mean squared distance of latents to the nearest mode."""
    return float(torch.cdist(points.flatten(1), modes.flatten(1)).min(1).values.square().mean())


def kmeans(points: Tensor, count: int) -> Tensor:
    """The means of the clusters, in the order of scikit-learn."""
    labels = KMeans(count, random_state=0, n_init="auto").fit(points.flatten(1).double().numpy()).labels_
    return torch.stack([points[labels == cluster].mean(0) for cluster in range(count)])


def test_the_modes_are_the_means_of_k_means_where_no_cluster_is_too_small() -> None:
    points = latents(40, "points")
    ours, theirs = modes_of(points, 6), kmeans(points, 6)
    nearest = torch.cdist(theirs.flatten(1), ours.flatten(1)).argmin(1)
    assert sorted(nearest.tolist()) == [*range(6)]
    torch.testing.assert_close(ours[nearest], theirs)


def test_the_first_modes_cover_the_class_better_than_those_of_k_means_do() -> None:
    points = groups(3, 30, 4, 20, 5, 9, 2, 12)
    ours, theirs = modes_of(points, 8), kmeans(points, 8)
    far = [(cover(points, ours[:first]), cover(points, theirs[:first])) for first in range(1, 8)]
    assert all(own <= other for own, other in far) and sum(own < 0.9 * other for own, other in far) >= 3
    for first in range(8):  # no other next mode would have covered the class better
        others = [cover(points, torch.cat([ours[:first], other[None]])) for other in ours[first:]]
        assert others[0] == pytest.approx(min(others))


@pytest.mark.parametrize("discovery", ["centroid", "nearest"])
def test_the_order_does_not_depend_on_that_of_the_images(discovery: str) -> None:
    points = groups(3, 30, 4, 20)
    order = torch.randperm(len(points), generator=stream("order"))
    one, other = (modes_of(of, 4, discovery=discovery) for of in (points, points[order]))
    torch.testing.assert_close(one, other)


# ---- other algorithms than k-means ----------------------------------------------------------------------------------

OTHERS = ["dbscan", "spectral", "mixture"]


@pytest.mark.parametrize("discovery", OTHERS)
@pytest.mark.parametrize("pool", [None, 4])
def test_every_algorithm_finds_the_means_of_separate_groups(discovery: str, pool: int | None) -> None:
    sizes = (12, 30, 14, 20)  # a smaller one has its tenth neighbours elsewhere, in the graph of spectral clustering
    points = groups(*sizes)
    modes = modes_of(points, 4, discovery=discovery, pool=pool)
    means = torch.stack([group.mean(0) for group in points.split(sizes)])
    assert sorted(group_of(modes, sizes)) == [0, 1, 2, 3]
    torch.testing.assert_close(modes, means[group_of(modes, sizes)], rtol=0, atol=1e-3)


@pytest.mark.parametrize("discovery", OTHERS)
def test_every_algorithm_gives_as_many_modes_as_slots_and_the_same_again(discovery: str) -> None:
    points = latents(40, "points")
    modes = modes_of(points, 7, discovery=discovery)
    assert modes.shape == (7, *LATENT) and modes.isfinite().all()
    assert torch.equal(modes, modes_of(points, 7, discovery=discovery))
    assert modes_of(points[:7], 7, discovery=discovery).shape == (7, *LATENT)
    torch.testing.assert_close(modes_of(points, 1, discovery="spectral")[0], points.mean(0))


def test_another_seed_finds_other_modes_where_an_algorithm_begins_at_random() -> None:
    points = latents(40, "points")
    for discovery in ("spectral", "mixture"):
        one, other = (modes_of(points, 7, discovery=discovery, seed=seed) for seed in (0, 1))
        assert torch.cdist(one.flatten(1), other.flatten(1)).min(1).values.max() > 0.1


def test_where_dbscan_finds_fewer_clusters_the_largest_give_their_mode_again_and_noise_counts_in_none() -> None:
    sizes, corners = (30, 25), torch.eye(256)[:55].view(55, *LATENT)  # all equally far apart: nothing to split
    centres = 10 * latents(2, "groups")
    points = corners + centres.repeat_interleave(torch.tensor(sizes), 0)
    modes = modes_of(torch.cat([points, 100 * latents(1, "far")]), 5, discovery="dbscan")
    of = group_of(modes, sizes)
    assert sorted(of) == [0, 0, 0, 1, 1]  # 30 against 25, by the rule of D'Hondt
    means = torch.stack([group.mean(0) for group in points.split(sizes)])
    torch.testing.assert_close(modes, means[of], rtol=0, atol=1e-3)


def test_dbscan_without_a_dense_place_has_the_mean_of_the_class() -> None:
    points = latents(3, "points")
    modes = modes_of(points, 2, discovery="dbscan")
    torch.testing.assert_close(modes, points.mean(0).expand(2, *LATENT))


@pytest.mark.parametrize("discovery", OTHERS)
def test_small_clusters_of_every_algorithm_join_the_next(discovery: str) -> None:
    sizes = (6, 30, 25)
    modes = modes_of(groups(*sizes), 3, discovery=discovery, smallest_cluster=10)
    assert len(torch.unique(modes.flatten(1), dim=0)) == 2


@pytest.mark.parametrize("discovery", OTHERS)
def test_every_algorithm_refuses_fewer_different_images_than_modes(discovery: str) -> None:
    with pytest.raises(BadInput, match="only 1 different images"):
        modes_of(latents(1).repeat(4, 1, 1, 1), 3, discovery=discovery)


# ---- discovery alone -------------------------------------------------------------------------------------------------


def test_every_mode_has_the_nearest_latent_that_no_mode_before_it_has() -> None:
    points = latents(9, "points")
    modes = torch.stack([points[4] + 0.01, points[4] + 0.02, points[7]])
    rows = nearest_latents(points, modes, None)
    others = (points - modes[1]).flatten(1).norm(dim=1)
    others[4] = torch.inf
    assert rows == [4, int(others.argmin()), 7]
    assert nearest_latents(points, points.flip(0), 2) == [*range(8, -1, -1)]


# ---- small clusters --------------------------------------------------------------------------------------------------


def test_a_small_cluster_is_no_mode_and_the_largest_stand_in_for_it() -> None:
    sizes = (1, 16, 20, 2)
    points = groups(*sizes)
    assert sorted(group_of(modes_of(points, 4), sizes)) == [0, 1, 2, 3]
    modes = modes_of(points, 4, smallest_cluster=3)
    of = group_of(modes, sizes)
    assert set(of[:2]) == {1, 2} and of[2:] == [2, 1]  # half of 16 is more than a third of 20
    assert torch.equal(modes[2], modes[of.index(2)]) and torch.equal(modes[3], modes[of.index(1)])


def test_images_of_a_small_cluster_join_the_next_one() -> None:
    points = groups(1, 12)
    [mode, again] = modes_of(points, 2, smallest_cluster=2)
    torch.testing.assert_close(mode, points.mean(0))
    assert torch.equal(mode, again)


@pytest.mark.parametrize("smallest", [1, 2, 5, 9, 41, 1000])
def test_every_mode_has_as_many_images_as_it_needs(smallest: int) -> None:
    points = latents(40, "points")
    modes = modes_of(points, 8, smallest_cluster=smallest)
    assert modes.shape == (8, *LATENT)
    different = torch.unique(modes.flatten(1), dim=0)
    sizes = torch.cdist(points.flatten(1), different).argmin(1).bincount(minlength=len(different))
    assert len(different) == 1 or sizes.min() >= smallest


def test_more_modes_than_images_are_refused() -> None:
    with pytest.raises(BadInput, match="5 modes of 4 images"):
        modes_of(latents(4), 5)
    with pytest.raises(BadInput, match="only 1 different images"):
        modes_of(latents(1).repeat(4, 1, 1, 1), 3)


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
