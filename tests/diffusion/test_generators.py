"""What training of autoencoder and generator promises: scaled latents, and the same weights with or without a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from tiny import (
    CLASSES,
    CPU,
    LATENT,
    SIDE,
    StoppedAt,
    World,
    digits,
    image_set_of,
    job,
    keys,
    no_resume,
    stopped_at,
)
from tiny_weights import autoencoder_files, openings
from torch import Tensor
from torch.nn import functional as F

import distillery.storage.resume
from distillery.data.pixels import to_unit
from distillery.diffusion.autoencoder import Codec, train_autoencoder
from distillery.diffusion.generators import Generator
from distillery.diffusion.models import load_generator
from distillery.diffusion.renderer import class_conditions
from distillery.diffusion.schedule import training_scheduler
from distillery.diffusion.settings import Autoencoder, Perceptual
from distillery.diffusion.training import InMemory, new_transformer, train_generator
from distillery.errors import BadInput
from distillery.stages import train_autoencoder as autoencoder_stage
from distillery.stages import train_generator as generator_stage
from distillery.storage.history import History
from distillery.storage.images import write_images
from distillery.storage.resume import Resume
from distillery.storage.tensors import write_tensors
from distillery.streams import image_noise, stream
from distillery.students.networks import Classifier
from distillery.students.perceptual import PerceptualDistance

SHAPE = {"classes": 4, "channels": 4, "size": 8, "layers": 1, "heads": 2, "head_dim": 8, "patch_size": 2}


def autoencoder(resume: Resume, steps: int = 6, seed: int = 0, pixels: Tensor | None = None, **options: Any) -> Any:
    return train_autoencoder(
        digits()[0][:64] if pixels is None else pixels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        steps=steps,
        batch_size=4,
        kl_weight=1e-5,
        seed=seed,
        device=CPU,
        resume=resume,
        **{"learning_rate": 2e-3, **options},
    )


def latents() -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of latents, and classes."""
    mean = torch.randn(32, *LATENT, generator=stream("latents"))
    return mean, torch.full_like(mean, 0.1), torch.arange(4).repeat(8)


def generator(resume: Resume, steps: int = 6, seed: int = 0, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "batch_size": 8,
        "learning_rate": 2e-3,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "label_dropout": 0.25,
    }
    made, (mean, std, labels) = new_transformer(seed, **SHAPE), latents()
    return train_generator(
        made,
        training_scheduler(),
        InMemory(mean, std),
        labels,
        torch.arange(4),
        steps=steps,
        seed=seed,
        device=CPU,
        resume=resume,
        **{**defaults, **options},
    )


TRAINERS: dict[str, Callable[..., Any]] = {"autoencoder": autoencoder, "generator": generator}


def same(one: Any, other: Any) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- what both promise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("stop", [1, 4])
def test_training_stopped_and_resumed_gives_the_same_bits(
    kind: str, stop: int, tmp_path: Path, no_request: None
) -> None:
    train = TRAINERS[kind]
    histories = History(6), History(6), History(6)
    whole = train(no_resume(tmp_path), history=histories[0])
    with pytest.raises(SystemExit):
        train(StoppedAt(tmp_path / "weights", "a", stop), history=histories[1])
    distillery.storage.resume.clear_stop()
    found = Resume(tmp_path / "weights", "a").restore()
    assert found is not None and found[1] == {"step": stop}
    resumed = train(Resume(tmp_path / "weights", "a"), history=histories[2])
    assert same(resumed, whole)
    assert histories[0].rows == 6
    assert histories[2].table().equals(histories[0].table())
    assert resumed.config == whole.config


@pytest.mark.parametrize("kind", TRAINERS)
def test_training_killed_after_its_last_step_only_finishes(kind: str, tmp_path: Path, no_request: None) -> None:
    train = TRAINERS[kind]
    with pytest.raises(SystemExit):
        train(StoppedAt(tmp_path / "weights", "a", 6))
    distillery.storage.resume.clear_stop()
    assert same(train(Resume(tmp_path / "weights", "a")), train(no_resume(tmp_path)))


@pytest.mark.parametrize("kind", TRAINERS)
def test_the_global_stream_is_neither_read_nor_moved(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = TRAINERS[kind](no_resume(tmp_path), steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(TRAINERS[kind](no_resume(tmp_path), steps=2), one)


@pytest.mark.parametrize("kind", TRAINERS)
def test_another_seed_gives_another_model(kind: str, tmp_path: Path) -> None:
    one, other = (TRAINERS[kind](no_resume(tmp_path), steps=1, seed=seed) for seed in (0, 1))
    assert not same(one, other)


# ---- autoencoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_scaling_factor_brings_latents_to_unit_variance(channels: int, tmp_path: Path) -> None:
    pixels = digits()[0][:64].expand(-1, channels, -1, -1)
    codec = Codec(autoencoder(no_resume(tmp_path), pixels=pixels))
    with torch.no_grad():
        mean, std = codec.encode(to_unit(pixels))
    assert mean.std().item() == pytest.approx(1, abs=1e-4)
    assert (std > 0).all()
    assert mean.shape[1:] == LATENT
    assert codec.latent_size(SIDE) == LATENT[1]
    assert codec.decode(mean).shape == pixels.shape


def test_the_average_of_an_autoencoder_lags_behind_its_weights(tmp_path: Path) -> None:
    start, last = autoencoder(no_resume(tmp_path), learning_rate=1e-12), autoencoder(no_resume(tmp_path))
    assert same(autoencoder(no_resume(tmp_path), ema_decay=0.0), last)
    average = autoencoder(no_resume(tmp_path), ema_decay=0.99)
    moved, lagged = (
        sum(float((a - b).square().sum()) for a, b in zip(one.parameters(), start.parameters(), strict=True))
        for one in (last, average)
    )
    assert 0 < lagged < moved


def test_a_perceptual_distance_is_that_of_features_at_several_depths(world: World) -> None:
    images, network = to_unit(digits()[0][:4]), Classifier.load(world.networks["reference"], "train_reference")
    distance = PerceptualDistance(network, 0.5)
    assert float(distance(images, images)) == 0
    other = (images + 0.1 * torch.randn(images.shape, generator=stream("perceptual"))).requires_grad_()
    found = distance(other, images)
    found.backward()
    assert other.grad is not None and bool(other.grad.any())
    assert all(value.grad is None for value in network.parameters())
    assert float(PerceptualDistance(network, 1.0)(other, images)) == pytest.approx(2 * float(found))

    seen: list[Tensor] = []
    layers = [module for module in network.network.modules() if isinstance(module, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(output)) for layer in layers]
    for given in (other.detach(), images):
        network(given)
    for hook in hooks:
        hook.remove()
    pairs = zip(seen[: len(layers)], seen[len(layers) :], strict=True)
    by_hand = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean() for a, b in pairs]
    assert float(found) == pytest.approx(0.5 * float(torch.stack(by_hand).mean()), rel=1e-5)


def test_the_perceptual_term_and_the_average_are_part_of_the_training_and_of_its_resume(
    tmp_path: Path, world: World, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "train.parquet", image_set_of(*(values[:32] for values in digits())), {})
    block = Autoencoder(block_out_channels=[8, 16], steps=4, batch_size=4, ema_decay=0.9)

    def make(name: str, weight: float | None) -> bytes:
        term = None if weight is None else Perceptual(reference="real", weight=weight)
        settings = autoencoder_stage.Settings(seed=0, autoencoder=block.model_copy(update={"perceptual": term}))
        outputs = {**autoencoder_files(tmp_path / name), "history": tmp_path / name / "history.parquet"}
        run = job("train_autoencoder", settings, [tmp_path / "train.parquet"])
        reference = None if term is None else world.networks["reference"]
        autoencoder_stage.run(settings, images=tmp_path / "train.parquet", reference=reference, **outputs, job=run)
        return outputs["weights"].read_bytes()

    whole = make("whole", 0.5)
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        make("halves", 0.5)
    assert make("halves", 0.5) == whole
    assert make("without", None) != whole


def test_a_trained_autoencoder_gives_back_what_it_gets(world: World) -> None:
    images = to_unit(digits()[0])
    with torch.no_grad():
        error = F.mse_loss(world.codec.decode(world.codec.encode(images)[0]), images)
    assert error < 0.1 * images.var()


def test_the_autoencoder_stage_writes_what_diffusers_opens(
    tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "train.parquet", image_set_of(*(values[:32] for values in digits())), {})
    recipe = Autoencoder(block_out_channels=[8, 16], steps=4, batch_size=4)
    settings = autoencoder_stage.Settings(seed=0, autoencoder=recipe)
    files = {"config": "config.json", "weights": "diffusion_pytorch_model.safetensors", "history": "history.parquet"}

    def make(folder: Path) -> list[bytes]:
        outputs = {name: folder / file for name, file in files.items()}
        run = job("train_autoencoder", settings, [tmp_path / "train.parquet"])
        autoencoder_stage.run(settings, images=tmp_path / "train.parquet", **outputs, job=run)
        assert sorted(path.name for path in folder.iterdir()) == sorted(files.values())
        return [path.read_bytes() for path in outputs.values()]

    whole = make(tmp_path / "whole")
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        make(tmp_path / "halves")
    assert make(tmp_path / "halves") == whole
    opened = AutoencoderKL.from_pretrained(tmp_path / "whole", low_cpu_mem_usage=False)
    codec = Codec.load(tmp_path / "whole")
    assert codec.scale == opened.config.scaling_factor != 1
    images = to_unit(digits()[0][:3])
    assert torch.equal(codec.encode(images)[0], opened.eval().encode(images).latent_dist.mean * codec.scale)


# ---- generator -------------------------------------------------------------------------------------------------------


def test_a_trained_generator_predicts_the_noise_better_for_the_right_class(world: World) -> None:
    pixels, labels = digits()
    with torch.no_grad():
        clean = world.codec.encode(to_unit(pixels[:200]))[0]
        abar, noise = training_scheduler().alphas_cumprod[600], image_noise(keys(200), "noise", LATENT)
        noisy = abar.sqrt() * clean + (1 - abar).sqrt() * noise
        errors = {}
        for name, of in (("correct", labels[:200]), ("wrong", (labels[:200] + 1) % 4)):
            predicted, _ = world.denoiser(scale=1.0)(noisy, 600, world.condition(of))
            errors[name] = F.mse_loss(predicted, noise)
    assert errors["correct"] < errors["wrong"] < 1


def test_dropped_labels_train_the_row_of_no_class(tmp_path: Path) -> None:
    def row(dropout: float) -> Tensor:
        model = generator(no_resume(tmp_path), label_dropout=dropout)
        embedding = model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
        return (
            embedding[-1]
            - new_transformer(0, **SHAPE).transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight[-1]
        )

    assert row(0.0).abs().max() == 0
    assert row(0.5).abs().max() > 0


def test_the_average_lags_behind_the_weights(tmp_path: Path) -> None:
    start, last = new_transformer(0, **SHAPE), generator(no_resume(tmp_path), ema_decay=0.0)
    average = generator(no_resume(tmp_path), ema_decay=0.99)
    moved, lagged = (
        sum(float((a - b).detach().square().sum()) for a, b in zip(one.parameters(), start.parameters(), strict=True))
        for one in (last, average)
    )
    assert 0 < lagged < moved


def test_the_generator_stage_writes_what_diffusers_opens(
    tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean, std, labels = latents()
    source = tmp_path / "latents.safetensors"
    write_tensors(source, {"mean": mean, "std": std, "labels": labels}, {}, classes=CLASSES, autoencoder="a")
    recipe = Generator(num_layers=1, num_attention_heads=2, attention_head_dim=8, steps=4, batch_size=4)

    def make(folder: Path, **options: Any) -> list[bytes]:
        settings = generator_stage.Settings(seed=0, generator=recipe.model_copy(update=options))
        outputs = {**openings(folder), "history": folder / "history.parquet"}
        generator_stage.run(settings, latents=[source], **outputs, job=job("train_generator", settings, [source]))
        return [path.read_bytes() for path in outputs.values()]

    whole = make(tmp_path / "whole")
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        make(tmp_path / "halves")
    assert make(tmp_path / "halves") == whole
    assert not list(tmp_path.rglob("*.resume.safetensors"))

    opened, scheduler = load_generator(tmp_path / "whole")
    assert isinstance(opened, DiTTransformer2DModel)
    assert isinstance(scheduler, DDPMScheduler)
    assert torch.equal(scheduler.alphas_cumprod, training_scheduler().alphas_cumprod)
    assert opened.config.num_embeds_ada_norm == len(CLASSES)
    assert class_conditions(tmp_path / "whole", CLASSES[::-1]) == {0: 3, 1: 2, 2: 1, 3: 0}

    with pytest.raises(BadInput, match="patch_size: 3 does not divide the 8 x 8 latents"):
        make(tmp_path / "odd", patch_size=3)


def test_a_generator_that_is_trained_with_memories_resumes_with_them(
    tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mean, std, labels = latents()
    source = tmp_path / "latents.safetensors"
    write_tensors(source, {"mean": mean, "std": std, "labels": labels}, {}, classes=CLASSES)

    def make(folder: Path, objective: Any) -> bytes:
        recipe = Generator(
            num_layers=1, num_attention_heads=2, attention_head_dim=8, steps=4, batch_size=4, objective=objective
        )
        settings = generator_stage.Settings(seed=0, generator=recipe)
        outputs = {**openings(folder), "history": folder / "history.parquet"}
        generator_stage.run(settings, latents=[source], **outputs, job=job("train_generator", settings, [source]))
        return outputs["weights"].read_bytes()

    memory = {"kind": "memory", "memory_size": 2, "lambda_generated": 0.5}
    whole = make(tmp_path / "whole", memory)
    assert "memory of generated latents: " in capsys.readouterr().out
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        make(tmp_path / "halves", memory)
    assert make(tmp_path / "halves", memory) == whole
    assert make(tmp_path / "plain", "plain") != whole
