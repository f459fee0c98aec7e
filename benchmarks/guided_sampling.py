"""Guided sampling in batches over classes and candidates, against one image at a time, on the same weights, in one run.

python benchmarks/guided_sampling.py                    # the models of the default experiment, on a CPU
python benchmarks/guided_sampling.py --model dit_xl_2   # shapes of DiT-XL/2 and its decoder, random weights: a GPU

The plain loop draws one image after another in fp32, as the public code does. Ours draws batches: in fp32, and on a GPU
with the denoiser, and with denoiser and decoder, in bfloat16 as well. Each variant runs in a process of its own;
seconds per image come from the guided steps that were measured after a warm-up, times the steps of a whole image.
The peak is that of the fastest matrix product of the same precision on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from distillery.devices import prepare
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.denoiser import Denoiser, build_transformer
from distillery.diffusion.sampler import Guidance, sample
from distillery.diffusion.schedule import Schedule, training_scheduler
from distillery.guidance.class_memory import ClassMemory
from distillery.guidance.deviation import DeviationGuidance
from distillery.guidance.influence import InfluenceGuidance
from distillery.guidance.influence_gradients import GradientDistance
from distillery.guidance.learnability import LearnabilityGuidance
from distillery.guidance.mode import ModeGuidance
from distillery.guidance.score import Scorer
from distillery.streams import stream
from distillery.students.networks import Classifier, Domain

MODELS: dict[str, dict[str, Any]] = {
    "digits": {
        "transformer": {"layers": 4, "heads": 3, "head_dim": 32, "patch_size": 2, "size": 8, "channels": 4},
        "codec": {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 16},
        "images": {"side": 16, "channels": 1},
        "network": "convnet3_w32",
        "scale": 1.5,
        "classes": 10,
    },
    "dit_xl_2": {
        "transformer": {"layers": 28, "heads": 16, "head_dim": 72, "patch_size": 2, "size": 32, "channels": 4},
        "codec": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
        "images": {"side": 256, "channels": 3},
        "network": "convnet6",
        "scale": 4.0,
        "classes": 1000,
    },
}
STEPS = 50
GUIDED = {"learnability": 36, "influence": 16, "mode": 24, "deviation": 36}
"""Guided steps of 50 at the published ranges."""
HALF = {
    "none": "batched, fp32",
    "denoiser": "batched, bf16 denoiser",
    "both": "batched, bf16 both",
}


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of products and convolutions, those of gradients included."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def world(model: str, device: torch.device, half: str) -> dict[str, Any]:
    """Models of random weights, and a memory of a few latents per class.

    Args:
        half: what computes in bfloat16: none, denoiser, or both (the decoder too).
    """
    about = MODELS[model]
    torch.manual_seed(stream("benchmark", model).initial_seed())
    with device:
        transformer = build_transformer(classes=about["classes"], **about["transformer"])
    blocks, side = len(about["codec"]["block_out_channels"]), about["images"]["side"]
    codec = AutoencoderKL(
        in_channels=about["images"]["channels"],
        out_channels=about["images"]["channels"],
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        sample_size=side,
        **about["codec"],
    )
    names = [f"class {number}" for number in range(10)]
    networks = [
        Classifier(about["network"], names, Domain(side, about["images"]["channels"]), ("benchmark", role)).to(device)
        for role in ("student", "reference")
    ]
    shape = (4, about["transformer"]["size"], about["transformer"]["size"])
    memory = ClassMemory()
    memory.add(torch.randn(100, *shape).to(device), torch.arange(10).repeat(10))
    return {
        "denoiser": Denoiser(transformer, about["scale"], half=half != "none").to(device),
        "codec": Codec(codec, half=half == "both").to(device),
        "networks": [network.eval().requires_grad_(False) for network in networks],
        "memory": memory,
        "modes": torch.randn(10, 10, *shape, device=device),
    }


def guidance_of(name: str, models: dict[str, Any], device: torch.device) -> Guidance:
    """One guidance that is active at every index that is measured."""
    if name == "mode":
        return ModeGuidance(models["modes"], strength=0.1, stop=-1)
    everywhere: dict[str, Any] = {"strength": 1.0, "first": 0, "last": STEPS - 1}
    if name == "deviation":
        return DeviationGuidance(models["memory"], **everywhere)
    student, reference = models["networks"]
    if name == "learnability":
        return LearnabilityGuidance(Scorer([student], reference, 1.0), models["codec"], **everywhere)
    weights = {key: value.detach().clone() for key, value in student.named_parameters()}
    numbers = sum(value.numel() for value in weights.values())
    gradients = torch.randn(1, 10, numbers, generator=stream("benchmark", "gradients")).to(device)
    influence = GradientDistance(
        student, torch.arange(10, device=device), [weights] * 4, [{}] * 4, gradients.expand(4, -1, -1)
    )
    return InfluenceGuidance(influence, models["codec"], **everywhere)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of one guided and of one plain step per image, what they compute, and the peak of the memory."""
    device, batch = prepare(arguments.threads), arguments.batch
    torch.set_num_threads(arguments.threads)
    models = world(arguments.model, device, arguments.half)
    size = MODELS[arguments.model]["transformer"]["size"]
    labels = torch.arange(batch) % 10
    keys = [("benchmark", number) for number in range(batch)]
    schedule = Schedule(training_scheduler(), 2)
    found: dict[str, float] = {}
    for name in ("plain", arguments.guidance):
        guidances = [] if name == "plain" else [guidance_of(name, models, device)]

        def once(guidances: list[Guidance] = guidances) -> None:
            sample(models["denoiser"], schedule, size, keys, labels, labels, guidances, device=device, slots=labels)

        with Flops() as counter:
            once()
        repeats, start = 0, _now(device)
        while repeats < 2 or (_now(device) - start < arguments.seconds and repeats < 200):
            once()
            repeats += 1
        kind = "plain" if name == "plain" else "guided"
        found[f"{kind}_seconds"] = (_now(device) - start) / (2 * repeats * batch)
        found[f"{kind}_flop"] = counter.total / (2 * batch)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["peak_gb"] = (torch.cuda.max_memory_allocated() if device.type == "cuda" else host) / 2**30
    found["peak_flops"] = fastest_product(device, arguments.half != "none")
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def fastest_product(device: torch.device, half: bool) -> float:
    """Operations per second of the fastest square matrix product."""
    best = 0.0
    for side in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192):
        left = torch.randn(side, side, device=device, dtype=torch.bfloat16 if half else torch.float32)
        left @ left
        start = _now(device)
        for _ in range(4):
            left @ left
        best = max(best, 4 * 2 * side**3 / (_now(device) - start))
    return best


def report(rows: list[dict[str, Any]], guidance: str) -> None:
    """One line per variant: seconds of a whole image, how many times faster, share of the peak, memory."""
    guided = GUIDED[guidance]
    first = None
    print(f"\n{guidance}: {guided} guided and {STEPS - guided} plain steps of an image")
    for row in [row for row in rows if "error" not in row][:1]:
        work = (f"{kind} {row[f'{kind}_flop'] / 1e12:.3g}" for kind in ("plain", "guided"))
        print(f"TFLOP of one step of an image: {', '.join(work)}")
    print(f"{'variant':28}{'batch':>6}{'s/image':>10}{'times':>8}{'peak %':>8}{'memory GB':>11}")
    for row in rows:
        if "error" in row:
            print(f"{row['name']:28}{row['batch']:>6}  {row['error']}")
            continue
        seconds = guided * row["guided_seconds"] + (STEPS - guided) * row["plain_seconds"]
        work = guided * row["guided_flop"] + (STEPS - guided) * row["plain_flop"]
        first = first or seconds
        share = 100 * work / seconds / row["peak_flops"]
        memory = row["peak_gb"]
        print(f"{row['name']:28}{row['batch']:>6}{seconds:>10.3f}{first / seconds:>8.1f}{share:>8.1f}{memory:>11.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="digits")
    parser.add_argument("--guidance", choices=list(GUIDED), default="learnability")
    parser.add_argument("--batches", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0, help="that each variant is measured for")
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--half", choices=HALF, default="none", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.batch is not None:
        print(json.dumps(measure(arguments)))
        return
    variants = [("one at a time, fp32", 1, "none")]
    for half, name in HALF.items() if torch.cuda.is_available() else [("none", HALF["none"])]:
        variants += [(name, batch, half) for batch in arguments.batches]
    rows: list[dict[str, Any]] = []
    for name, batch, half in variants:
        command = [sys.executable, __file__, "--model", arguments.model, "--guidance", arguments.guidance]
        command += ["--threads", str(arguments.threads), "--seconds", str(arguments.seconds), "--batch", str(batch)]
        done = subprocess.run([*command, "--half", half], capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        failed = (done.stderr.strip().splitlines() or ["killed"])[-1][:80]
        rows.append({"name": name, "batch": batch, **(json.loads(lines[-1]) if lines else {"error": failed})})
    report(rows, arguments.guidance)


if __name__ == "__main__":
    main()
