"""What the memory terms of a fine-tuning step cost beside the denoiser, forward and backward, in one run.

python benchmarks/memory_terms.py                     # the generator of the default experiment, on a CPU
python benchmarks/memory_terms.py --model dit_xl_2    # DiT-XL/2 of random weights: a GPU
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from distillery.devices import prepare
from distillery.diffusion.denoiser import build_transformer
from distillery.diffusion.losses import DiffusionLoss, Noised, TrainingObjective
from distillery.diffusion.objectives import memory_objective
from distillery.diffusion.schedule import training_scheduler
from distillery.streams import stream

MODELS = {
    "digits": {"layers": 4, "heads": 3, "head_dim": 32, "patch_size": 2, "size": 8, "channels": 4},
    "dit_xl_2": {"layers": 28, "heads": 16, "head_dim": 72, "patch_size": 2, "size": 32, "channels": 4},
}
CLASSES = 10


def seconds_of(works: dict[str, Callable[[], None]], device: torch.device, least: float) -> dict[str, float]:
    """Seconds of one call of each, the median; they take turns, so that what else the machine does meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in works}
    begin = time.perf_counter()
    while min(map(len, found.values())) < 7 or time.perf_counter() - begin < least * len(works):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[2:]) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="digits")
    parser.add_argument("--batch", type=int, default=8, help="8 is published, and that of our fine-tuning")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=5.0, help="that each objective is measured for")
    arguments = parser.parse_args()
    device = prepare(arguments.threads)
    shape, batch = MODELS[arguments.model], arguments.batch
    scheduler, draws = training_scheduler(), stream("benchmark", "memory")
    with device:
        model = build_transformer(classes=CLASSES, **shape).eval()
    size = (batch, shape["channels"], shape["size"], shape["size"])
    clean, noise = (torch.randn(size, generator=draws).to(device) for _ in range(2))
    timesteps = torch.randint(1000, (batch,), generator=draws).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=draws).to(device)
    level = scheduler.alphas_cumprod.to(device)[timesteps].view(-1, 1, 1, 1)
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    batch_of = Noised(clean, clean, noise, noisy, timesteps, level, labels, labels)
    plain_loss = DiffusionLoss(scheduler, device)

    def step(objective: TrainingObjective) -> Callable[[], None]:
        def work() -> None:
            model.zero_grad(set_to_none=True)
            output = model(noisy, timestep=timesteps, class_labels=labels).sample
            objective.loss(batch_of.answered(output, "epsilon", 0)).backward()

        return work

    works = {"plain": step(plain_loss)}
    for name, policy in (("minimax", "fifo"), ("memory", "max")):
        objective = memory_objective(
            plain_loss,
            classes=CLASSES,
            batch=batch,
            numbers=clean[0].numel(),
            device=device,
            policy_real=policy,
            policy_generated=policy,
            memory_size=64,
            max_age=None,
            lambda_real=0.002,
            lambda_generated=0.008,
        )
        works[name] = step(objective)
    found = seconds_of(works, device, arguments.seconds)
    print(f"{arguments.model}, batch {batch}, {device.type}: plain step {1000 * found['plain']:.1f} ms")
    for name in ("minimax", "memory"):
        print(f"{name}: {1000 * found[name]:.1f} ms, {100 * (found[name] / found['plain'] - 1):+.1f} %")


if __name__ == "__main__":
    main()
