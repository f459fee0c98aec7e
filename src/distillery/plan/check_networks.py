"""What cannot go together around networks and the protocols that train them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distillery.data.identity import hint_of
from distillery.matching.checks import check_expert_files
from distillery.methods.base import Trained, check_named
from distillery.methods.matched import AS_STORED
from distillery.plan.check_dynamics import dynamics_networks
from distillery.plan.experiment import Experiment
from distillery.plan.messages import repeated
from distillery.storage.tensors import described_tensors
from distillery.students.names import OURS, cannot_compare, refused_side
from distillery.students.presets import preset_constants
from distillery.students.settings import Protocol, Recipe, Reference

LONGEST_FILE = 180
"""Letters of method, network, protocol, size and seed in a name; with what is added, file systems take 255 bytes."""


def check_networks(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether networks take their images, have a learning rate and a teacher, and are of these classes.

    Args:
        classes: as the data call them.
    """
    yield from _sides(experiment)
    rates = list(dict.fromkeys(_rates(experiment)))
    yield from rates or (*_protocols(experiment), *_learned_rates(experiment))
    yield from _surrogates(experiment, classes) if not rates else ()
    yield from _experts(experiment, classes)


def _trained(experiment: Experiment) -> Iterator[Trained]:
    """Every network that the file names, with its key and the protocol that trains it."""
    evaluation, matching = experiment.evaluation, experiment.matching
    first = evaluation.protocols[0]
    for protocol in evaluation.protocols:
        for index, network in enumerate(evaluation.networks):
            yield Trained(f"evaluation.networks[{index}]", network, protocol)
    for name, reference in experiment.references.items():
        yield Trained(f"references.{name}.network", reference.network, reference.training)
    for name, surrogate in experiment.surrogates.items():
        yield Trained(f"surrogates.{name}.network", surrogate.network, surrogate.training)
    for name, method in experiment.methods.items():
        yield from method.networks(f"methods.{name}", experiment)
    for name in experiment.experts:
        yield Trained(f"experts.{name}.network", experiment.experts_network(name), AS_STORED, compares=True)
    if matching.network:
        yield Trained("matching.network", matching.network, matching.protocol or first)
    if experiment.analysis.redundancy.network:
        yield Trained("analysis.redundancy.network", experiment.analysis.redundancy.network, first)
    yield from (network for network, _ in dynamics_networks(experiment))


def _sides(experiment: Experiment) -> Iterator[str]:
    """Whether networks take images of the side that they will see, and can be compared where they are."""
    side = experiment.dataset.resolution
    for trained in _trained(experiment):
        size = trained.protocol.side(experiment.classes)
        if why := refused_side(trained.network, size or side):
            where = f"the size of protocol {trained.protocol.label}" if size else "dataset.resolution"
            yield f"{trained.key}: {why}, but {where} is {size or side}"
        elif trained.compares and (why := cannot_compare(trained.network)):
            yield f"{trained.key}: {why}"


def _students(experiment: Experiment) -> list[Trained]:
    """The students of methods that work in increments."""
    return [
        student
        for name, method in experiment.methods.items()
        for student in method.student_networks(f"methods.{name}", experiment)
    ]


def _rates(experiment: Experiment) -> Iterator[str]:
    """Whether every network has a learning rate under the protocol that trains it."""
    evaluation, size = experiment.evaluation, experiment.ipc[0]
    sizes = {size for method in experiment.methods.values() for size in method.sizes(experiment.ipc)}
    trained: list[tuple[Trained, int | str]] = []
    for key, protocol in _evaluated(experiment):
        trained += [(Trained(key, network, protocol), size) for network in evaluation.networks for size in sizes]
    for name, reference in experiment.references.items():
        trained.append((Trained(f"references.{name}.training", reference.network, reference.training), "full"))
    for name, surrogate in experiment.surrogates.items():
        trained.append((Trained(f"surrogates.{name}.training", surrogate.network, surrogate.training), "full"))
    trained += [(student, student.ipc or size) for student in _students(experiment)]
    trained += dynamics_networks(experiment)
    for network, images in trained:
        try:
            recipe = experiment.recipe(network.protocol, network.network, images)
        except ValueError as error:
            yield f"{network.key}: {error}"
            continue
        own: Any = network.protocol
        if recipe.evaluations > recipe.epochs and own.evaluations is not None:
            yield (
                f"{network.key}.evaluations: {recipe.evaluations} tests in {recipe.epochs} epochs (of a set of "
                f"{images} images per class); allowed: 1 to {recipe.epochs}"
            )
        side = recipe.size or experiment.dataset.resolution
        for name in ("shift", "strip_shuffle"):
            if (pixels := getattr(recipe, name)) >= side:
                yield f"{network.key}.{name}: {pixels} on images of {side} pixels; allowed: less than {side}"


def _evaluated(experiment: Experiment) -> Iterator[tuple[str, Protocol]]:
    """The protocols of the evaluation with their keys."""
    several = isinstance(experiment.evaluation.protocol, list)
    for index, protocol in enumerate(experiment.evaluation.protocols):
        yield f"evaluation.protocol[{index}]" if several else "evaluation.protocol", protocol


def _protocols(experiment: Experiment) -> Iterator[str]:
    """Whether every protocol can be carried out: its labels have a teacher, its label names files."""
    evaluation = experiment.evaluation
    yield from repeated("evaluation.protocol", [protocol.label for protocol in evaluation.protocols])
    yield from check_named("evaluation.baseline", "method", evaluation.baseline, experiment.methods)
    for key, protocol in _evaluated(experiment):
        yield from _labels(experiment, key, experiment.recipe(protocol, evaluation.networks[0], experiment.ipc[0]))
    longest = {
        "methods": max(experiment.methods, key=len),
        "evaluation.networks": max(evaluation.networks, key=len),
        "evaluation.protocol": max((protocol.label for protocol in evaluation.protocols), key=len),
        "ipc": str(max(experiment.ipc)),
        "seeds": f"seed-{max(experiment.seeds)}",
    }
    if (letters := len("-".join(longest.values()))) > LONGEST_FILE:
        yield (
            f"methods.{longest['methods']}: files named by method, network, protocol, size and seed have {letters} "
            f"letters; allowed: {LONGEST_FILE}; give the method a shorter name"
        )
    for name, reference in experiment.references.items():
        yield from _reference(f"references.{name}", reference, experiment.classes)
    for block, entries in (("references", experiment.references), ("surrogates", experiment.surrogates)):
        for name, entry in entries.items():
            if experiment.recipe(entry.training, entry.network, "full").labels == "soft":
                yield f"{block}.{name}.training.labels: soft ones need a teacher, and this has none; allowed: hard"
    yield from _snapshot_labels(experiment)
    for student in {student.key: student for student in _students(experiment)}.values():
        recipe = experiment.recipe(student.protocol, student.network, student.ipc or 1)
        if student.taught and student.protocol not in evaluation.protocols:
            yield from _labels(experiment, student.key, recipe)
        elif recipe.labels == "soft" and not student.taught:
            yield (
                f"{student.key}: the student learns from hard labels, and {student.protocol.label} has soft ones; "
                "give another protocol here"
            )


def _learned_rates(experiment: Experiment) -> Iterator[str]:
    """Whether a protocol that takes learned step sizes is of SGD, and any method learns one."""
    learning = [name for name, method in experiment.methods.items() if method.learns_rate]
    protocols = [*_evaluated(experiment)]
    if experiment.matching.protocol is not None:
        protocols.append(("matching.protocol", experiment.matching.protocol))
    for key, protocol in protocols:
        own: Any = protocol
        if not own.learned_rate:
            continue
        optimizer = own.optimizer or preset_constants(protocol.preset, experiment.classes).get("optimizer")
        if optimizer != "sgd":
            yield f"{key}.learned_rate: a step size is learned for sgd, and the optimizer is {optimizer}"
        if not learning:
            yield (
                f"{key}.learned_rate: no method learns a step size; allowed: false, or a method with objective: "
                "{kind: trajectory, …}"
            )


def _reference(key: str, reference: Reference, classes: int) -> Iterator[str]:
    """Whether a network can have the weights that are named, and as many outputs as there are classes."""
    if reference.weights == "timm" and OURS.fullmatch(reference.network):
        yield f"{key}.weights: timm has none for {reference.network}; give a file, or leave it out to train it here"
    if reference.rows is not None and reference.weights is None:
        yield f"{key}.rows: these are outputs of given weights, and this network is trained here; leave it out"
    elif reference.rows is not None and len(reference.rows) != classes:
        yield f"{key}.rows: {len(reference.rows)} outputs for {classes} classes; allowed: one of each, in their order"
    if reference.weights not in (None, "timm") and not Path(str(reference.weights)).is_file():
        ways = [reference.origin or "give a safetensors file, or timm, or leave it out to train the network here"]
        ways += [f"it has to have the sha256 {reference.sha256}"] if reference.sha256 else []
        yield f"{key}.weights: {reference.weights}: no such file; {'; '.join(ways)}"


def _snapshot_labels(experiment: Experiment) -> Iterator[str]:
    """Whether the snapshots of methods that optimise images can be compared: their labels are hard."""
    matching = experiment.matching
    compared = [
        matching.network or trained.network
        for name, method in experiment.methods.items()
        for trained in method.networks(f"methods.{name}", experiment)
        if trained.compares
    ]
    if matching.choose == "last" or not compared:
        return
    protocol = matching.protocol or experiment.evaluation.protocols[0]
    labels = "hard"
    for network in sorted(set(compared)):
        try:
            labels = experiment.recipe(protocol, network, experiment.ipc[0]).labels
        except ValueError as error:
            yield f"matching.protocol: {error}"
            return
    if labels == "soft":
        yield (
            f"matching.protocol: snapshots are compared with hard labels, and {protocol.label} has soft ones; give "
            "another protocol here, or choose: last"
        )


def _labels(experiment: Experiment, key: str, recipe: Recipe) -> Iterator[str]:
    """Whether soft labels have a teacher, and hard ones none."""
    if recipe.labels == "soft" and recipe.teacher is None:
        known = ", ".join(experiment.references) or "none yet"
        yield f"{key}.teacher: soft labels need a teacher; allowed: one of references ({known})"
    elif recipe.labels != "soft" and recipe.teacher is not None:
        words = "labels are hard" if recipe.labels == "hard" else "labels are those of the set"
        yield f"{key}.teacher: {words}, so there is nothing to teach; leave it out, or set labels: soft"
    else:
        yield from check_named(f"{key}.teacher", "reference", recipe.teacher, experiment.references)


def _surrogates(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether surrogates have the checkpoints that are kept, and those of a file are of the classes of the data."""
    for name, surrogate in experiment.surrogates.items():
        last = experiment.recipe(surrogate.training, surrogate.network, "full").epochs
        known: Sequence[str] | None
        key, known = f"surrogates.{name}.checkpoints", classes
        if surrogate.checkpoints is not None:
            try:
                about = described_tensors(Path(surrogate.checkpoints))
            except (OSError, ValueError) as error:
                yield f"{key}: {surrogate.checkpoints!r} cannot be read ({error}); give a file of train_surrogate"
                continue
            known, last = about.get("classes"), about.get("checkpoints", 1) - 1
        if surrogate.keep is not None and max(surrogate.keep) > last:
            yield (
                f"surrogates.{name}.keep: no checkpoint {max(surrogate.keep)}; allowed: 0 (before training) to {last}"
            )
        if known is None:
            yield f"{key}: {surrogate.checkpoints!r} names no classes; give a file of train_surrogate"
        elif sorted(known) != sorted(classes):
            yield (
                f"{key}: trained on the classes {', '.join(known[:20])}, but the data have "
                f"{', '.join(classes[:20])}{hint_of(classes, known)}; give one of these classes, or none to train it "
                "here"
            )


def _experts(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether experts that come from elsewhere are of these images."""
    for name, block in experiment.experts.items():
        yield from check_expert_files(
            f"experts.{name}",
            block,
            network=experiment.experts_network(name),
            classes=classes,
            size=experiment.dataset.resolution,
            channels=1 if experiment.dataset.channels == "grey" else 3,
            epochs=experiment.experts_epochs(name),
            normalization=experiment.dataset.normalization,
            whitened=experiment.dataset.zca is not None,
        )
