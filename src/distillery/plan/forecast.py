"""The time and memory of a run, told before it starts: `python -m distillery.plan.forecast config.yaml`.

The work of each stage (`distillery.plan.work`) is divided by the rates of a machine. Those of a core were fitted to
jobs of ImageNette at 64 px on one core of an Intel Xeon; a short measurement compares this machine with that core.
Those of cards are scaled from measurements on an H100 (docs/diffusion.md). A forecast aims at a factor of two.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.devices import bound_cores, cpu_has_bfloat16
from distillery.errors import ExperimentError
from distillery.plan.experiment import Experiment
from distillery.plan.files import read_file
from distillery.plan.load import load
from distillery.plan.work import Work, work

LIBRARIES = 0.9e9
"""Bytes of a process that has imported torch and diffusers."""


@dataclass(frozen=True)
class Rates:
    """What one worker of a machine does in a second: a core, or a card.

    Attributes:
        name: for the table.
        operations: floating-point operations of convolutions and matrices.
        float32: the same, where a generator is trained in float32.
        numbers: that layers read or write beside them.
        step: seconds that a step takes at least.
        start: seconds that a job takes to start.
    """

    name: str
    operations: float
    float32: float
    numbers: float
    step: float
    start: float

    def seconds(self, part: Work) -> float:
        """The time of all jobs of a stage, one after another."""
        rate = self.float32 if part.float32 else self.operations
        return part.jobs * self.start + part.steps * self.step + part.operations / rate + part.traffic / self.numbers


CORE = Rates("one core of the reference", 100e9, 100e9, 0.1e9, 2e-3, 4.0)
"""A core of an Intel Xeon (Emerald Rapids) in float32."""

PROBE_SECONDS = 0.0142
"""What a step of the probe took on that core."""

BF16_PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "RTX 4090": 165e12, "V100": 125e12}
"""Of each card by its maker, dense; float16 of the V100."""

FLOAT32_PEAK = {"A100": 19.5e12, "H100": 67e12, "H200": 67e12, "L40S": 91.6e12, "RTX 4090": 82.6e12, "V100": 15.7e12}

BANDWIDTH = {"A100": 2.0e12, "H100": 3.35e12, "H200": 4.8e12, "L40S": 0.86e12, "RTX 4090": 1.0e12, "V100": 0.9e12}
"""Bytes a second."""


def card(name: str) -> Rates:
    """The rates of a named card: shares of its peaks as an H100 reached them.

    Plain steps of DiT-XL/2 in bfloat16 ran at 180 of 989 TFLOP/s, training in float32 at 33 of 67. Of the bandwidth a
    third is taken, for numbers of four bytes; a step and a start are assumed.
    """
    return Rates(name, 0.18 * BF16_PEAK[name], 0.49 * FLOAT32_PEAK[name], BANDWIDTH[name] / 3 / 4, 5e-3, 12.0)


def here(side: int) -> Rates:
    """The rates of a core of this machine, by the time of a small step of training beside that of the reference.

    Args:
        side: of the images in pixels; below 32 the stages compute in float32 on every processor.
    """
    speed = PROBE_SECONDS / probe(bfloat16=side >= 32 and cpu_has_bfloat16())
    return Rates(
        "a core of this machine",
        CORE.operations * speed,
        CORE.float32 * speed,
        CORE.numbers * speed,
        CORE.step / speed,
        CORE.start / speed,
    )


def probe(*, bfloat16: bool) -> float:
    """Seconds of a step of training of a small network on one thread: the least of several."""
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        block = [nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(32, 32), nn.ReLU(), nn.AvgPool2d(2)]
        network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *block, nn.Flatten(), nn.Linear(32 * 16 * 16, 10))
        images, times = torch.zeros(16, 3, 32, 32), []
        for _ in range(12):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                network(images).float().square().sum().backward()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times)


def hours(experiment: Experiment, rates: Rates, workers: int) -> float:
    """The time of a run: the jobs of a stage are spread over the workers, and the stages follow each other."""
    parts = work(experiment)
    return sum(rates.seconds(part) / min(workers, part.jobs) for part in parts) / 3600


def table(experiment: Experiment, rates: Rates, workers: int) -> str:
    """The forecast as Markdown: a row for each stage, and the whole.

    Args:
        rates: of one worker.
        workers: cores or cards that work at the same time; jobs of one stage are spread over them.
    """
    rows, total = [], 0.0
    for part in work(experiment):
        seconds = rates.seconds(part)
        total += seconds
        memory = f"{(part.memory + LIBRARIES) / 1e9:.1f}" if part.memory else ""
        rows.append(
            f"| {part.stage} | {part.jobs} | {_duration(seconds)} | {_duration(seconds / part.jobs)} | {memory} |"
        )
    wall = 3600 * hours(experiment, rates, workers)
    return "\n".join(
        [
            "| stage | jobs | together | one job | GB at least |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            f"All jobs one after another on {rates.name}: {_duration(total)}; {workers} at once: {_duration(wall)}.",
            "The work of networks of timm, and of models whose configuration is not known, is left out.",
        ]
    )


def _duration(seconds: float) -> str:
    """A time as a table shows it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the forecast of an experiment file.

    Raises:
        SystemExit: with the faults of the file, or an unknown card.
    """
    parser = argparse.ArgumentParser(prog="python -m distillery.plan.forecast", description=__doc__)
    parser.add_argument("experiment", type=Path, help="an experiment file; its data and weights have to be there")
    parser.add_argument("--variant", help="the choice of a file that offers several")
    parser.add_argument("--gpu", choices=sorted(BF16_PEAK), help="a card in place of the cores of this machine")
    parser.add_argument("--workers", type=int, help="cores or cards at the same time; default: all cores, or one card")
    parser.add_argument("--results", action="store_true", help="print the folder of the results instead")
    given = parser.parse_args(arguments)
    try:
        config = read_file(given.experiment)
        experiment = load({**config, "variant": given.variant} if given.variant else config)
    except ExperimentError as error:
        sys.exit(f"{given.experiment} is wrong:\n{error}")
    if given.results:
        print(Path("results") / experiment.name)
        return
    rates = card(given.gpu) if given.gpu else here(experiment.dataset.resolution)
    print(table(experiment, rates, max(given.workers or (1 if given.gpu else bound_cores()), 1)))


if __name__ == "__main__":
    main()
