"""What guided sampling promises: shifts that add up in any order, modes of the own class, influence that falls."""

from __future__ import annotations

import itertools
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from test_increment import settings_of
from tiny import (
    CLASSES,
    CPU,
    LATENT,
    NETWORK,
    SIDE,
    WatchedDenoiser,
    Watcher,
    World,
    digits,
    image_set_of,
    job,
    keys,
    stopped_at,
)
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.renderer import class_conditions
from distillery.diffusion.sampler import Guidance, sample
from distillery.diffusion.schedule import Schedule, training_scheduler
from distillery.diffusion.settings import Sampling
from distillery.diffusion.solvers import SolverName
from distillery.diffusion.step import Step
from distillery.errors import BadInput
from distillery.guidance.deviation import ClassMemory, DeviationGuidance
from distillery.guidance.further import influence_strength
from distillery.guidance.influence import (
    Influence,
    InfluenceGuidance,
    checkpoint_of,
    choose_checkpoints,
    class_gradients,
)
from distillery.guidance.learnability import LearnabilityGuidance
from distillery.guidance.mode import ModeGuidance, discover_modes, read_modes
from distillery.guidance.settings import Deviation, Mode
from distillery.guidance.settings import Influence as InfluenceSettings
from distillery.stages import discover_modes as modes_stage
from distillery.stages import (
    generate_increment,
    sample_guided,
    select_by_learnability,
    select_checkpoints,
    train_surrogate,
)
from distillery.storage.atomic import write_json
from distillery.storage.images import read_images, write_images
from distillery.storage.tensors import read_tensors, write_tensors
from distillery.streams import stream
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe

LABELS = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
SLOTS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
STEPS = 10
MADE_BY = {"stage": "test"}


def latents(count: int, *name: int | str) -> Tensor:
    return torch.randn(count, *LATENT, generator=stream("steering", *name))


def drawn(world: World, guidances: list[Guidance], solver: SolverName = "ddpm", **options: Any) -> Tensor:
    """Latents of the eight images that this file looks at."""
    denoiser = options.pop("denoiser", world.denoiser())
    return sample(
        denoiser,
        options.pop("schedule", None) or world.schedule(options.pop("steps", STEPS)),
        LATENT[1],
        keys(len(LABELS), "steering"),
        LABELS,
        world.condition(LABELS),
        guidances,
        device=CPU,
        slots=SLOTS,
        solver=solver,
    )


@pytest.fixture(scope="module")
def surrogate(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of a surrogate that the stages trained and chose checkpoints of."""
    folder = tmp_path_factory.mktemp("surrogate")
    trained(world, folder / "checkpoints.safetensors")
    chosen(world, folder / "checkpoints.safetensors", folder / "gradients.safetensors")
    return folder / "gradients.safetensors"


def trained(world: World, out: Path) -> Path:
    recipe = Recipe(epochs=3, batch_size=32, learning_rate=2e-3)
    settings = train_surrogate.Settings(seed=0, name="conv", network=NETWORK, recipe=recipe)
    train_surrogate.run(settings, images=world.data, checkpoints=out, job=job("train_surrogate", settings))
    return out


def chosen(world: World, checkpoints: Path, out: Path, **options: Any) -> Path:
    defaults: dict[str, Any] = {"threshold": 0.7, "keep": [0, 2], "gradient_images": 10}
    settings = select_checkpoints.Settings(**{**defaults, **options})
    run = job("select_checkpoints", settings)
    select_checkpoints.run(settings, data=world.data, checkpoints=checkpoints, gradients=out, job=run)
    return out


def influence_of(surrogate: Path, **options: Any) -> Influence:
    return Influence.load(surrogate, CLASSES, CPU, **options)


def every_guidance(world: World, surrogate: Path, strength: float = 1.0) -> list[Guidance]:
    memory = ClassMemory()
    memory.add(latents(8, "memory"), torch.arange(4).repeat(2))
    return [
        LearnabilityGuidance(world.scorer(), world.codec, strength=strength, first=2, last=8),
        InfluenceGuidance(influence_of(surrogate), world.codec, strength=strength, first=5, last=8),
        ModeGuidance(latents(8, "modes").view(4, 2, *LATENT), strength=0.1 * strength, stop=4),
        DeviationGuidance(memory, strength=strength, first=2, last=8),
    ]


# ---- composition -----------------------------------------------------------------------------------------------------


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


# ---- solvers ---------------------------------------------------------------------------------------------------------


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


class Exact(torch.nn.Module):
    """The exact denoiser of latents that are normally distributed: at high noise a learned one errs 157 times over."""

    def __init__(self, abar: Tensor) -> None:
        super().__init__()
        self.abar, self.channels = abar, LATENT[0]

    def forward(self, noisy: Tensor, timestep: int, conditions: Tensor) -> tuple[Tensor, None]:
        return (1 - float(self.abar[timestep])) ** 0.5 * noisy, None


def abar_of(world: World) -> Tensor:
    config = world.schedule().config
    return (1 - torch.linspace(config.beta_start, config.beta_end, 1000, dtype=torch.float64)).cumprod(0)


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


def test_a_denoiser_of_half_precision_answers_in_full_and_nearly_the_same(world: World) -> None:
    step = world.step(5, LABELS, True, steps=STEPS)
    conditions = world.condition(LABELS)
    exact, half = (
        Denoiser(world.transformer, 3.0, half=half)(step.noisy, 500, conditions)[0] for half in (False, True)
    )
    assert half.dtype == torch.float32
    assert 0 < float((half - exact).detach().norm() / exact.detach().norm()) < 0.05
    assert torch.autograd.grad(half.sum(), step.noisy)[0].dtype == torch.float32


# ---- modes -----------------------------------------------------------------------------------------------------------


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


def encoded(folder: Path, order: list[int]) -> Path:
    """Latents of four classes, which the file lists in this order."""
    name = "".join(map(str, order))
    mean = torch.cat([latents(6, "class", label) + label for label in order])
    write_tensors(
        folder / f"latents-{name}.safetensors",
        {"mean": mean, "std": torch.zeros_like(mean), "labels": torch.arange(4).repeat_interleave(6)},
        MADE_BY,
        classes=[CLASSES[label] for label in order],
    )
    return folder / f"latents-{name}.safetensors"


def discovered(folder: Path, order: list[int], count: int = 2, pool: int | None = None) -> Path:
    settings = modes_stage.Settings(count=count, discovery="centroid", pool=pool, seed=0)
    out = folder / f"modes-{count}-{''.join(map(str, order))}.safetensors"
    modes_stage.run(settings, latents=[encoded(folder, order)], modes=out, job=job("discover_modes", settings))
    return out


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


# ---- influence -------------------------------------------------------------------------------------------------------


def images_of(labels: Tensor) -> Tensor:
    """Real images of these classes in [-1, 1]."""
    pixels, of = digits()
    return to_unit(pixels[[int((of == label).nonzero()[20, 0]) for label in labels.tolist()]])


def test_one_image_after_another_gives_what_all_at_once_give(surrogate: Path) -> None:
    images = images_of(LABELS).requires_grad_()
    one, other = (influence_of(surrogate, per_image=way)(images, LABELS) for way in ("vmap", "loop"))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    first, second = (torch.autograd.grad(found.sum(), images)[0] for found in (one, other))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)
    assert ((one > 0) & (one < 2)).all()


def test_the_gradient_of_influence_is_that_of_finite_differences(surrogate: Path) -> None:
    influence = influence_of(surrogate)
    for state in (influence.weights, influence.buffers):
        for one in state:
            one.update({name: value.double() for name, value in one.items()})
    influence.gradients = influence.gradients.double()
    influence.classifier.double()
    labels = LABELS[:2]
    # Noise keeps the ReLUs away from their kinks: a flat background would sit on them.
    images = images_of(labels).double() + 0.1 * torch.randn(2, 1, SIDE, SIDE, generator=stream("noise")).double()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(influence(images, labels).sum(), images)
    for number in range(3):
        way = torch.randn(images.shape, generator=stream("way", number), dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            slope = (influence(images + step * way, labels) - influence(images - step * way, labels)).sum() / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=2e-3)


def test_influence_is_zero_where_the_gradient_of_the_class_is_that_of_the_image(surrogate: Path) -> None:
    influence = influence_of(surrogate)
    pixels, of = digits()
    pixels, labels = pixels[:1], of[:1]
    rows = []
    for weights in influence.weights:
        influence.classifier.load_state_dict(weights, strict=False)
        rows.append(class_gradients_of_one(influence.classifier, pixels, labels))
    influence.gradients = torch.stack(rows)
    found = influence(to_unit(pixels), labels)
    torch.testing.assert_close(found, torch.zeros(1), rtol=0, atol=1e-5)


def class_gradients_of_one(classifier: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """Gradients at one image, as those of every class."""
    parameters = [parameter.requires_grad_() for parameter in classifier.parameters()]
    found = torch.autograd.grad(F.cross_entropy(classifier(to_unit(pixels)), labels), parameters)
    flat = torch.cat([one.flatten() for one in found])
    classifier.requires_grad_(False)
    return flat.expand(len(CLASSES), -1)


def test_the_gradient_of_a_class_is_the_mean_over_its_images() -> None:
    classifier = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("steering",)).eval()
    pixels, labels = digits()
    whole = class_gradients(classifier, pixels, labels, images=7, chunk=3)
    rows = (labels == 2).nonzero()[:7, 0]
    alone = [class_gradients_of_one(classifier, pixels[row : row + 1], labels[row : row + 1])[2] for row in rows]
    torch.testing.assert_close(whole[2], torch.stack(alone).mean(0), rtol=1e-4, atol=1e-6)
    with pytest.raises(BadInput, match="class 'three' has no training images"):
        class_gradients(classifier, pixels[labels < 3], labels[labels < 3], images=7)


def test_checkpoints_are_compared_with_the_last_kept_one_and_the_threshold_is_strict() -> None:
    def at(degrees: float) -> Tensor:
        turned = torch.tensor(degrees).deg2rad()
        return torch.stack([turned.cos(), turned.sin()])[None].repeat(3, 1)

    every = [at(degrees) for degrees in (0, 40, 50, 80, 100, 101)]
    # 0.7 is the cosine of 45.6 degrees: 50 is kept, 80 lies 30 from it, 100 lies 50 from it, 101 lies 1 from that.
    assert list(choose_checkpoints(every, 0.7)) == [0, 2, 4]
    exact = [torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])]
    cosine = float(F.cosine_similarity(*exact))
    assert list(choose_checkpoints(exact, cosine)) == [0]
    assert list(choose_checkpoints(exact, cosine + 1e-6)) == [0, 1]
    mixed = [torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]])]  # cosines 1 and -1: the mean counts
    assert list(choose_checkpoints(mixed, 0.1)) == [0, 1]
    assert list(choose_checkpoints(mixed, 0.0)) == [0]


def test_influence_falls_under_its_guidance(world: World, surrogate: Path) -> None:
    influence = influence_of(surrogate)
    found = []
    for strength in (0.0, 3.0):
        guidance = InfluenceGuidance(influence, world.codec, strength=strength, first=3, last=9)
        with torch.no_grad():
            images = world.codec.decode(drawn(world, [guidance], steps=14))
        found.append(influence(images, LABELS).detach())
        assert guidance.skipped == 0
    assert found[1].mean() < found[0].mean()


def test_influence_moves_an_image_by_a_length_that_its_gradient_does_not_change(world: World, surrogate: Path) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return self.factor * influence_of(surrogate)(images, labels)

    schedule, k, index = world.schedule(STEPS), 3.0, 6
    noisy = latents(len(LABELS)).requires_grad_()
    noise = world.denoiser()(noisy, int(schedule.timesteps[index]), LABELS)[0]
    step = Step(
        index=index, schedule=schedule, noisy=noisy, noise=noise, clean=schedule.clean(noisy, noise, index),
        sigma=torch.zeros(()), labels=LABELS, slots=SLOTS,
    )  # fmt: skip
    shifts = [
        InfluenceGuidance(Scaled(factor), world.codec, strength=k, first=5, last=7).shift(step)  # type: ignore[arg-type]
        for factor in (1.0, 1000.0)
    ]
    torch.testing.assert_close(*shifts, rtol=1e-4, atol=2e-5)
    amplitude = noise.detach().flatten(1).square().mean(1).sqrt()
    wanted = k * (1 - schedule.alphas_cumprod[index]).sqrt().float() * amplitude
    torch.testing.assert_close(shifts[0].flatten(1).norm(dim=1), wanted, rtol=1e-4, atol=1e-6)


def test_influence_acts_in_its_range_alone(world: World, surrogate: Path) -> None:
    denoiser = WatchedDenoiser(world.denoiser())
    drawn(
        world,
        [InfluenceGuidance(influence_of(surrogate), world.codec, strength=1.0, first=6, last=7)],
        denoiser=denoiser,
    )
    assert [graph for _, graph in denoiser.calls] == [STEPS - 1 - at in (6, 7) for at in range(STEPS)]


def test_a_guided_step_is_taken_as_often_as_wanted(world: World, surrogate: Path) -> None:
    once, thrice = (
        InfluenceGuidance(influence_of(surrogate), world.codec, strength=1.0, first=6, last=7, repeats=repeats)
        for repeats in (1, 3)
    )
    denoiser = WatchedDenoiser(world.denoiser())
    repeated = drawn(world, [thrice], denoiser=denoiser)
    timesteps = world.schedule(STEPS).timesteps.flip(0).tolist()
    assert [timestep for timestep, _ in denoiser.calls] == [
        timestep for at, timestep in enumerate(timesteps) for _ in range(3 if STEPS - 1 - at in (6, 7) else 1)
    ]
    assert not torch.allclose(repeated, drawn(world, [once]), atol=1e-3)


def test_the_graph_of_a_step_is_gone_when_the_next_one_begins(world: World, surrogate: Path) -> None:
    seen: list[weakref.ref[Step]] = []

    class Keeping(InfluenceGuidance):
        def shift(self, step: Step) -> Tensor:
            seen.append(weakref.ref(step))
            return super().shift(step)

    class Watching(WatchedDenoiser):
        def forward(self, *given: Any) -> Any:
            assert all(one() is None for one in seen)
            return super().forward(*given)

    guidance = Keeping(influence_of(surrogate), world.codec, strength=1.0, first=5, last=7)
    drawn(world, [guidance], denoiser=Watching(world.denoiser()))
    assert len(seen) == 3


def test_the_way_back_ends_at_the_noise_of_the_index(world: World) -> None:
    schedule, fresh = world.schedule(STEPS), torch.tensor(1.0)
    before, now = schedule.alphas_cumprod_previous, schedule.alphas_cumprod
    for index in range(STEPS):
        kept = float(schedule.back(fresh, 0 * fresh, index))
        added = float(schedule.back(0 * fresh, fresh, index))
        assert kept * float(before[index].sqrt()) == pytest.approx(float(now[index].sqrt()), abs=1e-6)
        assert kept**2 * float(1 - before[index]) + added**2 == pytest.approx(float(1 - now[index]), abs=1e-6)


def test_the_published_strength_is_scaled_to_the_latent() -> None:
    assert influence_strength("auto", 4096) == 5
    assert influence_strength("auto", 256) == 1.25
    assert influence_strength(3.0, 256) == 3


# ---- the stages of the surrogate -------------------------------------------------------------------------------------


def test_every_epoch_of_the_surrogate_is_kept_and_a_stop_changes_no_byte(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(world, tmp_path / "whole.safetensors")
    tensors, about = read_tensors(whole, "train_surrogate")
    assert about["checkpoints"] == 4 and about["classes"] == CLASSES
    first = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), (0, "train_surrogate", "conv"))
    assert all(torch.equal(value, checkpoint_of(tensors, 0)[name]) for name, value in first.state_dict().items())
    assert not torch.equal(checkpoint_of(tensors, 2)["network.0.weight"], checkpoint_of(tensors, 3)["network.0.weight"])
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        trained(world, tmp_path / "stopped.safetensors")
    assert trained(world, tmp_path / "stopped.safetensors").read_bytes() == whole.read_bytes()


def test_kept_checkpoints_carry_their_gradients(world: World, surrogate: Path, tmp_path: Path) -> None:
    tensors, about = read_tensors(surrogate, "select_checkpoints")
    assert about["kept"] == [0, 2]
    assert tensors["gradients"].shape[:2] == (2, 4)
    checkpoints = surrogate.with_name("checkpoints.safetensors")
    by_threshold = chosen(world, checkpoints, tmp_path / "g.safetensors", keep=None, threshold=-1.0)
    assert read_tensors(by_threshold, "x")[1]["kept"] == [0]
    with pytest.raises(BadInput, match=r"no checkpoint 9; .* has 0 to 3"):
        chosen(world, checkpoints, tmp_path / "g.safetensors", keep=[0, 9])


def test_a_choice_of_checkpoints_that_is_stopped_goes_on(
    world: World, surrogate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = surrogate.with_name("checkpoints.safetensors")
    for name, options in {"list": {"keep": [0, 1, 3]}, "threshold": {"keep": None, "threshold": 0.99}}.items():
        whole = chosen(world, checkpoints, tmp_path / f"{name}.safetensors", **options)
        assert len(read_tensors(whole, "x")[1]["kept"]) > 2
        with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
            chosen(world, checkpoints, tmp_path / "stopped.safetensors", **options)
        capsys.readouterr()
        again = chosen(world, checkpoints, tmp_path / "stopped.safetensors", **options)
        assert "resuming at checkpoints 2" in capsys.readouterr().err
        assert again.read_bytes() == whole.read_bytes()
        assert list(tmp_path.glob("*.resume.safetensors")) == []


def test_a_surrogate_of_other_classes_is_refused(surrogate: Path) -> None:
    with pytest.raises(BadInput, match="trained on the classes zero, one, two, three, and the data have zero, four"):
        Influence.load(surrogate, ["zero", "four"], CPU)


def test_classes_in_another_order_have_the_same_influence(surrogate: Path) -> None:
    order = [2, 0, 3, 1]
    permuted = Influence.load(surrogate, [CLASSES[label] for label in order], CPU)
    place = torch.tensor([order.index(label) for label in LABELS.tolist()])
    images = images_of(LABELS)
    torch.testing.assert_close(permuted(images, place), influence_of(surrogate)(images, LABELS))


# ---- the stage that samples ------------------------------------------------------------------------------------------


def guided(world: World, out: Path, surrogate: Path, modes: Path, previous: list[Path], **options: Any) -> Path:
    defaults: dict[str, Any] = {
        "seed": 0,
        "stream": "study",
        "first": 0,
        "ipc": 2,
        "resolution": SIDE,
        "sampling": Sampling(steps=8, guidance_scale=3.0),
        "influence": InfluenceSettings(surrogate="conv", strength=1.0, range=[4, 6]),
        "mode": Mode(stop=3),
        "deviation": Deviation(strength=5.0, range=[4, 6], capacity=64),
        "published_deviation": 120.0,
        "shard": 0,
        "shards": 1,
    }
    settings = sample_guided.Settings(**{**defaults, **options})
    files: dict[str, Any] = {**world.models, "previous": previous, "gradients": surrogate, "modes": modes}
    run = job("sample_guided", settings, [surrogate, modes, *previous])
    sample_guided.run(settings, data=world.data, **files, images=out, job=run)
    return out


def test_a_size_goes_on_from_the_smaller_one_and_shards_change_nothing(
    world: World, surrogate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = discovered(tmp_path, [0, 1, 2, 3])
    whole = read_images(guided(world, tmp_path / "whole.parquet", surrogate, modes, []), "x")
    one = guided(world, tmp_path / "one.parquet", surrogate, modes, [], ipc=1)
    two = read_images(guided(world, tmp_path / "two.parquet", surrogate, modes, [one], first=1), "x")
    assert whole.images == [*read_images(one, "x").images, *two.images]
    shard = read_images(guided(world, tmp_path / "s.parquet", surrogate, modes, [], shard=1, shards=2), "x")
    rows = [row for row, label in enumerate(whole.labels) if label in (1, 3)]
    difference = torch.from_numpy(shard.columns["latent"] - whole.columns["latent"][rows]).abs().max()
    assert difference < 1e-3
    with stopped_at(1, monkeypatch), pytest.raises(SystemExit):
        guided(world, tmp_path / "stopped.parquet", surrogate, modes, [])
    resumed = guided(world, tmp_path / "stopped.parquet", surrogate, modes, [])
    assert resumed.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_what_the_settings_say_of_influence_and_deviation_reaches_the_sampler(
    world: World, surrogate: Path, tmp_path: Path
) -> None:
    modes = discovered(tmp_path, [0, 1, 2, 3])

    def drawn_with(**options: Any) -> list[bytes]:
        return read_images(
            guided(world, tmp_path / "x.parquet", surrogate, modes, [], mode=None, **options), "x"
        ).images

    influence = InfluenceSettings(surrogate="conv", strength=1.0, range=[4, 6])
    assert drawn_with(influence=influence) == drawn_with()
    assert drawn_with(influence=influence.model_copy(update={"repeats": 2})) != drawn_with()
    # 120 d / 4096 of latents of 256 numbers is 7.5, and 50 d / 4096 is 3.125
    auto = Deviation(strength="auto", range=[4, 6], capacity=64)
    for published, strength in ((120.0, 7.5), (50.0, 3.125)):
        scaled = drawn_with(deviation=auto, published_deviation=published)
        assert scaled == drawn_with(deviation=auto.model_copy(update={"strength": strength}))
        assert scaled != drawn_with(deviation=auto.model_copy(update={"strength": 5.0}))


def test_modes_of_other_latents_are_refused(world: World, surrogate: Path, tmp_path: Path) -> None:
    small = {name: torch.zeros(2, 4, 4, 4) for name in CLASSES}
    write_tensors(tmp_path / "modes.safetensors", small, MADE_BY)
    with pytest.raises(BadInput, match=r"modes of shape \(4, 4, 4\), but latents have \(4, 8, 8\)"):
        guided(world, tmp_path / "x.parquet", surrogate, tmp_path / "modes.safetensors", [])


def test_a_generator_without_classes_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "model_index.json", {"_class_name": "DiTPipeline"})
    with pytest.raises(BadInput, match="the generator has no classes"):
        class_conditions(tmp_path, CLASSES)


def test_influence_and_modes_join_the_loop(world: World, surrogate: Path, tmp_path: Path) -> None:
    modes, found = discovered(tmp_path, [0, 1, 2, 3], count=4), {}
    pixels, labels = digits()
    rows = [int((labels == label).nonzero()[0, 0]) for label in range(4)]
    before = image_set_of(pixels[rows], labels[rows], latent=latents(4, "before").flatten(1).numpy())
    write_images(tmp_path / "before.parquet", before, MADE_BY)
    joined = {
        "influence": InfluenceSettings(surrogate="conv", strength=1.0, range=[4, 6]),
        "mode": Mode(stop=3),
    }
    for name, blocks in {"alone": {}, "mode": {"mode": joined["mode"]}, "both": joined}.items():
        settings = settings_of(2, increment_size=1, candidates=2, **blocks)
        out = tmp_path / f"{name}.parquet"
        files: dict[str, Any] = {**world.models, **world.networks, "gradients": surrogate, "modes": modes}
        files["previous"] = [tmp_path / "before.parquet"]
        run = job("generate_increment", settings)
        generate_increment.run(settings, data=world.data, **files, candidates=out, job=run)
        found[name] = read_images(out, "x").columns["latent"]
    assert len({value.tobytes() for value in found.values()}) == 3


# ---- real images by learnability -------------------------------------------------------------------------------------


def test_real_images_are_chosen_by_learnability_and_never_twice(world: World, tmp_path: Path) -> None:
    def increment(k: int, **files: Any) -> Any:
        settings = select_by_learnability.Settings(
            seed=0, increment=k, increment_size=3, reference_weight=0.5, min_reference_probability=0.0
        )
        out = tmp_path / f"{k}.parquet"
        run = job("select_by_learnability", settings)
        select_by_learnability.run(settings, data=world.data, **files, images=out, job=run)
        return read_images(out, "x")

    first = increment(1)
    second = increment(2, previous=[tmp_path / "1.parquet"], **world.networks)
    assert first.columns["slot"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert second.columns["slot"].tolist() == [3] * 4 + [4] * 4 + [5] * 4
    assert not set(first.paths) & set(second.paths)
    real = read_images(world.data, "ingest")
    score = world.scorer(0.5).score_stored(torch.from_numpy(real.pixels()), torch.from_numpy(real.labels))
    for label in range(4):
        left = [row for row in range(len(real)) if real.labels[row] == label and real.paths[row] not in first.paths]
        best = sorted(left, key=lambda row: -float(score.learnability[row]))[:3]
        kept = [second.paths[row] for row in range(len(second)) if second.labels[row] == label]
        assert kept == [real.paths[row] for row in best]
    with pytest.raises(BadInput, match="that are not taken"):
        settings = select_by_learnability.Settings(
            seed=0, increment=2, increment_size=999, reference_weight=0.5, min_reference_probability=0.0
        )
        select_by_learnability.run(
            settings, data=world.data, **world.networks, images=tmp_path / "x.parquet", job=job("s", settings)
        )
