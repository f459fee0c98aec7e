"""What the sampler promises: the published DDPM step, and an image that depends on its key and its class alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from tiny import CPU, GENERATOR_CLASSES, LATENT, WatchedDenoiser, Watcher, World, keys, transformer
from torch import Tensor, nn

from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.models import load_generator
from distillery.diffusion.renderer import Renderer, class_conditions, load_renderer
from distillery.diffusion.sampler import Guidance, sample
from distillery.diffusion.schedule import Schedule, training_scheduler
from distillery.errors import BadInput, DamagedArtifact
from distillery.guidance.class_memory import ClassMemory
from distillery.guidance.deviation import DeviationGuidance
from distillery.guidance.learnability import LearnabilityGuidance
from distillery.streams import image_noise, stream

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3, 2, 1, 0])


def drawn(
    world: World, guidances: Sequence[Guidance] = (), denoiser: nn.Module | None = None, steps: int = 50
) -> Tensor:
    """Latents of the twelve images that this file looks at."""
    return sample(
        denoiser or world.denoiser(),  # type: ignore[arg-type]
        world.schedule(steps),
        LATENT[1],
        keys(len(LABELS), "sampler"),
        LABELS,
        world.condition(LABELS),
        guidances,
        device=CPU,
    )


# ---- the schedule ----------------------------------------------------------------------------------------------------

# index, timestep, abar, sqrt(1 - abar), beta, lower bound of the deviation, beta / sqrt(alpha), 1 / sqrt(abar)
TABLE = [
    (49, 999, 4.0e-5, 1.0000, 0.3298, 0.574, 0.403, 157),
    (46, 938, 1.3e-4, 0.9999, 0.3256, 0.571, 0.397, 87),
    (45, 917, 2.0e-4, 0.9999, 0.3071, 0.554, 0.369, 71),
    (40, 816, 0.0012, 0.9994, 0.2897, 0.538, 0.344, 29),
    (30, 612, 0.0221, 0.9889, 0.2255, 0.473, 0.256, 6.7),
    (25, 510, 0.0702, 0.9642, 0.1913, 0.433, 0.213, 3.8),
    (20, 408, 0.1813, 0.9048, 0.1557, 0.386, 0.170, 2.3),
    (10, 204, 0.6456, 0.5953, 0.0800, 0.260, 0.083, 1.2),
]
"""Section 4 of the description of LGD."""

DIGITS = (0, 4e-2, 1e-4, 1e-3, 2e-3, 6e-3, 4e-2)
"""To how many the columns are printed, as a relative error."""


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"index {row[0]}")
def test_fifty_steps_have_the_published_values(row: tuple[float, ...]) -> None:
    index, schedule = int(row[0]), Schedule(training_scheduler(), 50)
    abar = float(schedule.alphas_cumprod[index])
    found = [
        int(schedule.timesteps[index]),
        abar,
        schedule.noise_scale(index),
        float(schedule.betas[index]),
        schedule.sigma(None, index),
        schedule.mean_per_noise(index) * schedule.noise_scale(index),
        abar**-0.5,
    ]
    for value, printed, digits in zip(found, row[1:], DIGITS, strict=True):
        assert value == pytest.approx(printed, rel=digits)


def test_fifty_timesteps_are_spread_from_0_to_999() -> None:
    timesteps = Schedule(training_scheduler(), 50).timesteps.tolist()
    assert timesteps[:3] == [0, 20, 41]
    assert timesteps[-3:] == [958, 979, 999]
    scheduler = training_scheduler()
    scheduler.set_timesteps(50)
    assert timesteps[::-1] == scheduler.timesteps.tolist()


def test_the_shift_of_all_guided_steps_is_at_most_8_2_lambda() -> None:
    schedule = Schedule(training_scheduler(), 50)
    total = sum(schedule.mean_per_noise(index) * schedule.noise_scale(index) for index in range(10, 46))
    assert total == pytest.approx(8.2, abs=0.05)


# ---- one step, against the scheduler of diffusers --------------------------------------------------------------------


@pytest.mark.parametrize("steps", [50, 7])
@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
def test_every_unguided_step_is_that_of_diffusers(variance_type: str, steps: int) -> None:
    model, labels = transformer(variance=variance_type == "learned_range"), torch.tensor([0, 2, 3])
    denoiser = Denoiser(model, 1.5, "all")
    watcher = Watcher()
    schedule = Schedule(training_scheduler(), steps)
    last = sample(denoiser, schedule, LATENT[1], keys(3), labels, labels, [watcher], device=CPU)

    oracle = DDPMScheduler.from_config(training_scheduler().config, variance_type=variance_type)
    oracle.set_timesteps(steps)
    for index, timestep in zip(range(steps - 1, -1, -1), oracle.timesteps, strict=True):
        noisy = watcher.noisy[index]
        with torch.no_grad():
            output = [part for part in denoiser(noisy, int(timestep), labels) if part is not None]
        draws = [stream(*key, index) for key in keys(3)]
        expected = oracle.step(torch.cat(output, 1), timestep, noisy, generator=draws).prev_sample
        got = watcher.noisy[index - 1] if index else last
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5 * float(noisy.abs().max()))


def test_the_first_state_is_the_noise_of_the_keys_and_the_last_step_adds_none(world: World) -> None:
    watcher = Watcher()
    last = drawn(world, [watcher], steps=5)
    assert torch.equal(watcher.noisy[4], image_noise(keys(len(LABELS), "sampler"), "start", LATENT))
    torch.testing.assert_close(last, watcher.clean[0])


class Knowing(nn.Module):
    """A denoiser that knows the clean latents."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean, self.channels = clean, clean.shape[1]
        self.abar = training_scheduler().alphas_cumprod.double()

    def forward(self, noisy: Tensor, timestep: int, conditions: Tensor) -> tuple[Tensor, None]:
        abar = float(self.abar[timestep])
        return (noisy - abar**0.5 * self.clean) / (1 - abar) ** 0.5, None


def test_a_denoiser_that_knows_the_answer_is_sampled_back_to_it(world: World) -> None:
    clean = torch.randn(len(LABELS), *LATENT, generator=stream("answer"))
    torch.testing.assert_close(drawn(world, denoiser=Knowing(clean)), clean, rtol=0, atol=1e-4)


# ---- classifier-free guidance ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Module, Tensor, Tensor]:
    """A transformer with variance channels, four noisy latents, and their classes."""
    return transformer(variance=True), torch.randn(4, *LATENT, generator=stream("cfg")), torch.tensor([0, 1, 2, 3])


@torch.no_grad()
def branches(model: nn.Module, noisy: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    steps = torch.full((len(noisy),), 500)
    null = torch.full_like(classes, len(GENERATOR_CLASSES))
    return tuple(model(noisy, timestep=steps, class_labels=of).sample for of in (classes, null))  # type: ignore[return-value]


def test_scale_one_is_the_conditional_output(learned: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, noisy, classes = learned
    noise, variance = Denoiser(model, 1.0, 3)(noisy, 500, classes)
    conditional, unconditional = branches(model, noisy, classes)
    assert variance is not None
    assert torch.equal(torch.cat([noise, variance], 1), conditional)
    assert (conditional - unconditional).abs().mean() > 1e-3


def test_a_scale_extrapolates_from_no_class_through_the_class(learned: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, noisy, classes = learned
    noise, variance = Denoiser(model, 4.0)(noisy, 500, classes)
    conditional, unconditional = branches(model, noisy, classes)
    expected = unconditional[:, :4] + 4 * (conditional[:, :4] - unconditional[:, :4])
    torch.testing.assert_close(noise, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variance, conditional[:, 4:], rtol=1e-4, atol=1e-5)


def test_three_guided_channels_leave_the_fourth_and_the_variance_alone(
    learned: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, noisy, classes = learned
    conditional, _ = branches(model, noisy, classes)
    every, _ = Denoiser(model, 4.0, "all")(noisy, 500, classes)
    for scale in (1.5, 4.0):
        noise, variance = Denoiser(model, scale, 3)(noisy, 500, classes)
        torch.testing.assert_close(noise[:, 3], conditional[:, 3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, conditional[:, 4:], rtol=1e-4, atol=1e-5)
        assert (noise[:, :3] - conditional[:, :3]).abs().mean() > 1e-3
    torch.testing.assert_close(noise[:, :3], every[:, :3])


def test_a_model_without_variance_channels_predicts_none(world: World) -> None:
    noisy, classes = torch.zeros(2, *LATENT), torch.tensor([0, 1])
    assert world.denoiser()(noisy, 500, classes)[1] is None


# ---- folders in the layout of diffusers ------------------------------------------------------------------------------


def test_a_saved_transformer_is_opened_and_answers_the_same(tmp_path: Path) -> None:
    model = transformer(variance=True, layers=2)
    model.save_pretrained(tmp_path / "transformer")
    DDPMScheduler(beta_end=0.01).save_pretrained(tmp_path / "scheduler")
    opened, scheduler = load_generator(tmp_path)
    noisy, classes = torch.randn(2, *LATENT, generator=stream("saved")), torch.tensor([0, 3])
    before, after = (Denoiser(one, 4.0, 3)(noisy, 300, classes) for one in (model, opened))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None)
    assert scheduler.config.beta_end == 0.01


@pytest.mark.parametrize("name", ["transformer/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("kept", [0.5, None], ids=["torn", "missing"])
def test_a_damaged_generator_names_its_folder_and_its_stage(name: str, kept: float | None, tmp_path: Path) -> None:
    transformer().save_pretrained(tmp_path / "transformer")
    training_scheduler().save_pretrained(tmp_path / "scheduler")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if kept is not None:
        (tmp_path / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DamagedArtifact, match=rf"{tmp_path}.*train_generator"):
        load_generator(tmp_path)


def test_a_damaged_autoencoder_names_its_folder_and_its_stage(tmp_path: Path) -> None:
    with pytest.raises(DamagedArtifact, match=rf"{tmp_path}.*train_autoencoder"):
        Codec.load(tmp_path)


def test_classes_find_their_generator_index_by_name(world: World) -> None:
    assert class_conditions(world.folder / "generator", ["zero", "three"]) == {0: 2, 1: 1}
    with pytest.raises(BadInput, match="knows no class 'four'; it knows two, three, zero, one"):
        class_conditions(world.folder / "generator", ["zero", "four"])


def test_an_autoencoder_that_does_not_fit_the_generator_is_refused(world: World) -> None:
    with pytest.raises(BadInput, match=r"latents of side 8, but images of 32 px have latents of side 16"):
        load_renderer(
            world.folder / "generator",
            world.folder / "autoencoder",
            resolution=32,
            steps=5,
            guidance_scale=1.0,
            cfg_channels="all",
            batch_size=4,
            device=CPU,
        )


# ---- an image depends on its key and its class alone -----------------------------------------------------------------


def rendered(renderer: Renderer, world: World, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Latents and images of these rows of the twelve, in this order."""
    every, labels = keys(len(LABELS), "sampler"), LABELS[list(rows)]
    return renderer.render([every[row] for row in rows], labels, world.condition(labels))


TRAVELS: dict[str, Callable[[World], list[tuple[list[int], int]]]] = {
    "alone": lambda _: [([row], 256) for row in range(12)],
    "in another order": lambda _: [([*range(11, -1, -1)], 256)],
    "in batches of five": lambda _: [([*range(12)], 5)],
    "in shards of its class": lambda _: [
        ([row for row in range(12) if LABELS[row] == label], 256) for label in range(4)
    ],
}


@pytest.mark.parametrize("travel", TRAVELS)
def test_a_sample_does_not_depend_on_its_batch(travel: str, world: World) -> None:
    latents, images = rendered(world.renderer(), world, range(12))
    for rows, batch_size in TRAVELS[travel](world):
        again, pictures = rendered(world.renderer(batch_size=batch_size), world, rows)
        torch.testing.assert_close(again, latents[rows], rtol=0, atol=1e-4)
        difference = (pictures.int() - images[rows].int()).abs()
        assert difference.max() <= 1
        assert difference.sum() <= STRAY_PIXELS


STRAY_PIXELS = 2
"""Of the 3,072 pixels of twelve images so many may lie on the other side of a rounding."""


def test_the_class_of_an_image_matters(world: World) -> None:
    zero, one = (drawn_as(world, label) for label in (0, 1))
    assert (zero - one).abs().mean() > 0.1


def drawn_as(world: World, label: int) -> Tensor:
    labels = torch.full((3,), label)
    return world.renderer().render(keys(3), labels, world.condition(labels))[0]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, _ = rendered(world.renderer(steps=4), world, range(12))
    decode, tried = world.codec.decode, []

    def small_memory(some: Tensor) -> Tensor:
        tried.append(len(some))
        if len(some) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return decode(some)

    monkeypatch.setattr(world.codec, "decode", small_memory)
    renderer = world.renderer(steps=4, batch_size=10)
    again, images = rendered(renderer, world, range(12))
    assert tried == [10, 5, 3, 3, 3, 3]
    assert renderer.batch_size == 3
    assert len(images) == 12
    torch.testing.assert_close(again, latents, rtol=0, atol=5e-4)  # other batches, other kernels

    monkeypatch.setattr(world.codec, "decode", lambda some: small_memory(torch.zeros(4, *LATENT)))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        rendered(renderer, world, range(1))


# ---- guidance that is off, and its range -----------------------------------------------------------------------------


def guide(world: World, strength: float, first: int = 10, last: int = 45) -> LearnabilityGuidance:
    return LearnabilityGuidance(world.scorer(), world.codec, strength=strength, first=first, last=last)


def away(world: World, strength: float) -> DeviationGuidance:
    memory = ClassMemory()
    memory.add(torch.randn(8, *LATENT, generator=stream("memory")), torch.arange(4).repeat(2))
    return DeviationGuidance(memory, strength=strength, first=10, last=45)


def test_guidance_of_strength_zero_is_plain_sampling_bit_for_bit_without_a_graph(world: World) -> None:
    plain, denoiser = drawn(world), WatchedDenoiser(world.denoiser())
    assert torch.equal(drawn(world, [guide(world, 0.0), away(world, 0.0)], denoiser), plain)
    assert [graph for _, graph in denoiser.calls] == [False] * 50


def test_fixed_noise_prediction_and_deviation_need_no_graph_of_the_denoiser(world: World) -> None:
    denoiser = WatchedDenoiser(world.denoiser())
    fixed = LearnabilityGuidance(world.scorer(), world.codec, strength=1.0, first=10, last=45, through_denoiser=False)
    assert not torch.equal(drawn(world, [fixed, away(world, 1.0)], denoiser), drawn(world))
    assert not any(graph for _, graph in denoiser.calls)


def test_the_published_range_takes_36_gradients_and_none_outside(world: World) -> None:
    denoiser, guidance = WatchedDenoiser(world.denoiser()), guide(world, 1.0)
    drawn(world, [guidance], denoiser)
    timesteps = world.schedule().timesteps
    assert [timestep for timestep, graph in denoiser.calls if graph] == timesteps[10:46].flip(0).tolist()
    assert len(timesteps[10:46]) == 36
    assert len(denoiser.calls) == 50


def test_nothing_changes_before_the_first_guided_index(world: World) -> None:
    plain, guided = Watcher(), Watcher()
    drawn(world, [plain])
    drawn(world, [guided, guide(world, 1.0, first=40, last=45), away(world, 1.0)])
    for index in range(45, 50):
        assert torch.equal(guided.noisy[index], plain.noisy[index])
    assert not torch.equal(guided.noisy[44], plain.noisy[44])


def test_two_guidances_add_their_shifts(world: World) -> None:
    last = {}
    for name, guidances in {
        "plain": [],
        "learnability": [guide(world, 1.0, 0, 0)],
        "both": [guide(world, 1.0, 0, 0), Nudge()],
    }.items():
        last[name] = drawn(world, guidances, steps=5)
    torch.testing.assert_close(last["both"], last["learnability"] + 0.5, rtol=0, atol=1e-5)
    assert not torch.equal(last["learnability"], last["plain"])


class Nudge:
    """Moves everything by one half at the last step."""

    rank = 9

    def active(self, index: int) -> bool:
        return index == 0

    def needs_graph(self) -> bool:
        return False

    def shift(self, step: object) -> Tensor:
        return torch.full((len(LABELS), *LATENT), 0.5)
