"""Training of one network on one distilled set: a loop as reference repositories write it, against ours, in one run.

python benchmarks/students.py                          # ConvNet-6 at 64 px, on a CPU
python benchmarks/students.py --size 224 --networks 5  # on a GPU

The plain loop: a DataLoader with workers, Pillow and torchvision transforms per image, fp32, one network after another.
Ours: the same recipe, all images on the device, augmentation in batches, and each switch of `evaluation.speed` in turn.
Every variant runs in a process of its own; seconds are extrapolated to the end of the protocol from steps that were
measured after a warm-up. The share of the peak compares with the fastest matrix product of the same precision.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from distillery.devices import prepare
from distillery.progress import Progress
from distillery.streams import stream
from distillery.students import training
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Protocol, Recipe, Speed

VARIANTS: dict[str, dict[str, Any]] = {
    "plain loop": {},
    "ours, fp32": {"precision": "float32"},
    "ours, bf16": {"precision": "bfloat16"},
    "ours, fp32, compiled": {"precision": "float32", "compile": True},
    "ours, bf16, compiled": {"precision": "bfloat16", "compile": True},
    "ours, bf16, channels_last, compiled": {"precision": "bfloat16", "channels_last": True, "compile": True},
}


def distilled_set(ipc: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth colour images of ten classes, (N, 3, size, size) uint8."""
    coarse = torch.rand(10 * ipc, 3, 8, 8, generator=stream("benchmark", "images"))
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8), torch.arange(10).repeat(ipc)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    protocol = Protocol(preset="minimax", size=arguments.size)
    return protocol.recipe(network=arguments.network, ipc=arguments.ipc, classes=10)


class _Lighting:
    """PCA lighting of one image, as the reference repositories have it."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        values = torch.tensor([0.2175, 0.0188, 0.0045])
        vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
        return image + (vectors * (torch.randn(3) * 0.1 * values)).sum(1)[:, None, None]


class _Files(Dataset[tuple[torch.Tensor, int]]):
    """Encoded images that are decoded and transformed one by one."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        self.files = [self._encode(image) for image in pixels.numpy()]
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.4, 0.4, 0.4),
                _Lighting(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    @staticmethod
    def _encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(io.BytesIO(self.files[index])) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def plain_loop(arguments: argparse.Namespace, device: torch.device, epochs: int) -> float:
    """Seconds of so many epochs after a warm-up of one."""
    recipe = recipe_of(arguments)
    pixels, labels = distilled_set(arguments.ipc, arguments.size)
    loader = DataLoader(
        _Files(pixels, labels, arguments.size),
        recipe.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
        pin_memory=device.type == "cuda",
    )
    network = Classifier(arguments.network, [str(i) for i in range(10)], Domain.of(pixels, recipe)).network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), recipe.learning_rate, momentum=0.9, weight_decay=5e-4)
    start = 0.0
    for epoch in range(epochs + 1):
        if epoch == 1:
            _wait(device)
            start = time.perf_counter()
        for batch, answers in loader:
            images, targets = batch.to(device), answers.to(device)
            share = float(np.random.beta(1, 1))
            partner = torch.randperm(len(images), device=device)
            side = int(arguments.size * (1 - share) ** 0.5)
            y, x = np.random.randint(arguments.size, size=2)
            top, bottom = max(y - side // 2, 0), min(y + side // 2, arguments.size)
            left, right = max(x - side // 2, 0), min(x + side // 2, arguments.size)
            images[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / arguments.size**2
            logits = network(images)
            loss = share * torch.nn.functional.cross_entropy(logits, targets)
            loss = loss + (1 - share) * torch.nn.functional.cross_entropy(logits, targets[partner])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # the reference loops keep a running loss
    _wait(device)
    return time.perf_counter() - start


class _Clock(Progress):
    """Notes when each epoch is over, and its work on the device."""

    device: ClassVar[torch.device]
    times: ClassVar[list[float]] = []

    def advance(self, units: int = 1) -> None:
        _wait(self.device)
        self.times.append(time.perf_counter())
        super().advance(units)


def ours(arguments: argparse.Namespace, device: torch.device, epochs: int, switches: dict[str, Any]) -> float:
    """Seconds of so many epochs of all networks, after two that compile and warm up."""
    recipe = recipe_of(arguments)
    pixels, labels = distilled_set(arguments.ipc, arguments.size)
    together = arguments.networks if arguments.together is None else arguments.together
    training.Progress = _Clock  # type: ignore[misc]
    _Clock.device = device
    seconds = 0.0
    for at in range(0, arguments.networks, together):
        keys = [("benchmark", number) for number in range(at, min(at + together, arguments.networks))]
        ensemble = [
            Classifier(arguments.network, [str(i) for i in range(10)], Domain.of(pixels, recipe), key) for key in keys
        ]
        short = recipe.model_copy(update={"epochs": epochs + 2})
        _Clock.times.clear()
        training.train_networks(ensemble, pixels, labels, short, keys=keys, device=device, speed=Speed(**switches))
        seconds += _Clock.times[-1] - _Clock.times[1]
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def flops_per_image(arguments: argparse.Namespace) -> int:
    """Floating point operations of one image in one training step, forward and backward."""
    recipe = recipe_of(arguments)
    pixels, _ = distilled_set(1, arguments.size)
    network = Classifier(arguments.network, [str(i) for i in range(10)], Domain.of(pixels, recipe)).network
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 3, arguments.size, arguments.size)).sum().backward()
    return int(counter.get_total_flops() // 2)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The most operations per second that a square matrix product reaches here."""
    best = 0.0
    for side in (1024, 2048, *((8192,) if device.type == "cuda" else ())):
        left = torch.randn(side, side, device=device, dtype=dtype)
        for _ in range(3):
            left @ left
        _wait(device)
        start = time.perf_counter()
        for _ in range(5):
            left @ left
        _wait(device)
        best = max(best, 5 * 2 * side**3 / (time.perf_counter() - start))
    return best


def measure(arguments: argparse.Namespace) -> None:
    """One variant in this process; prints one line of JSON."""
    device = prepare(arguments.threads or len(os.sched_getaffinity(0)))
    switches = VARIANTS[arguments.variant]
    images = 10 * arguments.ipc * arguments.epochs
    if arguments.variant == "plain loop":
        seconds = plain_loop(arguments, device, arguments.epochs)
    else:
        seconds = ours(arguments, device, arguments.epochs, switches)
        images *= arguments.networks
    half = switches.get("precision") == "bfloat16"
    peak = peak_flops(device, torch.bfloat16 if half else torch.float32)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found = {
        "images_per_second": images / seconds,
        "protocol_seconds": arguments.networks * 10 * arguments.ipc * recipe_of(arguments).epochs * seconds / images,
        "peak_memory_mb": kib / 1024,
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0,
        "share_of_peak": images / seconds * flops_per_image(arguments) / peak,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="convnet6")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--networks", type=int, default=1, help="seeds of the network")
    parser.add_argument("--together", type=int, default=None, help="networks with stacked weights; none: all")
    parser.add_argument("--epochs", type=int, default=6, help="epochs that are measured")
    parser.add_argument("--workers", type=int, default=min(8, len(os.sched_getaffinity(0))))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        measure(arguments)
        return
    cores = len(os.sched_getaffinity(0))
    print(
        f"{arguments.network} at {arguments.size} px, IPC {arguments.ipc}, {arguments.networks} networks, {cores} cores"
    )
    print(f"{'':38}{'images/s':>10}{'s to end':>10}{'MB':>8}{'GPU MB':>8}{'of peak':>9}{'ratio':>8}")
    plain = None
    for variant in arguments.only:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--variant", variant], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{variant:38}failed: {done.stderr.strip().splitlines()[-1][:80]}")
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        plain = plain or found["images_per_second"]
        print(
            f"{variant:38}{found['images_per_second']:10.0f}{found['protocol_seconds']:10.0f}"
            f"{found['peak_memory_mb']:8.0f}{found['peak_gpu_mb']:8.0f}{found['share_of_peak']:9.1%}"
            f"{found['images_per_second'] / plain:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
