"""A whole distillery in miniature: real digits of four classes, and models that learned a little of them in seconds."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from sklearn.datasets import load_digits
from torch import Tensor, nn

import distillery.storage.resume
from distillery.data.pixels import to_unit
from distillery.diffusion.autoencoder import Codec, train_autoencoder
from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.renderer import Renderer
from distillery.diffusion.schedule import Schedule, training_scheduler
from distillery.diffusion.step import Step
from distillery.diffusion.training import InMemory, new_transformer, train_generator
from distillery.guidance.score import Scorer
from distillery.job import Job
from distillery.settings import Block, canonical
from distillery.storage.atomic import write_json
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.storage.resume import Resume
from distillery.streams import Key, stream
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import train_network

CPU = torch.device("cpu")
CLASSES = ["zero", "one", "two", "three"]
GENERATOR_CLASSES = ["two", "three", "zero", "one"]
"""The generator counts the classes in another order than the labels do: a mix-up of the two shows everywhere."""

SIDE = 16
LATENT = (4, 8, 8)
NUMBERS = 256
NETWORK = "convnet2_w8"
MADE_BY = {"stage": "test"}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits 0 to 3 of scikit-learn at 16 px: (N, 1, 16, 16) uint8, and (N,) int64."""
    bunch = load_digits()
    rows = bunch.target < len(CLASSES)
    small = torch.from_numpy(bunch.images[rows]).float()[:, None] * (255 / 16)
    large = nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear")
    return large.round().to(torch.uint8), torch.from_numpy(bunch.target[rows]).long()


def image_set_of(pixels: Tensor, labels: Tensor, **columns: np.ndarray) -> ImageSet:
    """Pixels as an image set of the tiny classes."""
    names = [f"{CLASSES[label]}/{row:05d}.png" for row, label in enumerate(labels.tolist())]
    return ImageSet([encode_png(one) for one in pixels.numpy()], labels.numpy(), CLASSES, names, columns)


def perturbed(module: nn.Module, *key: int | str, by: float = 0.05) -> Any:
    """The module with noise on all its weights, so that no zero of an initialisation hides a term."""
    draws = stream("tiny", "perturbed", *key)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=draws))
    return module.eval()


def transformer(variance: bool = False, layers: int = 1) -> Any:
    """A DiT of random weights for the tiny latents, with channels for a learned variance or without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("tiny", "transformer").initial_seed())
        model = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=LATENT[0],
            out_channels=LATENT[0] * (2 if variance else 1),
            num_layers=layers,
            sample_size=LATENT[1],
            patch_size=2,
            num_embeds_ada_norm=len(CLASSES),
        )
    return perturbed(model, "transformer")


def keys(count: int, *name: int | str) -> list[Key]:
    """Keys of so many images."""
    return [("tiny", *name, number) for number in range(count)]


def no_resume(folder: Path) -> Resume:
    """A resume file that is never written."""
    return Resume(folder / "none", "none", every=1e9)


class StoppedAt(Resume):
    """A resume file whose loop gets SIGTERM during its n-th step."""

    def __init__(self, output: Path, digest: str, step: int) -> None:
        super().__init__(output, digest, every=1e9)
        self._left = step

    def checkpoint(self, state: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]], force: bool = False) -> None:
        self._left -= 1
        if self._left == 0:
            distillery.storage.resume.request_stop(signal.SIGTERM)
        super().checkpoint(state, force)


@contextmanager
def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch, loop: str = "") -> Iterator[None]:
    """Inside, the loop of a stage gets SIGTERM during its n-th step; afterwards nothing asks for a stop.

    Args:
        loop: the name of what the loop makes, where a stage has several loops; otherwise each of them is stopped.
    """

    def stopped(output: Path, digest: str, _: float) -> StoppedAt:
        return StoppedAt(output, digest, step if loop in ("", output.name) else 0)

    with monkeypatch.context() as patch:
        patch.setattr(distillery.storage.resume, "Resume", stopped)
        yield
    distillery.storage.resume.clear_stop()


class Watcher:
    """A guidance that moves nothing and keeps what it saw: index -> noisy latents, prediction and clean latents."""

    rank = -1

    def __init__(self) -> None:
        self.noisy: dict[int, Tensor] = {}
        self.noise: dict[int, Tensor] = {}
        self.clean: dict[int, Tensor] = {}

    def active(self, index: int) -> bool:
        return True

    def needs_graph(self) -> bool:
        return False

    def shift(self, step: Step) -> Tensor:
        for name in ("noisy", "noise", "clean"):
            getattr(self, name)[step.index] = getattr(step, name).detach().clone()
        return torch.zeros_like(step.noisy)


class WatchedDenoiser(nn.Module):
    """A denoiser that notes for each call its timestep and whether a graph was built."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.inner, self.channels = denoiser, denoiser.channels
        self.calls: list[tuple[int, bool]] = []

    def forward(self, noisy: Tensor, timestep: int, conditions: Tensor) -> tuple[Tensor, Tensor | None]:
        noise, variance = self.inner(noisy, timestep, conditions)
        self.calls.append((timestep, noise.requires_grad))
        return noise, variance


@dataclass
class World:
    """Everything that LGD needs, trained for seconds, in memory and as the files that stages read.

    Attributes:
        folder: holds `autoencoder/`, `generator/`, `train.parquet`, `student.safetensors`, `reference.safetensors`.
        student: has seen two plain samples per class.
        reference: has seen all digits.
    """

    folder: Path
    codec: Codec
    transformer: Any
    student: Classifier
    reference: Classifier

    @property
    def conditions(self) -> dict[int, int]:
        """Label -> class index of the generator."""
        return {label: GENERATOR_CLASSES.index(name) for label, name in enumerate(CLASSES)}

    @property
    def data(self) -> Path:
        return self.folder / "train.parquet"

    @property
    def models(self) -> dict[str, list[Path]]:
        """What a generating stage takes."""
        return {
            "generator": [self.folder / "generator" / "model_index.json"],
            "autoencoder": [self.folder / "autoencoder" / "config.json"],
        }

    @property
    def networks(self) -> dict[str, Path]:
        """What a stage that scores takes."""
        return {name: self.folder / f"{name}.safetensors" for name in ("student", "reference")}

    def condition(self, labels: Tensor) -> Tensor:
        return torch.tensor([self.conditions[label] for label in labels.tolist()])

    def denoiser(self, scale: float = 3.0) -> Denoiser:
        return Denoiser(self.transformer, scale)

    def schedule(self, steps: int = 50) -> Schedule:
        return Schedule(training_scheduler(), steps)

    def renderer(self, steps: int = 50, batch_size: int = 256, scale: float = 3.0) -> Renderer:
        return Renderer(self.denoiser(scale), self.codec, self.schedule(steps), LATENT[1], batch_size, CPU)

    def scorer(self, weight: float = 1.0) -> Scorer:
        return Scorer([self.student], self.reference, weight)

    def step(self, index: int, labels: Tensor, graph: bool, *name: int | str, steps: int = 50) -> Step:
        """A true state of sampling at an index: real images, noised to its level."""
        schedule, (pixels, of) = self.schedule(steps), digits()
        rows = [int((of == label).nonzero()[number, 0]) for number, label in enumerate(labels.tolist())]
        with torch.no_grad():
            clean = self.codec.encode(to_unit(pixels[rows]))[0]
        abar = schedule.alphas_cumprod[index]
        fresh = torch.randn(clean.shape, generator=stream("tiny", "step", *name))
        noisy = (float(abar.sqrt()) * clean + schedule.noise_scale(index) * fresh).requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            noise, _ = self.denoiser()(noisy, int(schedule.timesteps[index]), self.condition(labels))
            implied = schedule.clean(noisy, noise, index)
        return Step(index, noisy, noise, implied, labels, schedule, schedule.sigma(None, index))


def job(stage: str, settings: Block, inputs: Sequence[Path] = (), checkpoint_seconds: float = 1e9) -> Job:
    """A run of a stage on one thread of the CPU."""
    return Job(stage, canonical(settings), CPU, 1, tuple(inputs), checkpoint_seconds)


def build_world(folder: Path) -> World:
    """Train everything, in seconds, and save it in the layout of the pipeline."""
    pixels, labels = digits()
    model = train_autoencoder(
        pixels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=LATENT[0],
        steps=120,
        batch_size=32,
        learning_rate=4e-3,
        kl_weight=1e-5,
        seed=0,
        device=CPU,
        resume=no_resume(folder),
    )
    model.save_pretrained(folder / "autoencoder")
    codec = Codec(model)
    with torch.no_grad():
        mean, std = codec.encode(to_unit(pixels))
    of = torch.tensor([GENERATOR_CLASSES.index(CLASSES[label]) for label in labels.tolist()])
    dit = train_generator(
        new_transformer(0, classes=len(CLASSES), channels=4, size=8, layers=2, heads=2, head_dim=16, patch_size=2),
        training_scheduler(),
        InMemory(mean, std),
        of,
        torch.arange(len(CLASSES)),
        steps=500,
        batch_size=64,
        learning_rate=4e-3,
        warmup_steps=20,
        ema_decay=0.98,
        label_dropout=0.1,
        seed=0,
        device=CPU,
        resume=no_resume(folder),
    )
    dit.save_pretrained(folder / "generator" / "transformer")
    training_scheduler().save_pretrained(folder / "generator" / "scheduler")
    write_json(folder / "generator" / "model_index.json", {"id2label": dict(enumerate(GENERATOR_CLASSES))})
    write_images(folder / "train.parquet", image_set_of(pixels, labels), MADE_BY)

    domain = Domain(SIDE, 1)
    student, reference = (Classifier(NETWORK, CLASSES, domain, ("tiny", name)) for name in ("student", "reference"))
    world = World(folder, codec, dit, student, reference)
    few = torch.arange(len(CLASSES)).repeat(2)
    _, drawn = world.renderer(steps=20).render(keys(len(few), "seed"), few, world.condition(few))
    recipe = Recipe(epochs=30, batch_size=8, learning_rate=2e-3)
    train_network(student, drawn, few, recipe, key=("tiny", "student"), device=CPU)
    recipe = Recipe(epochs=8, batch_size=32, learning_rate=2e-3, shift=1)
    train_network(reference, pixels, labels, recipe, key=("tiny", "reference"), device=CPU)
    student.save(folder / "student.safetensors", MADE_BY)
    reference.save(folder / "reference.safetensors", MADE_BY)
    return world
