"""Eight images of the tiny world, sampled with guidances, and the files that these need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import CLASSES, CPU, LATENT, NETWORK, World, digits, job, keys
from torch import Tensor

from distillery.data.pixels import to_unit
from distillery.diffusion.sampler import Guidance, sample
from distillery.diffusion.solvers import SolverName
from distillery.guidance.influence_gradients import GradientDistance
from distillery.stages import discover_modes as modes_stage
from distillery.stages import select_checkpoints, train_surrogate
from distillery.storage.tensors import write_tensors
from distillery.streams import stream
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


def trained(world: World, out: Path) -> Path:
    recipe = Recipe(epochs=3, batch_size=32, learning_rate=2e-3)
    settings = train_surrogate.Settings(seed=0, name="conv", network=NETWORK, recipe=recipe)
    train_surrogate.run(
        settings,
        images=world.data,
        checkpoints=out,
        history=out.with_suffix(".parquet"),
        job=job("train_surrogate", settings),
    )
    return out


def chosen(world: World, checkpoints: Path, out: Path, **options: Any) -> Path:
    defaults: dict[str, Any] = {"name": "conv", "external": False, "threshold": 0.7}
    defaults |= {"keep": [0, 2], "gradient_images": 10}
    settings = select_checkpoints.Settings(**{**defaults, **options})
    run = job("select_checkpoints", settings)
    files = {"data": world.data, "checkpoints": checkpoints, "gradients": out}
    select_checkpoints.run(settings, **files, by_class=out.with_suffix(".csv"), job=run)
    return out


def influence_of(surrogate: Path, **options: Any) -> GradientDistance:
    return GradientDistance.load(surrogate, CLASSES, CPU, **options)


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
    settings = modes_stage.Settings(count=count, discovery="centroid", smallest_cluster=1, pool=pool, seed=0)
    out = folder / f"modes-{count}-{''.join(map(str, order))}.safetensors"
    modes_stage.run(settings, latents=[encoded(folder, order)], modes=out, job=job("discover_modes", settings))
    return out


def modes_file(world: World, folder: Path, count: int) -> Path:
    """So many modes of each class of the tiny world, discovered among the latents of its digits."""
    pixels, labels = digits()
    with torch.no_grad():
        mean, _ = world.codec.encode(to_unit(pixels))
    latents, out = folder / "digits.safetensors", folder / "modes.safetensors"
    about = {"mean": mean, "std": torch.zeros_like(mean), "labels": labels}
    write_tensors(latents, about, MADE_BY, classes=CLASSES)
    settings = modes_stage.Settings(count=count, discovery="centroid", smallest_cluster=1, pool=None, seed=0)
    modes_stage.run(settings, latents=[latents], modes=out, job=job("discover_modes", settings))
    return out
