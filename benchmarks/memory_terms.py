"""What the memory terms of a fine-tuning step cost beside the denoiser, forward and backward, in one run.

python benchmarks/memory_terms.py                     # the generator of the default experiment, batch 32, on a CPU
python benchmarks/memory_terms.py --model dit_xl_2    # DiT-XL/2 of random weights, batch 8: a GPU
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import torch

from distillery.devices import prepare
from distillery.diffusion.denoiser import build_transformer
from distillery.diffusion.losses import DiffusionLoss, Noised, Objective
from distillery.diffusion.objectives import memory_objective
from distillery.diffusion.schedule import training_scheduler
from distillery.streams import stream

MODELS = {
    "digits": ({"layers": 4, "heads": 3, "head_dim": 32, "patch_size": 2, "size": 8, "channels": 4}, 32),
    "dit_xl_2": ({"layers": 28, "heads": 16, "head_dim": 72, "patch_size": 2, "size": 32, "channels": 4}, 8),
}
CLASSES = 10


def seconds_of(work: Callable[[], None], device: torch.device, least: float) -> float:
    """Mean seconds of one call, after two that do not count."""
    for _ in range(2):
        work()
    calls, start = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - start < least:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        calls += 1
    return (time.perf_counter() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="digits")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=5.0, help="that each objective is measured for")
    arguments = parser.parse_args()
    device = prepare(arguments.threads)
    shape, batch = MODELS[arguments.model]
    scheduler, draws = training_scheduler(), stream("benchmark", "memory")
    model = build_transformer(classes=CLASSES, **shape).eval().to(device)
    size = (batch, shape["channels"], shape["size"], shape["size"])
    clean, noise = (torch.randn(size, generator=draws).to(device) for _ in range(2))
    timesteps = torch.randint(1000, (batch,), generator=draws).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=draws).to(device)
    level = scheduler.alphas_cumprod.to(device)[timesteps].view(-1, 1, 1, 1)
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    batch_of = Noised(clean, clean, noise, noisy, timesteps, level, labels, labels)
    plain_loss = DiffusionLoss(scheduler, device)

    def step(objective: Objective) -> Callable[[], None]:
        def work() -> None:
            model.zero_grad(set_to_none=True)
            output = model(noisy, timestep=timesteps, class_labels=labels).sample
            objective.loss(batch_of.answered(output, "epsilon", 0)).backward()

        return work

    plain = seconds_of(step(plain_loss), device, arguments.seconds)
    print(f"{arguments.model}, batch {batch}, {device.type}: plain step {1000 * plain:.1f} ms")
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
        found = seconds_of(step(objective), device, arguments.seconds)
        print(f"{name}: {1000 * found:.1f} ms, {100 * (found / plain - 1):+.1f} %")


if __name__ == "__main__":
    main()
