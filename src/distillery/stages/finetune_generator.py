"""Fine-tune a generator on the latents, by few of its parameters or by all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distillery.diffusion.generators import FinetunedGenerator
from distillery.diffusion.settings import Sampling
from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """The generator without its sampling."""

    seed: int
    name: str
    generator: FinetunedGenerator
    group: int | None = Field(
        None, exclude_if=lambda group: group is None, description="Of the classes; none: it is trained on all."
    )

    @classmethod
    def of(cls, experiment: Experiment, run: str, generator: str) -> Settings:
        name, group = experiment.parts_of_generators[generator]
        block = experiment.generators[name].model_copy(update={"sampling": Sampling()})
        made = FinetunedGenerator.model_validate(block)
        return cls(seed=experiment.seed(run), name=generator, generator=made, group=group)


def processes(settings: Settings) -> int:
    """How many processes share the job."""
    return settings.generator.processes


def run(
    settings: Settings,
    *,
    latents: list[Input],
    base: list[Input],
    autoencoder: list[Input],
    index: Output,
    config: Output,
    weights: Output,
    scheduler: Output,
    changed: Output,
    vae_config: Output,
    vae_weights: Output,
    history: Output,
    job: Job,
) -> None:
    """Latents and a generator to a folder that `DiTPipeline` opens, and to what has changed in it alone.

    Of a group of classes the latents are its own; the generator keeps the rows of all classes.
    """
    import math

    from distillery import parallel
    from distillery.diffusion import difffit
    from distillery.diffusion.finetuning import check_latents, condition_classes
    from distillery.diffusion.latents import LatentCache, OfClasses
    from distillery.diffusion.models import load_generator
    from distillery.diffusion.objectives import objective_of
    from distillery.diffusion.pipelines import copy_autoencoder, write_pipeline_index
    from distillery.diffusion.training import options_of, train_generator
    from distillery.diffusion.weights import model_digest
    from distillery.storage.atomic import write_bytes
    from distillery.storage.history import History, write_history
    from distillery.storage.tensors import write_tensors

    cache, recipe = LatentCache(latents), settings.generator
    folder, vae = base[0].parent, autoencoder[0].parent
    transformer, noise = load_generator(folder)
    check_latents(cache, transformer, folder, vae)
    try:
        conditions, names = condition_classes(transformer, folder, cache.classes, recipe.unknown_classes)
    except BadInput as error:
        raise BadInput(f"generators.{settings.name}: {error}") from error
    group = range(len(cache.classes))[settings.group or 0 :: recipe.groups]
    source = cache if settings.group is None else OfClasses(cache, group)
    difffit.share_embeddings(transformer)
    difffit.prepare(transformer, recipe.trainable, recipe.gamma_blocks)
    resume, recorded = job.resume(weights), History(recipe.steps_on(len(source)))
    tuned = [name for name, value in transformer.named_parameters() if value.requires_grad]
    objective = objective_of(
        recipe, noise, classes=len(cache.classes), numbers=math.prod(cache.shape), device=job.device
    )
    trained = train_generator(
        transformer,
        noise,
        source,
        source.labels,
        conditions,
        **options_of(recipe, len(source)),
        seed=settings.seed,
        device=job.device,
        resume=resume,
        history=recorded,
        what=job.stage,
        objective=objective,
    )
    if parallel.rank() > 0:
        return
    if summary := objective.summary():
        print(summary)
    write_history(history, [recorded], job.provenance)
    write_tensors(
        changed,
        difffit.changed(trained, tuned, conditions[list(group)].tolist()),
        job.provenance,
        base=model_digest(folder / "transformer"),
        trainable=recipe.trainable,
        gamma_blocks=recipe.gamma_blocks,
        id2label=names,
    )
    plain = difffit.fold(trained)
    write_tensors(weights, plain.state_dict(), job.provenance)
    write_bytes(config, plain.to_json_string().encode())
    write_bytes(scheduler, noise.to_json_string().encode())
    copy_autoencoder(vae, vae_config, vae_weights)
    write_pipeline_index(index, names, vae, cache.autoencoder)
    resume.finish()
