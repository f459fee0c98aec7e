"""Train the autoencoder on the training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Autoencoder
from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    autoencoder: Autoencoder

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        return cls(seed=experiment.seed(run), autoencoder=Autoencoder.model_validate(experiment.autoencoder))


def run(
    settings: Settings,
    *,
    images: Input,
    reference: Input | None = None,
    config: Output,
    weights: Output,
    history: Output,
    job: Job,
) -> None:
    """Images, and a reference for the perceptual term, to an `AutoencoderKL` that diffusers opens."""
    import torch

    from distillery.data.pixels import load_pixels
    from distillery.data.reading import ImageTable
    from distillery.diffusion.autoencoder import train_autoencoder
    from distillery.storage.atomic import write_bytes
    from distillery.storage.history import History, write_history
    from distillery.storage.tensors import write_tensors
    from distillery.streams import stream
    from distillery.students.networks import Classifier
    from distillery.students.perceptual import PerceptualDistance

    recipe = settings.autoencoder
    if recipe.images is None:
        pixels, *_ = load_pixels(images)
    else:
        table = ImageTable(images)
        shuffled = torch.randperm(len(table), generator=stream(settings.seed, job.stage, "images"))
        pixels = table.pixels(shuffled[: recipe.images].sort().values.numpy())
    perceptual = None
    if recipe.perceptual is not None:
        if reference is None:
            raise BadInput("autoencoder.perceptual: needs the network that it names; give it as --reference")
        network = Classifier.load(reference, "train_reference").to(job.device)
        try:
            perceptual = PerceptualDistance(network, recipe.perceptual.weight)
        except ValueError as error:
            raise BadInput(f"autoencoder.perceptual.reference: {error}") from error
    resume, recorded = job.resume(weights), History(recipe.steps)
    model = train_autoencoder(
        pixels,
        **recipe.model_dump(exclude={"kind", "images", "perceptual"}),
        perceptual=perceptual,
        seed=settings.seed,
        device=job.device,
        resume=resume,
        history=recorded,
    )
    write_history(history, [recorded], job.provenance)
    write_tensors(weights, model.state_dict(), job.provenance)
    write_bytes(config, model.to_json_string().encode())
    resume.finish()
