"""How much of a gradient at the images reaches latents and class vectors, by residual and number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from distillery.matching.build import Places, chain_space
from distillery.matching.chain import Residual
from distillery.matching.generator import FrozenGenerator
from distillery.matching.objectives import Objective
from distillery.matching.settings import Chain

RESIDUALS: tuple[Residual, ...] = ("x0", "eq7", "none")


def gradient_norms(
    generator: FrozenGenerator,
    chain: Chain,
    objective: Objective,
    places: Places,
    latents: Tensor,
    *,
    steps: Sequence[int],
    repeats: int,
    resolution: int,
    micro_batch: int,
    device: torch.device,
) -> Iterator[dict[str, float | str | None]]:
    """One row per number of steps, residual and repeat, at the start of a method: table 1 of arXiv 2403.03881.

    Args:
        objective: whose gradient at the images is pulled back; repeat r takes its step r.
        latents: (N, C, h, w), where the method starts.

    Yields:
        `steps`, `residual`, `repeat`, `loss`, and `latent` and `condition`: mean over images of the Euclidean norm;
        `condition` is None where the generator knows no classes.
    """
    learn: list[Literal["latent", "condition"]] = ["latent"]
    if generator.denoiser.rows is not None:
        learn.append("condition")
    options: dict[str, Any] = {"resolution": resolution, "micro_batch": micro_batch, "device": device}
    for count in steps:
        for residual in RESIDUALS:
            settings = chain.model_copy(update={"steps": count, "residual": residual, "uneven": True})
            space = chain_space(generator, settings, learn, places, latents, **options)
            for repeat in range(repeats):
                grad_images, metrics = objective.gradient(
                    space.render(repeat), places.labels, repeat * objective.updates
                )
                gradients = space.vjp(grad_images, repeat)
                norms = {name: float(value.flatten(1).norm(dim=1).mean()) for name, value in gradients.items()}
                row = {"steps": count, "residual": residual, "repeat": repeat, "loss": metrics["loss"]}
                yield {**row, "latent": norms["latent"], "condition": norms.get("condition")}
