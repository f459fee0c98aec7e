"""What cannot go together in an experiment file: networks that are not there, sizes that do not fit, weights not here.

Every rule yields lines with the path of a key, what is wrong with it, and what is allowed.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distillery.data.external import faults_of_external
from distillery.data.identity import same_class
from distillery.data.settings import Dataset, External
from distillery.data.sources import class_names, class_sizes
from distillery.guidance.settings import IGD, MGD3, Deviation, Influence
from distillery.matching import checks
from distillery.matching.settings import IDC, LD3M, MATCHED, Latent, Matched, Pixels
from distillery.plan.analysis_checks import faults_of_analysis
from distillery.plan.experiment import CHOOSING, LGD, Experiment, Plain
from distillery.plan.generator_checks import (
    faults_of_class_names,
    faults_of_generators,
    faults_of_latents,
    faults_of_unet,
    latents_of,
)
from distillery.selection.settings import Herding, KCenter, RealByLearnability
from distillery.students.names import OURS, cannot_compare, refused_side
from distillery.students.settings import Protocol, Recipe, Reference

SHOWN = 3
"""So many classes that are not there have a line each."""


def contradictions(experiment: Experiment) -> Iterator[str]:
    """What stands in the blocks of an experiment and cannot go together, one line each with its key."""
    # The number of images is worth counting once everything else is right.
    yield from list(_of_blocks(experiment)) or _of_sizes(experiment)


def _of_blocks(experiment: Experiment) -> Iterator[str]:
    """What each block allows, and what together makes no sense."""
    known: list[str] = []
    try:
        known = class_names(experiment.dataset.source)
    except ValueError as error:
        yield str(error)
    yield from _of_data(experiment.dataset, known)
    yield from _twice("seeds", experiment.seeds)
    yield from _twice("ipc", experiment.ipc)
    yield from _twice("evaluation.networks", experiment.evaluation.networks)
    yield from faults_of_generators(experiment)
    if known:
        # As the data call them: `ingest` keeps those names, and so does every file that is made of them.
        classes = [same_class(name, known) or name for name in experiment.dataset.classes or known]
        yield from faults_of_latents(experiment)
        yield from _of_networks(experiment)
        yield from faults_of_class_names(experiment, classes)
        rates = list(dict.fromkeys(_of_rates(experiment)))
        yield from rates or _of_protocols(experiment)
        yield from _of_surrogates(experiment, classes) if not rates else ()
        yield from _of_experts(experiment, classes)
        for name, method in experiment.methods.items():
            if isinstance(method, External):
                yield from faults_of_external(f"methods.{name}", method, experiment.ipc, experiment.seeds, classes)
    yield from _of_methods(experiment, len(experiment.dataset.classes or known))
    yield from faults_of_analysis(experiment)


def _of_methods(experiment: Experiment, classes: int) -> Iterator[str]:
    """Whether every method has its networks and its generator, and what its kind asks for."""
    for name, method in experiment.methods.items():
        key = f"methods.{name}"
        if isinstance(method, Herding | KCenter) and method.features not in experiment.references:
            there = ", ".join(experiment.references) or "none"
            yield f"{key}.features: no reference {method.features!r}; references: {there}"
        if isinstance(method, RealByLearnability):
            yield from _of_increments(experiment, key, method)
        if isinstance(method, LD3M | Latent | Pixels | IDC):
            yield from _of_matching(experiment, key, method, classes)
        if not isinstance(method, Plain | LGD | IGD | MGD3 | LD3M):
            continue
        if method.generator not in experiment.generators:
            there = ", ".join(experiment.generators) or "none"
            yield f"{key}.generator: no generator {method.generator!r}; generators: {there}"
        elif isinstance(method, LD3M):
            generator = experiment.generators[method.generator]
            yield from checks.faults_of_chain(key, method, generator, experiment.autoencoder)
        else:
            yield from faults_of_unet(experiment, key, method.generator)
            if isinstance(method, LGD):
                yield from _of_lgd(experiment, name, method)
            if not isinstance(method, Plain):
                yield from _of_steering(experiment, key, method)
        if not isinstance(method, LD3M) and 1 < classes < method.shards:
            yield f"{key}.shards: {method.shards} jobs for {classes} classes; allowed: 1 to {classes}"


def _of_matching(experiment: Experiment, key: str, method: Matched, classes: int) -> Iterator[str]:
    """Whether a method that optimises images has its experts, and can be split as it says."""
    yield from checks.faults_of_shards(key, method, classes)
    name = checks.experts_of(method)
    network = experiment.experts_network(name) if name in experiment.experts else ""
    yield from checks.faults_of_experts(key, method, experiment.experts, network)


def _of_experts(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether experts that come from elsewhere are of these images."""
    for name, block in experiment.experts.items():
        yield from checks.faults_of_files(
            f"experts.{name}",
            block,
            network=experiment.experts_network(name),
            classes=classes,
            size=experiment.dataset.resolution,
            channels=1 if experiment.dataset.channels == "grey" else 3,
            epochs=experiment.experts_epochs(name),
            held_out=experiment.held_out,
            seeds=experiment.seeds,
        )


def _twice(key: str, values: Sequence[object]) -> Iterator[str]:
    """What a list of different things holds more than once."""
    if twice := [repr(value) for value, times in Counter(values).items() if times > 1]:
        yield f"{key}: {', '.join(twice)} stands there more than once"


def _of_data(dataset: Dataset, known: list[str]) -> Iterator[str]:
    """Whether there are test images once, and the classes that are wanted; none are known where a fault says why."""
    if dataset.source.kind == "digits" or not dataset.source.test:
        if dataset.holdout is None:
            yield "dataset.holdout: needed, because the source has no test images; for instance {fraction: 0.25}"
        elif not 0 < dataset.holdout.fraction < 1:
            fraction = dataset.holdout.fraction
            yield f"dataset.holdout.fraction: {fraction} leaves no image on one side; allowed: between 0 and 1"
    elif dataset.holdout is not None:
        yield "dataset.holdout: the source has test images of its own; leave out one of the two"
    if dataset.test_names is not None and (dataset.source.kind == "digits" or not dataset.source.test):
        yield "dataset.test_names: the source has no test images of its own; leave it out"
    missing = [wanted for wanted in dataset.classes or [] if known and same_class(wanted, known) is None]
    if len(missing) > SHOWN:
        shown = ", ".join(map(repr, missing[:SHOWN]))
        yield (
            f"dataset.classes: {len(missing)} of {len(dataset.classes or [])} are not in the data, {shown} among them; "
            f"there are: {', '.join(known[:20])}"
        )
    for wanted in missing if len(missing) <= SHOWN else []:
        close = difflib.get_close_matches(wanted, known, n=3)
        shown = f"close: {', '.join(close)}" if close else f"there are: {', '.join(known[:20])}"
        yield f"dataset.classes: no class {wanted!r} in the data; {shown}"
    yield from _twice("dataset.classes", dataset.classes or [])
    if dataset.classes is None and len(known) == 1:
        yield f"dataset.source.train: holds one class, {known[0]!r}; at least two are needed"


def _of_networks(experiment: Experiment) -> Iterator[str]:
    """Whether networks take images of the side that they will see."""
    side = experiment.dataset.resolution
    for key, network, protocol in _networks(experiment):
        size = protocol.side(experiment.classes)
        if why := refused_side(network, size or side):
            where = f"the size of protocol {protocol.label}" if size else "dataset.resolution"
            seen = size or side
            yield f"{key}: {why}, but {where} is {seen}"
        elif protocol is _SEEN_AS_STORED and (why := cannot_compare(network)):
            yield f"{key}: {why}"


_SEEN_AS_STORED = Protocol(preset="ld3m")
"""Networks that compare see images at the side of the data."""


def _networks(experiment: Experiment) -> Iterator[tuple[str, str, Protocol]]:
    """Every network that the file names, with its key and the protocol that trains it."""
    first = experiment.evaluation.protocols[0]
    for protocol in experiment.evaluation.protocols:
        for index, network in enumerate(experiment.evaluation.networks):
            yield f"evaluation.networks[{index}]", network, protocol
    for name, reference in experiment.references.items():
        yield f"references.{name}.network", reference.network, reference.training
    for name, surrogate in experiment.surrogates.items():
        yield f"surrogates.{name}.network", surrogate.network, surrogate.training
    for name, method in experiment.methods.items():
        if isinstance(method, LGD | RealByLearnability) and method.student.network:
            yield f"methods.{name}.student.network", method.student.network, method.student.protocol or first
        if isinstance(method, LD3M | Latent | Pixels | IDC):
            yield f"methods.{name}.network", experiment.comparing(name), _SEEN_AS_STORED
            if experiment.held_out and not experiment.matching.network:
                yield f"methods.{name}.network", experiment.comparing(name), experiment.matching.protocol or first
    for name in experiment.experts:
        yield f"experts.{name}.network", experiment.experts_network(name), _SEEN_AS_STORED
    if experiment.matching.network:
        yield "matching.network", experiment.matching.network, experiment.matching.protocol or first
    if experiment.analysis.redundancy.network:
        yield "analysis.redundancy.network", experiment.analysis.redundancy.network, first


def _of_rates(experiment: Experiment) -> Iterator[str]:
    """Whether every network has a learning rate under the protocol that trains it."""
    evaluation, size = experiment.evaluation, experiment.ipc[0]
    trained: list[tuple[str, Protocol, str, int | str]] = []
    for index, protocol in enumerate(evaluation.protocols):
        key = f"evaluation.protocol[{index}]" if isinstance(evaluation.protocol, list) else "evaluation.protocol"
        trained += [(key, protocol, network, size) for network in evaluation.networks]
    for name, reference in experiment.references.items():
        trained.append((f"references.{name}.training", reference.training, reference.network, "full"))
    for name, surrogate in experiment.surrogates.items():
        trained.append((f"surrogates.{name}.training", surrogate.training, surrogate.network, "full"))
    trained += _students(experiment)
    for key, protocol, network, images in trained:
        try:
            experiment.recipe(protocol, network, images)
        except ValueError as error:
            yield f"{key}: {error}"


def _students(experiment: Experiment) -> Iterator[tuple[str, Protocol, str, int]]:
    """The students of methods that work in increments: key, protocol, network, images per class."""
    evaluation = experiment.evaluation
    for name, method in experiment.methods.items():
        if isinstance(method, LGD | RealByLearnability):
            protocol = method.student.protocol or evaluation.protocols[0]
            network = method.student.network or evaluation.networks[0]
            yield f"methods.{name}.student.protocol", protocol, network, method.increment_size


LONGEST_LABEL = 160
"""Letters of a protocol that files are named by; with what is added, file systems take 255 bytes."""


def _of_protocols(experiment: Experiment) -> Iterator[str]:
    """Whether every protocol can be carried out: its labels have a teacher, its label names files."""
    evaluation = experiment.evaluation
    yield from _twice("evaluation.protocol", [protocol.label for protocol in evaluation.protocols])
    if evaluation.baseline is not None and evaluation.baseline not in experiment.methods:
        there = ", ".join(experiment.methods)
        yield f"evaluation.baseline: no method {evaluation.baseline!r}; methods: {there}"
    for index, protocol in enumerate(evaluation.protocols):
        key = f"evaluation.protocol[{index}]" if isinstance(evaluation.protocol, list) else "evaluation.protocol"
        yield from _of_labels(experiment, key, experiment.recipe(protocol, evaluation.networks[0], experiment.ipc[0]))
        if len(protocol.label) > LONGEST_LABEL:
            yield (
                f"{key}: so much differs from {protocol.preset} that its label has {len(protocol.label)} letters, "
                f"and files are named by it; allowed: {LONGEST_LABEL}"
            )
    for name, reference in experiment.references.items():
        yield from _of_reference(f"references.{name}", reference, experiment.classes)
        if reference.weights not in (None, "timm") and not Path(str(reference.weights)).is_file():
            ways = [reference.origin or "give a safetensors file, or timm, or leave it out to train the network here"]
            ways += [f"it has to have the sha256 {reference.sha256}"] if reference.sha256 else []
            yield f"references.{name}.weights: {reference.weights}: no such file; {'; '.join(ways)}"
        if experiment.recipe(reference.training, reference.network, "full").labels == "soft":
            yield f"references.{name}.training.labels: soft ones need a teacher, and this has none; allowed: hard"
    for name, surrogate in experiment.surrogates.items():
        if experiment.recipe(surrogate.training, surrogate.network, "full").labels == "soft":
            yield f"surrogates.{name}.training.labels: soft ones need a teacher, and this has none; allowed: hard"
    yield from _of_choice(experiment)
    for key, protocol, network, images in _students(experiment):
        if experiment.recipe(protocol, network, images).labels == "soft":
            yield (
                f"{key}: the student learns from hard labels, and {protocol.label} has soft ones; give another "
                "protocol here"
            )


def _of_reference(key: str, reference: Reference, classes: int) -> Iterator[str]:
    """Whether a network can have the weights that are named, and as many outputs as there are classes."""
    if reference.weights == "timm" and OURS.fullmatch(reference.network):
        yield f"{key}.weights: timm has none for {reference.network}; give a file, or leave it out to train it here"
    if reference.rows is None:
        return
    if reference.weights is None:
        yield f"{key}.rows: these are outputs of given weights, and this network is trained here; leave it out"
    elif len(reference.rows) != classes:
        yield f"{key}.rows: {len(reference.rows)} outputs for {classes} classes; allowed: one of each, in their order"


def _of_choice(experiment: Experiment) -> Iterator[str]:
    """Whether the snapshots of methods that optimise images can be compared: their labels are hard."""
    matched = [name for name, one in experiment.methods.items() if one.kind in MATCHED]
    if not experiment.held_out or not matched:
        return
    protocol = experiment.matching.protocol or experiment.evaluation.protocols[0]
    labels = "hard"
    for network in sorted({experiment.matching.network or experiment.comparing(name) for name in matched}):
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


def _of_labels(experiment: Experiment, key: str, recipe: Recipe) -> Iterator[str]:
    """Whether soft labels have a teacher, and hard ones none."""
    there = ", ".join(experiment.references) or "none yet"
    if recipe.labels == "soft" and recipe.teacher is None:
        yield f"{key}.teacher: soft labels need a teacher; allowed: one of references ({there})"
    elif recipe.labels == "hard" and recipe.teacher is not None:
        yield f"{key}.teacher: labels are hard, so there is nothing to teach; leave it out, or set labels: soft"
    elif recipe.teacher is not None and recipe.teacher not in experiment.references:
        yield f"{key}.teacher: no reference {recipe.teacher!r}; references: {there}"


def _of_sizes(experiment: Experiment) -> Iterator[str]:
    """Whether every class has as many real images as are to be chosen from it."""
    chosen = sorted(name for name, method in experiment.methods.items() if method.kind in CHOOSING)
    begun = sorted(
        name for name, one in experiment.methods.items() if getattr(one, "init", None) == "real" or one.kind == "idc"
    )
    moded = [name for name in experiment.methods if experiment.mode(name) is not None]
    split = sorted(name for name, one in experiment.methods.items() if one.kind in MATCHED and experiment.held_out)
    if not chosen and not moded and not begun and not split:
        return
    sizes = _training_sizes(experiment)
    if empty := [name for name, size in sizes.items() if size < 1]:
        yield (
            f"dataset.source.train: class {empty[0]!r} has no image; give it some, or leave it out with dataset.classes"
        )
        return
    held = " after those that are held out" if experiment.dataset.holdout is not None else ""
    for name in moded:
        modes = max(experiment.modes(name, ipc) for ipc in experiment.ipc)
        least = min(sizes, key=lambda one: sizes[one])
        if modes > sizes[least]:
            said = (one := experiment.mode(name)) is not None and one.count is not None
            where = f"methods.{name}.mode.count: {modes} modes"
            where = where if said else f"ipc: {modes} images per class are as many modes for methods.{name}"
            other = "" if said else f", or a methods.{name}.mode.count"
            yield (
                f"{where}, but class {least!r} has {sizes[least]} training images, "
                f"and a mode needs one of its own; allowed: 1 to {sizes[least]}{other}"
            )
    yield from _too_many(experiment, chosen, sizes, held)
    if split and min(sizes.values()) < 2:
        name = min(sizes, key=lambda one: sizes[one])
        yield (
            f"methods.{split[0]}: class {name!r} has {sizes[name]} training images, and one has to be held out to "
            "choose a snapshot; give it more, or set matching.choose: last"
        )
        return
    if share := experiment.held_out:
        sizes = {name: size - checks.held_out_of(size, share) for name, size in sizes.items()}
        held = " after those that matching.holdout keeps to choose a snapshot"
    yield from _too_many(experiment, begun, sizes, held)


def _too_many(experiment: Experiment, methods: list[str], sizes: Mapping[str, int], held: str) -> Iterator[str]:
    """Whether a class has as many images as methods take from it."""
    for name, size in sizes.items() if methods else ():
        if too_many := [ipc for ipc in experiment.ipc if ipc > size]:
            yield (
                f"ipc: {max(too_many)} images per class, but class {name!r} has {size} training images{held}, and "
                f"methods.{methods[0]} chooses among them; allowed: 1 to {size}"
            )
            return


def _training_sizes(experiment: Experiment) -> dict[str, int]:
    """Images of each class that are left for training."""
    sizes, holdout = class_sizes(experiment.dataset.source), experiment.dataset.holdout
    found, there = {}, list(sizes)
    for name in [same_class(name, there) or name for name in experiment.dataset.classes or there]:
        found[name] = sizes.get(name, 0)
        if holdout is not None:
            found[name] -= min(max(int(found[name] * holdout.fraction + 0.5), 1), max(found[name] - 1, 0))
    return found


def _of_steering(experiment: Experiment, key: str, method: LGD | IGD | MGD3) -> Iterator[str]:
    """Whether what steers has its networks, its indices and its latents."""
    sampling = experiment.generators[method.generator].sampling
    steps = sampling.steps
    where = f"the {steps} sampling steps of generators.{method.generator}.sampling.steps"
    blocks: dict[str, Influence | Deviation | None] = {"influence": method.influence, "deviation": method.deviation}
    for name, block in blocks.items():
        if block is not None and block.range and block.range[1] >= steps:
            yield f"{key}.{name}.range: {block.range[1]} lies beyond {where}; allowed: 0 to {steps - 1}"
    if method.mode is not None and method.mode.stop is not None and method.mode.stop >= steps - 1:
        yield (
            f"{key}.mode.stop: {method.mode.stop} leaves no index above it in {where}; allowed: 0 to {steps - 2}, or "
            "strength: 0"
        )
    factor, pool = latents_of(experiment)[0], method.mode.pool if method.mode is not None else None
    if factor is not None and pool is not None and pool > (side := experiment.dataset.resolution // factor):
        yield f"{key}.mode.pool: {pool} is more than the side of the latents; allowed: 1 to {side}"
    if method.influence is not None and method.influence.repeats > 1 and sampling.solver == "dpm":
        yield (
            f"{key}.influence.repeats: {method.influence.repeats}, but generators.{method.generator}.sampling.solver: "
            "dpm remembers its steps and cannot take one again; allowed: 1, or another solver"
        )
    if method.influence is not None and method.influence.surrogate not in experiment.surrogates:
        there = ", ".join(experiment.surrogates) or "none"
        yield f"{key}.influence.surrogate: no surrogate {method.influence.surrogate!r}; surrogates: {there}"


def _of_surrogates(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether surrogates have the checkpoints that are kept, and those of a file are of the classes of the data."""
    from distillery.storage.tensors import described_tensors

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
                f"{', '.join(classes[:20])}; give one of these classes, or none to train it here"
            )


def _of_increments(experiment: Experiment, key: str, method: LGD | RealByLearnability) -> Iterator[str]:
    """Whether a method that works in increments has its reference, and sizes that increments add up to."""
    if method.reference not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"{key}.reference: no reference {method.reference!r}; references: {there}"
    for ipc in experiment.ipc:
        if ipc % method.increment_size:
            yield f"ipc: {ipc} is no multiple of the {method.increment_size} images of {key}.increment_size"


def _of_lgd(experiment: Experiment, name: str, method: LGD) -> Iterator[str]:
    key, steps = f"methods.{name}", experiment.generators[method.generator].sampling.steps
    if (given := method.learnability.range) and given[1] >= steps:
        yield (
            f"{key}.learnability.range: {given[1]} lies beyond the {steps} sampling steps of "
            f"generators.{method.generator}.sampling.steps; allowed: 0 to {steps - 1}"
        )
    yield from _of_increments(experiment, key, method)
    judge = method.calibration.judge
    if judge is not None and judge not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"{key}.calibration.judge: no reference {judge!r}; references: {there}"
    if method.seed != "plain":
        seed = experiment.methods.get(method.seed)
        if seed is None:
            others = ", ".join(other for other in experiment.methods if other != name)
            yield f"{key}.seed: no method {method.seed!r}; allowed: plain, {others}"
        elif isinstance(seed, LGD):
            yield f"{key}.seed: {method.seed!r} is an LGD method itself; allowed: plain, or a method of another kind"
    weight, strength = method.learnability.reference_weight, method.learnability.strength
    if weight == "auto" and strength == 0:
        yield f"{key}.learnability.reference_weight: nothing to calibrate at strength 0; give a number"
