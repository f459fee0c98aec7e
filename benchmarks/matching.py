"""LD3M's gradient in constant memory, against the whole graph and against plain checkpointing, on the same weights.

python benchmarks/matching.py                      # the models of the default experiment, on a CPU
python benchmarks/matching.py --model dit_xl_2     # shapes of DiT-XL/2 and its decoder, random weights: a GPU
python benchmarks/matching.py --figure memory      # memory.png and memory.svg too

One iteration renders the images, takes a loss of them all, and pulls its gradient back to latents and class vectors.
Three ways: ours (states kept, one step's graph at a time, in micro-batches), checkpointing of every step, and the
graph of all steps. Memory is the peak of what tensors hold, weights left out; on a GPU what torch allocates. Each
variant runs in a process of its own; seconds are the best of several iterations after one to warm up, on a CPU those of
the processor, which others on the machine do not lengthen much.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distillery.devices import prepare
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.denoiser import alphas_cumprod_of, build_transformer
from distillery.diffusion.schedule import training_scheduler
from distillery.matching.chain import DiffusionChain, Picture
from distillery.matching.conditioning import of_dit
from distillery.matching.spaces import ChainSpace
from distillery.streams import stream

MODELS: dict[str, dict[str, Any]] = {
    "digits": {
        "transformer": {"layers": 4, "heads": 3, "head_dim": 32, "patch_size": 2, "size": 8, "channels": 4},
        "codec": {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 16},
        "channels": 1,
        "classes": 10,
    },
    "dit_xl_2": {
        "transformer": {"layers": 28, "heads": 16, "head_dim": 72, "patch_size": 2, "size": 32, "channels": 4},
        "codec": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
        "channels": 3,
        "classes": 1000,
    },
}
WAYS = ("ours", "checkpointed", "whole graph")


class LiveBytes(TorchDispatchMode):
    """The peak of what tensors hold that were made meanwhile."""

    def __init__(self, *there: Any) -> None:
        """Tensors and modules that are there already do not count, nor do views of them."""
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        # A storage as Python sees it lives as long as somebody holds it: these are held to stay known.
        self._there = [
            tensor.untyped_storage()
            for one in there
            for tensor in (one.state_dict(keep_vars=True).values() if isinstance(one, nn.Module) else [one])
        ]
        self._known.update(self._there)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, Tensor) and (storage := one.untyped_storage()) not in self._known:
                self._known.add(storage)
                weakref.finalize(storage, self._freed, storage.nbytes())
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
        return out

    def _freed(self, size: int) -> None:
        self.now -= size


def build(model: str, device: torch.device, half: bool) -> tuple[Any, Picture, tuple[int, int, int]]:
    """A denoiser and a decoder of random weights, and the shape of a latent."""
    about = MODELS[model]
    torch.manual_seed(stream("benchmark", model).initial_seed())
    transformer = build_transformer(classes=about["classes"], **about["transformer"])
    blocks = len(about["codec"]["block_out_channels"])
    codec = AutoencoderKL(
        in_channels=about["channels"],
        out_channels=about["channels"],
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=about["transformer"]["channels"],
        **about["codec"],
    )
    size = about["transformer"]["size"]
    denoiser = of_dit(transformer, training_scheduler(), guidance_scale=3.0, half=half).to(device)
    return denoiser, Picture(Codec(codec).to(device)), (about["transformer"]["channels"], size, size)


def coupled(images: Tensor) -> Tensor:
    """A loss in which every image feels every other, and that costs nothing beside the chain."""
    return images.mean(0).square().sum()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Peak of the memory and seconds of one iteration."""
    device, count = prepare(arguments.threads), arguments.images
    denoiser, picture, shape = build(arguments.model, device, device.type == "cuda")
    draws = stream("benchmark", "latents")
    latents, noise = (torch.randn(count, *shape, generator=draws).to(device) for _ in range(2))
    vectors = denoiser.rows[torch.arange(count) % 10].clone().to(device)
    chain = DiffusionChain(denoiser, alphas_cumprod_of(training_scheduler()), steps=arguments.steps)

    def once() -> None:
        if arguments.way == "ours":
            space = ChainSpace(chain, picture, latents, vectors, lambda _: noise, micro_batch=arguments.micro_batch)
            images = space.render(0).requires_grad_()
            (grad_images,) = grad(coupled(images), images)
            del images
            space.vjp(grad_images, 0)
        else:
            leaves = latents.clone().requires_grad_(), vectors.clone().requires_grad_()
            state = chain.run(*leaves, noise, save=arguments.way == "checkpointed")
            grad(coupled(picture(state)), leaves)

    once()
    if device.type == "cuda":
        weights = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        once()
        peak = torch.cuda.max_memory_allocated() - weights
    else:
        with LiveBytes(denoiser, picture.codec.autoencoder, latents, vectors, noise) as live:
            once()
        peak = live.peak
    seconds = []
    for _ in range(arguments.repeats):
        start = now(device)
        once()
        seconds.append(now(device) - start)
    kept = count * (arguments.steps + 1) * 4 * shape[0] * shape[1] * shape[2]
    return {"peak_mb": peak / 2**20, "kept_mb": kept / 2**20, "seconds": min(seconds)}


def now(device: torch.device) -> float:
    """Seconds on the clock of a GPU's machine, or of the processor."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def figure(rows: list[dict[str, Any]], name: Path) -> None:
    """Peak memory against the number of steps, a line for each way."""
    from matplotlib.figure import Figure

    from distillery.report.style import save

    drawn = Figure(figsize=(4.4, 3.0), dpi=200, layout="constrained")
    axes = drawn.subplots()
    for way in WAYS:
        part = [row for row in rows if row["way"] == way and "peak_mb" in row and row["table"] == "steps"]
        axes.plot([row["steps"] for row in part], [row["peak_mb"] for row in part], marker="o", label=way)
    axes.set_xlabel("sampling steps")
    axes.set_ylabel("peak memory (MB)")
    axes.set_ylim(bottom=0)
    axes.legend()
    save(drawn, name.with_suffix(".png"), name.with_suffix(".svg"))


def report(rows: list[dict[str, Any]]) -> None:
    """A line per variant, and by how much memory moves over the steps."""
    print(f"{'way':16}{'steps':>7}{'images':>8}{'peak MB':>10}{'states MB':>11}{'s/iteration':>13}")
    for row in rows:
        place = f"{row['way']:16}{row['steps']:>7}{row['images']:>8}"
        if "error" in row:
            print(f"{place}  {row['error']}")
        else:
            print(f"{place}{row['peak_mb']:>10.2f}{row['kept_mb']:>11.2f}{row['seconds']:>13.3f}")
    flat = [row["peak_mb"] for row in rows if row["way"] == "ours" and row["table"] == "steps" and "peak_mb" in row]
    print(f"ours over the steps: largest by smallest {max(flat) / min(flat):.3f}")
    by_images = [row for row in rows if row["table"] == "images" and "peak_mb" in row]
    rest = [row["peak_mb"] - row["kept_mb"] for row in by_images]
    if rest:
        print(
            "ours over the images, without the states of their latents: largest by smallest "
            f"{max(rest) / min(rest):.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="digits")
    parser.add_argument("--steps-list", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--images-list", type=int, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--micro-batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="without its suffix")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=10, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=10, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        print(json.dumps(measure(arguments)))
        return
    variants = [{"table": "steps", "way": way, "steps": s, "images": 10} for way in WAYS for s in arguments.steps_list]
    variants += [{"table": "images", "way": "ours", "steps": 10, "images": count} for count in arguments.images_list]
    rows: list[dict[str, Any]] = []
    for variant in variants:
        command = [sys.executable, __file__, "--model", arguments.model, "--threads", str(arguments.threads)]
        command += ["--repeats", str(arguments.repeats), "--micro-batch", str(arguments.micro_batch)]
        command += [part for name in ("way", "steps", "images") for part in (f"--{name}", str(variant[name]))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        failed = (done.stderr.strip().splitlines() or ["killed"])[-1][:80]
        rows.append({**variant, **(json.loads(lines[-1]) if lines else {"error": failed})})
    report(rows)
    if arguments.figure:
        figure(rows, arguments.figure)


if __name__ == "__main__":
    main()
