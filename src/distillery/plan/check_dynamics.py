"""What cannot be measured of figures 4 to 6 of arXiv 2604.00519: said before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distillery.methods.base import Trained, check_named
from distillery.plan.experiment import Experiment


def check_dynamics(experiment: Experiment) -> Iterator[str]:
    """Whether these analyses have their methods, increments, candidates and networks."""
    analysis = experiment.analysis
    if (incremental := analysis.incremental_dynamics) is not None:
        key, size, largest = "analysis.incremental_dynamics", incremental.increment_size, max(experiment.ipc)
        yield from _methods(key, incremental.methods, incremental.baseline, experiment)
        if largest % size:
            yield f"{key}.increment_size: {size} does not divide the largest of ipc, {largest}"
        for name in dict.fromkeys(incremental.methods):
            method = experiment.methods.get(name)
            if method is not None and method.incremental and (own := experiment.loop(name).increment_size) != size:
                yield f"{key}.increment_size: {size}, but methods.{name} grows by {own}; give {own}, or leave it out"
    if (learning := analysis.learning_dynamics) is not None:
        yield from _methods("analysis.learning_dynamics", learning.methods, learning.baseline, experiment)
    if (validity := analysis.validity) is not None:
        key = "analysis.validity"
        yield from _methods(key, validity.methods, validity.baseline, experiment)
        candidates = experiment.made_by("generate_increment")
        for name in dict.fromkeys(validity.methods):
            if name in experiment.methods and name not in candidates:
                known = ", ".join(candidates) or "none"
                yield f"{key}.methods: {name!r} draws no candidates, which are of methods of kind lgd: {known}"
        yield from check_named(f"{key}.judge", "reference", validity.judge, experiment.references)


def dynamics_networks(experiment: Experiment) -> Iterator[tuple[Trained, int | str]]:
    """The networks that these analyses train, with the sizes: images per class, or `full`."""
    analysis, protocol = experiment.analysis, experiment.evaluation.protocols[0]
    if (incremental := analysis.incremental_dynamics) is not None and incremental.network:
        key = "analysis.incremental_dynamics.network"
        yield Trained(key, incremental.network, protocol), incremental.increment_size
    if (learning := analysis.learning_dynamics) is not None and learning.network:
        key = "analysis.learning_dynamics.network"
        yield Trained(key, learning.network, protocol), "full"


def _methods(key: str, methods: Sequence[str], baseline: str | None, experiment: Experiment) -> Iterator[str]:
    """Whether methods are there and have sets, and the baseline is one of them."""
    for name in dict.fromkeys(methods):
        if name not in experiment.methods:
            yield f"{key}.methods: no method {name!r}; methods: {', '.join(experiment.methods)}"
        elif experiment.methods[name].sizes([1]) == ["full"]:
            yield f"{key}.methods: {name!r} is all training images, and no distilled set; leave it out"
    if baseline is not None and baseline not in methods:
        yield f"{key}.baseline: {baseline!r} is none of {key}.methods; allowed: {', '.join(methods)}"
