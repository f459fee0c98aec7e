"""What cannot be measured beside accuracy: said before anything runs, without a number being read."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distillery.matching import checks
from distillery.matching.settings import LD3M
from distillery.plan.messages import instead
from distillery.report import PUBLISHED

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment, Published


def faults_of_analysis(experiment: Experiment) -> Iterator[str]:
    """Whether what is measured beside accuracy has its methods, its networks and its published numbers."""
    yield from _of_redundancy(experiment)
    coverage = experiment.analysis.coverage
    if coverage is not None and coverage.features not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"analysis.coverage.features: no reference {coverage.features!r}; references: {there}"
    gradients = experiment.analysis.gradients
    if gradients is not None:
        measured = experiment.methods.get(gradients.method)
        if not isinstance(measured, LD3M):
            there = ", ".join(name for name, one in experiment.methods.items() if isinstance(one, LD3M)) or "none"
            yield f"analysis.gradients.method: no method {gradients.method!r} of kind ld3m; methods: {there}"
        elif measured.generator in experiment.generators:
            length = checks.schedule_length(experiment.generators[measured.generator])
            if (most := max(gradients.steps)) > length:
                yield f"analysis.gradients.steps: {most} steps of a schedule of {length}; allowed: 1 to {length}"
    if experiment.analysis.published is not None:
        yield from _of_published(experiment.analysis.published, list(experiment.methods))


def _of_redundancy(experiment: Experiment) -> Iterator[str]:
    """Whether methods have increments that can be compared, and a front its two axes."""
    key, redundancy, largest = "analysis.redundancy", experiment.analysis.redundancy, max(experiment.ipc)
    for method in dict.fromkeys([*redundancy.methods, *filter(None, [redundancy.baseline])]):
        if method not in experiment.methods:
            yield f"{key}: no method {method!r}; methods: {', '.join(experiment.methods)}"
        elif experiment.methods[method].kind == "full":
            yield f"{key}: {method!r} is all training images, and has no increments; leave it out"
    if redundancy.methods and largest % redundancy.increment_size:
        yield f"{key}.increment_size: {redundancy.increment_size} does not divide the largest of ipc, {largest}"
    elif redundancy.methods and largest < 2 * redundancy.increment_size:
        yield f"{key}.increment_size: ipc {largest} gives fewer than two increments"
    if not experiment.analysis.front:
        return
    if not (redundancy.methods and redundancy.baseline):
        yield f"analysis.front: needs {key}.methods and {key}.baseline"
    if len(experiment.evaluation.protocols) > 1:
        yield "analysis.front: accuracies of several protocols do not compare; give evaluation.protocol one of them"


def _of_published(published: Published, methods: Sequence[str]) -> Iterator[str]:
    """Whether there are published numbers of this data set and under these names."""
    key = "analysis.published"
    for method in published.methods:
        if method not in methods:
            yield f"{key}.methods: no method {method!r}; methods: {', '.join(methods)}"
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = [(row["dataset"], row["method"]) for row in csv.DictReader(file)]
    datasets = sorted({dataset for dataset, _ in rows} - {"unknown"})
    if published.dataset not in datasets:
        yield f"{key}.dataset: nothing is published of {published.dataset!r}{instead(published.dataset, datasets)}"
        return
    names = sorted({name for dataset, name in rows if dataset == published.dataset})
    for method, name in published.methods.items():
        if name not in names:
            where = f"{key}.methods.{method}"
            yield f"{where}: of {published.dataset} nothing is published as {name!r}{instead(name, names)}"
