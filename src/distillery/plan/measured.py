"""Estimates beside what jobs have taken: `python -m distillery.plan.measured config.yaml results/digits`."""

from __future__ import annotations

import argparse
from pathlib import Path

from distillery.cost import records
from distillery.plan.estimate import estimates
from distillery.plan.experiment import Experiment
from distillery.plan.files import read_file
from distillery.plan.limits import CORE_TERAFLOPS
from distillery.plan.load import load


def table(experiment: Experiment, results: Path) -> str:
    """Estimates and records of a finished run as Markdown: of each stage the largest job."""
    memory, seconds = dict[str, float](), dict[str, float]()
    for estimate in estimates(experiment):
        stage = estimate.stage
        memory[stage] = max(memory.get(stage, 0.0), sum(estimate.memory.values()) / 1e6)
        seconds[stage] = max(seconds.get(stage, 0.0), estimate.seconds(CORE_TERAFLOPS))
    rows = [
        "| stage | MB at least | MB taken | seconds at least | seconds taken |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for stage in memory:
        taken = [record for _, record in records(results) if record["stage"] == stage]
        if taken and (memory[stage] or seconds[stage]):
            most, longest = (max(record[name] for record in taken) for name in ("peak_memory_mb", "seconds"))
            rows.append(f"| {stage} | {memory[stage]:.1f} | {most:.0f} | {seconds[stage]:.2g} | {longest:.0f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m distillery.plan.measured")
    parser.add_argument("experiment", type=Path)
    parser.add_argument("results", type=Path, help="folder of a run: results/<name>")
    arguments = parser.parse_args()
    print(table(load(read_file(arguments.experiment)), arguments.results))
