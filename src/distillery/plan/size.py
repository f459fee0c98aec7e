"""How many jobs an experiment asks for: counted before Snakemake makes a plan of them, which takes time and memory."""

from __future__ import annotations

from collections.abc import Iterator

from distillery.plan.experiment import Experiment

MOST_JOBS = 20_000
"""Snakemake plans some hundreds of jobs a second."""

MOST_INCREMENTS = 200
"""Each job of an increment reads all increments before it; the largest published set has ten."""


def check_size(experiment: Experiment) -> Iterator[str]:
    """Whether the jobs of an experiment can be planned."""
    for name, method in experiment.methods.items():
        if (increments := method.increments(experiment.ipc)) > MOST_INCREMENTS:
            yield (
                f"methods.{name}.increment_size: {increments} increments for ipc {max(experiment.ipc)}, each of which "
                f"reads all before it; allowed: {MOST_INCREMENTS}"
            )
    runs, jobs = len(experiment.seeds), _jobs(experiment)
    if (total := runs * sum(jobs.values())) > MOST_JOBS:
        key = max(jobs, key=lambda name: jobs[name])
        key, most = ("seeds", runs) if runs > jobs[key] else (key, jobs[key])
        yield f"{key}: {most:,} of a plan of {total:,} jobs over {runs:,} seeds; allowed: {MOST_JOBS:,} jobs in all"


def _jobs(experiment: Experiment) -> dict[str, int]:
    """The key that sets their number -> jobs of one seed."""
    evaluation = experiment.evaluation
    sets = sum(len(method.sizes(experiment.ipc)) for method in experiment.methods.values())
    return {
        "latents.shards": experiment.latents.shards,
        "references": 2 * len(experiment.references),
        "surrogates": 2 * len(experiment.surrogates),
        **{f"experts.{name}.count": block.shards for name, block in experiment.experts.items()},
        **{f"methods.{name}": method.jobs(experiment.ipc) for name, method in experiment.methods.items()},
        "evaluation.networks": sets * len(evaluation.networks) * len(evaluation.protocols),
    }
