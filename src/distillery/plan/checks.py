"""What cannot go together in an experiment file; each method, generator and guidance is asked for its own faults.

A fault is one line: the path of a key, what is wrong with it, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator

from distillery.data.settings import Dataset
from distillery.data.sources import class_faults, class_names, class_sizes
from distillery.errors import SourceError
from distillery.plan.check_analysis import check_analysis
from distillery.plan.check_generators import check_generators, check_latents
from distillery.plan.check_inputs import check_inputs
from distillery.plan.check_limits import check_limits
from distillery.plan.check_networks import check_networks
from distillery.plan.check_view import check_view
from distillery.plan.experiment import Experiment
from distillery.plan.messages import alike, repeated


def check_experiment(experiment: Experiment) -> Iterator[str]:
    """What stands in the blocks of an experiment and cannot go together, one line each with its key."""
    # The number of images is worth counting once everything else is right.
    try:
        yield from (
            list(_blocks(experiment))
            or list(check_inputs(experiment))
            or list(_sizes(experiment))
            or check_limits(experiment)
        )
    except SourceError as error:
        yield str(error)


def _blocks(experiment: Experiment) -> Iterator[str]:
    """What each block allows, and which blocks make no sense together."""
    known: list[str] = []
    try:
        known = class_names(experiment.dataset.source)
    except SourceError as error:
        yield str(error)
    yield from _data(experiment.dataset, known)
    yield from _validation(experiment)
    yield from repeated("seeds", experiment.seeds)
    yield from repeated("ipc", experiment.ipc)
    yield from repeated("evaluation.networks", experiment.evaluation.networks)
    for block in ("generators", "references", "surrogates", "experts", "methods"):
        yield from alike(block, list(getattr(experiment, block)))
    yield from check_generators(experiment)
    if known:
        yield from check_latents(experiment)
        faults_of_networks = list(check_networks(experiment, experiment.class_names))
        yield from faults_of_networks or check_view(experiment)
        faults = [
            fault
            for name, method in experiment.methods.items()
            for fault in method.check(f"methods.{name}", experiment)
        ]
        yield from faults or _circles(experiment)
    yield from check_analysis(experiment)
    if experiment.tracking is not None:
        yield from experiment.tracking.check("tracking")


def _data(dataset: Dataset, known: list[str]) -> Iterator[str]:
    """Whether there are test images once, and the classes that are wanted; none are known where a fault says why."""
    if not dataset.source.has_test:
        if dataset.holdout is None:
            yield "dataset.holdout: needed, because the source has no test images; for instance {fraction: 0.25}"
    elif dataset.holdout is not None:
        yield "dataset.holdout: the source has test images of its own; leave out one of the two"
    for name, block in (("holdout", dataset.holdout), ("validation", dataset.validation)):
        if block is not None and not 0 < block.fraction < 1:
            yield f"dataset.{name}.fraction: {block.fraction} leaves no image on one side; allowed: between 0 and 1"
    if dataset.test_names is not None and (not dataset.source.has_test):
        yield "dataset.test_names: the source has no test images of its own; leave it out"
    if known:
        yield from class_faults(dataset, known)
    else:
        yield from repeated("dataset.classes", dataset.classes or [])


def _validation(experiment: Experiment) -> Iterator[str]:
    """Whether there are validation images where networks are tested on them, or snapshots chosen."""
    if experiment.dataset.validation is not None:
        return
    way_out = "which the data set lacks; give dataset.validation, for instance {fraction: 0.1}, or set"
    if experiment.evaluation.split == "validation":
        yield f"evaluation.split: networks are to be tested on validation images, {way_out} test here"
    if experiment.matching.choose == "best" and experiment.made_by("match"):
        yield f"matching.choose: the best snapshot is chosen on validation images, {way_out} last here"


def _circles(experiment: Experiment) -> Iterator[str]:
    """Whether the sets of a method are made of sets that are made of its own."""
    for start in sorted(experiment.methods):
        ways = [[start]]
        while ways:
            way = ways.pop()
            for name in experiment.methods[way[-1]].uses_sets_of:
                if name == start:
                    yield f"methods.{start}: {' -> '.join([*way, name])}: its sets are made of its own; name another"
                    return
                if name not in way:
                    ways.append([*way, name])


def _sizes(experiment: Experiment) -> Iterator[str]:
    """Whether every class has as many real images as methods take from it."""
    taking = [name for name, method in sorted(experiment.methods.items()) if method.real_images == "any"]
    sizes = experiment.training_sizes
    blocks = [name for name in ("holdout", "validation") if getattr(experiment.dataset, name) is not None]
    if empty := [name for name, size in sizes.items() if size < 1]:
        images = class_sizes(experiment.dataset.source).get(empty[0], 0)
        why = (
            f"{images} image{'s' * (images > 1)}, and none is left to train on; give it more"
            if images
            else "no image; give it some"
        )
        yield (
            f"dataset.{blocks[-1] if images else 'source.train'}: class {empty[0]!r} has {why}, or leave it out with "
            "dataset.classes"
        )
        return
    images = sum(sizes.values())
    if (coverage := experiment.analysis.coverage) is not None and coverage.k >= images:
        yield f"analysis.coverage.k: {coverage.k} neighbours among {images} training images; allowed: 1 to {images - 1}"
    for name, method in experiment.methods.items():
        yield from method.check_sizes(f"methods.{name}", experiment.ipc, sizes)
    for name, generator in experiment.generators.items():
        yield from generator.check_images(f"generators.{name}", min(experiment.images_of_groups(name)))
    held = " after those that are held out" if blocks else ""
    for name, size in sizes.items() if taking else ():
        if too_many := [ipc for ipc in experiment.ipc if ipc > size]:
            yield (
                f"ipc: {max(too_many)} images per class, but class {name!r} has {size} training images{held}, and "
                f"methods.{taking[0]} chooses among them; allowed: 1 to {size}"
            )
            return
