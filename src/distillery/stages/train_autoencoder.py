"""Train the autoencoder on the training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Autoencoder
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.experiment import Experiment


class Settings(Block):
    """What the stage depends on."""

    seed: int
    autoencoder: Autoencoder

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        """The part of an experiment that this stage reads."""
        return cls(seed=experiment.seed(run), autoencoder=experiment.autoencoder)


def run(settings: Settings, *, images: Input, config: Output, weights: Output, job: Job) -> None:
    """Images to an `AutoencoderKL` that diffusers opens."""
    from distillery.artifacts import write_bytes, write_tensors
    from distillery.data.pixels import load_pixels
    from distillery.diffusion.autoencoder import train_autoencoder

    pixels, *_ = load_pixels(images)
    resume = job.resume(weights)
    recipe = settings.autoencoder.model_dump(exclude={"kind"})
    model = train_autoencoder(pixels, **recipe, seed=settings.seed, device=job.device, resume=resume)
    write_tensors(weights, model.state_dict(), job.provenance)
    write_bytes(config, model.to_json_string().encode())
    resume.finish()
