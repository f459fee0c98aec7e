"""The chain of LD3M: the published steps, one gradient in three ways, and class vectors in the place of labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from tiny import perturbed, transformer
from tiny_weights import kl, unet, vq
from torch import Tensor
from torch.autograd import grad

from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.denoiser import alphas_cumprod_of
from distillery.diffusion.pipelines import open_scheduler
from distillery.diffusion.schedule import training_scheduler
from distillery.errors import BadInput
from distillery.matching.chain import DiffusionChain, Picture, clamped
from distillery.matching.conditioning import VectorDenoiser, ends_of, of_dit, of_unet, open_labels
from distillery.matching.generator import quantiser
from distillery.matching.spaces import ChainSpace, LatentSpace
from distillery.streams import stream

RESIDUALS = ("x0", "eq7", "none")
LEVELS = alphas_cumprod_of(training_scheduler())


def draw(*shape: int, key: object = 0) -> Tensor:
    return torch.randn(*shape, generator=stream("chain", str(key)), dtype=torch.float64)


def denoiser(seed: int = 0, scale: float = 3.0, variance: bool = False) -> VectorDenoiser:
    """A random DiT of two blocks with tables of their own, in fp64."""
    model = perturbed(transformer(variance, layers=2), "chain", seed, by=0.2)
    found = of_dit(model.double(), training_scheduler(), guidance_scale=scale)
    found.rows, found.null = found.rows.double(), found.null.double()
    return found


def picture() -> Picture:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = Codec(kl(blocks=2).double())
    return Picture(codec, 12)


def inputs(network: VectorDenoiser, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, class vectors and noise."""
    labels = torch.arange(count) % 4
    return draw(count, 4, 8, 8, key="latents"), network.rows[labels].clone(), draw(count, 4, 8, 8, key="noise")


def coupling(images: Tensor) -> Tensor:
    """A loss in which every image feels every other."""
    return (images.mean(0).square().sum() + (images.flatten(1) @ images.flatten(1).T).tanh().sum()).sum()


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


# ---- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [{}, {"steps_offset": 1, "set_alpha_to_one": False}], ids=["dit", "ldm"])
@pytest.mark.parametrize("steps", [1, 5, 9, 10, 35])
def test_without_a_residual_every_step_is_ddim_of_diffusers(steps: int, ends: dict[str, Any]) -> None:
    network = denoiser()
    latents, vectors, noise = inputs(network)
    theirs: Any = DDIMScheduler.from_config(training_scheduler().config, timestep_spacing="leading", **ends)
    chain = DiffusionChain(network, LEVELS, steps=steps, residual="none", ends=ends_of(theirs))
    assert (chain.timesteps[0], chain.alphas_cumprod_next[0]) == ((1, LEVELS[0]) if ends else (0, 1.0))
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = (
        theirs.alphas_cumprod.double(),
        theirs.final_alpha_cumprod.double(),
    )
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == chain.timesteps[::-1]
    states = chain.visit(latents, vectors, noise)
    assert len(states) == steps + 1 and len(chain.timesteps) == steps
    for place, timestep in enumerate(theirs.timesteps):
        with torch.no_grad():
            predicted = network(states[place], int(timestep), vectors)
        wanted = theirs.step(predicted, timestep, states[place], eta=0.0).prev_sample
        assert relative(states[place + 1], wanted) < 1e-10
    assert torch.isfinite(states[-1]).all()


@pytest.mark.parametrize("kind", [DDIMScheduler, PNDMScheduler])
@pytest.mark.parametrize("stated", [None, True, False])
def test_a_schedule_ends_as_its_own_class_has_it(kind: Any, stated: bool | None, tmp_path: Path) -> None:
    """Files of early versions leave open what the classes have different defaults for."""
    kind(beta_end=0.0195).save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["set_alpha_to_one"]
    path.write_text(json.dumps(config if stated is None else {**config, "set_alpha_to_one": stated}), "utf-8")
    theirs = kind.from_pretrained(tmp_path)
    offset, last = ends_of(open_scheduler(tmp_path))
    assert offset == theirs.config.steps_offset
    assert last == pytest.approx(float(theirs.final_alpha_cumprod), abs=1e-7)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_one_step_has_no_residual(residual: Any) -> None:
    network = denoiser()
    latents, vectors, noise = inputs(network)
    plain = DiffusionChain(network, LEVELS, steps=1, residual="none").visit(latents, vectors, noise)[-1]
    assert torch.equal(
        DiffusionChain(network, LEVELS, steps=1, residual=residual).visit(latents, vectors, noise)[-1], plain
    )


def test_residuals_have_their_weights() -> None:
    """A denoiser that says zero leaves the weights of the residual alone."""
    chain = DiffusionChain(lambda states, _, __: torch.zeros_like(states), LEVELS, steps=5, residual="x0")
    latents, start = draw(1, 4, 8, 8, key=1), draw(1, 4, 8, 8, key=2)
    for k in range(5):
        state = draw(1, 4, 8, 8, key=k)
        clean = state / chain.alphas_cumprod[k] ** 0.5
        wanted = chain.alphas_cumprod_next[k] ** 0.5 * ((1 - k / 4) * clean + k / 4 * latents)
        assert relative(chain.step(k, state, latents, start, None), wanted) < 1e-12
        paper = DiffusionChain(lambda states, _, __: torch.zeros_like(states), LEVELS, steps=5, residual="eq7")
        wanted = (1 - (k + 1) / 5) * chain.alphas_cumprod_next[k] ** 0.5 * clean + (k + 1) / 5 * start
        assert relative(paper.step(k, state, latents, start, None), wanted) < 1e-12


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_that_the_schedule_has_not_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="of a schedule of 1000; allowed: 1 to 1000"):
        DiffusionChain(denoiser(), LEVELS, steps=steps)


# ---- one gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", RESIDUALS)
def test_plain_checkpointed_and_replayed_gradients_agree(residual: Any) -> None:
    network, show = denoiser(), picture()
    chain = DiffusionChain(network, LEVELS, steps=5, residual=residual)
    latents, vectors, noise = inputs(network)
    found = []
    for save in (False, True):
        leaves = latents.clone().requires_grad_(), vectors.clone().requires_grad_()
        images = show(chain.run(*leaves, noise, save=save))
        found.append(grad(coupling(images), leaves))
    states = chain.visit(latents, vectors, noise)
    images = show(states[-1]).detach().requires_grad_()
    (grad_images,) = grad(coupling(images), images)
    found.append(chain.vjp(states, latents, vectors, noise, show, grad_images))
    for other in found[1:]:
        for mine, plain in zip(other, found[0], strict=True):
            assert float(plain.norm()) > 0
            assert relative(mine, plain) < 1e-10


@pytest.mark.parametrize(("residual", "size"), list(product(RESIDUALS, [1, 2, 3])))
def test_micro_batches_replay_the_gradient_of_the_whole_graph(residual: Any, size: int) -> None:
    network, show = denoiser(), picture()
    chain = DiffusionChain(network, LEVELS, steps=5, residual=residual)
    latents, vectors, noise = inputs(network)
    leaves = latents.clone().requires_grad_(), vectors.clone().requires_grad_()
    whole = grad(coupling(show(chain.run(*leaves, noise))), leaves)
    space = ChainSpace(chain, show, latents, vectors, lambda _: noise, micro_batch=size)
    images = space.render(0).requires_grad_()
    (grad_images,) = grad(coupling(images), images)
    found = space.vjp(grad_images, 0)
    assert relative(found["latent"], whole[0]) < 1e-10
    assert relative(found["condition"], whole[1]) < 1e-10


def test_another_noise_gives_the_gradient_of_other_images() -> None:
    """The released code draws noise anew in the backward pass, and gets another gradient: the stored one is used."""
    network, show = denoiser(), picture()
    chain = DiffusionChain(network, LEVELS, steps=5, residual="x0")
    latents, vectors, noise = inputs(network)
    leaves = latents.clone().requires_grad_(), vectors.clone().requires_grad_()
    images = show(chain.run(*leaves, noise))
    (whole,) = grad(coupling(images), leaves[0], retain_graph=True)
    (grad_images,) = grad(coupling(images), images)
    for replayed, same in (noise, True), (draw(3, 4, 8, 8, key="other"), False):
        states = chain.visit(latents, vectors, replayed)
        found, _ = chain.vjp(states, latents, vectors, replayed, show, grad_images)
        assert (relative(found, whole) < 1e-10) is same
        assert same or relative(found, whole) > 1e-3


def test_a_latent_space_pulls_back_through_the_decoder() -> None:
    show, latents = picture(), draw(3, 4, 8, 8)
    leaf = latents.clone().requires_grad_()
    (whole,) = grad(coupling(show(leaf)), leaf)
    space = LatentSpace(show, latents, micro_batch=2)
    images = space.render(0).requires_grad_()
    (grad_images,) = grad(coupling(images), images)
    assert relative(space.vjp(grad_images, 0)["latent"], whole) < 1e-10


def test_a_clamp_keeps_its_gradient() -> None:
    values = torch.tensor([-1.0, 0.25, 3.0], requires_grad=True)
    found = clamped(values)
    assert found.tolist() == [0.0, 0.25, 1.0]
    assert grad(found.sum(), values)[0].tolist() == [1.0, 1.0, 1.0]


# Data N(0, 1) and the ideal score: d z_0 / dZ is a number, worked out by hand from the formulas of the steps, on the
# schedule of the latent diffusion model of LD3M (betas from 0.0015 to 0.0195, linear in their roots).
LINEAR = {
    10: {"none": 0.0247, "x0": 0.970, "eq7": 0.0271},
    20: {"none": 0.0173, "x0": 1.223, "eq7": 0.0180},
    40: {"none": 0.0143, "x0": 1.337, "eq7": 0.0146},
}


def ideal(levels: list[float]) -> Callable[[Tensor, int, Tensor | None], Tensor]:
    return lambda states, timestep, _: (1 - levels[timestep]) ** 0.5 * states


@pytest.mark.parametrize(("steps", "residual"), list(product(LINEAR, RESIDUALS)))
def test_on_a_normal_distribution_the_gradient_is_the_known_number(steps: int, residual: Any) -> None:
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()
    levels = (1 - betas).cumprod(0).tolist()
    chain = DiffusionChain(ideal(levels), levels, steps=steps, residual=residual)
    latents = draw(1, 1, 1, 1, key="latent").requires_grad_()
    (found,) = grad(chain.run(latents, None, draw(1, 1, 1, 1, key="noise")).sum(), latents)
    assert float(found) == pytest.approx(LINEAR[steps][residual], rel=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_a_skip_to_the_clean_latent_carries_the_gradient(seed: int) -> None:
    """Of whatever denoises: random networks around the ideal one, ten steps, fp32, the schedule of DiT."""
    network = of_dit(perturbed(transformer(layers=2), "decay", seed, by=0.02), training_scheduler(), guidance_scale=3.0)
    score, generator = ideal(LEVELS), stream("decay", seed)
    latents, noise, grad_images = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))

    def denoise(states: Tensor, timestep: int, vectors: Tensor | None) -> Tensor:
        return score(states, timestep, None) + 0.02 * network(states, timestep, vectors)

    norms = {}
    for residual in RESIDUALS:
        chain = DiffusionChain(denoise, LEVELS, steps=10, residual=residual)  # type: ignore[arg-type]
        states = chain.visit(latents, network.rows[:2], noise)
        found, _ = chain.vjp(states, latents, network.rows[:2], noise, lambda clean: clean, grad_images)
        norms[residual] = float(found.norm())
    assert norms["x0"] > 50 * norms["none"]
    assert norms["eq7"] < 2 * norms["none"]


# ---- class vectors ---------------------------------------------------------------------------------------------------


def tied(model: Any) -> Any:
    """All tables of a DiT as its first one."""
    tables = [block.norm1.emb.class_embedder.embedding_table for block in model.transformer_blocks]
    for table in tables[1:]:
        table.weight.data.copy_(tables[0].weight.data)
    return model


@pytest.mark.parametrize(("tie", "half"), list(product([False, True], [False, True])))
def test_vectors_at_their_rows_are_the_labels(tie: bool, half: bool) -> None:
    model = perturbed(transformer(layers=2), "labels", by=0.2)
    model = tied(model) if tie else model
    model = model.bfloat16() if half else model
    labels, states = torch.tensor([0, 3, 4]), torch.randn(3, 4, 8, 8, generator=stream("labels"))
    states = states.to(model.dtype)
    steps = torch.full((3,), 500)
    wanted = model(states, timestep=steps, class_labels=labels).sample
    rows = open_labels(model)
    assert rows.shape[1:] == ((16,) if tie else (2, 16))
    leaf = rows[labels].float().requires_grad_()
    found = model(states, timestep=steps, class_labels=leaf).sample
    assert torch.equal(found, wanted)
    assert torch.equal(model(states, timestep=steps, class_labels=labels).sample, wanted)
    (gradient,) = grad(found.float().square().sum(), leaf)
    assert gradient.dtype == torch.float32
    assert torch.isfinite(gradient).all() and bool((gradient.flatten(1).norm(dim=1) > 0).all())


def test_a_unet_takes_vectors_of_its_table_for_labels() -> None:
    model, labels, states = unet(num_class_embeds=5), torch.tensor([0, 3]), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        wanted = model(states, 700, class_labels=labels).sample
    found = of_unet(model, training_scheduler(), None, 4, guidance_scale=1.0)
    assert found.null is not None and len(found.rows) == 4
    leaf = found.rows[labels].clone().requires_grad_()
    noise = found(states, 700, leaf)
    assert torch.equal(noise, wanted)
    (gradient,) = grad(noise.square().sum(), leaf)
    assert torch.isfinite(gradient).all() and float(gradient.norm()) > 0


@pytest.mark.parametrize("kind", ["identity", "attention"])
def test_a_unet_is_told_of_classes_by_vectors_that_lie_beside_it(kind: str) -> None:
    table = torch.randn(5, 32, generator=stream("table"))
    if kind == "identity":
        model = unet(class_embed_type="identity")
    else:
        model, table = unet(UNet2DConditionModel, cross_attention_dim=8), table[:, :8]
    found = of_unet(model, training_scheduler(), table, 4, guidance_scale=2.0)
    states = torch.randn(2, 4, 8, 8, generator=stream("states"))
    leaf = found.rows[:2].clone().requires_grad_()
    assert leaf.shape == ((2, 32) if kind == "identity" else (2, 1, 8))
    (gradient,) = grad(found(states, 700, leaf).square().sum(), leaf)
    assert torch.isfinite(gradient).all() and bool((gradient.flatten(1).norm(dim=1) > 0).all())


def test_a_unet_without_classes_draws_without_vectors() -> None:
    found = of_unet(unet(), training_scheduler(), None, 0, guidance_scale=1.0)
    assert found.rows is None and found.null is None
    assert torch.isfinite(found(torch.randn(2, 4, 8, 8), 700, None)).all()


def test_guidance_without_a_row_of_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the row of no class"):
        of_unet(unet(num_class_embeds=4), training_scheduler(), None, 4, guidance_scale=3.0)
    with pytest.raises(ValueError, match="there is no table"):
        of_unet(unet(class_embed_type="identity"), training_scheduler(), None, 4, guidance_scale=1.0)


def test_guidance_is_that_of_two_calls_and_a_learned_variance_is_dropped() -> None:
    network = denoiser(variance=True)
    latents, vectors, _ = inputs(network)
    plain = denoiser(scale=1.0, variance=True)
    with torch.no_grad():
        both = network(latents, 400, vectors)
        with_class, without = plain(latents, 400, vectors), plain(latents, 400, network.null.expand_as(vectors))
    assert both.shape == latents.shape
    assert relative(both, without + 3 * (with_class - without)) < 1e-12


def test_a_velocity_is_turned_into_noise() -> None:
    epsilon, velocity = (
        of_dit(transformer(), training_scheduler(kind), guidance_scale=1.0) for kind in ("epsilon", "v_prediction")
    )
    states, level = torch.randn(2, 4, 8, 8, generator=stream("velocity")), LEVELS[300]
    with torch.no_grad():
        answer = epsilon(states, 300, epsilon.rows[:2])
        found = velocity(states, 300, velocity.rows[:2])
    assert relative(found, level**0.5 * answer + (1 - level) ** 0.5 * states) < 1e-6


def test_a_codebook_passes_the_gradient_and_an_autoencoder_without_one_is_refused() -> None:
    codec = Codec(vq())
    snap = quantiser(codec)
    latents = torch.randn(2, codec.channels, 4, 4, generator=stream("vq")).requires_grad_()
    found = snap(latents)
    assert torch.allclose(snap(found), found, atol=1e-5)
    assert not torch.allclose(found, latents)
    assert torch.allclose(grad(found.sum(), latents)[0], torch.ones_like(latents))
    with pytest.raises(BadInput, match="asks for a codebook"):
        quantiser(Codec(kl(blocks=2)))
