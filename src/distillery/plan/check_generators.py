"""What cannot go together around generators: latents and classes that do not fit, bases that are not there."""

from __future__ import annotations

from collections.abc import Iterator

from distillery.plan.experiment import Experiment


def check_generators(experiment: Experiment) -> Iterator[str]:
    """Whether weights are there and whole, fine-tuning has a base, and training what it asks for."""
    references = list(experiment.references)
    if experiment.guidance_autoencoder is not None:
        yield from experiment.guidance_autoencoder.check("guidance_autoencoder", references)
    yield from experiment.autoencoder.check("autoencoder", references)
    for name, generator in experiment.generators.items():
        yield from generator.check(f"generators.{name}", experiment.latents.mirrored)
        yield from _base(experiment, name)
        yield from _groups(experiment, name)


def _groups(experiment: Experiment, name: str) -> Iterator[str]:
    """Whether there are classes for every group of a generator, and whatever takes it goes through them by group."""
    key, groups = f"generators.{name}.groups", experiment.generators[name].class_groups
    if groups == 1:
        return
    if groups > experiment.classes:
        yield f"{key}: {groups} groups of {experiment.classes} classes; allowed: 1 to {experiment.classes}"
    for part in {*experiment.generator_parts(name)} & {*experiment.generators}:
        yield f"generators.{part}: a group of generators.{name} has this name; rename it"
    for other, block in experiment.generators.items():
        if block.starts_from == name:
            yield f"generators.{other}.base: generators.{name} is {groups} generators, one per group; name another"
    path = experiment.analysis.path
    for other, method in experiment.methods.items():
        if method.needs.generator != name:
            continue
        yield from method.check_groups(f"methods.{other}", f"generators.{name}", groups)
        if path is not None and other in path.methods:
            yield (
                f"analysis.path.methods: {other} samples with generators.{name}, which has {groups} groups of classes; "
                "leave it out"
            )


def _base(experiment: Experiment, name: str) -> Iterator[str]:
    """Whether a chain of fine-tuned generators begins with one that is not fine-tuned."""
    seen = [name]
    while (base := experiment.generators[seen[-1]].starts_from) is not None:
        key = f"generators.{seen[-1]}.base"
        if base not in experiment.generators:
            others = ", ".join(other for other in experiment.generators if other != name) or "none"
            yield f"{key}: no generator {base!r}; generators: {others}"
            return
        if base in seen:
            yield f"generators.{name}.base: {' -> '.join([*seen, base])} ends nowhere"
            return
        yield from check_samples(experiment, key, base)
        seen.append(base)


def check_samples(experiment: Experiment, key: str, name: str) -> Iterator[str]:
    """Whether a generator is one that samplers and trainings take."""
    if not experiment.generators[name].samples:
        yield f"{key}: generators.{name} is a UNet, which methods of kind ld3m alone take; give a DiT"


def check_latents(experiment: Experiment) -> Iterator[str]:
    """Whether images halve as often as autoencoder and networks want, latents fall into patches, and classes are known.

    What is not on this machine is left to the jobs that open it.
    """
    side, shape = experiment.dataset.resolution, experiment.latent_shape
    decoded = bool(experiment.generators) or any(method.needs.autoencoder for method in experiment.methods.values())
    if decoded and shape is not None and side % shape.factor:
        yield f"{shape.why}, but dataset.resolution is {side}; allowed: a multiple of {shape.factor}"
        return
    yield from _autoencoders(experiment)
    for name, generator in experiment.generators.items():
        key = f"generators.{name}"
        yield from generator.check_shape(key, side, _draws_natively(experiment, name), shape)
        guided = generator.sampling.cfg_channels
        if shape is not None and isinstance(guided, int) and guided > shape.channels:
            yield (
                f"{key}.sampling.cfg_channels: {guided} of {shape.channels} channels; allowed: 1 to {shape.channels}, "
                "all or auto"
            )
        yield from generator.check_class_names(key, experiment.class_names, _asked_for_classes(experiment, name))


def _draws_natively(experiment: Experiment, generator: str) -> bool:
    """Whether all methods that name a generator let it draw at its own side."""
    using = [method for method in experiment.methods.values() if method.needs.generator == generator]
    tuned = any(other.starts_from == generator for other in experiment.generators.values())
    return bool(using) and all(method.draws_natively for method in using) and not tuned


def _asked_for_classes(experiment: Experiment, generator: str) -> bool:
    """Whether anything asks a generator for the classes of the data as it is, without rows that fine-tuning adds."""
    using = [method for method in experiment.methods.values() if method.needs.generator == generator]
    tuned = [other for other in experiment.generators.values() if other.starts_from == generator]
    return any(user.asks_for_classes for user in [*using, *tuned])


def _autoencoders(experiment: Experiment) -> Iterator[str]:
    """Whether pretrained autoencoders take the images, and both make the same latents."""
    wanted = 1 if experiment.dataset.channels == "grey" else 3
    small, shape = experiment.guidance_autoencoder, experiment.latent_shape
    for key, block in (("autoencoder", experiment.autoencoder), ("guidance_autoencoder", small)):
        channels = block.image_channels if block is not None else None
        if channels not in (None, wanted):
            yield (
                f"{key}.weights: {getattr(block, 'weights', '')} takes images of {channels} channels, and "
                f"dataset.channels has {wanted}; allowed: dataset.channels: {'rgb' if channels == 3 else 'grey'}, or "
                "another autoencoder"
            )
    other = small.latents if small is not None else None
    if small is None or shape is None or other is None:
        return
    if (other.factor, other.channels) != (shape.factor, shape.channels):
        yield (
            f"guidance_autoencoder.weights: {small.weights} makes latents of {other.channels} channels and "
            f"1/{other.factor} of the side, and the autoencoder of {shape.channels} and 1/{shape.factor}; take one for "
            "the same latents"
        )
