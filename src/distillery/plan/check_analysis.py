"""What cannot be measured beside accuracy: said before anything runs, without a number being read."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from distillery.data.identity import same_class
from distillery.errors import SourceError
from distillery.methods.base import check_named
from distillery.plan.check_dynamics import check_dynamics
from distillery.plan.experiment import Experiment, Published
from distillery.plan.messages import instead
from distillery.report import PUBLISHED


def check_analysis(experiment: Experiment) -> Iterator[str]:
    """Whether what is measured beside accuracy has its methods, its networks and its published numbers."""
    yield from _of_redundancy(experiment)
    if (coverage := experiment.analysis.coverage) is not None:
        yield from check_named("analysis.coverage.features", "reference", coverage.features, experiment.references)
    yield from _of_neighbours(experiment)
    yield from _of_path(experiment)
    yield from _of_gradients(experiment)
    yield from _of_steps(experiment)
    yield from check_dynamics(experiment)
    if experiment.analysis.published is not None and experiment.evaluation.split == "validation":
        yield "analysis.published: published accuracies are of test images; leave it out, or set evaluation.split: test"
    elif experiment.analysis.published is not None:
        published, networks = experiment.analysis.published, experiment.evaluation.networks
        yield from _of_published(published, list(experiment.methods), networks)


def _of_neighbours(experiment: Experiment) -> Iterator[str]:
    """Whether neighbours are looked for in sets that are made, with a network that there is."""
    key, neighbours = "analysis.neighbours", experiment.analysis.neighbours
    if neighbours is None:
        return
    yield from check_named(f"{key}.features", "reference", neighbours.features, experiment.references)
    if (ipc := experiment.neighbours_ipc) not in experiment.ipc:
        yield f"{key}.ipc: no sets of {ipc} images per class are made; allowed: {', '.join(map(str, experiment.ipc))}"


def _of_path(experiment: Experiment) -> Iterator[str]:
    """Whether methods that are traced have a guidance, and the classes are those of the data."""
    key, path = "analysis.path", experiment.analysis.path
    if path is None:
        return
    guided = [name for name in experiment.methods if experiment.guidance(name).acting]
    for name in path.methods:
        if name not in experiment.methods:
            yield f"{key}.methods: no method {name!r}; methods with guidance: {', '.join(guided) or 'none'}"
        elif name not in guided:
            others = f"methods with guidance: {', '.join(guided)}" if guided else "leave analysis.path out"
            yield f"{key}.methods: {name!r} has no guidance, and one path alone; {others}"
        elif experiment.methods[name].increments(experiment.ipc) == 1:
            yield f"{key}.methods: {name!r} has one increment, which nothing guides; add a larger ipc"
    try:
        known = experiment.class_names
    except SourceError:  # said elsewhere
        return
    for name in path.classes or ():
        if same_class(name, known) is None:
            yield f"{key}.classes: no class {name!r}{instead(name, known)}"


def _of_gradients(experiment: Experiment) -> Iterator[str]:
    """Whether the method whose gradients are measured has a chain of as many steps."""
    gradients = experiment.analysis.gradients
    if gradients is None:
        return
    measured = [name for name, method in experiment.methods.items() if method.has_chain]
    if gradients.method not in measured:
        known = ", ".join(measured) or "none"
        yield f"analysis.gradients.method: no method {gradients.method!r} of kind ld3m; methods: {known}"
        return
    generator = experiment.generators.get(experiment.methods[gradients.method].needs.generator or "")
    if generator is not None and (most := max(gradients.steps)) > generator.schedule_length:
        length = generator.schedule_length
        yield f"analysis.gradients.steps: {most} steps of a schedule of {length}; allowed: 1 to {length}"


def _of_steps(experiment: Experiment) -> Iterator[str]:
    """Whether the methods that are drawn over the steps of their chains have such chains, each of other steps."""
    steps = experiment.analysis.steps
    if steps is None:
        return
    drawn = [name for name, method in experiment.methods.items() if method.has_chain]
    if missing := [name for name in steps.methods if name not in drawn]:
        known = ", ".join(drawn) or "none"
        yield f"analysis.steps.methods: no method {missing[0]!r} of kind ld3m; methods: {known}"
        return
    by_steps: dict[int, str] = {}
    for name, number in experiment.chain_steps.items():
        if other := by_steps.get(number):
            yield f"analysis.steps.methods: {other!r} and {name!r} both have {number} steps; name one of them"
        by_steps[number] = name


def _of_redundancy(experiment: Experiment) -> Iterator[str]:
    """Whether methods have increments that can be compared, and a front its two axes."""
    key, redundancy, ipc = "analysis.redundancy", experiment.analysis.redundancy, experiment.redundancy_ipc
    size = redundancy.increment_size
    for method in dict.fromkeys([*redundancy.methods, *filter(None, [redundancy.baseline])]):
        if method not in experiment.methods:
            yield f"{key}: no method {method!r}; methods: {', '.join(experiment.methods)}"
    named = f"the {ipc} of {key}.ipc" if redundancy.ipc else f"the largest of ipc, {ipc}"
    if ipc not in experiment.ipc:
        yield f"{key}.ipc: no sets of {ipc} images per class are made; allowed: {', '.join(map(str, experiment.ipc))}"
    elif redundancy.methods and ipc % size:
        yield f"{key}.increment_size: {size} does not divide {named}"
    elif redundancy.methods and ipc < 2 * size:
        way_out = "make it smaller" if ipc > 1 else f"leave {key}.methods empty, or add a larger ipc"
        yield f"{key}.increment_size: ipc {ipc} gives fewer than two increments; {way_out}"
    if not experiment.analysis.front:
        return
    if not (redundancy.methods and redundancy.baseline):
        yield f"analysis.front: needs {key}.methods and {key}.baseline"
    if len(experiment.evaluation.protocols) > 1:
        yield (
            "analysis.front: accuracies of several protocols do not compare; give evaluation.protocol one of them, and "
            "no evaluation.without_augmentation"
        )


def _of_published(published: Published, methods: Sequence[str], networks: Sequence[str]) -> Iterator[str]:
    """Whether there are published numbers of this data set and under these names, and networks that are trained."""
    key = "analysis.published"
    for method in published.methods:
        if method not in methods:
            yield f"{key}.methods: no method {method!r}; methods: {', '.join(methods)}"
    for method, compared in published.networks.items():
        if method not in published.methods:
            known = ", ".join(published.methods)
            yield f"{key}.networks: {method!r} has no published name in {key}.methods; allowed: {known}"
        for network in compared:
            if network not in networks:
                yield f"{key}.networks.{method}: the evaluation has no {network!r}; allowed: {', '.join(networks)}"
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
