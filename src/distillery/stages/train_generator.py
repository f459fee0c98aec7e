"""Train a class-conditional DiT on the latents, from scratch or on from another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Generator, PlainLoss
from distillery.job import BadInput, Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.experiment import Experiment


class Settings(Block):
    """What the stage depends on: the generator without its sampling."""

    seed: int
    generator: Generator

    @classmethod
    def of(cls, experiment: Experiment, run: str, generator: str) -> Settings:
        """The part of an experiment that this stage reads."""
        trained = experiment.generators[generator].model_dump(exclude={"sampling"})
        return cls(seed=experiment.seed(run), generator=Generator(**trained | experiment.shape(generator)))


def run(
    settings: Settings,
    *,
    latents: Input,
    initial: list[Input] | None = None,
    index: Output,
    config: Output,
    weights: Output,
    scheduler: Output,
    job: Job,
) -> None:
    """Latents to a transformer and a noise schedule in the layout of diffusers, with the names of its classes.

    `initial` holds the files of the generator that training goes on from.
    """
    import torch

    from distillery.artifacts import read_tensors, write_bytes, write_json, write_tensors
    from distillery.diffusion.denoiser import load_generator
    from distillery.diffusion.losses import DiffusionLoss
    from distillery.diffusion.objectives import memory_objective
    from distillery.diffusion.renderer import class_conditions
    from distillery.diffusion.schedule import training_scheduler
    from distillery.diffusion.training import new_transformer, train_generator

    tensors, about = read_tensors(latents, "encode_latents")
    recipe, (_, channels, size, _) = settings.generator, tensors["mean"].shape
    if size % recipe.patch_size:
        raise BadInput(f"patch_size: {recipe.patch_size} does not divide the {size} x {size} latents")
    labels, noise = tensors["labels"], training_scheduler()
    names = dict(enumerate(about["classes"]))
    resume = job.resume(weights)
    if initial:
        folder = initial[0].parent
        transformer, noise = load_generator(folder)
        conditions = class_conditions(folder, about["classes"])
        labels = torch.tensor([conditions[label] for label in range(len(conditions))])[labels]
        names = {conditions[label]: name for label, name in names.items()}
    else:
        transformer = new_transformer(
            settings.seed,
            classes=len(about["classes"]),
            channels=channels,
            size=size,
            layers=recipe.num_layers,
            heads=recipe.num_attention_heads,
            head_dim=recipe.attention_head_dim,
            patch_size=recipe.patch_size,
        )
    objective = None
    if not isinstance(recipe.objective, PlainLoss):
        objective = memory_objective(
            DiffusionLoss(noise, job.device),
            classes=transformer.config.num_embeds_ada_norm,
            batch=recipe.batch_size,
            numbers=channels * size**2,
            device=job.device,
            **recipe.objective.model_dump(exclude={"kind"}),
        )
    trained = train_generator(
        transformer,
        noise,
        tensors["mean"],
        tensors["std"],
        labels,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        ema_decay=recipe.ema_decay,
        label_dropout=recipe.label_dropout,
        seed=settings.seed,
        device=job.device,
        resume=resume,
        objective=objective,
    )
    if objective is not None:
        print(objective.words())
    write_tensors(weights, trained.state_dict(), job.provenance)
    write_bytes(config, trained.to_json_string().encode())
    write_bytes(scheduler, noise.to_json_string().encode())
    write_json(index, {"_class_name": "DiTPipeline", "id2label": names})
    resume.finish()
