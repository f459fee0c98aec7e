"""Train a class-conditional DiT on the latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.generators import Generator
from distillery.diffusion.settings import Sampling
from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """The generator without its sampling."""

    seed: int
    generator: Generator

    @classmethod
    def of(cls, experiment: Experiment, run: str, generator: str) -> Settings:
        block = experiment.generators[generator].model_copy(update={"sampling": Sampling()})
        return cls(seed=experiment.seed(run), generator=Generator.model_validate(block))


def processes(settings: Settings) -> int:
    """How many processes share the job."""
    return settings.generator.processes


def run(
    settings: Settings,
    *,
    latents: list[Input],
    index: Output,
    config: Output,
    weights: Output,
    scheduler: Output,
    history: Output,
    job: Job,
) -> None:
    """Latents to a transformer and a noise schedule in the layout of diffusers, with the names of its classes."""
    import torch

    from distillery import parallel
    from distillery.diffusion.latents import LatentCache
    from distillery.diffusion.objectives import objective_of
    from distillery.diffusion.schedule import training_scheduler
    from distillery.diffusion.training import new_transformer, options_of, train_generator
    from distillery.storage.atomic import write_bytes, write_json
    from distillery.storage.history import History, write_history
    from distillery.storage.tensors import write_tensors

    cache, recipe = LatentCache(latents), settings.generator
    channels, size, _ = cache.shape
    if size % recipe.patch_size:
        raise BadInput(f"patch_size: {recipe.patch_size} does not divide the {size} x {size} latents")
    noise = training_scheduler(recipe.prediction)
    resume, recorded = job.resume(weights), History(recipe.steps_on(len(cache)))
    transformer = new_transformer(
        settings.seed,
        classes=len(cache.classes),
        channels=channels,
        size=size,
        layers=recipe.num_layers,
        heads=recipe.num_attention_heads,
        head_dim=recipe.attention_head_dim,
        patch_size=recipe.patch_size,
    )
    objective = objective_of(recipe, noise, classes=len(cache.classes), numbers=channels * size**2, device=job.device)
    trained = train_generator(
        transformer.requires_grad_(True),
        noise,
        cache,
        cache.labels,
        torch.arange(len(cache.classes)),
        **options_of(recipe, len(cache)),
        seed=settings.seed,
        device=job.device,
        resume=resume,
        history=recorded,
        objective=objective,
    )
    if parallel.rank() > 0:
        return
    if summary := objective.summary():
        print(summary)
    write_history(history, [recorded], job.provenance)
    write_tensors(weights, trained.state_dict(), job.provenance)
    write_bytes(config, trained.to_json_string().encode())
    write_bytes(scheduler, noise.to_json_string().encode())
    names = dict(enumerate(cache.classes))
    write_json(index, {"_class_name": "DiTPipeline", "_autoencoder": cache.autoencoder, "id2label": names})
    resume.finish()
