"""What an experiment cannot ask of methods that optimise images, said before anything computes. torch is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillery.diffusion.settings import AnyAutoencoder, AnyGenerator
from distillery.diffusion.weights import stated_config, stated_scheduler
from distillery.errors import WeightsError
from distillery.matching.settings import LD3M, Experts, Matched

TRAINING_STEPS = 1000
"""Of the schedule that generators are trained on here."""


def held_out_of(size: int, share: float) -> int:
    """How many images of a class of this size choose among snapshots: a share, one at least, and never all."""
    return min(max(round(size * share), 1), size - 1)


def words_of_holdout(share: float, seed: int) -> str:
    """Which training images choose among snapshots, so that no expert has seen them."""
    return f"seed {seed}, matching.holdout {share:g}" if share else "none"


def schedule_length(generator: AnyGenerator) -> int:
    """Steps of a generator's training schedule; where nobody can say yet, those of all known ones."""
    if generator.pretrained is None:
        return TRAINING_STEPS
    try:
        return int(stated_scheduler(generator.pretrained)["num_train_timesteps"])
    except (WeightsError, KeyError, TypeError, ValueError):
        return TRAINING_STEPS


def wrong_steps(steps: int, length: int, uneven: bool) -> str | None:
    """Why so many steps do not fit a schedule; None if they do."""
    even = [number for number in range(2, length + 1) if length % number == 0]
    if steps > length:
        return f"{steps} steps of a schedule of {length}; allowed: 2 to {length}"
    if uneven or steps in even:
        return None
    near = ", ".join(map(str, sorted(sorted(even, key=lambda number: abs(number - steps))[:4])))
    if steps == 1:
        return (
            f"1 step has no residual, and starts at the lowest level of all; allowed: {near}, …, or uneven: true; "
            "without diffusion: kind: autoencoder"
        )
    first = (steps - 1) * (length // steps)
    return (
        f"{steps} steps do not divide a schedule of {length}: the highest level would be that of timestep {first}; "
        f"allowed: {near}, … (divisors of {length}), or uneven: true"
    )


def faults_of_chain(key: str, method: LD3M, generator: AnyGenerator, autoencoder: AnyAutoencoder) -> Iterator[str]:
    """Whether a chain fits its generator and its autoencoder."""
    if why := wrong_steps(method.chain.steps, schedule_length(generator), method.chain.uneven):
        yield f"{key}.chain.steps: {why}"
    if method.chain.quantise == "vq" and _class_of(autoencoder) not in ("VQModel", None):
        kind = _class_of(autoencoder)
        yield f"{key}.chain.quantise: vq asks for a VQModel, and the autoencoder is {kind}; allowed: none"
    if len(set(method.learn)) < len(method.learn):
        yield f"{key}.learn: {', '.join(method.learn)}: one stands there twice"
    if "condition" in method.learn and _knows_no_classes(generator):
        yield f"{key}.learn: condition, and generators.{method.generator} knows no classes; allowed: [latent]"
    if method.chain.denoiser == "random" and method.chain.condition == "none" and "condition" not in method.learn:
        yield (
            f"{key}.chain: random weights and no class make all classes alike; allowed: condition: class, or learn it"
        )


def _class_of(autoencoder: AnyAutoencoder) -> str | None:
    if autoencoder.pretrained is None:
        return "AutoencoderKL"
    try:
        return str(stated_config(autoencoder.pretrained, "")["_class_name"])
    except (WeightsError, KeyError):
        return None


def _knows_no_classes(generator: AnyGenerator) -> bool:
    if generator.pretrained is None or generator.network != "unet":
        return False
    try:
        config = stated_config(generator.pretrained, "unet")
    except WeightsError:
        return False
    return not any(config.get(name) for name in ("num_class_embeds", "class_embed_type", "cross_attention_dim"))


def faults_of_shards(key: str, method: Matched, classes: int) -> Iterator[str]:
    """Whether the classes can be optimised in jobs of their own."""
    if method.shards == 1:
        return
    if 1 < classes < method.shards:
        yield f"{key}.shards: {method.shards} jobs for {classes} classes; allowed: 1 to {classes}"
    if method.compares.mixes_classes:
        yield (
            f"{key}.shards: networks learn from all classes together here; allowed: 1, or kind: distribution, or "
            "kind: gradient with outer: 1"
        )


def experts_of(method: Matched) -> str | None:
    """The experts that a method names."""
    return method.experts


def last_epoch(methods: Mapping[str, Any], name: str) -> int:
    """The last epoch of these experts that any method reads; 1 where none does."""
    reading = [method for method in methods.values() if getattr(method, "experts", None) == name]
    return max((method.compares.last_epoch for method in reading), default=1)


def faults_of_experts(key: str, method: Matched, experts: Mapping[str, Experts], network: str) -> Iterator[str]:
    """Whether a method that matches trajectories has some, of its own network.

    Args:
        network: of the experts that it names.
    """
    wanted = method.compares.last_epoch
    if wanted is None:
        return
    name, known = method.experts, ", ".join(experts) or "none"
    if name is None:
        yield (
            f"{key}.objective.experts: trajectories are matched, and none are named; allowed: one of experts "
            f"({known}), "
            "for instance experts: {convnet: {}}"
        )
        return
    if name not in experts:
        yield f"{key}.objective.experts: no experts {name!r}; experts: {known}"
        return
    if method.network is not None and method.network != network:
        yield (
            f"{key}.network: {method.network}, but experts.{name} are of {network}; allowed: {network}, or leave it out"
        )
    epochs = experts[name].epochs
    if epochs is not None and epochs < wanted:
        yield (
            f"experts.{name}.epochs: {epochs}, but {key} reads epoch {wanted} (epochs + max_start_epoch - 1); allowed: "
            f"{wanted} or more, or leave it out"
        )


def faults_of_files(
    key: str,
    block: Experts,
    *,
    network: str,
    classes: Sequence[str],
    size: int,
    channels: int,
    epochs: int,
    held_out: float,
    seeds: Sequence[int],
) -> Iterator[str]:
    """Whether files of experts, where the experiment names them, are of this network and of such images."""
    from distillery.storage.tensors import described_tensors

    if block.files and held_out and len(seeds) > 1:
        yield (
            f"{key}.files: experts of one seed, but each of seeds {', '.join(map(str, seeds))} holds out images of its "
            "own to choose a snapshot; give one seed, set matching.choose: last, or leave files out to train them here"
        )
        return
    wanted = {
        "network": network,
        "classes": list(classes),
        "size": size,
        "channels": channels,
        "held_out": words_of_holdout(held_out, seeds[0]),
        "epochs": epochs,
    }
    for file in block.files or ():
        try:
            about = described_tensors(Path(file))
        except (OSError, ValueError) as error:
            yield f"{key}.files: {file!r} cannot be read ({error}); give a file of train_experts"
            continue
        if why := wrong_experts(about, wanted):
            yield f"{key}.files: {file}: {why}; give others, or leave files out to train them here"


def wrong_experts(about: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Why experts do not fit: the first of `wanted` that they are not, as a clause; None if they do."""
    if about.get("network") is None or about.get("epochs") is None:
        return "it is no file of train_experts"
    words = {
        "data": "it was trained on other images ({found}, and these are {value})",
        "held_out": "no expert has seen the images held out by {found}, and here they are those of {value}",
        "classes": "it knows the classes {found}, and the data have {value}",
        "size": "its experts are of {found} px, and {value} is wanted",
        "channels": "its experts are of {found} channels, and {value} is wanted",
        "epochs": "its trajectories have {found} epochs, and epoch {value} is read (epochs + max_start_epoch - 1)",
    }
    for name, value in wanted.items():
        own = about.get(name)
        if own < value if name == "epochs" else own != value:
            shown = [", ".join(part) if isinstance(part, list) else part for part in (own, value)]
            template = words.get(name, "its experts are of {found}, and {value} is wanted")
            return template.format(found=shown[0], value=shown[1])
    return None
