"""What cannot go together around how networks see images: filters, statistics of channels, whitening, deviations."""

from __future__ import annotations

from collections.abc import Iterator

from distillery.data.settings import MOST_WHITENED
from distillery.plan.experiment import Experiment


def check_view(experiment: Experiment) -> Iterator[str]:
    """Whether images can be seen as the file says."""
    yield from _filters(experiment)
    yield from _whitening(experiment)
    yield from _mean_of_svhn(experiment)
    yield from _without_augmentation(experiment)


def _filters(experiment: Experiment) -> Iterator[str]:
    """Whether test images can have a filter of their own: those that are held out are resized with the others."""
    resample = experiment.dataset.resample
    if not experiment.dataset.source.has_test and resample.test != resample.train:
        yield (
            f"dataset.resample.test: {resample.test}, but the test images are held out of the training images, which "
            f"are resized by {resample.train}; allowed: {resample.train}, or a source with test images"
        )


def _whitening(experiment: Experiment) -> Iterator[str]:
    """Whether every network that would have to see whitened images does."""
    dataset, key = experiment.dataset, "dataset.zca"
    if dataset.zca is None:
        return
    if dataset.values > MOST_WHITENED:
        most = int((MOST_WHITENED / (1 if dataset.channels == "grey" else 3)) ** 0.5)
        yield (
            f"{key}: an image of {dataset.resolution} px has {dataset.values:,} values, and the whitening is a matrix "
            f"of as many rows; allowed: up to {MOST_WHITENED:,} values, {most} px here"
        )
    choosing = experiment.matching.protocol
    for protocol in [*experiment.evaluation.stated, *([choosing] if choosing else [])]:
        recipe = experiment.recipe(protocol, experiment.evaluation.networks[0], experiment.ipc[0])
        if recipe.normalize != dataset.normalization:
            yield (
                f"{key}: fitted on images standardised as {dataset.normalization}, and protocol {protocol.label} "
                f"has normalize: {recipe.normalize}; set normalize: dataset there"
            )
        if recipe.size not in (None, dataset.resolution):
            yield (
                f"{key}: fitted on images of {dataset.resolution} px, and protocol {protocol.label} has size: "
                f"{recipe.size}; allowed: {dataset.resolution}, or leave it out"
            )
        if recipe.labels == "soft":
            yield f"{key}: a teacher cannot answer to whitened images; give a protocol of hard labels"
    analysis = experiment.analysis
    for name, method in experiment.methods.items():
        if method.incremental or method.stage == "choose_set":
            yield f"{key}: the networks of methods.{name} do not see whitened images; leave one of the two out"
    others = {
        "redundancy": bool(analysis.redundancy.methods),
        "incremental_dynamics": analysis.incremental_dynamics is not None,
        "learning_dynamics": analysis.learning_dynamics is not None,
        "validity": analysis.validity is not None,
    }
    for name in (name for name, wanted in others.items() if wanted):
        yield f"{key}: the networks of analysis.{name} do not see whitened images; leave one of the two out"


def _mean_of_svhn(experiment: Experiment) -> Iterator[str]:
    """Whether a protocol that treats generated images apart is asked about generated images alone."""
    for block, entries in (("references", experiment.references), ("surrogates", experiment.surrogates)):
        for name, entry in entries.items():
            if entry.training.treats_generated_apart:
                yield f"{block}.{name}.training.svhn_mean: it learns from real images; allowed: false"
    if not any(protocol.treats_generated_apart for protocol in experiment.evaluation.stated):
        return
    mixed = [f"methods.{name}" for name, method in experiment.methods.items() if method.stage == "choose_set"]
    if experiment.analysis.learning_dynamics is not None:
        mixed.append("analysis.learning_dynamics")
    for key in mixed:
        yield (
            f"evaluation.protocol.svhn_mean: {key} trains networks on real and generated images alike; leave one of "
            "the two out"
        )


def _without_augmentation(experiment: Experiment) -> Iterator[str]:
    """Whether there is an augmentation to leave out."""
    evaluation = experiment.evaluation
    for protocol in evaluation.stated if evaluation.without_augmentation else ():
        if protocol.label != protocol.without_augmentation.label and not protocol.augments(experiment.classes):
            yield (
                f"evaluation.without_augmentation: protocol {protocol.label} has no augmentation to leave out; give "
                "another protocol, or leave the key out"
            )
