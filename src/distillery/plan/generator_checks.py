"""What cannot go together around generators: weights that are not here, latents and classes that do not fit.

Every rule yields lines with the path of a key, what is wrong with it, and what is allowed. Weights are looked at as far
as they are on this machine, by their configs alone; the rest is left to the jobs that open them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distillery.data.identity import conditions
from distillery.diffusion.class_names import class_table
from distillery.diffusion.settings import (
    AnyAutoencoder,
    AnyGenerator,
    Autoencoder,
    FinetunedGenerator,
    Generator,
    Pretrained,
    PretrainedAutoencoder,
    PretrainedGenerator,
)
from distillery.diffusion.weights import check_stated, stated_config, stated_folder
from distillery.errors import UnknownClass, WeightsError
from distillery.matching.settings import LD3M, Latent
from distillery.plan.experiment import Experiment


def faults_of_generators(experiment: Experiment) -> Iterator[str]:
    """Whether weights are there and whole, fine-tuning has a base, and training what it asks for."""
    blocks: dict[str, Pretrained | None] = {"guidance_autoencoder": experiment.guidance_autoencoder}
    if isinstance(experiment.autoencoder, PretrainedAutoencoder):
        blocks["autoencoder"] = experiment.autoencoder
    blocks |= {
        f"generators.{name}": g for name, g in experiment.generators.items() if isinstance(g, PretrainedGenerator)
    }
    for key, block in blocks.items():
        if block is not None:
            parts = (block.part,) if isinstance(block, PretrainedGenerator) else ("",)
            try:
                check_stated(block, parts)
            except WeightsError as error:
                yield f"{key}.weights: {error}"
    term = experiment.autoencoder.perceptual if isinstance(experiment.autoencoder, Autoencoder) else None
    if term is not None and term.reference not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"autoencoder.perceptual.reference: no reference {term.reference!r}; references: {there}"
    for name, generator in experiment.generators.items():
        if isinstance(generator, PretrainedGenerator):
            continue
        key = f"generators.{name}"
        if generator.flip and not experiment.latents.mirrored:
            yield f"{key}.flip: there are no mirrors; set latents.mirrored: true"
        pieces = generator.processes * generator.accumulate
        if generator.batch_size % pieces:
            yield (
                f"{key}.batch_size: {generator.batch_size} images for {generator.processes} processes of "
                f"{generator.accumulate} passes each; allowed: a multiple of {pieces}"
            )
        if isinstance(generator, FinetunedGenerator):
            yield from _of_finetuning(experiment, name, generator)


def _of_finetuning(experiment: Experiment, name: str, generator: FinetunedGenerator) -> Iterator[str]:
    seen = [name]
    at: AnyGenerator = generator
    while isinstance(at, FinetunedGenerator):
        if at.base not in experiment.generators:
            others = ", ".join(other for other in experiment.generators if other != name) or "none"
            yield f"generators.{seen[-1]}.base: no generator {at.base!r}; generators: {others}"
            return
        if at.base in seen:
            yield f"generators.{name}.base: {' -> '.join([*seen, at.base])} ends nowhere"
            return
        yield from faults_of_unet(experiment, f"generators.{seen[-1]}.base", at.base)
        seen.append(at.base)
        at = experiment.generators[at.base]


def faults_of_unet(experiment: Experiment, key: str, name: str) -> Iterator[str]:
    """Whether a generator is one that samplers and trainings take."""
    generator = experiment.generators[name]
    if isinstance(generator, PretrainedGenerator) and generator.network == "unet":
        yield f"{key}: generators.{name} is a UNet, which methods of kind ld3m alone take; give a DiT"


def faults_of_class_names(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether pretrained DiTs, where they are on this machine, have the classes that methods ask them for."""
    for name, generator in experiment.generators.items():
        if not isinstance(generator, PretrainedGenerator) or generator.network != "dit":
            continue
        key = f"generators.{name}"
        try:
            config = stated_config(generator, "transformer")
            folder = stated_folder(generator)
        except WeightsError:
            continue
        rows = config.get("num_embeds_ada_norm")
        if not isinstance(rows, int) or rows < 1:
            yield (
                f"{key}.weights: {generator.weights} has no classes (num_embeds_ada_norm), and every method here asks "
                "for images of a class; give a class-conditional one"
            )
            continue
        try:
            conditions(class_table(folder, generator.classes, rows), classes)
        except WeightsError as error:
            yield f"{key}.weights: {error}"
        except UnknownClass as missing:
            if _asked_for_classes(experiment, name):
                yield (
                    f"{key}.weights: {generator.weights} knows no class {missing}; name the classes of the data as it "
                    "does (by wnid, for one of ImageNet), leave them out of dataset.classes, or fine-tune it on them "
                    "(kind: finetune, unknown_classes: new_row)"
                )


def _asked_for_classes(experiment: Experiment, generator: str) -> bool:
    """Whether anything asks a generator for the classes of the data as it is, without rows that fine-tuning adds."""
    using = [one for one in experiment.methods.values() if getattr(one, "generator", None) == generator]
    tuned = [one for one in experiment.generators.values() if getattr(one, "base", None) == generator]
    return any(not (isinstance(one, LD3M) and one.chain.condition == "none") for one in using) or any(
        isinstance(one, FinetunedGenerator) and one.unknown_classes == "error" for one in tuned
    )


def faults_of_latents(experiment: Experiment) -> Iterator[str]:
    """Whether images halve as often as autoencoder and networks want, and latents fall into patches."""
    side = experiment.dataset.resolution
    factor, channels, halving = latents_of(experiment)
    decoded = bool(experiment.generators) or any(isinstance(one, Latent) for one in experiment.methods.values())
    if decoded and factor is not None and side % factor:
        yield f"{halving}, but dataset.resolution is {side}; allowed: a multiple of {factor}"
        return
    yield from _of_autoencoders(experiment, factor, channels)
    for name, generator in experiment.generators.items():
        key = f"generators.{name}"
        if isinstance(generator, Generator):
            width = generator.num_attention_heads * generator.attention_head_dim
            if factor is not None and (side // factor) % generator.patch_size:
                latent = side // factor
                yield f"{key}.patch_size: {generator.patch_size} does not divide the {latent} x {latent} latents"
            if width % 4:
                yield (
                    f"{key}.attention_head_dim: {generator.num_attention_heads} heads of "
                    f"{generator.attention_head_dim} make {width} channels; allowed: a multiple of 4, for sines and "
                    "cosines of rows and columns"
                )
        if isinstance(generator, PretrainedGenerator) and factor is not None:
            native = _draws_natively(experiment, name)
            yield from _of_shape(key, generator, channels, None if native else side, factor)
        guided = generator.sampling.cfg_channels
        if channels is not None and isinstance(guided, int) and guided > channels:
            yield f"{key}.sampling.cfg_channels: {guided} of {channels} channels; allowed: 1 to {channels}, all or auto"


def _draws_natively(experiment: Experiment, generator: str) -> bool:
    """Whether all methods that name a generator let it draw at its own side; LD3M does so unless told otherwise."""
    using = [one for one in experiment.methods.values() if getattr(one, "generator", None) == generator]
    tuned = any(getattr(one, "base", None) == generator for one in experiment.generators.values())
    native = [isinstance(one, LD3M) and one.chain.render_size == "native" for one in using]
    return bool(native) and all(native) and not tuned


def _of_shape(
    key: str, generator: PretrainedGenerator, channels: int | None, side: int | None, factor: int
) -> Iterator[str]:
    """Whether a pretrained generator, where it is on this machine, makes latents of the autoencoder's shape.

    Args:
        side: of the images that it draws; None: it draws at its own side.
    """
    try:
        config = stated_config(generator, generator.part)
        takes = (int(config["in_channels"]), int(config["sample_size"]))
    except (WeightsError, KeyError, TypeError, ValueError):
        return
    side = takes[1] * factor if side is None else side
    if takes != (channels, side // factor):
        yield (
            f"{key}.weights: {generator.weights} takes latents of {takes[0]} x {takes[1]} x {takes[1]}, and the "
            f"autoencoder gives {channels} x {side // factor} x {side // factor} at dataset.resolution {side}; "
            f"allowed: dataset.resolution {takes[1] * factor} and an autoencoder of {takes[0]} latent channels"
        )


def _of_autoencoders(experiment: Experiment, factor: int | None, channels: int | None) -> Iterator[str]:
    """Whether pretrained autoencoders, where they are here, take the images, and both make the same latents."""
    wanted = 1 if experiment.dataset.channels == "grey" else 3
    for key, block in (
        ("autoencoder", experiment.autoencoder),
        ("guidance_autoencoder", experiment.guidance_autoencoder),
    ):
        if not isinstance(block, PretrainedAutoencoder):
            continue
        try:
            takes = int(stated_config(block, "")["in_channels"])
        except (WeightsError, KeyError, TypeError, ValueError):
            continue
        if takes != wanted:
            yield (
                f"{key}.weights: {block.weights} takes images of {takes} channels, and dataset.channels has {wanted}; "
                f"allowed: dataset.channels: {'rgb' if takes == 3 else 'grey'}, or another autoencoder"
            )
    if experiment.guidance_autoencoder is None:
        return
    small = latents_of(experiment, experiment.guidance_autoencoder)[:2]
    if None not in (factor, channels, *small) and small != (factor, channels):
        yield (
            f"guidance_autoencoder.weights: {experiment.guidance_autoencoder.weights} makes latents of {small[1]} "
            f"channels and 1/{small[0]} of the side, and the autoencoder of {channels} and 1/{factor}; take one for "
            "the same latents"
        )


def latents_of(experiment: Experiment, block: AnyAutoencoder | None = None) -> tuple[int | None, int | None, str]:
    """By how much latents are smaller than images, how many channels they have, and why; None: nobody knows yet."""
    block = experiment.autoencoder if block is None else block
    if isinstance(block, Autoencoder):
        blocks = len(block.block_out_channels)
        why = f"autoencoder.block_out_channels: {blocks} blocks halve the side {blocks - 1} times"
        return 2 ** (blocks - 1), block.latent_channels, why
    try:
        config = stated_config(block, "")
        halvings = len(config.get("encoder_block_out_channels") or config["block_out_channels"]) - 1
        channels = int(config.get("vq_embed_dim") or config["latent_channels"])
    except (WeightsError, KeyError, TypeError, ValueError):
        return None, None, ""
    return 2**halvings, channels, f"autoencoder.weights: {block.weights} halves the side {halvings} times"
