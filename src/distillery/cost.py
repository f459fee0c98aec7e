"""The cost of a run, summed over the records of its jobs: `python -m distillery.cost results/digits`, or `make cost`.

A job's record includes the time of earlier attempts whose work it took over; work that a kill lost is in no record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.processes import accept_all_characters

ALL = "all methods"
"""Stands for the method of a job that serves all methods."""


@dataclass
class Cost:
    """Sums over jobs.

    Attributes:
        seconds: of all jobs.
        longest: seconds of one job.
        gpu_hours: hours of jobs that had cards, times their cards.
        core_hours: hours times threads of jobs without a card.
        images: that went through a network, or were read.
        image_seconds: seconds of the jobs that counted images.
        memory: most MB of one process.
        gpu_memory: most MB on a card of one job.
    """

    jobs: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    gpu_hours: float = 0.0
    core_hours: float = 0.0
    images: int = 0
    image_seconds: float = 0.0
    memory: float = 0.0
    gpu_memory: float = 0.0
    cards: set[str] = field(default_factory=set)

    def add(self, record: dict[str, Any]) -> None:
        """Count one job."""
        seconds = record["seconds"]
        self.jobs += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)
        if record["device"] == "cuda":
            self.gpu_hours += seconds / 3600 * record.get("cards", 1)
            self.cards.add(record["gpu"])
        else:
            self.core_hours += seconds / 3600 * record.get("threads", 1)
        if "images" in record:
            self.images += record["images"]
            self.image_seconds += seconds
        self.memory = max(self.memory, record["peak_memory_mb"])
        self.gpu_memory = max(self.gpu_memory, record.get("peak_gpu_memory_mb", 0.0))


def named_records(results: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """The method, the name and the record of every job below a folder of results, those of further seeds included.

    The name is that of the file: the stage and the wildcards of the job.
    """
    jobs = []
    for path in sorted([*results.glob("cost/**/*.json"), *results.glob("seed-*/cost/**/*.json")]):
        below = path.relative_to(results).parts
        below = below[below.index("cost") + 1 :]
        method = below[0] if len(below) == 2 else ALL
        if text := path.read_text("utf-8"):  # empty while the job runs
            jobs.append((method, path.stem, json.loads(text)))
    return jobs


def records(results: Path) -> list[tuple[str, dict[str, Any]]]:
    """The method and the record of every job below a folder of results, those of further seeds included."""
    return [(method, record) for method, _, record in named_records(results)]


def summed(jobs: Iterable[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], Cost]:
    """Costs by stage and method, the most expensive stage first."""
    costs: dict[tuple[str, str], Cost] = {}
    stages: dict[str, float] = {}
    for method, record in jobs:
        costs.setdefault((record["stage"], method), Cost()).add(record)
        stages[record["stage"]] = stages.get(record["stage"], 0.0) + record["seconds"]
    return dict(sorted(costs.items(), key=lambda item: (-stages[item[0][0]], item[0][0], -item[1].seconds)))


HEAD = ("stage", "method", "jobs", "seconds", "longest", "GPU h", "core h", "images/s", "MB", "GPU MB")
"""The columns of `rows`."""


def rows(jobs: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """The sums as text: a row per stage and method, one per method over all stages, and one over all."""
    total, methods = Cost(), dict[str, Cost]()
    for method, record in jobs:
        total.add(record)
        methods.setdefault(method, Cost()).add(record)
    shown = [(key, cost) for key, cost in summed(jobs).items()]
    shown += [(("all stages", method), cost) for method, cost in sorted(methods.items())]
    shown.append((("all", ""), total))
    lines: list[tuple[str, ...]] = []
    for (stage, method), cost in shown:
        rate = f"{cost.images / cost.image_seconds:.1f}" if cost.image_seconds else ""
        memory = f"{cost.gpu_memory:.0f}" if cost.gpu_memory else ""
        lines.append(
            (stage, method, str(cost.jobs), f"{cost.seconds:.1f}", f"{cost.longest:.1f}", f"{cost.gpu_hours:.3f}",
             f"{cost.core_hours:.3f}", rate, f"{cost.memory:.0f}", memory)
        )  # fmt: skip
    return lines


def cards(jobs: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The names of the GPUs that jobs ran on."""
    return sorted(set().union(*(cost.cards for cost in summed(jobs).values())))


def table(jobs: list[tuple[str, dict[str, Any]]]) -> str:
    """The sums as text."""
    shown = [HEAD, *rows(jobs)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(HEAD))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
    if names := cards(jobs):
        lines.append(f"cards: {', '.join(names)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of one folder of results; the exit status."""
    accept_all_characters()
    parser = argparse.ArgumentParser(prog="python -m distillery.cost", description=__doc__)
    parser.add_argument("results", type=Path, help="folder of a run: results/<name>")
    folder = parser.parse_args(arguments).results
    jobs = records(folder)
    if not jobs:
        print(f"distillery: {folder}: no recorded costs; run the experiment first", file=sys.stderr)
        return 1
    print(table(jobs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
