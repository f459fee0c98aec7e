"""Training of a class-conditional generator on cached latents."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from distillery.diffusion.denoiser import build_transformer
from distillery.diffusion.losses import DiffusionLoss, Noised, Objective
from distillery.progress import Progress
from distillery.resume import Resume, pack, unpack
from distillery.streams import stream


def new_transformer(seed: int, **shape: int) -> Any:
    """`build_transformer` with weights drawn from the stream of a seed."""
    with torch.random.fork_rng(devices=[]):  # diffusers draws initial weights from the global stream
        torch.manual_seed(stream(seed, "train_generator", "weights").initial_seed())
        return build_transformer(**shape)


def train_generator(
    transformer: Any,
    scheduler: Any,
    mean: Tensor,
    std: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    ema_decay: float,
    label_dropout: float,
    seed: int,
    device: torch.device,
    resume: Resume,
    objective: Objective | None = None,
) -> Any:
    """Train a DiT to predict the noise, with label dropout, warm-up, a cosine schedule and an average of the weights.

    Args:
        mean, std: (N, C, H, W), of the scaled latents' posterior.
        labels: (N,) class indices of the generator.
        objective: what it is trained for; None: the diffusion loss alone.

    Returns:
        The transformer with the exponential moving average of its weights.
    """
    # In train mode DiT drops labels by the global random stream; its dropout is ours here, and nothing else differs.
    transformer.eval().requires_grad_(True).to(device)
    average = copy.deepcopy(transformer).requires_grad_(False)
    optimizer = torch.optim.AdamW(transformer.parameters(), learning_rate, weight_decay=0.0, fused=True)
    objective = objective or DiffusionLoss(scheduler, device)
    abar = scheduler.alphas_cumprod
    null_class = transformer.config.num_embeds_ada_norm
    start = 0
    if found := resume.restore():
        unpack(found[0], {"model": transformer, "average": average}, {"adam": optimizer})
        objective.restore(
            {key.removeprefix("objective/"): t for key, t in found[0].items() if key.startswith("objective/")}
        )
        start = found[1]["step"]
    with Progress("train_generator", steps * batch_size, "image", start * batch_size) as progress:
        for step in range(start, steps):
            draws = stream(seed, "train_generator", step)
            chosen = torch.randint(len(mean), (batch_size,), generator=draws)
            clean = mean[chosen] + std[chosen] * torch.randn(mean[chosen].shape, generator=draws)
            noise = torch.randn(clean.shape, generator=draws)
            timesteps = torch.randint(len(abar), (batch_size,), generator=draws)
            dropped = torch.rand(batch_size, generator=draws) < label_dropout
            level = abar[timesteps].view(-1, 1, 1, 1)
            noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
            own = labels[chosen]
            conditions = torch.where(dropped, null_class, own)
            batch = Noised(clean, mean[chosen], noise, noisy, timesteps, level, own, conditions).to(device)
            output = transformer(batch.noisy, timestep=batch.timesteps, class_labels=batch.conditions).sample
            loss = objective.loss(batch.answered(output, "epsilon", step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _factor(step, steps, warmup_steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                decay = min(ema_decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(average.parameters()), list(transformer.parameters()), 1 - decay)
            progress.advance(batch_size)
            resume.checkpoint(
                lambda at=step + 1: (  # type: ignore[misc]
                    {
                        **pack({"model": transformer, "average": average}, {"adam": optimizer}),
                        **{f"objective/{key}": value for key, value in objective.state().items()},
                    },
                    {"step": at},
                )
            )
    return average.cpu()


def _factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
